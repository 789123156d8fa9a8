"""Formats of artifacts: runtime, stored numbers, allowed loss of AP, and the settings that are tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, Protocol

from engine.errors import ConfigError
from engine.spec import ArtifactFormat

Precision = Literal["fp32", "fp16", "int8"]

MAX_AP_DROP: dict[Precision, Decimal] = {"fp32": Decimal("0.001"), "fp16": Decimal("0.003"), "int8": Decimal("0.01")}
"""Highest loss of AP by default."""

SETTINGS: dict[tuple[str, Precision], tuple[str, ...]] = {
    ("onnx", "fp32"): ("fp32",),
    ("onnx", "fp16"): ("fp16", "fp16 weights"),
    ("onnx", "int8"): ("int8", "int8, 16 bit rest", "int8, fewer layers", "int8 weights"),
    ("openvino", "fp32"): ("fp32",),
    ("openvino", "fp16"): ("fp16 weights",),
    ("openvino", "int8"): ("int8", "int8, 16 bit rest", "int8, fewer layers", "int8 weights"),
}
"""Settings of each runtime and precision, from the strongest to the gentlest: see :mod:`engine.optimization.convert`.
OpenVINO stores 16 bit weights and chooses the arithmetic on the device: 32 bit here, by its setting."""


@dataclass(frozen=True)
class Target:
    """A format that is built and measured here.

    Attributes:
        format: The format.
        runtime: ``onnx`` or ``openvino``.
        precision: Numbers that it stores.
    """

    format: ArtifactFormat
    runtime: Literal["onnx", "openvino"]
    precision: Precision

    @property
    def suffix(self) -> str:
        """End of its file names, such as ``.int8.onnx``."""
        middle = "" if self.precision == "fp32" else f".{self.precision}"
        return middle + (".onnx" if self.runtime == "onnx" else ".xml")

    @property
    def settings(self) -> tuple[str, ...]:
        """Settings that are tried in turn."""
        return SETTINGS[self.runtime, self.precision]

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages that build and run it."""
        openvino = ("openvino",) if self.runtime == "openvino" else ()
        return ("onnx", "onnxruntime", *openvino, *(("nncf",) if self.precision == "int8" else ()))

    @property
    def max_ap_drop(self) -> Decimal:
        """Highest loss of AP by default."""
        return MAX_AP_DROP[self.precision]


TARGETS = {
    target.format: target
    for target in (
        Target(ArtifactFormat.ONNX, "onnx", "fp32"),
        Target(ArtifactFormat.ONNX_FP16, "onnx", "fp16"),
        Target(ArtifactFormat.ONNX_INT8, "onnx", "int8"),
        Target(ArtifactFormat.OPENVINO, "openvino", "fp32"),
        Target(ArtifactFormat.OPENVINO_FP16, "openvino", "fp16"),
        Target(ArtifactFormat.OPENVINO_INT8, "openvino", "int8"),
    )
}

ELSEWHERE = {
    ArtifactFormat.TENSORRT: "a TensorRT engine is built on the GPU that runs it, which is not here. Take --format "
    "onnx, and on the target: trtexec --onnx=model.onnx --saveEngine=model.engine",
    ArtifactFormat.COREML: "a Core ML model can be measured on macOS only. Take --format onnx, and on a Mac run it in "
    "ONNX Runtime: InferenceSession('model.onnx', providers=['CoreMLExecutionProvider'])",
    ArtifactFormat.LITERT: "converters to LiteRT need other versions of torch and numpy than this package. Take "
    "--format onnx, and in another environment: pip install onnx2tf && onnx2tf -i model.onnx -o litert",
}
"""What formats need that cannot be built and measured here, and the command on the target."""


class Wanted(Protocol):
    """An artifact in a spec or in a configuration."""

    @property
    def format(self) -> ArtifactFormat:
        """Its format."""

    @property
    def max_ap_drop(self) -> str | None:
        """Highest loss of AP as a decimal number; None: by format."""


def limits_of(wanted: Sequence[Wanted]) -> list[tuple[Target, Decimal]]:
    """Return target and allowed loss of AP of each format.

    Raises:
        ConfigError: A format cannot be built here.
    """
    targets = [(target_of(one.format), one.max_ap_drop) for one in wanted]
    return [(target, target.max_ap_drop if drop is None else Decimal(drop)) for target, drop in targets]


def target_of(wanted: ArtifactFormat) -> Target:
    """Return the target of a format.

    Raises:
        ConfigError: It cannot be built here.
    """
    if wanted in ELSEWHERE:
        raise ConfigError(f"--format {wanted}: {ELSEWHERE[wanted]}")
    return TARGETS[wanted]
