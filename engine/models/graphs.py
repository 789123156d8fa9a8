"""Parts of a model that become files of their own, and copies of models that can be traced."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import peft
import torch
from torch import Tensor, nn

from engine.models.box_geometry import clipped_corners
from engine.models.lora import merged

if TYPE_CHECKING:
    from engine.models.base import Teacher


@dataclass(frozen=True, eq=False)
class Graph:
    """One part of a model, with a fixed input shape and batch 1.

    Attributes:
        role: ``detector``, ``encoder`` or ``decoder``.
        module: Takes the tensors of ``inputs`` in their order, and returns those of ``outputs``.
        inputs: Example of each input by name.
        outputs: Names of the outputs.
        quantized: Regular expressions of the scopes of nodes that may compute in 8 bit: many, then fewer. Decoder and
            box heads are in none of them: boxes and the selection of queries do not survive 8 bit.
    """

    role: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    quantized: tuple[tuple[str, ...], tuple[str, ...]]


class QueryDetector(nn.Module):
    """A detector of the DETR family as a graph: the best pairs of query and class, as published.

    Its input is ``pixel_values`` (1, 3, H, W). Its outputs are ``boxes`` (1, K, 4), corners as shares of the image's
    width and height, ``scores`` (1, K), descending, and ``labels`` (1, K) int64; of a model with masks also ``masks``
    (1, K, H/4, W/4), logits.
    """

    def __init__(self, detector: Any, *, limit: int, masks: bool = False) -> None:
        super().__init__()
        self.detector, self.limit, self.masks = detector, limit, masks

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        outputs = self.detector(pixel_values)
        classes = outputs.logits.shape[-1]
        scores, best = outputs.logits.sigmoid().flatten(1).topk(min(self.limit, outputs.logits[0].numel()))
        query = torch.div(best, classes, rounding_mode="floor")
        boxes = clipped_corners(outputs.pred_boxes.gather(1, query[..., None].expand(-1, -1, 4)))
        if not self.masks:
            return boxes, scores, best % classes
        return boxes, scores, best % classes, outputs.pred_masks[0].index_select(0, query[0])[None]


def query_detector_graph(model: Any, *, shape: tuple[int, int], limit: int, masks: bool = False) -> Graph:
    """Return the graph of a detector of the DETR family in transformers, for images of (height, width)."""
    return Graph(
        role="detector",
        module=QueryDetector(copy.deepcopy(model).cpu().float().eval(), limit=limit, masks=masks).eval(),
        inputs={"pixel_values": torch.zeros(1, 3, *shape)},
        outputs=("boxes", "scores", "labels", *(("masks",) if masks else ())),
        quantized=(
            (r"/detector/(model/)+(backbone|encoder\w*|decoder_input_proj)\b",),
            (r"/detector/(model/)+backbone\b",),
        ),
    )


def traceable_copy(teacher: Teacher) -> Any:
    """Return a copy of a teacher's model with its adapter merged and the library's own layers, on the CPU.

    Faster layers and caches replace the forward method of modules (:mod:`engine.models.fast`); their sparse products
    and autograd functions have no counterpart in ONNX.
    """
    adapted = isinstance(teacher.model, peft.PeftModel)
    model: Any = merged(teacher) if adapted else copy.deepcopy(teacher.model)
    for module in model.modules():
        vars(module).pop("forward", None)
    return model.cpu().float().eval()
