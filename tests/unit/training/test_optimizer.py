from __future__ import annotations

from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import nn
from toy import ToyTeacher, settings, toy_batches

from engine.config import LoraSettings
from engine.errors import NotFiniteError
from engine.spec import LoraPreset
from engine.teachers.lora import attach, trainable_parameters
from engine.training.optimizer import apply_gradients, build_optimizer, count_everywhere, gradients
from engine.training.steps import Steps


def teacher_with_adapter(dropout: float = 0.0) -> ToyTeacher:
    teacher = ToyTeacher()
    attach(teacher, LoraSettings(preset=LoraPreset.ALL, rank=4, alpha=8, dropout=dropout))
    for name, parameter in trainable_parameters(teacher).items():
        if "lora_B" in name:  # with B = 0, A would have no gradient
            nn.init.normal_(parameter, std=0.1)
    return teacher


@pytest.mark.parametrize(("batch_size", "accumulation_steps"), [(2, 2), (1, 4), (3, 2)])
def test_the_gradient_does_not_depend_on_how_a_step_is_cut(batch_size: int, accumulation_steps: int) -> None:
    teacher = teacher_with_adapter()
    parameters = trainable_parameters(teacher)
    found = []
    for size, times in ((4, 1), (batch_size, accumulation_steps)):
        teacher.model.zero_grad()
        steps = Steps(images=4, batch_size=size, accumulation_steps=times, epochs=1, evaluations=1, seed=0)
        batches = [batch for batch, _ in zip(toy_batches(teacher, steps), steps.batches(0), strict=True)]
        losses = gradients(teacher, batches, nullcontext())
        found.append((losses, {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}))
    (whole, whole_gradients), (cut, cut_gradients) = found
    assert cut == pytest.approx(whole, rel=1e-5)
    assert whole_gradients.keys() == cut_gradients.keys() == parameters.keys()
    for name, gradient in whole_gradients.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(cut_gradients[name], gradient, rtol=1e-4, atol=1e-6)


def count_in_a_process(rank: int, meeting: str, count: float, expected: float) -> None:
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    assert count_everywhere(count) == expected
    torch.distributed.destroy_process_group()


def test_objects_are_counted_over_all_processes(tmp_path: Path) -> None:
    meeting = f"file://{tmp_path / 'meeting'}"
    counts = [3.0, 4.0]
    processes = [
        get_context("fork").Process(target=count_in_a_process, args=(rank, meeting, count, sum(counts)))
        for rank, count in enumerate(counts)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


def test_vectors_do_not_decay() -> None:
    layer = nn.Linear(2, 3)
    optimizer = build_optimizer(dict(layer.named_parameters()), settings(weight_decay=0.1))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {id(layer.weight): 0.1, id(layer.bias): 0.0}


def test_gradients_are_clipped_to_the_norm() -> None:
    layer = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(layer.weight)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    layer.weight.grad = torch.tensor([[30.0, 40.0]])
    apply_gradients(optimizer, learning_rate=2.0, clip_norm=1.0, losses={"loss": 1.0})
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[-1.2, -1.6]]))


@pytest.mark.parametrize(("loss", "gradient"), [(float("inf"), 1.0), (1.0, float("nan"))])
def test_what_is_not_finite_changes_no_parameter(loss: float, gradient: float) -> None:
    layer = nn.Linear(2, 1, bias=False)
    before = layer.weight.detach().clone()
    optimizer = build_optimizer(dict(layer.named_parameters()), settings())
    layer.weight.grad = torch.full((1, 2), gradient)
    with pytest.raises(NotFiniteError, match="not finite"):
        apply_gradients(optimizer, learning_rate=0.1, clip_norm=1.0, losses={"loss": loss})
    assert torch.equal(layer.weight.detach(), before)
