"""What is computed again is what would have been kept: the same losses, the same gradients, to the bit."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import KINDS, random_teacher
from tiny import noise as image_of_noise
from tiny_sam import random_sam, scene

from engine.config import LoraSettings
from engine.errors import ConfigError
from engine.models.activation_checkpointing import recompute
from engine.models.base import Teacher
from engine.models.lora import attach, merged, set_training, trainable_parameters
from engine.spec import LoraPreset
from engine.training.micro_batch import TensorBytes

DROPPING = LoraSettings(preset=LoraPreset.ALL, rank=4, alpha=8, dropout=0.3)


def grounding_dino(tmp_path: Path, kind: str = "grounding-dino", **changes: Any) -> Teacher:
    return random_teacher(kind=kind, **changes)


def sam(tmp_path: Path, **changes: Any) -> Teacher:
    return random_sam(tmp_path, **changes)


def batch_of(teacher: Teacher) -> Any:
    images = [scene(seed=0), scene(seed=1)]
    if not teacher.needs_masks:
        images = [image_of_noise([(10.0, 10.0, 40.0, 50.0), (0.0, 20.0, 30.0, 64.0)], [1, 0], seed=i) for i in (0, 1)]
    return teacher.collate([teacher.example(sample, np.random.default_rng(i)) for i, sample in enumerate(images)])


def learned(teacher: Teacher, batch: Any, *, bfloat16: bool = False) -> tuple[torch.Tensor, list[torch.Tensor], int]:
    """The loss, all gradients and the most bytes held beside the model."""
    parameters = list(trainable_parameters(teacher).values())
    torch.manual_seed(5)
    with TensorBytes([*teacher.model.parameters(), *teacher.model.buffers()]) as held:
        at_first = held.live
        with torch.autocast("cpu", dtype=torch.bfloat16) if bfloat16 else nullcontext():
            loss = teacher.loss(batch, count=3.0)["loss"]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return loss.detach(), [gradient for gradient in gradients if gradient is not None], held.peak - at_first


@pytest.mark.parametrize(
    ("make", "changes", "bfloat16"),
    [
        *((grounding_dino, {"kind": kind}, False) for kind in KINDS),
        (grounding_dino, {}, True),
        (sam, {}, False),
        (sam, {}, True),
    ],
)
def test_losses_and_gradients_are_the_same_and_less_is_held(
    make: Any, changes: dict[str, Any], bfloat16: bool, tmp_path: Path
) -> None:
    teacher = make(tmp_path, **changes)
    torch.manual_seed(0)
    attach(teacher, DROPPING)
    for name, parameter in trainable_parameters(teacher).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    set_training(teacher, True)
    batch = batch_of(teacher)
    loss, gradients, held = learned(teacher, batch, bfloat16=bfloat16)
    recompute(teacher, tuple(teacher.recomputable))
    again, gradients_again, less = learned(teacher, batch, bfloat16=bfloat16)
    assert torch.equal(loss, again)
    assert len(gradients) == len(gradients_again) > 20
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_again, strict=True))
    assert less < 0.8 * held
    recompute(teacher, ())
    assert learned(teacher, batch, bfloat16=bfloat16)[2] == pytest.approx(held, rel=0.01)


def test_a_teacher_that_recomputes_can_be_copied_and_merged(tmp_path: Path) -> None:
    teacher = random_sam(tmp_path)
    attach(teacher, DROPPING)
    recompute(teacher, ("encoder", "decoder"))
    pixels = torch.rand(1, 3, 64, 64)
    expected = teacher._embed({"pixel_values": pixels})
    other = merged(teacher)
    copied = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in teacher.model.parameters():
            parameter.zero_()
    torch.testing.assert_close(other.vision_encoder(pixels).last_hidden_state, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(copied._embed({"pixel_values": pixels}), expected)


def test_a_group_that_a_teacher_has_not_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"teachers.sam.checkpointing has 'backbone'.*there are encoder, decoder"):
        recompute(random_sam(tmp_path), ("backbone",))
