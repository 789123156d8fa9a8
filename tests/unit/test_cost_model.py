"""Will it fit: what is predicted holds for steps that are taken, and what is chosen has room."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loops import nonempty
from tiny import noise as image_of_noise
from tiny_run import SETTINGS
from tiny_sam import scene

from engine.config import LoraSettings, TeacherSettings
from engine.dataset.images.preprocessing import ShortestEdgeTransform
from engine.estimate.batch_shape import BatchShape, batch_shape
from engine.estimate.cost_model import StepEstimate, base_of, choose_step, estimate_step, known, options, teacher_of
from engine.estimate.cost_traits import count_positions
from engine.estimate.training_time import GPUS, batch_seconds
from engine.models.activation_checkpointing import recompute
from engine.models.lora import attach, set_training, trainable_parameters
from engine.spec import LoraPreset, Precision, TeacherName
from engine.teachers import REGISTRY
from engine.training.device import autocast
from engine.training.micro_batch import StepMemory
from engine.training.optimizer import gradients

TINY = Path(__file__).resolve().parents[2] / "examples" / "tiny_teachers"
DEFAULT = LoraSettings(preset=LoraPreset.ENCODER_DECODER, rank=16, alpha=32, dropout=0)
SHOWS = BatchShape(
    positions=count_positions(800, 1333), padded_positions=count_positions(800, 1333), tokens=20, objects=25
)


def settings_of(name: TeacherName, **changes: Any) -> TeacherSettings:
    return SETTINGS[name](lora=DEFAULT, **changes)


@pytest.mark.parametrize(
    ("name", "images", "size", "objects", "checkpointing", "precision"),
    [
        (TeacherName.GROUNDING_DINO, 2, (300, 500), 3, (), Precision.FLOAT32),
        (TeacherName.GROUNDING_DINO, 1, (260, 260), 9, ("encoder",), Precision.BFLOAT16),
        (TeacherName.SAM, 3, (200, 300), 7, (), Precision.BFLOAT16),
        (TeacherName.SAM, 1, (300, 200), 20, ("encoder", "decoder"), Precision.FLOAT32),
        (TeacherName.SAM2, 2, (200, 300), 9, (), Precision.BFLOAT16),
        (TeacherName.SAM2, 3, (300, 200), 4, ("encoder", "decoder"), Precision.FLOAT32),
    ],
)
def test_a_step_holds_what_was_predicted_within_15_percent(
    name: TeacherName,
    images: int,
    size: tuple[int, int],
    objects: int,
    checkpointing: tuple[str, ...],
    precision: Precision,
) -> None:
    """The bases that are shipped, and shapes that were not counted."""
    masks = name.traits.needs_masks
    settings = settings_of(name, objects_per_image=25, point_share=0.0) if masks else settings_of(name)
    folder = TINY / name.slug
    teacher = REGISTRY[name].load(folder, classes=("red circle", "square"), prompts={}, settings=settings)
    attach(teacher, settings.lora)
    recompute(teacher, checkpointing)
    set_training(teacher, True)
    make = scene if masks else image_of_noise_with
    samples = [make(objects, size=size, seed=seed) for seed in range(images)]
    batch = teacher.collate([teacher.example(sample, np.random.default_rng(i)) for i, sample in enumerate(samples)])
    memory = StepMemory()
    with memory.measured(teacher.model):
        gradients(teacher, [batch], autocast(torch.device("cpu"), precision))
    transform = getattr(teacher, "transform", None)
    shape = batch_shape(
        [size],
        tokens=7,
        objects=objects,
        images=1000,
        settings=settings,
        transform=transform if isinstance(transform, ShortestEdgeTransform) else None,
    )
    base = base_of("", json.loads((folder / "config.json").read_text()))
    assert base is not None
    predicted = estimate_step(
        base,
        settings,
        shape,
        micro_batch_size=images,
        checkpointing=checkpointing,
        bfloat16=precision is Precision.BFLOAT16,
    )
    assert predicted is not None
    # There is no optimizer here, whose state is two numbers a parameter.
    state = sum(8 * p.numel() for p in trainable_parameters(teacher).values())
    assert predicted.memory_bytes == pytest.approx(memory.peak + state, rel=0.15)


def image_of_noise_with(objects: int, *, size: tuple[int, int], seed: int) -> Any:
    boxes = [(5.0 * i, 10.0, 5.0 * i + 40, 60.0) for i in range(objects)]
    return image_of_noise(boxes, [i % 2 for i in range(objects)], size=size, seed=seed)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        (TeacherName.GROUNDING_DINO, "grounding-dino-tiny"),
        (TeacherName.SAM, "sam-vit-base"),
        (TeacherName.SAM2, "sam2.1-hiera-base-plus"),
    ],
)
def test_what_is_chosen_has_room_and_less_room_asks_for_more(name: TeacherName, base: str) -> None:
    settings, gibibytes = settings_of(name, batch_size=16), (8, 16, 24, 80, 1000)
    assert choose_step(base, settings, SHOWS, bfloat16=True, available_memory=2**30) is None
    chosen = [choose_step(base, settings, SHOWS, bfloat16=True, available_memory=room * 2**30) for room in gibibytes]
    assert all(one.memory_bytes < room * 2**30 for one, room in zip(chosen, gibibytes, strict=True))
    assert (chosen[-1].micro_batch_size, chosen[-1].checkpointing) == (16, ())
    sizes = [one.micro_batch_size for one in chosen]
    assert sizes == sorted(sizes)
    assert chosen[0].checkpointing


def test_what_the_settings_say_is_computed_again_is_not_for_choice() -> None:
    settings = settings_of(TeacherName.SAM, batch_size=8, checkpointing=())
    ways = list(options("sam-vit-base", settings, SHOWS, bfloat16=True))
    assert [(one.micro_batch_size, one.checkpointing) for one in ways] == [(8, ()), (4, ()), (2, ()), (1, ())]
    assert all(more.memory_bytes > less.memory_bytes for more, less in nonempty(pairwise(ways)))


@pytest.mark.parametrize("preset", LoraPreset)
def test_every_base_is_known_with_every_preset(preset: LoraPreset) -> None:
    shape = BatchShape(positions=20_000, padded_positions=20_000, tokens=20, objects=5)
    for base in nonempty(known()):
        kind = teacher_of(base)
        settings = SETTINGS[TeacherName.SAM if kind.traits.needs_masks else TeacherName.GROUNDING_DINO]()
        settings = settings.model_copy(update={"lora": settings.lora.model_copy(update={"preset": preset})})
        for bfloat16 in (False, True):
            ways = list(options(base, settings, shape, bfloat16=bfloat16))
            assert {one.checkpointing for one in ways} == set(kind.traits.cost.ladder[preset]), base
            assert all(one.memory_bytes > 0 and one.flops > 0 for one in ways)


def test_groups_that_were_not_counted_are_taken_for_fewer() -> None:
    settings = settings_of(TeacherName.SAM)
    some, none = (
        estimate_step("sam-vit-base", settings, SHOWS, micro_batch_size=1, checkpointing=groups, bfloat16=True)
        for groups in (("encoder",), ())
    )
    assert some is not None
    assert none is not None
    assert some.memory_bytes == none.memory_bytes


def test_bases_are_known_by_name_and_by_dimensions() -> None:
    assert base_of("IDEA-Research/grounding-dino-tiny") == "grounding-dino-tiny"
    assert base_of("openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_v3det") == "mm-grounding-dino-tiny"
    assert base_of("facebook/sam2.1-hiera-base-plus") == base_of("facebook/sam2-hiera-base-plus")
    assert base_of("facebook/sam2.1-hiera-base-plus") == "sam2.1-hiera-base-plus"
    assert base_of("someone/else") is None
    assert (
        base_of("", {"model_type": "grounding-dino", "backbone_config": {"model_type": "swin"}})
        == "grounding-dino-tiny"
    )
    assert base_of("", {"model_type": "sam", "vision_config": {"hidden_size": 768}}) == "sam-vit-base"
    assert base_of("", {"model_type": "sam", "vision_config": {"hidden_size": 777}}) is None


def test_images_together_are_as_large_as_the_highest_and_the_widest() -> None:
    settings = settings_of(TeacherName.GROUNDING_DINO)
    shape = batch_shape([(800, 1333), (1333, 800), (0, 0)], tokens=400, objects=3, images=3, settings=settings)
    assert (shape.positions, shape.padded_positions, shape.tokens) == (
        count_positions(800, 1333),
        count_positions(1333, 1333),
        256,
    )


def test_a_faster_gpu_takes_less_time() -> None:
    one = StepEstimate(micro_batch_size=1, checkpointing=(), memory_bytes=1, flops=1e12, made_bytes=1e10, kernels=1e3)
    seconds = [batch_seconds(one, GPUS[name]) for name in ("H100", "A100", "L4", "T4")]
    assert seconds == sorted(set(seconds))
