"""A graph of torch to ONNX: traced, folded, described."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from engine.models.graphs import Graph
from engine.optimization.card import KEY, ArtifactCard
from engine.optimization.packages import require

OPSET = 17
"""The first opset with LayerNormalization; all runtimes of the last years read it."""


def to_onnx(graph: Graph) -> Any:
    """Return an ONNX model (float32, batch 1, fixed shape) of a graph.

    It is traced by the TorchScript exporter, which keeps the names of modules in those of nodes. ONNX Runtime's basic
    optimizations fold constants, so that other runtimes read a small graph of standard operators too.
    """
    onnx = require("onnx")
    with tempfile.TemporaryDirectory() as folder:
        traced, folded = Path(folder, "traced.onnx"), Path(folder, "folded.onnx")
        with torch.no_grad(), _ConstantLinspace(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing: Python values become constants, which is what is wanted
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            torch.onnx.export(
                graph.module,
                tuple(graph.inputs.values()),
                str(traced),
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                opset_version=OPSET,
                dynamo=False,
            )
        _fold(traced, folded)
        model = onnx.load(str(folded))
    used = {node.domain for node in model.graph.node} | {""}
    kept = [one for one in model.opset_import if one.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.producer_name, model.producer_version = "teacher-finetune", ""
    return model


class _ConstantLinspace(TorchFunctionMode):
    """Make ``torch.linspace`` a constant of the traced graph: the exporter gives 0 / 0 for maps of a single row."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.linspace:
            start, end, steps = (float(one) for one in args)
            return torch.from_numpy(np.linspace(start, end, int(steps), dtype=np.float32))
        return function(*args, **(kwargs or {}))


def _fold(source: Path, target: Path) -> None:
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    runtime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def described(model: Any, card: ArtifactCard) -> Any:
    """Return a copy of an ONNX model with its card and what a viewer shows, without what no runtime reads."""
    onnx = require("onnx")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for node in copy.graph.node:
        node.name, node.doc_string = "", ""
    shown = {KEY: card.model_dump_json(), "classes": ", ".join(card.classes), "outputs": card.outputs}
    onnx.helper.set_model_props(copy, shown)
    return copy
