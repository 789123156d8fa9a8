"""Whether the annotations of a data set were made on images as EXIF turns them, or as they are stored.

Tools do either. The size that the annotations give of an image shows it where EXIF turns the image by a quarter and it
is no square. Other orientations, squares, and images whose size is not given show nothing: they are taken as those of
the same data set that do, since one tool has seen all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from engine.dataset.image_decoding import ImageHeader
from engine.dataset.types import CocoImage, Detections, Frame
from engine.spec import ExifOrientation

EXAMPLES = 5

_WORDS = {Frame.UPRIGHT: "as EXIF turns them", Frame.STORED: "as they are stored"}


class Evidence(StrEnum):
    """What an image shows of the frame that its annotations were made in."""

    NONE = "none"
    """Its EXIF orientation changes nothing."""
    APPLIED = "applied"
    IGNORED = "ignored"
    UNPROVEN = "unproven"
    """EXIF turns or mirrors it, and its size in the annotations does not show whether they were made on it so."""
    UNSIZED = "unsized"
    """The same, and only the frame says which of its sides is its width."""


@dataclass
class Frames:
    """How often images of a data set show what, with the first few of each.

    Attributes:
        counts: By evidence.
        examples: By evidence, file names.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, evidence: Evidence, file_name: str) -> None:
        """Note what one image shows."""
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
        """Count how many images show one of these."""
        return sum(self.counts.get(kind.value, 0) for kind in kinds)

    def named(self, *kinds: Evidence) -> list[str]:
        """The first few images that show one of these."""
        return [name for kind in kinds for name in self.examples.get(kind.value, ())][:EXAMPLES]

    @property
    def unproven(self) -> int:
        """Images that follow the others."""
        return self.of(Evidence.UNPROVEN, Evidence.UNSIZED)

    @property
    def proven(self) -> bool:
        """Test whether any image shows the frame."""
        return self.of(Evidence.APPLIED, Evidence.IGNORED) > 0

    def frame(self, asked: ExifOrientation = ExifOrientation.AUTO, *, unknown: Frame = Frame.UPRIGHT) -> Frame:
        """Return how images that do not show their own frame are taken.

        Args:
            asked: What the user says; Auto: as most of the images that show it.
            unknown: Where none does.
        """
        if asked is not ExifOrientation.AUTO:
            return Frame.UPRIGHT if asked is ExifOrientation.APPLIED else Frame.STORED
        if not self.proven:
            return unknown
        stored = self.of(Evidence.IGNORED) > self.of(Evidence.APPLIED)
        return Frame.STORED if stored else Frame.UPRIGHT

    def problems(self, asked: ExifOrientation = ExifOrientation.AUTO) -> Iterable[tuple[str, int, list[str]]]:
        """Code, count and examples of what users should know."""
        applied, ignored = self.of(Evidence.APPLIED), self.of(Evidence.IGNORED)
        if ignored:
            yield "turned_image", ignored, self.named(Evidence.IGNORED)
        contradicts = {
            ExifOrientation.AUTO: min(applied, ignored),
            ExifOrientation.APPLIED: ignored,
            ExifOrientation.IGNORED: applied,
        }[asked]
        if contradicts:
            kind = Evidence.APPLIED if self.frame(asked) is Frame.STORED else Evidence.IGNORED
            yield "exif_contradiction", contradicts, self.named(kind)
        if self.unproven and asked is ExifOrientation.AUTO and not self.proven:
            yield "exif_unproven", self.unproven, self.named(Evidence.UNPROVEN, Evidence.UNSIZED)
        elif self.unproven and self.frame(asked) is Frame.STORED:
            yield "exif_as_others", self.unproven, self.named(Evidence.UNPROVEN, Evidence.UNSIZED)


def frame_remarks(frames: Frames, frame: Frame, trained: Frame) -> Iterator[str]:
    """Return what to say of images that are shown to a teacher that was trained on images in the frame ``trained``."""
    if frames.unproven and not frames.proven:
        named = ", ".join(frames.named(Evidence.UNPROVEN, Evidence.UNSIZED))
        yield (
            f"{frames.unproven:,} images have an EXIF orientation, such as {named}, and no size shows whether they "
            f"were annotated with it applied: they are taken {_WORDS[frame]}; --exif-orientation sets it"
        )
    if (frames.proven or frames.unproven) and frame is not trained:
        yield f"images that EXIF turns are taken {_WORDS[frame]}; the adapter was trained on images {_WORDS[trained]}"


def evidence_of(image: CocoImage, header: ImageHeader) -> Evidence:
    """Return what the size of an image in the annotations says, compared with its file."""
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
        return Evidence.NONE  # of another size altogether, which is another problem
    return Evidence.UNPROVEN


def turned(seen: Detections, orientation: int, size: tuple[int, int], *, to: Frame) -> Detections:
    """Detections of an image in its other frame.

    Args:
        seen: In pixels of the image as it is, ``size``.
        orientation: EXIF's, 1..8.
        size: Width and height in pixels, of the frame that ``seen`` is in.
        to: The frame that is wanted; ``seen`` is in the other one.
    """
    turn = orientation if to is Frame.UPRIGHT else {6: 8, 8: 6}.get(orientation, orientation)
    masks = seen.masks
    if masks is not None:
        masks = [coco_mask.encode(np.asfortranarray(_turn_array(coco_mask.decode(mask), turn))) for mask in masks]
    return replace(seen, boxes_xyxy=turn_boxes(seen.boxes_xyxy, turn, size), masks=masks)


def turn_boxes(boxes_xyxy: NDArray[np.float32], turn: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """(N, 4) corners after an image of ``size`` (width, height) is turned as EXIF orientation ``turn`` asks for."""
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
    """(H, W) pixels, turned as EXIF orientation ``turn`` asks for."""
    turned = mask.T if turn in (5, 7) else np.rot90(mask, {3: 2, 6: -1, 8: 1}.get(turn, 0))
    if turn == 7:
        return np.rot90(turned, 2)
    return np.fliplr(turned) if turn == 2 else np.flipud(turned) if turn == 4 else turned
