"""Artifacts of models in tests, made without measuring them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tiny_student import student_settings
from torch import nn

from engine.dataset.types import Detections, Sample
from engine.optimization.artifact import Artifact, load_artifact, prepare
from engine.optimization.card import ArtifactCard, Preprocessing, outputs_of
from engine.optimization.convert import convert
from engine.optimization.export import to_onnx
from engine.optimization.targets import TARGETS
from engine.spec import ArtifactFormat
from engine.students.dfine.model import DFine

SIZE = (96, 128)
"""Height and width of the images of :func:`write_data`."""


def artifact_of(
    model: Any,
    folder: Path,
    sizes: Sequence[tuple[int, int]],
    *,
    kind: ArtifactFormat = ArtifactFormat.ONNX,
    setting: str = "fp32",
    shape: tuple[int, int] | None = None,
    images: Sequence[Any] = (),
) -> Artifact:
    """The artifact of a model whose images have ``sizes``, with calibration ``images`` for 8 bit."""
    graphs = model.graphs(shape, sizes)
    height, width = graphs[0].inputs["pixel_values"].shape[2:]
    preprocessing = Preprocessing.of(model.transform, height=height, width=width)
    target = TARGETS[kind]
    parts = {graph.role: f"{graph.role}{target.suffix}" for graph in graphs}
    for graph in graphs:
        card = ArtifactCard(
            model=type(model).__name__,
            role=graph.role,
            parts=parts,
            classes=model.classes,
            preprocessing=preprocessing,
            outputs=outputs_of(graph),
            precision=target.precision,
            settings=setting,
            source="",
        )
        prepared = [prepare(preprocessing, image)[0] for image in images] if graph.quantized[0] else []
        feeds = [{name: one[name] for name in graph.inputs} for one in prepared]
        convert(to_onnx(graph), graph, target, setting, card=card, feeds=feeds, file=folder / parts[graph.role])
    return load_artifact(folder / next(iter(parts.values())), threads=1)


def products_in(model: Any, scopes: Sequence[str]) -> list[str]:
    """Names of the matrix products and convolutions of an ONNX model that lie in one of the scopes."""
    names = [node.name for node in model.graph.node if node.op_type in ("MatMul", "Conv", "Gemm")]
    return [name for name in names if any(re.match(scope, name) for scope in scopes)]


def scene(seed: int, size: tuple[int, int] = (96, 128)) -> Any:
    """An image (height, width) of some rectangles on noise."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (*size, 3), dtype=np.uint8)
    for _ in range(5):
        top, left = rng.integers(0, size[0] - 20), rng.integers(0, size[1] - 20)
        image[top : top + rng.integers(10, 40), left : left + rng.integers(10, 40)] = rng.integers(0, 255, 3)
    return image


def assert_same(found: Detections, expected: Detections, *, size: tuple[int, int], tolerance: float = 1e-4) -> None:
    """Every detection has a partner with its class, score and box; equal scores may be in another order.

    Boxes are compared as shares of the image's ``size`` (height, width). The last ones may differ: of two equal scores
    one may be cut.
    """
    assert abs(len(found) - len(expected)) <= 1
    sides = np.array([size[1], size[0]] * 2)
    left = list(range(len(found)))
    cut = expected.scores.min(initial=1) + 2 * tolerance
    for box, score, label in zip(expected.boxes_xyxy, expected.scores, expected.class_indices, strict=True):
        for i in left:
            same = (
                found.class_indices[i] == label
                and abs(found.scores[i] - score) <= tolerance
                and np.abs((found.boxes_xyxy[i] - box) / sides).max() <= tolerance
            )
            if same:
                left.remove(i)
                break
        else:
            assert score <= cut, f"no partner for class {label}, score {score}, box {box}"


def predictions(model: Any, images: Sequence[Any]) -> list[Detections]:
    """Detections in images, each on its own."""
    return [model.predict([Sample.of(image)])[0] for image in images]


def random_student(classes: Sequence[str], size: tuple[int, int], **changes: Any) -> DFine:
    """The smallest student, whose every weight is random: with its own initialization queries tie."""
    torch.manual_seed(0)
    made = DFine.load(None, classes=classes, settings=student_settings(image_size=size, **changes))
    for parameter in made.model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return made


def write_data(folder: Path, model: Any, images: int) -> Path:
    """Images, with the best boxes that the model finds as the truth, so that its AP is high."""
    (folder / "images").mkdir(parents=True)
    coco: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 10 + i, "name": name} for i, name in enumerate(model.classes)],
    }
    for index in range(images):
        picture = scene(index, SIZE)
        Image.fromarray(picture).save(folder / "images" / f"{index}.png")
        coco["images"].append({"id": index, "file_name": f"{index}.png", "height": SIZE[0], "width": SIZE[1]})
        (found,) = model.predict([Sample.of(picture)])
        for box, label in list(zip(found.boxes_xyxy.tolist(), found.class_indices.tolist(), strict=True))[:4]:
            left, top, right, bottom = box
            area = (right - left) * (bottom - top)
            coco["annotations"].append(
                {
                    "id": len(coco["annotations"]) + 1,
                    "image_id": index,
                    "category_id": 10 + label,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": area,
                    "iscrowd": 0,
                }
            )
    (folder / "annotations.json").write_text(json.dumps(coco))
    return folder / "annotations.json"
