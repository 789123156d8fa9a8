"""Transform images into the input of each teacher, and coordinates back.

Coordinates are continuous: pixel ``i`` covers ``[i, i + 1)``, so that the box ``[0, 0, W, H]`` is the whole image and
scaling an image scales its boxes by nothing but a factor for each axis (half-pixel convention).

    transform = LongestEdgeTransform()
    geometry = transform.plan(*image.shape[:2])
    pixels = transform.image(image)                  # (3, 1024, 1024)
    prompts = geometry.to_model(boxes_xyxy)          # pixels of the model's input
    boxes_xyxy = geometry.to_original(prompts)       # pixels of the image
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.errors import BaseModelError

# ImageNet's statistics of values in 0..1. Times 255 they are SAM's pixel_mean and pixel_std.
MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)

MAX_EDGE = 8192
"""Maximum edge in pixels that images are scaled to."""


@dataclass(frozen=True)
class Geometry:
    """Position of an image in a teacher's input: scaled, in the top left corner.

    Attributes:
        original: Height and width of the image in pixels.
        resized: Height and width that it is scaled to.
        padded: Height and width of the model's input; zeros fill the area below and right of the image.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Return the factors of x and y, which differ slightly since sizes are whole pixels."""
        return self.resized[1] / self.original[1], self.resized[0] / self.original[0]

    def to_model(self, xy: NDArray[Any]) -> NDArray[np.float32]:
        """Scale points (..., 2) or box corners (..., 4) from pixels of the image to pixels of the model's input."""
        return (xy * self._factors(xy)).astype(np.float32)

    def to_original(self, xy: NDArray[Any]) -> NDArray[np.float32]:
        """Scale back: the inverse of :meth:`to_model`, clipped to the image."""
        height, width = self.original
        limits = np.resize([width, height], xy.shape[-1])
        return np.clip(xy / self._factors(xy), 0, limits).astype(np.float32)

    def coverage(self, masks: NDArray[np.bool_], size: int | tuple[int, int]) -> NDArray[np.float32]:
        """Reduce masks to a grid over the model's input, such as that of SAM's low-resolution logits.

        Args:
            masks: (N, H, W) bool, in pixels of the image.
            size: Rows and columns of the grid; one number for both, 256 for SAM's logits.

        Returns:
            (N, rows, columns) float32: the exact share of each cell's area that the mask covers, 0 in the padding.
        """
        (height, width), (scale_x, scale_y) = self.padded, self.scale
        high, wide = (size, size) if isinstance(size, int) else size
        rows = np.arange(high + 1) * (height / high / scale_y)
        columns = np.arange(wide + 1) * (width / wide / scale_x)
        covered = np.empty((len(masks), high, wide), dtype=np.float32)
        for mask, cells in zip(masks, covered, strict=True):  # one by one: a sum needs 8 bytes where a mask needs 1
            top, bottom = _extent(mask.any(axis=1))
            left, right = _extent(mask[top:bottom].any(axis=0))
            inside = mask[top:bottom, left:right]
            cells[:] = _sum_between(_sum_between(inside, rows - top).T, columns - left).T
        return covered / np.float32(rows[1] * columns[1])

    def _factors(self, xy: NDArray[Any]) -> NDArray[np.float64]:
        return np.resize(np.array(self.scale), xy.shape[-1])


class Transform(ABC):
    """Transform of images into the input of one teacher."""

    @abstractmethod
    def plan(self, height: int, width: int) -> Geometry:
        """Return the geometry of an image of this size."""

    def image(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scale (bilinear, antialiased), normalise and zero-pad: (H, W, 3) uint8 RGB to (3, H', W') float32."""
        geometry = self.plan(*image.shape[:2])
        height, width = geometry.resized
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(resized)
        padded = np.zeros((3, *geometry.padded), dtype=np.float32)
        for channel, values in enumerate(padded[:, :height, :width]):  # in place: copies of an image take longest
            values[:] = pixels[..., channel]
            values /= 255
            values -= MEAN[channel]
            values /= STD[channel]
        return padded


def check_normalisation(values: Mapping[str, Any], *, where: str) -> None:
    """Check that a ``preprocessor_config.json`` uses the supported scaling and normalisation.

    Raises:
        BaseModelError: It uses another one.
    """
    for name, expected in (("image_mean", MEAN), ("image_std", STD)):
        found = values.get(name)
        if found is None:
            continue
        numbers = isinstance(found, list) and all(type(one) in (int, float) for one in found)
        if not numbers or len(found) != 3 or not np.allclose(np.array(found, np.float64), expected, atol=1e-3):
            raise BaseModelError(
                f"{where}: {name} is {str(found)[:80]}, and images are normalised by {expected.round(3).tolist()}: "
                "such a base is not supported"
            )
    for name in ("do_resize", "do_rescale", "do_normalize"):
        if values.get(name) not in (None, True):
            raise BaseModelError(f"{where}: {name} is {str(values[name])[:80]}: such a base is not supported")
    factor = values.get("rescale_factor")
    if factor is not None and (type(factor) is not float or abs(factor * 255 - 1) > 1e-3):
        raise BaseModelError(f"{where}: rescale_factor is {str(factor)[:80]}, not 1/255: such a base is not supported")


@dataclass(frozen=True)
class ShortestEdgeTransform(Transform):
    """Scale the shorter edge to ``shortest_edge`` pixels, or less if the longer one would exceed ``longest_edge``.

    Sizes are rounded as transformers' ``get_size_with_aspect_ratio`` does, so that published weights see the images
    as in their training; padding is not added here, since the images of a batch are padded to a common size.
    """

    shortest_edge: int = 800
    longest_edge: int = 1333

    @classmethod
    def of(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """Return the transform that a ``preprocessor_config.json`` describes.

        Args:
            values: Content of the file.
            where: Name of the file in messages.

        Raises:
            BaseModelError: It needs a transform that is not supported.
        """
        check_normalisation(values, where=where)
        size = values.get("size")
        if size is None:
            return cls()
        if isinstance(size, int):  # format of the first DETR checkpoints
            size = {"shortest_edge": size, "longest_edge": values.get("max_size", cls.longest_edge)}
        if not isinstance(size, dict) or size.keys() - {"shortest_edge", "longest_edge"} or not size:
            raise BaseModelError(
                f"{where}: size is {str(size)[:80]}, but it must be an object with shortest_edge and longest_edge"
            )
        for edge, pixels in size.items():
            if type(pixels) is not int or not 1 <= pixels <= MAX_EDGE:
                raise BaseModelError(f"{where}: size.{edge} is {str(pixels)[:80]}, not pixels from 1 to {MAX_EDGE:,}")
        return cls(**size)

    def plan(self, height: int, width: int) -> Geometry:
        """See :meth:`Transform.plan`."""
        short, long = min(height, width), max(height, width)
        exact = float(self.shortest_edge)
        if long / short * exact > self.longest_edge:
            exact = self.longest_edge * short / long
        edge = round(exact)
        if edge == short:
            return Geometry((height, width), (height, width), (height, width))
        edge = max(edge, 1)  # an image 3,000 times wider than high still gets one row
        # The order of operations matters: a difference in the last bit can change the size by a pixel.
        resized = (int(exact * height / width), edge) if width < height else (edge, int(exact * width / height))
        return Geometry((height, width), resized, resized)


@dataclass(frozen=True)
class LongestEdgeTransform(Transform):
    """Scale the longer edge to ``image_size`` pixels and pad the shorter one to it.

    Sizes are rounded as segment_anything's ``ResizeLongestSide`` does.
    """

    image_size: int = 1024

    def plan(self, height: int, width: int) -> Geometry:
        """See :meth:`Transform.plan`."""
        scale = self.image_size / max(height, width)
        resized = (max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1))
        return Geometry((height, width), resized, (self.image_size, self.image_size))


@dataclass(frozen=True)
class SquareTransform(Transform):
    """Scale both edges to ``image_size`` pixels, without regard to the aspect ratio."""

    image_size: int = 1024

    def plan(self, height: int, width: int) -> Geometry:
        """See :meth:`Transform.plan`."""
        square = (self.image_size, self.image_size)
        return Geometry((height, width), square, square)


@dataclass(frozen=True)
class ScaledTransform(Transform):
    """Scale to a fixed size, without regard to the aspect ratio; values are 0..1, or normalised."""

    height: int
    width: int
    normalizes: bool = False

    def plan(self, height: int, width: int) -> Geometry:
        """See :meth:`Transform.plan`."""
        size = (self.height, self.width)
        return Geometry((height, width), size, size)

    def image(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scale (bilinear, antialiased): (H, W, 3) uint8 RGB to (3, height, width) float32."""
        if self.normalizes:
            return super().image(image)
        resized = Image.fromarray(image).resize((self.width, self.height), Image.Resampling.BILINEAR)
        return np.ascontiguousarray(np.asarray(resized, dtype=np.float32).transpose(2, 0, 1) / 255)


def to_cxcywh_normalized(boxes_xyxy: NDArray[Any], height: int, width: int) -> NDArray[np.float32]:
    """Convert (..., 4) corners in pixels to centre, width and height in 0..1, the format of Grounding DINO.

    The result is the same for the original and the scaled image.
    """
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    centred: NDArray[np.float64] = np.concatenate([(low + high) / 2, high - low], axis=-1)
    size: NDArray[np.float64] = np.array([width, height, width, height], dtype=np.float64)
    return (centred / size).astype(np.float32)


def from_cxcywh_normalized(boxes_cxcywh: NDArray[Any], height: int, width: int) -> NDArray[np.float32]:
    """Convert back: the inverse of :func:`to_cxcywh_normalized`, clipped to the image."""
    size = np.array([width, height, width, height])
    centre, half = boxes_cxcywh[..., :2].astype(np.float64), boxes_cxcywh[..., 2:] / 2
    corners: NDArray[np.float64] = np.concatenate([centre - half, centre + half], axis=-1) * size
    return np.clip(corners, 0, size).astype(np.float32)


def _extent(present: NDArray[np.bool_]) -> tuple[int, int]:
    """Return first and last position, plus one, of True values; (0, 1) if there are none."""
    places = np.flatnonzero(present)
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 1)


def _sum_between(values: NDArray[Any], edges: NDArray[Any]) -> NDArray[np.float64]:
    """Integrate the columns of (H, W) pixels between successive edges (E,); return (E - 1, W)."""
    height = len(values)
    running = np.zeros((height + 1, values.shape[1]))
    np.cumsum(values, axis=0, out=running[1:])
    position = np.clip(edges, 0, height)
    below = np.minimum(position.astype(np.intp), height - 1)
    fraction = (position - below)[:, None]
    return np.diff(running[below] * (1 - fraction) + running[below + 1] * fraction, axis=0)
