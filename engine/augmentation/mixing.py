"""Views made of several training images: mosaics, and objects copied into other images.

Both give few images more variety: a mosaic shows objects next to others and cut by the frame, copies show them on other
backgrounds. The transforms of the table follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.dataset.types import Sample
from engine.spec import AugmentationSpec

MIN_VISIBLE = 0.15
"""Objects of which less than this share stays visible are dropped."""

CENTRE, ZOOM = (0.3, 0.7), (1.0, 1.6)
"""Range of the point where the four windows of a mosaic meet, as a share of the image's sides, and of the enlargement
of an image above the smallest that fills its window."""

MOST_COPIES, TRIES = 4, 8
"""Maximum number of objects copied into an image, and of positions tried for each."""

SIZE = (0.7, 1.4)
"""Range of the scale of a copied object; at 1 it covers the same share of the image as in its own."""

LARGEST_COPY = 0.4
"""Objects with a longer side than this share of their image are not copied: they would hide the image."""

MOST_HIDDEN = 0.3
"""Maximum share of an object's box that a copy may cover, and of a copied object's box that lies in other objects."""

MARGIN = 0.1
"""Without masks: width of the blended border around a copied box, in box sides."""


SMALLEST = 32
"""Images with a side of fewer pixels are not mixed."""


@dataclass(frozen=True)
class Mixer:
    """Augmented views, some of them made of several images: ``mixer(sample, seed)``.

    The view is fully determined by the sample, the seed and the images. Both kinds are drawn independently.

    Attributes:
        spec: ``mosaic`` and ``paste`` are the percentages of the views.
        load: Returns an image by its index, without masks.
        load_objects: The same, with masks if there are any.
        images: Number of images.
        shown: Indices of the images with objects that can be copied.
        augment: Transforms that follow.
    """

    spec: AugmentationSpec
    load: Callable[[int], Sample]
    load_objects: Callable[[int], Sample]
    images: int
    shown: Sequence[int]
    augment: Callable[[Sample, int], Sample]

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """Return a view of ``sample``."""
        rng = np.random.default_rng([seed, 1])  # apart from the transforms
        drawn_mosaic, drawn_copy = rng.random(2) * 100
        if min(sample.image.shape[:2]) >= SMALLEST:
            if drawn_mosaic < (self.spec.mosaic or 0):
                others = [self.load(int(index)) for index in rng.integers(self.images, size=3)]
                sample = mosaic([sample, *others], rng)
            if drawn_copy < (self.spec.paste or 0) and self.shown:
                sample = paste(sample, self.load_objects(self.shown[int(rng.integers(len(self.shown)))]), rng)
        return self.augment(sample, seed)


def mosaic(samples: Sequence[Sample], rng: np.random.Generator) -> Sample:
    """Join windows of four images to one image of the first one's size.

    Args:
        samples: Four samples, of which all or none have masks.
        rng: Source of all choices.

    Returns:
        A sample whose ``annotation_indices`` number its objects. Crowds of which anything is in view stay.
    """
    height, width = samples[0].image.shape[:2]
    x, y = (round(side * rng.uniform(*CENTRE)) for side in (width, height))
    cells = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    image = np.empty((height, width, 3), np.uint8)
    with_masks = all(sample.masks is not None for sample in samples)
    parts = []
    for (left, top, right, bottom), turn in zip(cells, rng.permutation(4), strict=True):
        part = _window(samples[turn], right - left, bottom - top, rng)
        image[top:bottom, left:right] = part.image
        masks = None
        if with_masks and part.masks is not None:
            masks = np.zeros((len(part), height, width), np.bool_)
            masks[:, top:bottom, left:right] = part.masks
        parts.append(
            replace(part, boxes_xyxy=part.boxes_xyxy + np.array([left, top, left, top], np.float32), masks=masks)
        )
    return _joined(image, parts, with_masks=with_masks)


def paste(sample: Sample, donor: Sample, rng: np.random.Generator) -> Sample:
    """Copy one to :data:`MOST_COPIES` objects of another image to random positions.

    With masks the object itself is copied, otherwise its box with a blended border: in a sample with masks, an object
    without one gets an empty mask, and its box hides what lies below. Crowds, large objects and objects
    that others overlap are not copied, and no copy hides much of another object.

    Args:
        sample: The image that is changed.
        donor: The image whose objects are copied; it may be the same.
        rng: Source of all choices.

    Returns:
        A sample whose ``annotation_indices`` number its objects; masks of hidden pixels are removed. The sample itself
        if nothing could be copied.
    """
    chosen = _free_objects(donor)
    wanted = chosen[rng.permutation(len(chosen))][: rng.integers(1, MOST_COPIES + 1)]
    relative = float(np.sqrt(sample.image[..., 0].size / donor.image[..., 0].size))
    result = sample
    for index in wanted:
        copied = _copied(result, donor, int(index), scale=relative * rng.uniform(*SIZE), rng=rng)
        result = result if copied is None else copied
    return result


def _window(sample: Sample, width: int, height: int, rng: np.random.Generator) -> Sample:
    """Return a random window of the image, enlarged or reduced to (height, width)."""
    rows, columns = sample.image.shape[:2]
    scale = max(width / columns, height / rows) * rng.uniform(*ZOOM)
    w, h = max(1, min(columns, round(width / scale))), max(1, min(rows, round(height / scale)))
    left, top = int(rng.integers(columns - w + 1)), int(rng.integers(rows - h + 1))
    inside = slice(top, top + h), slice(left, left + w)
    shrinks = w > width or h > height
    image = cv2.resize(
        sample.image[inside], (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    factors = np.array([width / w, height / h, width / w, height / h], np.float32)
    moved = (sample.boxes_xyxy - np.array([left, top, left, top], np.float32)) * factors
    boxes = np.clip(moved, 0, np.array([width, height, width, height], np.float32))
    share = _areas(boxes) / np.maximum(_areas(moved), 1e-6)
    seen = (share >= np.where(sample.is_crowd, 1e-6, MIN_VISIBLE)) & ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
    masks = None
    if sample.masks is not None:
        masks = np.zeros((len(sample), height, width), np.bool_)
        for index in np.flatnonzero(seen):
            mask = sample.masks[index]
            small = np.ascontiguousarray(mask[inside]).view(np.uint8)
            masks[index] = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
            seen[index] = masks[index].any() or not mask.any()  # an object without a mask is judged by its box
        masks = masks[seen]
    return _kept(replace(sample, image=image, boxes_xyxy=boxes, masks=None), seen, masks)


def _free_objects(donor: Sample) -> NDArray[np.intp]:
    """Return the indices of the objects that can be copied: no crowds, not large, and hardly overlapped by others."""
    sides = (donor.boxes_xyxy[:, 2:] - donor.boxes_xyxy[:, :2]) / donor.image.shape[1::-1]
    covered = _intersections(donor.boxes_xyxy, donor.boxes_xyxy)
    np.fill_diagonal(covered, 0)
    overlapped = covered.max(1, initial=0) > MOST_HIDDEN * _areas(donor.boxes_xyxy)
    return np.flatnonzero(~donor.is_crowd & ~donor.ignored & (sides.max(1, initial=0) <= LARGEST_COPY) & ~overlapped)


def _copied(sample: Sample, donor: Sample, index: int, *, scale: float, rng: np.random.Generator) -> Sample | None:
    """Return the sample with one more object, or None if it fits nowhere."""
    height, width = sample.image.shape[:2]
    patch, alpha, (left, top, right, bottom) = _patch(donor, index, scale)
    rows, columns = alpha.shape
    if rows > height or columns > width or min(right - left, bottom - top) < 2:
        return None
    for _ in range(TRIES):
        x, y = int(rng.integers(width - columns + 1)), int(rng.integers(height - rows + 1))
        box = np.array([[left + x, top + y, right + x, bottom + y]], np.float32)
        shared = _intersections(box, sample.boxes_xyxy)[0]
        others = ~sample.is_crowd
        if (shared <= MOST_HIDDEN * np.minimum(_areas(sample.boxes_xyxy), _areas(box)))[others].all():
            break
    else:
        return None
    image, window = sample.image.copy(), (slice(y, y + rows), slice(x, x + columns))
    image[window] = np.rint(image[window] * (1 - alpha[..., None]) + patch * alpha[..., None]).astype(np.uint8)
    stays, masks = np.ones(len(sample), np.bool_), None
    if sample.masks is not None:
        new = np.zeros((1, height, width), np.bool_)
        new[0][window] = alpha >= 0.5
        masks = sample.masks & ~new
        before, after = (maps.sum((1, 2)) for maps in (sample.masks, masks))
        stays = (after >= MIN_VISIBLE * before) | sample.is_crowd
        masks = np.concatenate([masks[stays], new & _has_mask(donor, index)])
    return Sample(
        image=image,
        boxes_xyxy=np.concatenate([sample.boxes_xyxy[stays], box]),
        class_indices=np.append(sample.class_indices[stays], donor.class_indices[index]),
        is_crowd=np.append(sample.is_crowd[stays], np.False_),
        annotation_indices=np.arange(stays.sum() + 1),
        masks=masks,
        scores=np.append(sample.object_scores[stays], donor.object_scores[index]),
        is_ignored=np.append(sample.ignored[stays], np.False_),
    )


def _has_mask(donor: Sample, index: int) -> bool:
    return donor.masks is not None and bool(donor.masks[index].any())


def _patch(
    donor: Sample, index: int, scale: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[float, float, float, float]]:
    """Cut an object out.

    Returns:
        (h, w, 3) pixels, (h, w) opacity in 0..1, and the object's box in the patch, xyxy.
    """
    height, width = donor.image.shape[:2]
    box = donor.boxes_xyxy[index]
    mask = donor.masks[index] if donor.masks is not None and _has_mask(donor, index) else None
    margin = np.zeros(2) if mask is not None else MARGIN * (box[2:] - box[:2])
    low = np.floor(np.maximum(box[:2] - margin, 0)).astype(int)
    high = np.ceil(np.minimum(box[2:] + margin, (width, height))).astype(int)
    inside = slice(low[1], high[1]), slice(low[0], high[0])
    size = np.maximum(1, np.rint((high - low) * scale)).astype(int)
    factors = size / np.maximum(high - low, 1)
    corners = np.concatenate([(box[:2] - low) * factors, (box[2:] - low) * factors])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    columns, rows = (int(side) for side in size)
    pixels = cv2.resize(donor.image[inside], (columns, rows), interpolation=way).astype(np.float32)
    if mask is None:
        alpha = np.minimum(_ramp(rows, corners[1], corners[3])[:, None], _ramp(columns, corners[0], corners[2]))
    else:
        alpha = cv2.resize(mask[inside].astype(np.float32), (columns, rows), interpolation=way)
    left, top, right, bottom = (float(side) for side in corners)
    return pixels, alpha.astype(np.float32), (left, top, right, bottom)


def _ramp(length: int, low: float, high: float) -> NDArray[np.float64]:
    """Return opacity along one axis: 1 inside the box, falling to 0 at both ends of the patch."""
    centre = np.arange(length) + 0.5
    before = np.ones(length) if low < 1 else np.minimum(1, centre / low)
    after = np.ones(length) if length - high < 1 else np.minimum(1, (length - centre) / (length - high))
    return np.minimum(before, after)


def _kept(sample: Sample, which: NDArray[np.bool_], masks: NDArray[np.bool_] | None) -> Sample:
    return Sample(
        image=sample.image,
        boxes_xyxy=sample.boxes_xyxy[which].astype(np.float32),
        class_indices=sample.class_indices[which],
        is_crowd=sample.is_crowd[which],
        annotation_indices=sample.annotation_indices[which],
        masks=masks,
        scores=None if sample.scores is None else sample.scores[which],
        is_ignored=None if sample.is_ignored is None else sample.is_ignored[which],
    )


def _joined(image: NDArray[np.uint8], parts: Sequence[Sample], *, with_masks: bool) -> Sample:
    return Sample(
        image=image,
        boxes_xyxy=np.concatenate([part.boxes_xyxy for part in parts]),
        class_indices=np.concatenate([part.class_indices for part in parts]),
        is_crowd=np.concatenate([part.is_crowd for part in parts]),
        annotation_indices=np.arange(sum(map(len, parts))),
        masks=np.concatenate([part.masks for part in parts if part.masks is not None]) if with_masks else None,
        scores=np.concatenate([part.object_scores for part in parts]),
        is_ignored=np.concatenate([part.ignored for part in parts]),
    )


def _areas(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    areas: NDArray[np.float32] = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)
    return areas


def _intersections(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (N, M) areas that boxes (N, 4) and (M, 4) share."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared: NDArray[np.float32] = np.prod(np.clip(high - low, 0, None), axis=2)
    return shared
