"""Training, validation and test split of a run, with their images on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from engine.dataset.checks.unreadable_images import Unreadable
from engine.dataset.splits.divide import images_with_objects
from engine.results.types import SplitCheck
from engine.training.data.annotated_splits import AnnotatedSplits, SplitData, check_has_objects
from engine.training.data.shared_images import check_shared_images
from engine.training.data.teacher_labelled import LeftOut, TeacherLabelled, joined


@dataclass(frozen=True)
class Splits:
    """The data of a run, with its images on the disk.

    Attributes:
        train: Training split.
        val: Validation split, to choose the best adapter.
        test: Test split, if configured.
        unreadable: Unusable images, which are in no split.
        objects_skipped: Objects outside their image, those of images that cannot be used, and those whose box and mask
            contradict each other.
        images_digest: The fingerprint of all listed images, of all splits.
        shared: Numbers of images in several splits.
        marks: By split and file name, a value that changes with the bytes of an image.
        folds: Splits of each training of a cross-validation; ``train`` and ``val`` then are all images except those of
            ``test``.
        human: Number of images of ``train`` with human labels, which come first; None: all have.
        left_out: Numbers of images with labels of teachers that are not in ``train``; None without such labels.
    """

    train: SplitData
    val: SplitData
    test: SplitData | None
    unreadable: Unreadable = field(default_factory=Unreadable)
    objects_skipped: int = 0
    images_digest: str = ""
    shared: SplitCheck | None = None
    marks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    folds: tuple[Splits, ...] = ()
    human: int | None = None
    left_out: LeftOut | None = None

    @classmethod
    def of(
        cls,
        data: AnnotatedSplits,
        here: Mapping[str, Unreadable] | None = None,
        check: Callable[[], None] = lambda: None,
        *,
        labelled: TeacherLabelled | None = None,
    ) -> Self:
        """Return all splits of ``data``, and fetch their images to the disk.

        Args:
            data: Annotations of the run, divided into splits.
            here: Unusable images of the splits that were fetched before.
            check: Is called regularly meanwhile, in several threads; an exception ends the call.
            labelled: Further training images with labels of teachers.

        Raises:
            DataError: Too many images are unusable, or a split has no objects left.
            StorageError: A file is unavailable.
        """
        unreadable = {name: data.fetch_images(name, check) for name in data.whole if name not in (here or {})}
        unreadable = data.settled(unreadable | dict(here or {}), check)
        splits, skipped = data.usable(unreadable), data.skipped(unreadable)
        lost = _objects(data.whole.values()) - _objects(splits.values())
        contradictory = {split.dataset.digest: split.dataset.contradictory for split in data.whole.values()}  # by file
        known = {name: identify(check) for name, identify in data.known.items()}
        shared = check_shared_images(known, max_percent=data.config.max_leaked_percent)
        train, human, left_out = splits["train"], None, None
        if labelled is not None:
            more, left_out = labelled.fetch(known, check, max_percent=data.config.max_skipped_percent)
            train, human = joined(train, more), len(train.paths)
        whole = cls(
            train,
            splits.get("val", train),
            splits.get("test"),
            unreadable=skipped,
            objects_skipped=lost + sum(contradictory.values()),
            images_digest=data.images_digest,
            shared=shared,
            marks={name: dict(zip(one.names, one.marks, strict=False)) for name, one in known.items()},
            human=human,
            left_out=left_out,
        )
        return whole if not data.folds else whole.divided(data)

    def divided(self, data: AnnotatedSplits) -> Self:
        """Return the same with the splits of each fold; images without a mask are not in the training split of masks.

        Raises:
            DataError: A fold leaves nothing to learn or to find.
        """
        learnable = self.train
        if data.masks:
            learnable = self.train.subset(images_with_objects(self.train.dataset, masks=True))
        folds = []
        for number, names in enumerate(data.folds, 1):
            fold = replace(
                self, test=None, train=_where(learnable, names, inside=False), val=_where(self.val, names, inside=True)
            )
            for split, which in ((fold.train, "training"), (fold.val, "validation")):
                check_has_objects(f"{which} part of fold {number}", split.dataset, data.config, masks=data.masks)
            folds.append(fold)
        return replace(self, train=learnable, folds=tuple(folds))


def _where(split: SplitData, names: frozenset[str], *, inside: bool) -> SplitData:
    """Return the images of a split whose names are among ``names``, or those whose names are not."""
    return split.subset([i for i, image in enumerate(split.dataset.images) if (image.file_name in names) is inside])


def _objects(splits: Iterable[SplitData]) -> int:
    return sum(len(objects) for split in splits for objects in split.dataset.annotations)
