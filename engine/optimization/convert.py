"""Convert the float32 ONNX model, the reference, to the other formats.

Settings, from the strongest to the gentlest:

    fp16                float16 throughout, except for the decoder, heads and what chooses queries
    fp16 weights        float16 in the file, float32 in arithmetic
    int8                8 bit weights and activations, by calibration images; what computes in float32 has weights that
                        are stored in 8 bit too
    int8, 16 bit rest   the same, but these weights are stored in 16 bit
    int8, fewer layers  the same with fewer layers in 8 bit
    int8 weights        8 bit weights in the file, float32 in arithmetic

With 8 bit, decoder and box heads compute in float32.

Activations are calibrated by NNCF in its mode for transformers (SmoothQuant); the others make D-FINE's and RT-DETR's
boxes useless (openvinotoolkit/geti 6462, ultralytics 26191).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.models.graphs import Graph
from engine.optimization.card import KEY, ArtifactCard
from engine.optimization.export import described
from engine.optimization.packages import require
from engine.optimization.targets import Target

Feeds = list[dict[str, NDArray[Any]]]

CALIBRATED = {"int8": 0, "int8, 16 bit rest": 0, "int8, fewer layers": 1}
"""Settings with 8 bit activations, and the index of their scopes in :attr:`Graph.quantized`."""

SCALE = "_int8_scale"
"""End of the names of the scales of 8 bit weights."""

LEAST_WEIGHTS = 256
"""Numbers of the smallest constant that is stored in fewer bits."""


def convert(
    reference: Any, graph: Graph, target: Target, setting: str, *, card: ArtifactCard, feeds: Feeds, file: Path
) -> None:
    """Write one format of a model.

    Args:
        reference: The ONNX model in float32.
        graph: What it was made of.
        target: The format.
        setting: One of ``target.settings``.
        card: Description to store.
        feeds: Inputs for the calibration of 8 bit activations.
        file: File to write; an ``.xml`` gets a ``.bin`` next to it.
    """
    if target.runtime == "onnx":
        require("onnx").save(described(_onnx(reference, graph, setting, feeds), card), str(file))
        return
    openvino = require("openvino")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source.onnx")
        # NNCF keeps constants of 16 and 8 bit as they are, and leaves those of 32 bit in 32.
        ready = _stored(reference, graph, setting) if setting in CALIBRATED else _onnx(reference, graph, setting, feeds)
        require("onnx").save(ready, str(source))
        model = openvino.Core().read_model(str(source))
        if setting in CALIBRATED:
            model = _quantize(model, [op.get_friendly_name() for op in model.get_ops()], graph, setting, feeds)
        model.set_rt_info(card.model_dump_json(), ["teacher", KEY])
        openvino.save_model(model, str(file), compress_to_fp16=setting != "fp32")


def _onnx(reference: Any, graph: Graph, setting: str, feeds: Feeds) -> Any:
    names = [node.name for node in reference.graph.node]
    if setting in CALIBRATED:
        return _stored(_quantize(reference, names, graph, setting, feeds), graph, setting)
    if setting == "int8 weights":
        return half_weights(eight_bit_weights(reference, _inside(names, graph.quantized[0])))
    if setting == "fp16 weights":
        return half_weights(reference)
    if setting == "fp16":
        half = require("onnxruntime.transformers.float16")
        kept = _outside(names, graph.quantized[0])
        model = half.convert_float_to_float16(_copy(reference), keep_io_types=True, node_block_list=kept)
        return half_weights(model)
    return reference


def _stored(model: Any, graph: Graph, setting: str) -> Any:
    """Return the model with the weights that compute in float32 stored in fewer bits."""
    if setting == "int8":
        names = [node.name for node in model.graph.node]
        model = eight_bit_weights(model, set(_outside(names, graph.quantized[0])))
    return half_weights(model)


def _quantize(model: Any, names: Iterable[str], graph: Graph, setting: str, feeds: Feeds) -> Any:
    """Return the model with 8 bit weights and activations in the scopes that the setting allows."""
    scopes = graph.quantized[CALIBRATED[setting]]
    if not scopes:
        return model
    nncf = require("nncf")
    kept = _outside(names, scopes)
    return nncf.quantize(
        model,
        nncf.Dataset(feeds),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(feeds),
        ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
    )


def _outside(names: Iterable[str], scopes: Sequence[str]) -> list[str]:
    """Return the names in none of the scopes.

    Raises:
        ValueError: There are scopes, and no name is in one: the file would be called 8 bit without being it.
    """
    names = list(names)
    if not scopes:
        return names
    allowed = re.compile("|".join(f"(?:{scope})" for scope in scopes))
    outside = [name for name in names if not allowed.match(name)]
    if len(outside) == len(names):
        raise ValueError(f"no layer of the graph is in {', '.join(scopes)}")
    return outside


def _inside(names: Sequence[str], scopes: Sequence[str]) -> set[str]:
    return set(names) - set(_outside(names, scopes))


def _copy(model: Any) -> Any:
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def half_weights(model: Any) -> Any:
    """Return an ONNX model whose large float32 constants are stored in 16 bit, with a cast that runtimes fold."""
    onnx = require("onnx")
    model = _copy(model)
    graph = model.graph
    scales = {
        name for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear") for name in node.input
    } | {one.name for one in graph.initializer if one.name.endswith(SCALE)}
    casts = []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < LEAST_WEIGHTS or tensor.name in scales:
            continue
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue
        stored = f"{tensor.name}_fp16"
        casts.append(onnx.helper.make_node("Cast", [stored], [tensor.name], to=onnx.TensorProto.FLOAT))
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), stored))
    _prepend(graph, casts)
    return model


def eight_bit_weights(model: Any, nodes: Set[str]) -> Any:
    """Return an ONNX model in which the matrices and kernels of these nodes are stored in 8 bit.

    Weights are symmetric with one scale per output channel. They are converted by ``Cast`` and ``Mul``, which runtimes
    fold at load time: ONNX Runtime would fuse ``DequantizeLinear`` with a matrix product into one that rounds its
    activations to 8 bit too.
    """
    onnx = require("onnx")
    model = _copy(model)
    graph = model.graph
    weights = {}
    for node in graph.node:
        if node.op_type in ("MatMul", "Conv", "Gemm") and node.name in nodes:
            turned = any(one.name == "transB" and one.i for one in node.attribute)
            weights[node.input[1]] = 0 if node.op_type == "Conv" or turned else -1
    conversions = []
    for tensor in [one for one in graph.initializer if one.name in weights]:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < LEAST_WEIGHTS or values.ndim < 2:
            continue
        name, axis = tensor.name, weights[tensor.name] % values.ndim
        others = tuple(i for i in range(values.ndim) if i != axis)
        scale = np.maximum(np.abs(values).max(axis=others, keepdims=True) / 127, np.finfo(np.float32).tiny)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.round(values / scale).astype(np.int8), f"{name}_int8"))
        graph.initializer.append(onnx.numpy_helper.from_array(scale.astype(np.float32), f"{name}{SCALE}"))
        cast = onnx.helper.make_node("Cast", [f"{name}_int8"], [f"{name}_cast"], to=onnx.TensorProto.FLOAT)
        conversions += [cast, onnx.helper.make_node("Mul", [f"{name}_cast", f"{name}{SCALE}"], [name])]
    _prepend(graph, conversions)
    return model


def _prepend(graph: Any, nodes: list[Any]) -> None:
    others = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *others])
