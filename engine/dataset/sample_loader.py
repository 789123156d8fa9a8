"""Decode one image of a dataset with its objects: :func:`load_sample`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.dataset.images.cache_checksums import checked
from engine.dataset.images.decoding import ImageHeader, decode_image, probe_image
from engine.dataset.images.exif_orientation import Evidence, Frames, evidence_of
from engine.dataset.masks import decode_masks
from engine.dataset.types import CocoAnnotation, CocoDataset, CocoImage, Frame, Sample
from engine.errors import DataError
from engine.spec import ExifOrientation


def load_sample(
    dataset: CocoDataset, index: int, path: Path, *, with_masks: bool, select: NDArray[np.int64] | None = None
) -> Sample:
    """Decode an image and its objects. Nothing is scaled.

    Args:
        dataset: Dataset of the image.
        index: Position of the image in ``dataset.images``.
        path: Path of the image file.
        with_masks: Decode masks as well. An object without a mask gets an empty one.
        select: Positions in ``dataset.annotations[index]`` of the objects to return, so that only their masks are
            decoded; None for all.

    Raises:
        StorageError: It is a cached copy that was damaged after the download.
        DataError: The image cannot be decoded, has another size than the annotations were made for, or a mask cannot
            be decoded.
    """
    image, annotations = dataset.images[index], dataset.annotations[index]
    chosen = np.arange(len(annotations)) if select is None else np.asarray(select, np.int64)
    source = checked(path)
    header = probe_image(source, name=image.file_name)
    upright = frame_of(image, header, dataset.frame) is Frame.UPRIGHT
    pixels = decode_image(source, upright=upright, name=image.file_name)
    height, width = pixels.shape[:2]
    boxes = _boxes_xyxy([annotations[i] for i in chosen], height, width)
    # If the file gives no size, boxes could not be compared with the image before.
    inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, chosen = boxes[inside], chosen[inside]
    kept = [annotations[i] for i in chosen]
    unsure = any(a.ignored or a.score < 1 for a in kept)
    return Sample(
        image=pixels,
        boxes_xyxy=boxes,
        class_indices=np.array([a.class_index for a in kept], np.int64),
        is_crowd=np.array([a.iscrowd for a in kept], np.bool_),
        annotation_indices=chosen.astype(np.int64),
        masks=_masks(kept, height, width, name=image.file_name) if with_masks else None,
        scores=np.array([a.score for a in kept], np.float32) if unsure else None,
        is_ignored=np.array([a.ignored for a in kept], np.bool_) if unsure else None,
    )


def with_frame(
    dataset: CocoDataset,
    paths: Sequence[Path],
    *,
    requested: ExifOrientation = ExifOrientation.AUTO,
    unknown: Frame = Frame.UPRIGHT,
) -> tuple[CocoDataset, Frames]:
    """Return the dataset with the frame of images that EXIF rotates, and the evidence for it.

    Args:
        dataset: Any dataset.
        paths: Paths of its images, whose headers are read.
        requested: Setting of the user; Auto: the frame of most images that show it.
        unknown: Frame if no image shows it.
    """
    frames = Frames()
    for image, path in zip(dataset.images, paths, strict=True):
        with suppress(DataError):  # reported when it is loaded
            frames.add(evidence_of(image, probe_image(path, name=image.file_name)), image.file_name)
    return replace(dataset, frame=frames.frame(requested, unknown=unknown)), frames


def frame_of(image: CocoImage, header: ImageHeader, frame: Frame) -> Frame:
    """Return the frame in which an image was annotated.

    Tools that ignore EXIF annotate the pixels as stored: then the size in the file is that of the unrotated image. A
    square image, or one rotated by 180 degrees, has the same size either way: it gets the frame of the dataset.

    Raises:
        DataError: The image has another size than the annotations were made for.
    """
    said, upright = (image.width, image.height), (header.width, header.height)
    evidence = evidence_of(image, header)
    if evidence is Evidence.IGNORED:
        return Frame.STORED
    if said in ((0, 0), upright):
        return frame if evidence in (Evidence.UNPROVEN, Evidence.UNSIZED) else Frame.UPRIGHT
    raise DataError(
        f"{image.file_name} is {header.width}x{header.height} pixels, but the annotations state "
        f"{image.width}x{image.height}: its boxes would be in the wrong place. Upload the image that was annotated, "
        "or correct width, height and boxes"
    )


def _boxes_xyxy(annotations: list[CocoAnnotation], height: int, width: int) -> NDArray[np.float32]:
    """Return (N, 4) corners, clipped to the image."""
    boxes = np.array([a.box_xyxy for a in annotations], np.float64).reshape(-1, 4)
    return np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)


def _masks(annotations: list[CocoAnnotation], height: int, width: int, *, name: str) -> NDArray[np.bool_]:
    """Return (N, height, width) masks, empty for objects without one."""
    masks = np.zeros((len(annotations), height, width), np.bool_)
    having = [i for i, annotation in enumerate(annotations) if annotation.segmentation is not None]
    try:
        masks[having] = decode_masks([annotations[i].segmentation for i in having], height, width)
    except ValueError as error:
        raise DataError(f"{name}: a mask cannot be decoded, {error}. Export the annotations again") from None
    return masks
