"""What can be wrong with a dataset: how bad it is, what it means, what to do. And a log that counts it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from engine.dataset.checks.object_problems import CONTRADICTORY, COPIES, OBJECT_PROBLEMS
from engine.dataset.types import DatasetInfo, Problem, Severity
from engine.spec import OnProblem

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO

CATALOGUE: dict[str, tuple[Severity, str, str]] = {
    "no_images": (ERROR, "The file lists no images.", "Export it with its images."),
    "no_annotations": (
        ERROR,
        "The file lists images only, without annotations.",
        "Annotate some images, or give the instances file instead.",
    ),
    "no_categories": (ERROR, "There are no categories.", "Export the classes too."),
    "no_usable_annotations": (
        ERROR,
        "No annotation can be used.",
        "The warnings say why; each object needs an image, a class and a box or mask.",
    ),
    "no_images_found": (
        ERROR,
        "None of the listed images is in the images folder.",
        "Give the folder that file_name is relative to.",
    ),
    "annotations_not_read": (
        INFO,
        "Other annotation files lie in the folder; they are not read.",
        "Give the file itself if another one is meant.",
    ),
    "git_lfs_pointer": (
        ERROR,
        "Images are Git LFS pointers, not pictures.",
        "Run `git lfs pull` where they were cloned, and upload them again.",
    ),
    "missing_image": (
        WARNING,
        "Images are listed but not in the folder, or another entry means the only file they may be; they are left out.",
        "Upload them, or give each its path relative to the images folder.",
    ),
    "dangling_image": (
        WARNING,
        "Annotations belong to an image that is not listed; they are left out.",
        "List the image or remove them.",
    ),
    "dangling_category": (
        WARNING,
        "Annotations have a class that is not listed; they are left out.",
        "List the class or remove them.",
    ),
    "image_left_out": (
        WARNING,
        "Annotations belong to images that are left out; so are they.",
        "See why the images are.",
    ),
    "missing_box": (
        WARNING,
        "Annotations have neither box nor mask; they are left out.",
        "Give bbox as [x, y, width, height].",
    ),
    "bad_numbers": (
        WARNING,
        "Boxes are not four finite numbers; they are left out.",
        "Give bbox as [x, y, width, height] in pixels; a fifth number, as of a rotation, is not read.",
    ),
    "empty_box": (
        WARNING,
        "Boxes have no width or height; they are left out.",
        "Give bbox as [x, y, width, height], not as two corners.",
    ),
    "box_outside": (
        WARNING,
        "Boxes lie outside of their image; they are left out.",
        "Check that boxes are in pixels of the image that is listed.",
    ),
    "box_clipped": (
        WARNING,
        "Boxes reach out of their image; they are cut at its border.",
        "Check that bbox is [x, y, width, height], not two corners.",
    ),
    "box_repaired": (WARNING, "Unusable boxes were replaced by those of their masks.", "Export the boxes anew."),
    "bad_mask": (
        WARNING,
        "Masks cannot be read; their objects are used without.",
        "Polygons need three points or more, run lengths the size of their image.",
    ),
    "box_polygons": (
        INFO,
        "The polygons are only the boxes again; they do not count as masks.",
        "Draw outlines if SAM is to be tuned.",
    ),
    "partly_masked": (
        INFO,
        "Only a part of the objects has masks.",
        "SAM is tuned on those that have, if they are one in twenty or more.",
    ),
    "crowds": (
        INFO,
        "Annotations mark crowds; what is detected there is neither learned nor counted as wrong.",
        "Nothing needs to be done.",
    ),
    "no_image_id": (
        WARNING,
        "Images have no id, so that no annotation can belong to them; they are left out.",
        "Give each image an id of its own.",
    ),
    "duplicate_image_id": (
        WARNING,
        "Image ids occur more than once; the first image of each is used.",
        "Give each image an id of its own.",
    ),
    "duplicate_annotation_id": (
        WARNING,
        "Annotation ids occur more than once; all of them are used.",
        "Give each annotation an id of its own.",
    ),
    "duplicate_category_id": (
        WARNING,
        "Category ids occur more than once; the first name of each is used.",
        "Give each category an id of its own.",
    ),
    "duplicate_class_name": (
        WARNING,
        "Categories have the same name; they are one class.",
        "Rename one if they are different things.",
    ),
    "unnamed_class": (
        WARNING,
        "Categories have no name; they are called after their id.",
        "Name them: prompts are names.",
    ),
    "odd_class_name": (
        WARNING,
        "Class names say little to Grounding DINO: they look like codes, or its tokenizer breaks them apart.",
        "Give a better phrase under classPrompts, such as `RBC: red blood cell`.",
    ),
    "untidy_class_name": (INFO, "Class names begin or end with a space; it is removed.", "Nothing needs to be done."),
    "text_ids": (INFO, "Ids are text, not numbers.", "Nothing needs to be done; other tools may refuse it."),
    "no_file_name": (WARNING, "Images have no file_name; they are left out.", "Export it with file names."),
    "unsafe_file_name": (
        WARNING,
        "File names are absolute or lead out of the images folder; the images are left out.",
        "Make file_name relative to the images folder.",
    ),
    "duplicate_file_name": (
        WARNING,
        "Images are listed more than once; a split may put the same picture on both sides.",
        "List each file once, with all of its annotations.",
    ),
    "val_leaked": (
        WARNING,
        "Images of val are in train too: AP on them is that of images that were trained on.",
        "Take them out of one of the parts.",
    ),
    "test_leaked": (
        WARNING,
        "Images of test are in train or val too: AP on them is that of images that were trained on or chosen by.",
        "Take them out of one of the parts.",
    ),
    "version_leaked": (
        WARNING,
        "Images of val or test have the names of versions, made by Roboflow, of pictures of train.",
        "Divide the pictures before versions of them are made; if these are other pictures, nothing needs to be done.",
    ),
    "same_bytes": (
        WARNING,
        "Images are listed again under another name, with the same bytes; a split keeps them on one side.",
        "Keep one of them, with all of its annotations.",
    ),
    "same_picture": (
        INFO,
        "Images show the picture of another, encoded, scaled or turned otherwise; a split keeps them on one side.",
        "Nothing needs to be done.",
    ),
    "versions": (
        INFO,
        "Images are further versions of one picture, by the names that Roboflow gives; a split keeps them on one side.",
        "Nothing needs to be done.",
    ),
    "val_lacks_class": (
        WARNING,
        "Classes of train have no objects in val or test: their AP is not measured there, and is no part of the mean.",
        "Move some images with objects of these classes.",
    ),
    "train_lacks_class": (
        WARNING,
        "Classes of val or test have no objects in train: they cannot be learned.",
        "Move some images with objects of these classes, or rename classes that were meant to be the same.",
    ),
    "no_common_class": (
        ERROR,
        "A part has no class in common with train: nothing that is learned can be measured.",
        "Give the classes the same names in all parts.",
    ),
    "missing_size": (
        INFO,
        "Images have no width and height; boxes are checked when the image is opened.",
        "Give both, so that boxes can be checked before training.",
    ),
    "unreadable_labels": (
        WARNING,
        "Label files cannot be read; their images are left out.",
        "Correct or remove the files, or the images with them.",
    ),
    "no_label_file": (
        WARNING,
        "Images have no label file (YOLO); they count as images without objects, as Ultralytics takes them.",
        "Remove them if they were just not annotated; an empty label file says that there is no object.",
    ),
    "unlisted_image": (INFO, "Images in the folder are not listed; they are not used.", "Nothing needs to be done."),
    "empty_image": (
        INFO,
        "Images have no annotations; they teach what is no object.",
        "Remove them if they were just not annotated.",
    ),
    "unused_class": (INFO, "Classes have no annotations; they are not trained.", "Nothing needs to be done."),
    "dummy_class": (
        INFO,
        "A class without annotations is only the heading of the others, as Roboflow writes it; it is left out.",
        "Nothing needs to be done.",
    ),
    "rare_class": (
        WARNING,
        "Classes have fewer than 10 objects; they will hardly be learned.",
        "Annotate more of them, or merge them.",
    ),
    "imbalanced": (
        INFO,
        "The most frequent class has over 100 times the objects of the rarest.",
        "Annotate more of the rare ones.",
    ),
    "few_images": (
        WARNING,
        "There are fewer than 10 images with objects; results will hang on chance.",
        "Annotate some more.",
    ),
    "unreadable_image": (WARNING, "Images cannot be decoded; they are left out.", "Replace or remove them."),
    "wrong_size": (
        WARNING,
        "Images have another size than the file says, so that boxes would be in the wrong place; they are left out.",
        "Annotate the images that are there, or upload those that were annotated.",
    ),
    "turned_image": (
        INFO,
        "Images were annotated as they are stored, not as their EXIF orientation turns them; so they are trained on.",
        "Nothing needs to be done.",
    ),
    "exif_as_others": (
        INFO,
        "Images have an EXIF orientation that their size cannot show to be applied; they are taken as they are stored, "
        "as the others of this dataset.",
        "Nothing needs to be done; dataset.exifOrientation says it for all of them.",
    ),
    "exif_unproven": (
        WARNING,
        "Images have an EXIF orientation, and no size shows whether it was applied for annotating; it is applied.",
        "Look at some of them with `teacher augment --preview`; if boxes are misplaced, set dataset.exifOrientation to "
        "Ignored.",
    ),
    "exif_contradiction": (
        WARNING,
        "Images were annotated with EXIF applied, and others without (or dataset.exifOrientation says otherwise); each "
        "is taken as its size shows.",
        "Set dataset.exifOrientation for those whose size shows nothing, or annotate all of them with one tool.",
    ),
    "several_pages": (
        WARNING,
        "Images have several pages or frames; the first of each is used.",
        "Check that the first is the annotated one; save others as images of their own.",
    ),
    "mislabelled_image": (
        INFO,
        "Images are of another format than their name says; what is in them counts.",
        "Nothing needs to be done.",
    ),
} | OBJECT_PROBLEMS

SEEN_WHEN_OPENED = frozenset({"unreadable_image", "wrong_size"})
"""Problems of images that are left out, which show only when they are opened: by validation, and by training."""

IMAGES_LEFT_OUT = SEEN_WHEN_OPENED | {
    "missing_image",
    "no_image_id",
    "duplicate_image_id",
    "no_file_name",
    "unsafe_file_name",
    "unreadable_labels",
}
"""Problems of images that are left out."""

OBJECTS_LEFT_OUT = CONTRADICTORY | {
    "dangling_image",
    "dangling_category",
    "missing_box",
    "bad_numbers",
    "empty_box",
    "box_outside",
    "image_left_out",
    COPIES,
}
"""Problems of annotations that are left out: each counts as one of them."""

REPAIRED = frozenset({"box_clipped", "box_repaired", "bad_mask", "rotated_box", "wrong_area"})
"""Problems of annotations that are used all the same."""

MAX_LEAKED = 5
"""Percent of the images of val, and of test, that may be in another part too, unless it is set."""

EXAMPLES = 5
LONGEST_EXAMPLE = 120


class ProblemLog:
    """Counts problems by kind and keeps the first few places of each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, code: str, examples: Iterable[object] = (), *, count: int = 1) -> None:
        """Note ``count`` occurrences of a kind, with some of their places."""
        if count < 1:
            return
        self._counts[code] += count
        kept = self._examples.setdefault(code, [])
        for example in examples:
            if len(kept) >= EXAMPLES:
                break
            kept.append(str(example)[:LONGEST_EXAMPLE])

    def count(self, code: str) -> int:
        """Return how often a kind was noted."""
        return self._counts[code]

    def merge(self, other: ProblemLog) -> None:
        """Note all that another log has."""
        for code, count in other._counts.items():
            self.add(code, other._examples[code], count=count)

    def problems(self) -> tuple[Problem, ...]:
        """All that was noted, the worst first."""
        return worst_first(
            Problem(
                code=code,
                severity=CATALOGUE[code][0],
                count=count,
                message=CATALOGUE[code][1],
                advice=CATALOGUE[code][2],
                examples=tuple(self._examples[code]),
            )
            for code, count in self._counts.items()
        )


def worst_first(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """In the order in which they are told."""
    order = list(Severity)
    return tuple(sorted(problems, key=lambda problem: (order.index(problem.severity), -problem.count)))


def refused(
    info: DatasetInfo, *, on_problem: OnProblem, max_skipped_percent: int, max_leaked_percent: int = MAX_LEAKED
) -> str:
    """Why a dataset is not trained on as it is, in sentences; empty if it is.

    Args:
        info: What inspection found.
        on_problem: Whether anything may be repaired or left out.
        max_skipped_percent: Of images, and of annotations, at most so many may be left out, in all and of val or test.
        max_leaked_percent: Of the images of val, and of test, at most so many may be in another part too.
    """
    faults = [f"{p.message} {p.advice}" for p in info.errors]
    touched = IMAGES_LEFT_OUT | OBJECTS_LEFT_OUT | REPAIRED
    if on_problem is OnProblem.FAIL:
        told = [_told(p) for p in info.problems if p.code in touched]
        faults += ["dataset.onProblem is Fail, and there are:", *told] if told else []
    copies = sum(p.count for p in info.problems if p.code == COPIES)
    found = {
        "images": (info.images_read - info.images, info.images_read),
        "annotations": (info.annotations_read - copies - info.annotations, info.annotations_read - copies),
    }
    for part in ("val", "test"):  # what is measured on half of them is not what was asked for
        if (lost := info.left_out.get(part)) is not None:
            found[f"images of {part}"] = lost.images, lost.images_read
            found[f"annotations of {part}"] = lost.annotations, lost.annotations_read
    for what, (skipped, read) in found.items():
        if too_many(skipped, read, max_skipped_percent):
            codes = IMAGES_LEFT_OUT if what.startswith("images") else OBJECTS_LEFT_OUT
            why = " ".join(_told(p) for p in info.problems if p.code in codes)
            faults.append(
                f"{skipped:,} of {read:,} {what} would be left out, more than the {max_skipped_percent} % of "
                f"dataset.maxSkippedPercent. {why}"
            )
            break
    for code, part in (("val_leaked", "val"), ("test_leaked", "test")):
        for problem in (p for p in info.problems if p.code == code):
            if too_many(problem.count, info.parts.get(part, 0), max_leaked_percent):
                faults.append(
                    f"{problem.count:,} of {info.parts.get(part, 0):,} images of {part} are in another part too, more "
                    f"than the {max_leaked_percent} % of dataset.maxLeakedPercent. {_told(problem)}"
                )
    return " ".join(faults)


def too_many(skipped: int, of: int, max_percent: int) -> bool:
    """Whether more are left out than may be.

    >>> too_many(20, 100, 20), too_many(21, 100, 20), too_many(0, 0, 0)
    (False, True, False)
    """
    return skipped * 100 > of * max_percent


def _told(problem: Problem) -> str:
    examples = f" (such as {', '.join(problem.examples[:2])})" if problem.examples else ""
    return f"{problem.code}, {problem.count:,}x{examples}: {problem.message} {problem.advice}"
