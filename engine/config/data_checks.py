"""Check that data can be trained on, by its inspection; shared by validate, inspect, prepare and training.

Data that training would reject later, on a GPU, is rejected here if inspection shows it. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from engine.dataset.checks.problems import refused
from engine.dataset.types import DatasetInfo
from engine.dataset.wordpiece import Vocabulary, is_punctuation, words
from engine.errors import ConfigError, DataError
from engine.registry import ModelName, StudentName, class_reader
from engine.spec import DatasetSpec, FineTuneSpec, TeacherName
from engine.text.safe_text import listed, shortened

MOST_TOKENS = 253
"""Maximum tokens of a phrase: 256 with the tokens that begin and end a caption."""


def check_data(info: DatasetInfo, spec: FineTuneSpec) -> list[TeacherName]:
    """Return the teachers to tune: those requested, or else all that the data supports.

    Raises:
        ConfigError: The request contradicts the data.
        DataError: The data cannot be trained on.
    """
    _check_usable(info, spec.dataset)
    names = _teachers(info, spec)
    for name in names:
        _check_splits(info, spec.dataset, name, chosen=bool(spec.teachers))
    reader = class_reader(names)
    if reader is not None:
        check_phrases([c.name for c in info.classes if c.annotations], spec.class_prompts, reader=reader.traits.title)
    return names


def check_student_data(info: DatasetInfo, dataset: DatasetSpec, name: StudentName) -> None:
    """Check that a student can be trained on the data.

    Raises:
        DataError: The data cannot be trained on.
    """
    _check_usable(info, dataset)
    if not (info.has_masks if name.traits.needs_masks else info.has_boxes):
        raise DataError(f"{info.source} has no {name.traits.annotations}, which {name} learns: add some")
    _check_splits(info, dataset, name, chosen=True)


def learns_masks(info: DatasetInfo, name: StudentName, *, asked: bool | None) -> bool:
    """Return whether a student learns masks: if training and validation data have some, unless the user set it.

    Args:
        info: Inspection of the human labels.
        name: The student.
        asked: The user's setting; None: by the data.

    Raises:
        ConfigError: The user wants masks, and the student cannot learn them or the data has none.
    """
    counts = info.images_with_masks
    needed = {"all": 2, "train": 1, "val": 1}
    enough = info.has_masks and all(counts.get(split, least) >= least for split, least in needed.items())
    able = name.traits.can_learn_masks
    if asked and not (able and enough):
        why = (
            f"{info.source} has too few: it takes one image with masks to learn from and another to measure on"
            if able
            else f"{name} learns boxes alone"
        )
        raise ConfigError(f"student: masks is true, but {why}: leave masks out, or set it to false")
    return able and enough and asked is not False


def _check_usable(info: DatasetInfo, dataset: DatasetSpec) -> None:
    faults = refused(
        info,
        on_problem=dataset.on_problem,
        max_skipped_percent=dataset.max_skipped_percent,
        max_leaked_percent=dataset.max_leaked_percent,
    )
    if faults:
        raise DataError(f"{info.source} cannot be trained on: {faults}")


def _teachers(info: DatasetInfo, spec: FineTuneSpec) -> list[TeacherName]:
    serves = {name: info.has_masks if name.traits.needs_masks else info.has_boxes for name in TeacherName}
    for teacher in spec.teachers:
        if not serves[teacher.name]:
            raise ConfigError(
                f"teachers lists {teacher.name}, which needs {teacher.name.traits.annotations}, but dataset "
                f"{info.source} has none: leave {teacher.name} out of teachers, or add "
                f"{teacher.name.traits.annotations} to the annotations"
            )
    wanted = [t.name for t in spec.teachers] or [n for n in TeacherName if serves[n] and not n.traits.on_request]
    if not wanted:
        raise DataError(f"{info.source} has neither boxes nor masks: there is nothing to train on")
    return [n for n in TeacherName if n in wanted]


def _check_splits(info: DatasetInfo, dataset: DatasetSpec, name: ModelName, *, chosen: bool) -> None:
    """Check that the training and the validation split contain objects that the model can use."""
    masks = name.traits.needs_masks
    counts = info.images_with_masks if masks else info.images_with_objects
    what = "masks" if masks else "objects"
    advice = f"annotate {what} in more images"
    if masks and not chosen:
        others = [other for other in TeacherName if not other.traits.needs_masks]
        advice += f", or list {' or '.join(others)} alone under teachers"
    folds = dataset.split.folds if dataset.split is not None else None
    divided = counts.get("all", counts.get("train"))
    if folds is not None and divided is not None and divided < folds:
        raise DataError(f"{info.source} has {divided} images with {what}, too few for {folds} folds: {advice}")
    if "all" in counts and counts["all"] < 2:
        found = f"only one image with {what}" if counts["all"] else f"no image with {what}"
        raise DataError(
            f"{info.source} has {found}, and training needs one to learn from and another to choose the best adapter "
            f"by: {advice}"
        )
    for split in ("train", "val"):
        if counts.get(split, 1) == 0:
            classes = listed([c.name for c in info.classes if c.annotations])
            raise DataError(f"the {split} split of {info.source} has no {what} of the classes {classes}: {advice}")


def check_phrases(classes: Sequence[str], prompts: Mapping[str, str], *, reader: str) -> None:
    """Check that no two classes read the same to any tokenizer, none is empty, and none is too long.

    Raises:
        ConfigError: The cause is a phrase of the user.
        DataError: The cause is a name in the dataset.
    """
    seen: dict[tuple[str, ...], str] = {}
    for name in classes:
        error = ConfigError if name in prompts else DataError
        shown, read = shortened(name, 60), words(re.sub("[.?_]", " ", prompts.get(name, name)))
        if not any(character.isalnum() for word in read for character in word):
            raise error(f"class {shown!r} has no letters to show to {reader}: give a phrase in classPrompts")
        if len(read) > MOST_TOKENS:
            raise error(
                f"class {shown!r} has {len(read):,} words, and {reader} reads {MOST_TOKENS} at most: give a "
                "phrase of common words in classPrompts"
            )
        if read in seen:
            why = f"it reads both as {shortened(_joined(read), 60)!r}"
            raise _alike(name, seen[read], prompts, reader=reader, why=why)
        seen[read] = name


def check_pieces(classes: Sequence[str], prompts: Mapping[str, str], vocabulary: Vocabulary, *, reader: str) -> None:
    """Check the same on the tokens of a base model's tokenizer.

    Raises:
        ConfigError: The cause is a phrase of the user.
        DataError: The cause is a name in the dataset.
    """
    seen: dict[tuple[str, ...], str] = {}
    for name in classes:
        error = ConfigError if name in prompts else DataError
        pieces = tuple(
            p for word in words(re.sub("[.?_]", " ", prompts.get(name, name))) for p in vocabulary.split(word)
        )
        if len(pieces) > MOST_TOKENS:
            raise error(
                f"class {shortened(name, 60)!r} takes {len(pieces):,} tokens of {reader}'s, and {MOST_TOKENS} "
                "are allowed: give a phrase of common words in classPrompts"
            )
        if pieces in seen:
            why = f"its tokenizer makes {shortened(' '.join(pieces), 60)!r} of both"
            raise _alike(name, seen[pieces], prompts, reader=reader, why=why)
        seen[pieces] = name


def _alike(name: str, other: str, prompts: Mapping[str, str], *, reader: str, why: str) -> ConfigError | DataError:
    """Return the error for two classes that read the same; ConfigError if the user gave one of the phrases."""
    error = ConfigError if name in prompts or other in prompts else DataError
    return error(
        f"{reader} cannot tell class {shortened(name, 60)!r} from {shortened(other, 60)!r}: {why}. Give one of "
        "them a phrase of its own in classPrompts"
    )


def _joined(read: Sequence[str]) -> str:
    return "".join(word if is_punctuation(word) else f" {word}" for word in read).strip()
