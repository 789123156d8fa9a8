"""Students that find boxes, and on request masks, of a fixed list of classes with queries: the DETR family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.dataset.images.preprocessing import ScaledTransform, from_cxcywh_normalized, to_cxcywh_normalized
from engine.dataset.mask_targets import mask_targets
from engine.dataset.predicted_masks import masks_in_boxes
from engine.dataset.types import Detections, Sample
from engine.models.model import Batch, Example, to_device
from engine.models.student import Student
from engine.students.mask_terms import MASK_TERMS

FIELDS = ("labels", "boxes", "scores", "ignored_labels", "ignored_boxes", "ignored_crowds")
"""Fields of :class:`engine.students.targets.Targets`, in a batch lists of one tensor per image."""

MASK_STRIDE = 4
"""Pixels of the input along a side of a cell of the masks."""


class Detector(Student):
    """A student whose model gives ``logits`` (B, Q, C), ``pred_boxes`` (B, Q, 4) and, with masks, ``pred_masks``.

    Attributes:
        box_terms: Names of the terms of its loss without masks.
        weight_names: Names of their weights in the settings, where they differ from the term's.
    """

    box_terms: ClassVar[tuple[str, ...]]
    weight_names: ClassVar[Mapping[str, str]]

    model: Any
    settings: Any
    transform: ScaledTransform

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of :class:`engine.students.targets.Targets`."""
        return (*FIELDS, "masks") if self.settings.masks else FIELDS

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms of the loss."""
        return self.box_terms + MASK_TERMS if self.settings.masks else self.box_terms

    def _weighted(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the loss, the sum of all terms by the weights of the settings, and each term."""
        weights = {term: getattr(self.settings, f"{self.weight_names.get(term, term)}_weight") for term in self.terms}
        total = torch.stack([weight * parts[term] for term, weight in weights.items()]).sum()
        return {"loss": total, **{term: value.detach() for term, value in parts.items()}}

    def example(self, sample: Sample, rng: np.random.Generator) -> Example:
        """Preprocess one image and its objects.

        Returns:
            ``pixel_values`` (3, H, W) float32, and the fields of :class:`engine.students.targets.Targets`.
        """
        ignored = sample.is_crowd | sample.ignored
        kept = ~ignored
        masks = {"masks": torch.from_numpy(self._mask_targets(sample))[kept]} if self.settings.masks else {}
        boxes = torch.from_numpy(to_cxcywh_normalized(sample.boxes_xyxy, *sample.image.shape[:2]))
        labels, crowds = torch.from_numpy(sample.class_indices), torch.from_numpy(sample.is_crowd)
        return {
            "pixel_values": torch.from_numpy(self.transform.image(sample.image)),
            "labels": labels[kept],
            "boxes": boxes[kept],
            "scores": torch.from_numpy(sample.object_scores)[kept],
            "ignored_labels": labels[ignored],
            "ignored_boxes": boxes[ignored],
            "ignored_crowds": crowds[ignored],
            **masks,
        }

    def _mask_targets(self, sample: Sample) -> NDArray[np.float32]:
        height, width = self.image_size
        geometry, grid = self.transform.plan(*sample.image.shape[:2]), (height // MASK_STRIDE, width // MASK_STRIDE)
        return mask_targets(sample, geometry, grid, boundary=self.settings.mask_boundary)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return ``pixel_values`` (B, 3, H, W), and a list of B tensors of each of :attr:`fields`."""
        fields = {name: [example[name] for example in examples] for name in self.fields}
        return {"pixel_values": torch.stack([example["pixel_values"] for example in examples]), **fields}

    def count(self, batch: Batch) -> float:
        """Return the number of objects in the batch."""
        return float(sum(len(boxes) for boxes in batch["boxes"]))

    @torch.no_grad()
    def predict(self, samples: Sequence[Sample]) -> list[Detections]:
        """Detect all classes in original images: the best pairs of query and class, as published."""
        if self.silent:
            nothing = np.empty((0, 4)), np.empty(0), np.empty(0, np.int64)
            no_masks = np.empty((0, 1, 1)) if self.settings.masks else None
            return [_detections(*nothing, no_masks, size=(1, 1)) for _ in samples]
        network: nn.Module = self.predictor
        training = network.training
        network.eval()
        pixels = torch.stack([torch.from_numpy(self.transform.image(sample.image)) for sample in samples])
        outputs: Any = network(to_device(pixels, self.device))
        network.train(training)
        scores, best = (
            outputs.logits.float()
            .sigmoid()
            .flatten(1)
            .topk(min(self.settings.max_detections, outputs.logits[0].numel()))
        )
        classes = outputs.logits.shape[-1]
        boxes = outputs.pred_boxes.float().gather(1, (best // classes)[..., None].expand(-1, -1, 4))
        found = (values.cpu().numpy() for values in (boxes, scores, best % classes))
        masks: list[Any] = [None] * len(samples)
        if self.settings.masks:
            pairs = zip(outputs.pred_masks.float(), best // classes, strict=True)
            masks = [one[query].cpu().numpy() for one, query in pairs]
        return [
            _detections(*one, size=sample.image.shape[:2]) for *one, sample in zip(*found, masks, samples, strict=True)
        ]


def _detections(boxes: Any, scores: Any, classes: Any, masks: Any, *, size: tuple[int, int]) -> Detections:
    """Convert the candidates of one image to pixels of the original of ``size`` (height, width)."""
    boxes_xyxy = from_cxcywh_normalized(boxes, *size)
    return Detections(
        boxes_xyxy=boxes_xyxy,
        scores=scores.astype(np.float32),
        class_indices=classes.astype(np.int64),
        masks=None if masks is None else masks_in_boxes(masks, boxes_xyxy, size),
    )
