"""Description in an artifact: all that is needed to use it without this package, as one JSON text.

In ONNX it is the entry ``card`` of ``metadata_props``, in OpenVINO the value ``teacher/card`` of ``rt_info``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.dataset.images.preprocessing import (
    MEAN,
    STD,
    Geometry,
    LongestEdgeTransform,
    ScaledTransform,
    ShortestEdgeTransform,
    Transform,
)
from engine.dataset.types import Frame
from engine.text.format_version import FORMAT_VERSION

if TYPE_CHECKING:
    from engine.models.graphs import Graph

KEY = "card"

Resize = Literal["shortest_edge", "longest_edge", "exact"]

_RESIZE: dict[str, tuple[Resize, bool]] = {
    "ShortestEdgeTransform": ("shortest_edge", True),
    "LongestEdgeTransform": ("longest_edge", True),
    "SquareTransform": ("exact", True),
    "ScaledTransform": ("exact", False),
}
"""Rule of each transform, and if it always normalises."""

MASKS = (
    " masks (1, K, h, w) float32: the mask of each box over the whole image, positive on the object; scale it "
    "bilinearly to the image, and leave out what lies outside the box."
)
"""Sentence on the further output of a detector with masks."""

OUTPUTS = {
    "detector": "boxes (1, K, 4) float32: left, top, right, bottom as shares of the image's width and height. scores "
    "(1, K) float32 in 0..1, descending. labels (1, K) int64: positions in classes.",
    "encoder": "embeddings (1, C, h, w) float32: input of the decoder.",
    "decoder": "logits (1, 1, m, m) float32: the mask of the box over the model's input, positive on the object; "
    "scale it bilinearly to the input and cut the padding off first, unless resize is exact. iou (1, 1) float32: "
    "predicted IoU of the mask. The input box (1, 4) float32 has corners in pixels of the model's input.",
}


def outputs_of(graph: Graph) -> str:
    """Return the description of the outputs of a graph."""
    return OUTPUTS[graph.role] + (MASKS if "masks" in graph.outputs else "")


class Preprocessing(BaseModel):
    """Steps that turn an image into the input of a model."""

    model_config = ConfigDict(frozen=True)

    resize: Resize = Field(
        description="`shortest_edge`: scale the shorter edge to that size, or less so that the longer one has at most "
        "`longest_edge`. `longest_edge`: scale the longer edge to that size. `exact`: scale to the input. An image "
        "that is then larger than the input is reduced to fit."
    )
    shortest_edge: int | None = None
    longest_edge: int | None = None
    width: int = Field(description="Width of the input in pixels.")
    height: int
    resample: str = "bilinear, antialiased (Pillow's BILINEAR)"
    layout: str = "RGB, channels first: (1, 3, height, width) float32, value / 255, minus mean, divided by std"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    padding: str = "zeros right and below; pixel_mask, if it is an input, is 1 on the image and 0 there"

    @classmethod
    def of(cls, transform: Transform, *, height: int, width: int) -> Preprocessing:
        """Describe a transform, and the input that its images are padded to."""
        rule, normalises = _RESIZE[type(transform).__name__]
        normalises = normalises or (isinstance(transform, ScaledTransform) and transform.normalizes)
        longest = transform.image_size if isinstance(transform, LongestEdgeTransform) else None
        shortest = None
        if isinstance(transform, ShortestEdgeTransform):
            shortest, longest = transform.shortest_edge, transform.longest_edge
        return cls(
            resize=rule,
            shortest_edge=shortest,
            longest_edge=longest,
            width=width,
            height=height,
            mean=tuple(MEAN.tolist()) if normalises else (0.0, 0.0, 0.0),
            std=tuple(STD.tolist()) if normalises else (1.0, 1.0, 1.0),
        )

    def plan(self, height: int, width: int) -> Geometry:
        """Return the position of an image of this size in the input."""
        into = self.height, self.width
        if self.resize == "exact":
            return Geometry((height, width), into, into)
        transform: Transform = LongestEdgeTransform(self.longest_edge or max(into))
        if self.resize == "shortest_edge":
            transform = ShortestEdgeTransform(self.shortest_edge or min(into), self.longest_edge or max(into))
        high, wide = transform.plan(height, width).resized
        if high > into[0] or wide > into[1]:
            scale = min(into[0] / high, into[1] / wide)
            high, wide = max(int(high * scale), 1), max(int(wide * scale), 1)
        return Geometry((height, width), (high, wide), into)


class ArtifactCard(BaseModel):
    """Description of one file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format_version: int = FORMAT_VERSION
    model: str = Field(description="Name of the teacher or student.")
    role: Literal["detector", "encoder", "decoder"]
    parts: dict[str, str] = Field(description="File name of each part, by role.")
    classes: tuple[str, ...] = Field(description="Class names in the order of labels.")
    category_ids: tuple[int, ...] = Field(default=(), description="Their ids in COCO files; empty: 1, 2, …")
    preprocessing: Preprocessing
    outputs: str
    frame: Frame = Frame.UPRIGHT
    precision: str = Field(description="Stored numbers: fp32, fp16 or int8.")
    settings: str = Field(description="Setting of the conversion.")
    source: str = Field(description="sha256 of the adapter or student that was exported.")
