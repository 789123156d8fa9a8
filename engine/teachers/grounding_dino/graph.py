"""Grounding DINO with constant classes as one graph, from an image to boxes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from engine.models.box_geometry import clipped_corners
from engine.models.duplicates import suppress_duplicates
from engine.models.graphs import Graph, traceable_copy
from engine.teachers.grounding_dino.batch import canvas, encode
from engine.teachers.grounding_dino.prompts import Prompt

if TYPE_CHECKING:
    from engine.teachers.grounding_dino.model import GroundingDino

MASKS = "generate_masks_with_special_tokens_and_transfer_map"
"""Function of the library that derives the attention of the caption from its tokens."""


def detection_graph(teacher: GroundingDino, shape: tuple[int, int]) -> Graph:
    """Return the graph of a teacher for images that are padded to ``shape`` (height, width).

    Its inputs are ``pixel_values`` (1, 3, H, W) float32 and ``pixel_mask`` (1, H, W) int64, 1 on the image. Its outputs
    are the best K pairs of query and class, as :meth:`GroundingDino.predict` chooses them: ``boxes`` (1, K, 4), corners
    as shares of the image's width and height, ``scores`` (1, K), descending, 0 for duplicates, and ``labels`` (1, K)
    int64.
    """
    height, width = canvas(*shape, places=teacher.queries)
    detector = traceable_copy(teacher)
    captions = [_Caption(detector, prompt) for prompt in teacher.book.chunks()]
    return Graph(
        role="detector",
        module=_Detections(detector, captions, limit=teacher.settings.max_detections, nms=teacher.settings.nms).eval(),
        inputs={
            "pixel_values": torch.zeros(1, 3, height, width),
            "pixel_mask": torch.ones(1, height, width, dtype=torch.long),
        },
        outputs=("boxes", "scores", "labels"),
        quantized=(
            (r"/detector/model/(backbone|input_proj_vision|encoder/layers\.\d+/deformable_layer)\b",),
            (r"/detector/model/backbone\b",),
        ),
    )


class _Caption(nn.Module):
    """One caption, encoded: constants of the graph."""

    def __init__(self, detector: Any, prompt: Prompt) -> None:
        super().__init__()
        library = sys.modules[type(detector.model).__module__]
        for name, tensor in encode([prompt], len(prompt.input_ids)).items():
            self.register_buffer(name, tensor)
        ids = cast("Tensor", self.input_ids)
        masks, positions = getattr(library, MASKS)(ids, special_tokens=detector.model.special_tokens)
        self.register_buffer("masks", masks)
        self.register_buffer("positions", positions)
        with torch.no_grad():
            text = detector.model.text_backbone(ids, masks[:, None], torch.zeros_like(ids), positions)
        self.register_buffer("text", text.last_hidden_state)
        tokens = torch.from_numpy(prompt.token_map()).float()
        self.register_buffer("shares", (tokens / tokens.sum(-1, keepdim=True)).T.contiguous())  # (T, classes)
        self.register_buffer("class_indices", torch.tensor(prompt.class_indices))


class _Detections(nn.Module):
    """Inputs and outputs are those of :func:`detection_graph`."""

    def __init__(self, detector: Any, captions: list[_Caption], *, limit: int, nms: float) -> None:
        super().__init__()
        self.detector, self.captions, self.limit, self.nms = detector, nn.ModuleList(captions), limit, nms

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = [self._found(caption, pixel_values, pixel_mask) for caption in self.captions]
        scores, labels, boxes = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        scores, best = scores.topk(min(self.limit, scores.shape[1]))
        boxes = boxes.gather(1, best[..., None].expand(-1, -1, 4))
        scores, labels, boxes = suppress_duplicates(scores, labels.gather(1, best), boxes, limit=self.nms)
        return clipped_corners(boxes), scores, labels

    def _found(self, caption: Any, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with _constant_text(self.detector, caption):
            outputs = self.detector(
                pixel_values=pixel_values,
                pixel_mask=pixel_mask,
                input_ids=caption.input_ids,
                attention_mask=caption.attention_mask,
            )
        tokens, classes = caption.shares.shape
        scores = outputs.logits[..., :tokens].sigmoid() @ caption.shares  # (1, Q, classes)
        scores, best = scores.flatten(1).topk(min(self.limit, scores.shape[1] * classes))
        query = torch.div(best, classes, rounding_mode="floor")
        boxes = outputs.pred_boxes.gather(1, query[..., None].expand(-1, -1, 4))
        return scores, caption.class_indices[best % classes], boxes


@contextmanager
def _constant_text(detector: Any, caption: Any) -> Iterator[None]:
    """Inside the block, the model takes the encoded caption and its attention as they were computed before."""
    library = sys.modules[type(detector.model).__module__]
    compute, backbone = getattr(library, MASKS), detector.model.text_backbone
    setattr(library, MASKS, lambda *args, **kwargs: (caption.masks, caption.positions))
    backbone.forward = lambda *args, **kwargs: BaseModelOutput(last_hidden_state=caption.text)
    try:
        yield
    finally:
        setattr(library, MASKS, compute)
        del backbone.forward
