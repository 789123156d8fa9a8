"""A student keeps its detections in every format, as far as the format allows, and its decoder in float."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from artifacts import artifact_of, assert_same, predictions, random_student, scene
from pycocotools import mask as coco_mask

from engine.errors import ConfigError
from engine.optimization.convert import convert
from engine.optimization.export import to_onnx
from engine.optimization.runtimes import Session
from engine.optimization.targets import target_of
from engine.spec import ArtifactFormat
from engine.students.dfine.model import DFine

pytest.importorskip("onnxruntime")

SIZE = (96, 128)


@pytest.fixture(scope="module")
def student() -> DFine:
    return random_student(["a", "b", "c"], SIZE)


def largest_change(artifact: Any, student: DFine, images: list[Any]) -> float:
    pairs = zip(predictions(artifact, images), predictions(student, images), strict=True)
    return max(float(np.abs(found.scores - expected.scores).max()) for found, expected in pairs)


def test_onnx_and_openvino_give_the_boxes_of_torch(student, tmp_path) -> None:
    images = [scene(seed, SIZE) for seed in range(3)] + [scene(9, (60, 50))]
    for kind in (ArtifactFormat.ONNX, ArtifactFormat.OPENVINO):
        artifact = artifact_of(student, tmp_path, [SIZE], kind=kind)
        for image, *pair in zip(images, predictions(artifact, images), predictions(student, images), strict=True):
            assert_same(*pair, size=image.shape[:2])
        assert artifact.sessions["detector"].executed().keys() == {"float32"}


@pytest.mark.parametrize(
    ("kind", "setting", "file"),
    [
        (ArtifactFormat.ONNX_FP16, "fp16", "detector.fp16.onnx"),
        (ArtifactFormat.ONNX_FP16, "fp16 weights", "detector.fp16.onnx"),
        (ArtifactFormat.OPENVINO_FP16, "fp16 weights", "detector.fp16.bin"),
    ],
)
def test_16_bit_files_are_smaller_and_change_scores_little(student, tmp_path, kind, setting, file) -> None:
    artifact = artifact_of(student, tmp_path, [SIZE], kind=kind, setting=setting)
    weights = 4 * sum(parameter.numel() for parameter in student.model.parameters())
    assert (tmp_path / file).stat().st_size < 0.85 * weights
    assert largest_change(artifact, student, [scene(seed, SIZE) for seed in range(2)]) < 0.05


def test_openvino_keeps_8_bit_weights(student, tmp_path) -> None:
    kind, images = ArtifactFormat.OPENVINO_INT8, [scene(0, SIZE)]
    artifact = artifact_of(student, tmp_path, [SIZE], kind=kind, setting="int8 weights", images=images)
    half = 2 * sum(parameter.numel() for parameter in student.model.parameters())
    assert (tmp_path / "detector.int8.bin").stat().st_size < 0.9 * half
    assert largest_change(artifact, student, images) < 0.1


def test_8_bit_weights_keep_the_decoder(student, tmp_path) -> None:
    import onnx

    artifact = artifact_of(
        student, tmp_path, [SIZE], kind=ArtifactFormat.ONNX_INT8, setting="int8 weights", images=[scene(0, SIZE)]
    )
    assert largest_change(artifact, student, [scene(0, SIZE)]) < 0.1
    graph = onnx.load(tmp_path / "detector.int8.onnx").graph
    stored = {one.name: one.data_type for one in graph.initializer}
    cast = {node.output[0] for node in graph.node if node.op_type == "Cast" and node.input[0].endswith("_int8")}
    scaled = {node.output[0] for node in graph.node if node.op_type == "Mul" and node.input[0] in cast}
    users = {node.output[0] for node in graph.node for name in node.input if name in scaled}
    assert users
    assert not [name for name in users if re.search("/model/(decoder/|enc_)", name)]
    assert onnx.TensorProto.INT8 in stored.values()


def test_a_file_without_8_bit_layers_is_not_called_8_bit(student, tmp_path) -> None:
    (graph,) = student.graphs(None, [])
    elsewhere = replace(graph, quantized=((r"/no/such/scope",), ()))
    with pytest.raises(ValueError, match="no layer of the graph is in /no/such/scope"):
        convert(
            to_onnx(elsewhere),
            elsewhere,
            target_of(ArtifactFormat.ONNX_INT8),
            "int8 weights",
            card=None,
            feeds=[],
            file=tmp_path / "detector.int8.onnx",
        )


def test_8_bit_rest_stores_the_decoder_in_8_bit_and_a_gentler_setting_in_16(student, tmp_path) -> None:
    (graph,) = student.graphs(None, [])
    reference, images = to_onnx(graph), [scene(seed, SIZE) for seed in range(2)]
    found = {}
    for setting in ("int8", "int8, 16 bit rest"):
        artifact = artifact_of(student, tmp_path, [SIZE], kind=ArtifactFormat.ONNX_INT8, setting=setting, images=images)
        assert largest_change(artifact, student, images) < 0.3
        executed = artifact.sessions["detector"].executed()
        assert set(executed) <= {"int8", "float32"}, "no product rounds its inputs because its weights are stored so"
        found[setting] = (tmp_path / "detector.int8.onnx").stat().st_size
    whole = len(reference.SerializeToString())
    print({setting: size / whole for setting, size in found.items()})
    assert found["int8"] < 0.9 * found["int8, 16 bit rest"]


@pytest.mark.parametrize("kind", [ArtifactFormat.ONNX_INT8, ArtifactFormat.OPENVINO_INT8])
def test_weights_that_are_stored_in_8_bit_compute_in_float(student, tmp_path, kind) -> None:
    (graph,) = student.graphs(None, [])
    reference, file = to_onnx(graph), tmp_path / f"detector{target_of(kind).suffix}"
    stored = replace(graph, quantized=((r"/detector/model/decoder\b",), ()))
    artifact = artifact_of(student, tmp_path, [SIZE])
    card = artifact.sessions["detector"].card
    convert(reference, stored, target_of(kind), "int8 weights", card=card, feeds=[], file=file)
    pixels = {"pixel_values": np.random.default_rng(0).random(graph.inputs["pixel_values"].shape, np.float32)}
    expected = artifact.sessions["detector"].run(pixels)["scores"]
    scores = Session.open(file, threads=1).run(pixels)["scores"]
    assert 0 < np.abs(scores - expected).max() < 0.004


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ArtifactFormat.ONNX_INT8, ArtifactFormat.OPENVINO_INT8])
def test_calibrated_8_bit_computes_the_backbone_in_8_bit_and_the_decoder_in_float(student, tmp_path, kind) -> None:
    images = [scene(seed, SIZE) for seed in range(8)]
    artifact = artifact_of(student, tmp_path, [SIZE], kind=kind, setting="int8", images=images)
    assert largest_change(artifact, student, images[:2]) < 0.3
    session: Session = artifact.sessions["detector"]
    executed = session.executed()
    assert executed["float32"] > 20, "the decoder"
    whole = 4 * sum(parameter.numel() for parameter in student.model.parameters())
    stored = tmp_path / ("detector.int8.onnx" if kind is ArtifactFormat.ONNX_INT8 else "detector.int8.bin")
    assert stored.stat().st_size < 0.7 * whole
    if kind is ArtifactFormat.OPENVINO_INT8:
        assert executed["int8"] > 20, "the backbone"


def test_a_student_has_no_other_input_size(student) -> None:
    with pytest.raises(ConfigError, match="96x128 pixels: leave the image size out"):
        student.graphs((64, 64), [])


def test_masks_are_those_of_torch_in_every_runtime(tmp_path) -> None:
    masked = random_student(["a", "b", "c"], SIZE, masks=True)
    images = [scene(0, SIZE), scene(9, (60, 50))]
    for kind in (ArtifactFormat.ONNX, ArtifactFormat.OPENVINO):
        artifact = artifact_of(masked, tmp_path, [SIZE], kind=kind)
        assert "masks (1, K, h, w)" in artifact.card.outputs
        for found, expected in zip(predictions(artifact, images), predictions(masked, images), strict=True):
            assert found.masks is not None
            assert expected.masks is not None
            best = [coco_mask.decode(one.masks[:10]) for one in (found, expected)]
            assert best[1].any()
            assert (best[0] != best[1]).mean() < 1e-3
