"""Find out whether annotations were made on images with their EXIF orientation applied, or on the stored pixels.

Tools do either. The annotated size shows it if EXIF rotates the image by 90 degrees and the image is not square. Other
orientations, square images, and images without an annotated size show nothing: they are treated like the images of the
same dataset that do, since all were annotated with one tool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from engine.dataset.images.decoding import ImageHeader
from engine.dataset.types import CocoImage, Detections, Frame
from engine.spec import ExifOrientation

EXAMPLES = 5

_WORDS = {Frame.UPRIGHT: "as EXIF rotates them", Frame.STORED: "as they are stored"}


class Evidence(StrEnum):
    """Evidence from one image about the frame of its annotations."""

    NONE = "none"
    """The image is upright as stored: the frames are equal."""
    APPLIED = "applied"
    IGNORED = "ignored"
    UNPROVEN = "unproven"
    """EXIF rotates or mirrors it, and the annotated size does not show whether this was applied."""
    UNSIZED = "unsized"
    """The same, and the annotations have no size: which side is the width depends on the frame."""


@dataclass
class Frames:
    """Counts of each kind of evidence in a dataset, with the first few examples.

    Attributes:
        counts: Number of images by evidence.
        examples: File names by evidence.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, evidence: Evidence, file_name: str) -> None:
        """Add the evidence of one image."""
        if evidence is not Evidence.NONE:
            self.counts[evidence.value] = self.counts.get(evidence.value, 0) + 1
            few = self.examples.setdefault(evidence.value, [])
            if len(few) < EXAMPLES:
                few.append(file_name)

    def __add__(self, other: Frames) -> Frames:
        examples = {
            key: [*self.examples.get(key, ()), *other.examples.get(key, ())][:EXAMPLES]
            for key in self.examples.keys() | other.examples.keys()
        }
        return Frames(dict(Counter(self.counts) + Counter(other.counts)), examples)

    def of(self, *kinds: Evidence) -> int:
        """Return the number of images with one of these kinds of evidence."""
        return sum(self.counts.get(kind.value, 0) for kind in kinds)

    def named(self, *kinds: Evidence) -> list[str]:
        """Return the first few images with one of these kinds of evidence."""
        return [name for kind in kinds for name in self.examples.get(kind.value, ())][:EXAMPLES]

    @property
    def unproven(self) -> int:
        """Number of images that do not show their own frame."""
        return self.of(Evidence.UNPROVEN, Evidence.UNSIZED)

    @property
    def proven(self) -> bool:
        """Test whether any image shows the frame."""
        return self.of(Evidence.APPLIED, Evidence.IGNORED) > 0

    def frame(self, requested: ExifOrientation = ExifOrientation.AUTO, *, unknown: Frame = Frame.UPRIGHT) -> Frame:
        """Return the frame of images that do not show their own.

        Args:
            requested: The user's setting; Auto: the frame of most images that show it.
            unknown: Frame if no image shows it.
        """
        if requested is not ExifOrientation.AUTO:
            return Frame.UPRIGHT if requested is ExifOrientation.APPLIED else Frame.STORED
        if not self.proven:
            return unknown
        stored = self.of(Evidence.IGNORED) > self.of(Evidence.APPLIED)
        return Frame.STORED if stored else Frame.UPRIGHT

    def problems(self, requested: ExifOrientation = ExifOrientation.AUTO) -> Iterable[tuple[str, int, list[str]]]:
        """Yield code, count and examples of problems to report."""
        applied, ignored = self.of(Evidence.APPLIED), self.of(Evidence.IGNORED)
        if ignored:
            yield "turned_image", ignored, self.named(Evidence.IGNORED)
        contradicts = {
            ExifOrientation.AUTO: min(applied, ignored),
            ExifOrientation.APPLIED: ignored,
            ExifOrientation.IGNORED: applied,
        }[requested]
        if contradicts:
            kind = Evidence.APPLIED if self.frame(requested) is Frame.STORED else Evidence.IGNORED
            yield "exif_contradiction", contradicts, self.named(kind)
        if self.unproven and requested is ExifOrientation.AUTO and not self.proven:
            yield "exif_unproven", self.unproven, self.named(Evidence.UNPROVEN, Evidence.UNSIZED)
        elif self.unproven and self.frame(requested) is Frame.STORED:
            yield "exif_as_others", self.unproven, self.named(Evidence.UNPROVEN, Evidence.UNSIZED)


def frame_remarks(frames: Frames, frame: Frame, trained: Frame) -> Iterator[str]:
    """Yield warnings about images for a teacher that was trained on images in the frame ``trained``."""
    if frames.unproven and not frames.proven:
        named = ", ".join(frames.named(Evidence.UNPROVEN, Evidence.UNSIZED))
        yield (
            f"{frames.unproven:,} images have an EXIF orientation, such as {named}, and no size shows whether they "
            f"were annotated with it applied: they are used {_WORDS[frame]}; --exif-orientation sets it"
        )
    if (frames.proven or frames.unproven) and frame is not trained:
        yield f"images with EXIF rotation are used {_WORDS[frame]}; the adapter was trained on images {_WORDS[trained]}"


def evidence_of(image: CocoImage, header: ImageHeader) -> Evidence:
    """Compare the annotated size of an image with its file, and return the evidence."""
    if header.orientation == 1:
        return Evidence.NONE
    said, upright = (image.width, image.height), (header.width, header.height)
    square = upright[0] == upright[1]
    if 0 in said:
        return Evidence.UNSIZED if header.rotated and not square else Evidence.UNPROVEN
    if header.rotated and not square:
        if said == upright:
            return Evidence.APPLIED
        if said == upright[::-1]:
            return Evidence.IGNORED
        return Evidence.NONE  # the size is wrong, which is a different problem
    return Evidence.UNPROVEN


def turned(seen: Detections, orientation: int, size: tuple[int, int], *, to: Frame) -> Detections:
    """Convert detections of an image to its other frame.

    Args:
        seen: Detections in pixels of the image of ``size``.
        orientation: EXIF orientation, 1..8.
        size: Width and height in pixels, in the frame of ``seen``.
        to: The target frame; ``seen`` is in the other one.
    """
    turn = orientation if to is Frame.UPRIGHT else {6: 8, 8: 6}.get(orientation, orientation)
    masks = seen.masks
    if masks is not None:
        masks = [coco_mask.encode(np.asfortranarray(_turn_array(coco_mask.decode(mask), turn))) for mask in masks]
    return replace(seen, boxes_xyxy=turn_boxes(seen.boxes_xyxy, turn, size), masks=masks)


def turn_boxes(boxes_xyxy: NDArray[np.float32], turn: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return (N, 4) corners after applying EXIF orientation ``turn`` to an image of ``size`` (width, height)."""
    x, y = boxes_xyxy[:, 0::2], boxes_xyxy[:, 1::2]
    width, height = size
    new_x, new_y = {
        1: (x, y),
        2: (width - x, y),
        3: (width - x, height - y),
        4: (x, height - y),
        5: (y, x),
        6: (height - y, x),
        7: (height - y, width - x),
        8: (y, width - x),
    }[turn]
    corners = [new_x.min(axis=1), new_y.min(axis=1), new_x.max(axis=1), new_y.max(axis=1)]
    return np.stack(corners, axis=1).astype(np.float32)


def _turn_array(mask: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """Apply EXIF orientation ``turn`` to an array (H, W)."""
    turned = mask.T if turn in (5, 7) else np.rot90(mask, {3: 2, 6: -1, 8: 1}.get(turn, 0))
    if turn == 7:
        return np.rot90(turned, 2)
    return np.fliplr(turned) if turn == 2 else np.flipud(turned) if turn == 4 else turned
