"""SAM and SAM 2 as two graphs: the image encoder, run once per image, and the mask decoder, run once per box."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from engine.models.graphs import Graph, traceable_copy

if TYPE_CHECKING:
    from engine.teachers.sam.model import Sam


def encoder_and_decoder(teacher: Sam) -> list[Graph]:
    """Return the graphs of a teacher.

    The encoder maps ``pixel_values`` (1, 3, S, S) to ``embeddings`` (1, C, h, w), the decoder these and a ``box``
    (1, 4), corners in pixels of the input, to ``logits`` (1, 1, m, m) of the mask and its predicted ``iou`` (1, 1).
    """
    other = copy.copy(teacher)
    other.features = None
    other.model = traceable_copy(teacher)
    side = teacher.transform.image_size
    pixels = torch.zeros(1, 3, side, side)
    encoder, decoder = _Encoder(other).eval(), _Decoder(other).eval()
    with torch.no_grad():
        embeddings = encoder(pixels)
    box = torch.tensor([[side / 4, side / 4, side / 2, side / 2]])
    return [
        Graph(
            role="encoder",
            module=encoder,
            inputs={"pixel_values": pixels},
            outputs=("embeddings",),
            quantized=((r"/vision_encoder\b",), (r"/vision_encoder/.*/mlp\b",)),
        ),
        Graph(
            role="decoder",
            module=decoder,
            inputs={"embeddings": embeddings, "box": box},
            outputs=("logits", "iou"),
            quantized=((), ()),
        ),
    ]


class _Encoder(nn.Module):
    def __init__(self, teacher: Sam) -> None:
        super().__init__()
        self.teacher, self.sam = teacher, teacher.model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.teacher._encode(pixel_values)


class _Decoder(nn.Module):
    def __init__(self, teacher: Sam) -> None:
        super().__init__()
        self.teacher, self.sam = teacher, teacher.model

    def forward(self, embeddings: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        return self.teacher.traced_mask_of_box(embeddings, box)
