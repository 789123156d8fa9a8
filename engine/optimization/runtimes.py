"""ONNX Runtime and OpenVINO behind one interface: named arrays in, named arrays out."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from engine.errors import ConfigError
from engine.optimization.card import KEY, ArtifactCard
from engine.optimization.packages import require, version_of
from engine.text.pydantic_errors import faults_in

Arrays = dict[str, NDArray[Any]]


class Session(ABC):
    """A loaded artifact.

    Attributes:
        card: Its description.
        runtime: Name and version of the runtime.
        threads: Threads that it computes with.
        inputs: Names of its inputs.
    """

    card: ArtifactCard
    runtime: str
    threads: int
    inputs: tuple[str, ...]

    @abstractmethod
    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """Compute the outputs of one image."""

    @abstractmethod
    def executed(self) -> dict[str, int]:
        """Count the matrix products and convolutions that really run in each precision, such as ``int8``."""

    @classmethod
    def open(cls, file: Path, *, threads: int) -> Session:
        """Load a file by its suffix.

        Raises:
            ConfigError: It is not an artifact, or its runtime is not installed.
        """
        kinds: dict[str, type[OnnxSession | OpenVinoSession]] = {".onnx": OnnxSession, ".xml": OpenVinoSession}
        if file.suffix not in kinds:
            raise ConfigError(f"{file.name} is not an artifact: give a file that ends with {' or '.join(kinds)}")
        return kinds[file.suffix].load(file, threads=threads)


class OnnxSession(Session):
    """An artifact in ONNX Runtime, on the CPU."""

    def __init__(self, file: Path, session: Any, *, threads: int) -> None:
        self.file, self.session, self.threads = file, session, threads
        self.card = _card(session.get_modelmeta().custom_metadata_map.get(KEY), file)
        self.runtime = f"onnxruntime {version_of('onnxruntime')}"
        self.inputs = tuple(one.name for one in session.get_inputs())
        self.outputs = [one.name for one in session.get_outputs()]

    @classmethod
    def load(cls, file: Path, *, threads: int) -> Self:
        """Load a ``.onnx`` file."""
        try:
            session = _onnx_session(file, threads)
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - the runtime has its own exceptions for each kind of damage
            raise ConfigError(f"{file} cannot be loaded by ONNX Runtime: {str(error)[:200]}") from None
        return cls(file, session, threads=threads)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """See :meth:`Session.run`."""
        return dict(zip(self.outputs, self.session.run(None, dict(feeds)), strict=True))

    def executed(self) -> dict[str, int]:
        """See :meth:`Session.executed`: by the graph after all optimizations of the runtime."""
        onnx = require("onnx")
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder, "optimized.onnx")
            _onnx_session(self.file, self.threads, save=optimized)
            graph = onnx.load(str(optimized)).graph
        types = {one.name: one.data_type for one in graph.initializer}
        types |= {one.name: one.type.tensor_type.elem_type for one in (*graph.value_info, *graph.input)}
        half = onnx.TensorProto.FLOAT16
        counted: Counter[str] = Counter()
        for node in graph.node:
            if not any(kind in node.op_type for kind in ("Conv", "MatMul", "Gemm")):
                continue
            if "QLinear" in node.op_type or "Integer" in node.op_type:
                counted["int8"] += 1
            elif "NBits" in node.op_type:
                counted["int8 weights"] += 1
            else:
                counted["float16" if any(types.get(one) == half for one in node.input) else "float32"] += 1
        return dict(counted)


def _onnx_session(file: Path, threads: int, *, save: Path | None = None) -> Any:
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if save is not None:
        options.optimized_model_filepath = str(save)
    return runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


class OpenVinoSession(Session):
    """An artifact in OpenVINO, on the CPU, without its default roundings: bfloat16, and 8 bit before stored weights."""

    def __init__(self, file: Path, compiled: Any, card: str | None, *, threads: int) -> None:
        self.compiled, self.threads = compiled, threads
        self.card = _card(card, file)
        self.runtime = f"openvino {version_of('openvino')}"
        self.inputs = tuple(one.any_name for one in compiled.inputs)
        self.outputs = [one.any_name for one in compiled.outputs]

    @classmethod
    def load(cls, file: Path, *, threads: int) -> Self:
        """Load a ``.xml`` file and the ``.bin`` next to it."""
        openvino = require("openvino")
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # else activations are rounded to 8 bit where weights are stored so
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            model = openvino.Core().read_model(str(file))
            compiled = openvino.Core().compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise ConfigError(f"{file} cannot be loaded by OpenVINO: {str(error)[:200]}") from None
        path = ["teacher", KEY]
        return cls(
            file, compiled, model.get_rt_info(path).astype(str) if model.has_rt_info(path) else None, threads=threads
        )

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """See :meth:`Session.run`."""
        found = self.compiled(dict(feeds))
        return {name: np.asarray(found[name]) for name in self.outputs}

    def executed(self) -> dict[str, int]:
        """See :meth:`Session.executed`: by the kernels that the compiled model reports.

        Its ``runtimePrecision`` is that of the stored weights, which a kernel may convert first.
        """
        names = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i8": "int8", "u8": "int8"}
        counted: Counter[str] = Counter()
        for layer in self.compiled.get_runtime_model().get_ordered_ops():
            info = layer.get_rt_info()
            if info["layerType"].astype(str) in {"Convolution", "MatMul", "FullyConnected", "Deconvolution"}:
                found = info["primitiveType"].astype(str).rpartition("_")[2].lower()
                counted[names.get(found, found)] += 1
        return dict(counted)


def _card(text: str | None, file: Path) -> ArtifactCard:
    if text is None:
        raise ConfigError(f"{file} was not made by `teacher optimize`: it has no description of its input")
    try:
        return ArtifactCard.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"{file} has a description that cannot be used:\n{faults_in(error, ArtifactCard)}") from None
