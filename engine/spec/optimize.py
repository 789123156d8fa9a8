"""Section ``optimize`` of the spec: the files that a model is exported to, and how much accuracy they may lose."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from engine.spec.base import Share, SpecModel


class ArtifactFormat(StrEnum):
    """Format of an exported model: the runtime, and the numbers that it stores."""

    ONNX = "onnx"
    ONNX_FP16 = "onnx-fp16"
    ONNX_INT8 = "onnx-int8"
    OPENVINO = "openvino"
    OPENVINO_FP16 = "openvino-fp16"
    OPENVINO_INT8 = "openvino-int8"
    TENSORRT = "tensorrt"
    COREML = "coreml"
    LITERT = "litert"


class ArtifactSpec(SpecModel):
    """One artifact to build, measure and publish."""

    format: ArtifactFormat = Field(description="Format of the artifact.")
    max_ap_drop: Share | None = Field(
        default=None,
        description='Highest loss of AP against the model in torch, such as "0.01"; an artifact that loses more is not '
        "published. Default: 0.001 with 32 bit, 0.003 with 16 bit, 0.01 with 8 bit.",
    )
