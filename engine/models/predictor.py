"""Interface of everything that finds objects in images: models in torch, and artifacts in their own runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from engine.dataset.types import Detections, Frame, Sample


class Predictor(Protocol):
    """Finds the objects of a list of classes."""

    classes: tuple[str, ...]
    frame: Frame
    """Frame of EXIF-rotated images in training."""

    @property
    def iou_type(self) -> Literal["bbox", "segm"]:
        """``segm`` if it predicts the masks of boxes, which prompt it."""
        ...

    def predict(self, samples: Sequence[Sample]) -> list[Detections]:
        """Detect in original images; see :meth:`engine.models.model.Model.predict`."""
        ...
