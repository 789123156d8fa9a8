"""Catalogue of dataset problems with severity, meaning and remedy, and a log that counts them."""

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
    "no_categories": (ERROR, "The file has no categories.", "Export it with its classes."),
    "no_usable_annotations": (
        ERROR,
        "No annotation can be used.",
        "See the warnings for the reasons; each object needs an image, a class and a box or mask.",
    ),
    "no_images_found": (
        ERROR,
        "None of the listed images is in the images folder.",
        "Give the folder that file_name is relative to.",
    ),
    "annotations_not_read": (
        INFO,
        "The folder contains other annotation files, which are not read.",
        "Name the file itself to use another one.",
    ),
    "git_lfs_pointer": (
        ERROR,
        "Images are Git LFS pointers, not pictures.",
        "Run `git lfs pull` where they were cloned, and upload them again.",
    ),
    "missing_image": (
        WARNING,
        "Images are listed but not in the folder, or another entry refers to the only matching file; they are left "
        "out.",
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
        "Annotations belong to images that are left out; they are left out too.",
        "See the problems of the images.",
    ),
    "missing_box": (
        WARNING,
        "Annotations have neither box nor mask; they are left out.",
        "Give bbox as [x, y, width, height].",
    ),
    "bad_numbers": (
        WARNING,
        "Boxes are not four finite numbers; they are left out.",
        "Give bbox as [x, y, width, height] in pixels; a fifth number, such as a rotation, is not read.",
    ),
    "empty_box": (
        WARNING,
        "Boxes have no width or height; they are left out.",
        "Give bbox as [x, y, width, height], not as two corners.",
    ),
    "box_outside": (
        WARNING,
        "Boxes are outside their image; they are left out.",
        "Check that boxes are in pixels of the image that is listed.",
    ),
    "box_clipped": (
        WARNING,
        "Boxes extend beyond their image; they are clipped to it.",
        "Check that bbox is [x, y, width, height], not two corners.",
    ),
    "box_repaired": (WARNING, "Unusable boxes were replaced by those of their masks.", "Export the boxes again."),
    "bad_mask": (
        WARNING,
        "Masks cannot be read; their objects are used without a mask.",
        "Polygons need at least three points, run lengths the size of their image.",
    ),
    "box_polygons": (
        INFO,
        "The polygons only repeat the boxes; they do not count as masks.",
        "Draw outlines to tune SAM.",
    ),
    "partly_masked": (
        INFO,
        "Only some of the objects have masks.",
        "SAM is tuned on objects with a mask, if at least one in twenty has one.",
    ),
    "crowds": (
        INFO,
        "Annotations mark crowds; detections there are neither learned nor counted as wrong.",
        "No action needed.",
    ),
    "no_image_id": (
        WARNING,
        "Images have no id, so no annotation can belong to them; they are left out.",
        "Give each image a unique id.",
    ),
    "duplicate_image_id": (
        WARNING,
        "Image ids occur more than once; the first image of each is used.",
        "Give each image a unique id.",
    ),
    "duplicate_annotation_id": (
        WARNING,
        "Annotation ids occur more than once; all of them are used.",
        "Give each annotation a unique id.",
    ),
    "duplicate_category_id": (
        WARNING,
        "Category ids occur more than once; the first name of each is used.",
        "Give each category a unique id.",
    ),
    "duplicate_class_name": (
        WARNING,
        "Categories have the same name; they count as one class.",
        "Rename one if they are different classes.",
    ),
    "unnamed_class": (
        WARNING,
        "Categories have no name; their id is used as the name.",
        "Name them: names are used as prompts.",
    ),
    "odd_class_name": (
        WARNING,
        "Grounding DINO cannot interpret class names well: they look like codes, or its tokenizer splits them.",
        "Give a better phrase under classPrompts, such as `RBC: red blood cell`.",
    ),
    "untidy_class_name": (INFO, "Class names begin or end with a space; it is removed.", "No action needed."),
    "text_ids": (INFO, "Ids are text, not numbers.", "No action needed; other tools may refuse it."),
    "no_file_name": (WARNING, "Images have no file_name; they are left out.", "Export it with file names."),
    "unsafe_file_name": (
        WARNING,
        "File names are absolute or lead out of the images folder; their images are left out.",
        "Make file_name relative to the images folder.",
    ),
    "duplicate_file_name": (
        WARNING,
        "Images are listed more than once; the same picture may be in several splits.",
        "List each file once, with all of its annotations.",
    ),
    "val_leaked": (
        WARNING,
        "Images of val are also in train: AP on them is measured on training images.",
        "Remove them from one of the splits.",
    ),
    "test_leaked": (
        WARNING,
        "Images of test are also in train or val: AP on them is measured on images used for training or selection.",
        "Remove them from one of the splits.",
    ),
    "version_leaked": (
        WARNING,
        "By their Roboflow names, images of val or test are versions of pictures in train.",
        "Split the pictures before creating versions of them; if these are different pictures, no action is needed.",
    ),
    "same_bytes": (
        WARNING,
        "Images are listed again under another name, with the same bytes; they are kept in the same split.",
        "Keep one of them, with all of its annotations.",
    ),
    "same_picture": (
        INFO,
        "Images show the same picture as another, encoded, scaled or rotated differently; they are kept in the same "
        "split.",
        "No action needed.",
    ),
    "versions": (
        INFO,
        "By their Roboflow names, images are versions of the same picture; they are kept in the same split.",
        "No action needed.",
    ),
    "val_lacks_class": (
        WARNING,
        "Classes of train have no objects in val or test: their AP is not measured there and not part of the mean.",
        "Move some images with objects of these classes into that split.",
    ),
    "train_lacks_class": (
        WARNING,
        "Classes of val or test have no objects in train: they cannot be learned.",
        "Move some images with objects of these classes, or rename classes that were meant to be the same.",
    ),
    "no_common_class": (
        ERROR,
        "A split has no class in common with train: nothing that is learned can be measured.",
        "Give the classes the same names in all splits.",
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
        "Images have no label file (YOLO); they count as images without objects, as in Ultralytics.",
        "Remove them if they were not annotated; use an empty label file for an image without objects.",
    ),
    "unlisted_image": (INFO, "Images in the folder are not listed; they are not used.", "No action needed."),
    "empty_image": (
        INFO,
        "Images have no annotations; they are trained on as images without objects.",
        "Remove them if they were not annotated.",
    ),
    "unused_class": (INFO, "Classes have no annotations; they are not trained.", "No action needed."),
    "dummy_class": (
        INFO,
        "A class without annotations is only the supercategory of the others, as Roboflow exports it; it is left out.",
        "No action needed.",
    ),
    "rare_class": (
        WARNING,
        "Classes have fewer than 10 objects, too few to be learned well.",
        "Annotate more of them, or merge them.",
    ),
    "imbalanced": (
        INFO,
        "The most frequent class has over 100 times as many objects as the rarest.",
        "Annotate more of the rare ones.",
    ),
    "few_images": (
        WARNING,
        "Fewer than 10 images have objects; results will depend on chance.",
        "Annotate more images.",
    ),
    "unreadable_image": (WARNING, "Images cannot be decoded; they are left out.", "Replace or remove them."),
    "wrong_size": (
        WARNING,
        "Image sizes differ from the annotations, so boxes would be misplaced; these images are left out.",
        "Annotate the existing images, or upload those that were annotated.",
    ),
    "turned_image": (
        INFO,
        "Images were annotated as stored, without their EXIF orientation; training reads them the same way.",
        "No action needed.",
    ),
    "exif_as_others": (
        INFO,
        "Images have an EXIF orientation, and their size does not show whether it was applied; they are read as "
        "stored, like the others of this dataset.",
        "No action needed; dataset.exifOrientation sets it for all of them.",
    ),
    "exif_unproven": (
        WARNING,
        "Images have an EXIF orientation, and no size shows whether it was applied during annotation; it is applied.",
        "Check some of them with `teacher augment --preview`; if boxes are misplaced, set dataset.exifOrientation to "
        "Ignored.",
    ),
    "exif_contradiction": (
        WARNING,
        "Some images were annotated with EXIF applied and others without, or dataset.exifOrientation contradicts "
        "their size; each is read as its size shows.",
        "Set dataset.exifOrientation for images whose size does not show it, or annotate all of them with one tool.",
    ),
    "several_pages": (
        WARNING,
        "Images have several pages or frames; the first of each is used.",
        "Check that the first is the annotated one; save the others as separate images.",
    ),
    "mislabelled_image": (
        INFO,
        "Images have another format than their file name indicates; the contents count.",
        "No action needed.",
    ),
} | OBJECT_PROBLEMS

SEEN_WHEN_OPENED = frozenset({"unreadable_image", "wrong_size"})
"""Problems of left-out images that are detected only when images are opened: by validation and training."""

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
"""Problems of annotations that are left out; each counts as one annotation."""

REPAIRED = frozenset({"box_clipped", "box_repaired", "bad_mask", "rotated_box", "wrong_area"})
"""Problems of annotations that are repaired and used."""

MAX_LEAKED = 5
"""Default for the percentage of the images of val, and of test, that may be in another split too."""

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
        """Add the contents of another log."""
        for code, count in other._counts.items():
            self.add(code, other._examples[code], count=count)

    def problems(self) -> tuple[Problem, ...]:
        """Return all noted problems, most severe first."""
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
    """Return the problems in the order of reports: most severe, then most frequent."""
    order = list(Severity)
    return tuple(sorted(problems, key=lambda problem: (order.index(problem.severity), -problem.count)))


def refused(
    info: DatasetInfo, *, on_problem: OnProblem, max_skipped_percent: int, max_leaked_percent: int = MAX_LEAKED
) -> str:
    """Return the reasons to refuse a dataset, in sentences; empty if it is accepted.

    Args:
        info: Result of the inspection.
        on_problem: Policy for data that must be repaired or left out.
        max_skipped_percent: Limit of left-out images, and annotations, in total and of val or test.
        max_leaked_percent: Limit of the images of val, and of test, that are in another split too.
    """
    faults = [f"{p.message} {p.advice}" for p in info.errors]
    touched = IMAGES_LEFT_OUT | OBJECTS_LEFT_OUT | REPAIRED
    if on_problem is OnProblem.FAIL:
        told = [_told(p) for p in info.problems if p.code in touched]
        faults += ["dataset.onProblem is Fail, and the dataset has:", *told] if told else []
    copies = sum(p.count for p in info.problems if p.code == COPIES)
    found = {
        "images": (info.images_read - info.images, info.images_read),
        "annotations": (info.annotations_read - copies - info.annotations, info.annotations_read - copies),
    }
    for part in ("val", "test"):  # metrics on half of a split are not those of the split
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
                    f"{problem.count:,} of {info.parts.get(part, 0):,} images of {part} are in another split too, more "
                    f"than the {max_leaked_percent} % of dataset.maxLeakedPercent. {_told(problem)}"
                )
    return " ".join(faults)


def too_many(skipped: int, of: int, max_percent: int) -> bool:
    """Return True if more are left out than allowed.

    >>> too_many(20, 100, 20), too_many(21, 100, 20), too_many(0, 0, 0)
    (False, True, False)
    """
    return skipped * 100 > of * max_percent


def _told(problem: Problem) -> str:
    examples = f" (such as {', '.join(problem.examples[:2])})" if problem.examples else ""
    return f"{problem.code}, {problem.count:,}x{examples}: {problem.message} {problem.advice}"
