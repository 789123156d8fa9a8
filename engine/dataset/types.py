"""Types of a dataset for the rest of the engine: plain frozen values, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

ImageId = int | str
Rle = dict[str, Any]
"""Compressed COCO run-length encoding: ``{"size": [height, width], "counts": bytes}``."""

NMS_IOU = 0.7
"""IoU above which NMS keeps only the higher score of two boxes of a class: neighbours overlap less, duplicates more."""


class Frame(StrEnum):
    """Frame of annotations or labels for images that EXIF rotates or mirrors."""

    UPRIGHT = "upright"
    """Rotated as the EXIF orientation says."""
    STORED = "stored"
    """As the pixels are stored in the file."""


class Frozen(BaseModel):
    """Base of the values that are written to ``dataset.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Severity(StrEnum):
    """Severity of a problem."""

    ERROR = "error"
    """Training on this dataset is refused."""
    WARNING = "warning"
    """Wrong data is repaired or left out, and counted."""
    INFO = "info"
    """Nothing is wrong, but users want to know."""


class Problem(Frozen):
    """One kind of problem of a dataset."""

    code: str = Field(description="Name of the kind, such as `missing_image`.")
    severity: Severity
    count: int = Field(ge=1, description="How often it occurs.")
    message: str = Field(description="What was found, in a sentence.")
    advice: str = Field(description="What to do about it, in a sentence.")
    examples: tuple[str, ...] = Field(default=(), max_length=5, description="The first few places.")


class ClassInfo(Frozen):
    """One category and how often it occurs."""

    id: int
    name: str
    annotations: int = Field(description="Usable annotations of this class.")
    images: int = Field(description="Images with at least one of them.")


class SizeInfo(Frozen):
    """Sizes of the objects, in original pixels."""

    small: int = Field(description="Objects below 32x32 pixels of area.")
    medium: int = Field(description="Objects from 32x32 to 96x96 pixels of area.")
    large: int = Field(description="Objects above 96x96 pixels of area.")
    relative_side: tuple[float, float, float] = Field(
        description="10th, 50th and 90th percentile of sqrt(box area / image area)."
    )
    elongation: float = Field(description="Median of the longer over the shorter box side.")


class ImagesInfo(Frozen):
    """Sizes of the images and how full they are."""

    median_size: tuple[int, int] = Field(description="Median width and height in pixels.")
    largest_size: tuple[int, int] = Field(description="Width and height of the image with the most pixels.")
    without_annotations: int
    objects_mean: float = Field(description="Usable annotations an image, over images that have any.")
    objects_max: int


class FilesRead(Frozen):
    """Locations of one split, relative to the given folder; a whole URI if elsewhere."""

    annotations: str = Field(description="The file that was read; of a converted dataset what it was made of.")
    images: str = Field(description="Folder of the images.")


class LeftOut(Frozen):
    """Counts of unusable images and objects of one split."""

    images: int
    images_read: int
    annotations: int = Field(description="Copies of an object aside: nothing is lost with them.")
    annotations_read: int = Field(description="Copies aside.")


class DatasetInfo(Frozen):
    """Result of inspection. It depends on the data alone: same content, same result."""

    source: str = Field(description="URI or path that was inspected.")
    digest: str = Field(description="sha256 of the annotation bytes, in hex; of several files, of their digests.")
    images_digest: str = Field(
        default="",
        description="sha256 of what each listed image is: ETag or MD5, and size. Empty unless a run is planned.",
    )
    files: dict[str, FilesRead] = Field(default={}, description="What was read, by split.")
    splits: dict[str, int] = Field(default={}, description="Images of each split: all, or train, val, test.")
    images_with_objects: dict[str, int] = Field(
        default={}, description="Images with an object to learn or to find, by split; crowds do not count."
    )
    images_with_masks: dict[str, int] = Field(
        default={}, description="Images with the mask of such an object, by split."
    )
    left_out: dict[str, LeftOut] = Field(default={}, description="What cannot be used, by split.")
    images: int = Field(description="Usable images.")
    images_read: int = Field(default=0, description="All images that the files list, usable or not.")
    annotations: int = Field(description="Usable annotations.")
    annotations_read: int = Field(description="All annotations, usable or not.")
    has_boxes: bool = Field(description="Objects have boxes, given or derived from masks.")
    has_masks: bool = Field(description="Objects have masks: polygons or run lengths.")
    boxes_derived: int = Field(description="Boxes that were derived from masks.")
    masks: int = Field(description="Usable annotations with a mask.")
    crowd_share: float = Field(description="Share of annotations with iscrowd=1.")
    sizes: SizeInfo | None = Field(description="None without usable annotations.")
    image_sizes: ImagesInfo | None = Field(description="None without images.")
    problems_left_out: int = Field(default=0, description="Problems that did not fit into a message.")
    classes_left_out: int = Field(default=0, description="Classes that did not fit into a message.")
    problems: tuple[Problem, ...] = ()
    classes: tuple[ClassInfo, ...] = Field(description="In the order of the category ids.")

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that forbid training."""
        return tuple(p for p in self.problems if p.severity is Severity.ERROR)


@dataclass(frozen=True)
class CocoImage:
    """One image of a dataset; ``width`` and ``height`` in pixels, upright."""

    id: ImageId
    file_name: str
    width: int
    height: int


@dataclass(frozen=True)
class CocoAnnotation:
    """One usable object."""

    id: ImageId
    class_index: int
    """Index into :attr:`CocoDataset.classes`; not the category id."""
    box_xyxy: tuple[float, float, float, float]
    """Top left and bottom right corner in original pixels, clipped to the image."""
    area: float
    iscrowd: bool
    segmentation: Any = None
    """Polygons (lists of x, y in pixels) or run lengths as in the file; None without a mask."""
    score: float = 1.0
    """Probability that the label is right, 0..1; below 1 only for labels of a teacher."""
    ignored: bool = False
    """Neither target nor background: it is not sure that the object exists."""


@dataclass(frozen=True)
class CocoDataset:
    """The usable images and objects of a COCO file, in memory.

    Attributes:
        images: In file order.
        annotations: Objects per image, in the order of ``images``.
        classes: Category names in the order of their ids.
        category_ids: Category id of each class in the file.
        digest: sha256 of the file's bytes, in hex; empty for a dataset without a file.
        images_digest: Fingerprint of the listed images; empty if not computed.
        frame: Frame of images that EXIF rotates, where their own size does not show it.
        contradictory: Annotations of the file that are left out since their box and mask contradict each other:
            inspection samples the masks of a large file, and may have reported fewer.
    """

    images: tuple[CocoImage, ...]
    annotations: tuple[tuple[CocoAnnotation, ...], ...]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    digest: str = ""
    images_digest: str = ""
    frame: Frame = Frame.UPRIGHT
    contradictory: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: list[int]) -> CocoDataset:
        """Return the images at ``indices``, in that order, with all classes."""
        return replace(
            self,
            images=tuple(self.images[i] for i in indices),
            annotations=tuple(self.annotations[i] for i in indices),
        )

    def with_classes(self, classes: Sequence[str]) -> CocoDataset:
        """Return the same images with other classes, matched by name; objects of other classes are left out."""
        if tuple(classes) == self.classes:
            return self
        index = {name: i for i, name in enumerate(classes)}
        new = [index.get(name, -1) for name in self.classes]
        ids = dict(zip(self.classes, self.category_ids, strict=True))
        free = max(self.category_ids, default=0)
        return replace(
            self,
            annotations=tuple(
                tuple(
                    found
                    if new[found.class_index] == found.class_index
                    else replace(found, class_index=new[found.class_index])
                    for found in objects
                    if new[found.class_index] >= 0
                )
                for objects in self.annotations
            ),
            classes=tuple(classes),
            category_ids=tuple(ids.get(name, free + 1 + i) for i, name in enumerate(classes)),
        )


@dataclass(frozen=True, eq=False)
class Sample:
    """One decoded image with its objects: what augmentation and teachers work on.

    Attributes:
        image: (H, W, 3) uint8, RGB, upright.
        boxes_xyxy: (N, 4) float32, corners in pixels of ``image``.
        class_indices: (N,) int64.
        masks: (N, H, W) bool, or None if masks are not requested or missing.
        is_crowd: (N,) bool.
        annotation_indices: (N,) int64, position of each object in ``CocoDataset.annotations[i]``.
        scores: (N,) float32 in 0..1, probability that a teacher's label is right; None: all are 1.
        is_ignored: (N,) bool, objects that are neither target nor background, since it is not sure that they exist;
            None: there are none.
    """

    image: NDArray[np.uint8]
    boxes_xyxy: NDArray[np.float32]
    class_indices: NDArray[np.int64]
    is_crowd: NDArray[np.bool_]
    annotation_indices: NDArray[np.int64]
    masks: NDArray[np.bool_] | None = None
    scores: NDArray[np.float32] | None = None
    is_ignored: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, image: NDArray[np.uint8], boxes_xyxy: object = (), class_indices: object = None) -> Sample:
        """Return a sample of an image without a dataset; boxes are prompts, of class 0 if no class is given."""
        boxes = np.asarray(boxes_xyxy, dtype=np.float32).reshape(-1, 4)
        count = len(boxes)
        return cls(
            image=image,
            boxes_xyxy=boxes,
            class_indices=np.zeros(count, np.int64) if class_indices is None else np.asarray(class_indices, np.int64),
            is_crowd=np.zeros(count, np.bool_),
            annotation_indices=np.arange(count, dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    @property
    def object_scores(self) -> NDArray[np.float32]:
        """(N,) float32, the probability that each label is right."""
        return np.ones(len(self), np.float32) if self.scores is None else self.scores

    @property
    def ignored(self) -> NDArray[np.bool_]:
        """(N,) bool, whether each object is neither target nor background."""
        return np.zeros(len(self), np.bool_) if self.is_ignored is None else self.is_ignored


@dataclass(frozen=True, eq=False)
class Detections:
    """Detections of a teacher in one image, in pixels of the original image.

    Attributes:
        boxes_xyxy: (N, 4) float32, corners.
        scores: (N,) float32 in 0..1, descending.
        class_indices: (N,) int64.
        masks: N run-length encodings; None from a teacher that predicts only boxes.
        prompt_indices: (N,) int64, the object of the sample that prompted each detection; None from a teacher that is
            not prompted by objects.
        cut: The teacher found more than its maximum number of detections: some below the last score are missing.
        unsure: (N,) bool, labels below the threshold of their class, which are neither object nor background; None:
            there are none.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_indices: NDArray[np.int64]
    masks: list[Rle] | None = field(default=None)
    prompt_indices: NDArray[np.int64] | None = field(default=None)
    cut: bool = False
    unsure: NDArray[np.bool_] | None = field(default=None)

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, indices: NDArray[np.int64]) -> Detections:
        """Return the detections at ``indices`` (M,), in that order."""
        return Detections(
            boxes_xyxy=self.boxes_xyxy[indices],
            scores=self.scores[indices],
            class_indices=self.class_indices[indices],
            masks=None if self.masks is None else [self.masks[i] for i in indices],
            prompt_indices=None if self.prompt_indices is None else self.prompt_indices[indices],
            unsure=None if self.unsure is None else self.unsure[indices],
        )

    def lacks(self, threshold: float) -> bool:
        """Test whether detections of at least this score may be missing, since a teacher returns a limited number."""
        return self.cut and len(self) > 0 and float(self.scores.min()) >= threshold
