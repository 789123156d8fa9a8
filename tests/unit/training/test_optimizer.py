from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from loops import nonempty
from together import together
from torch import Tensor, nn
from toy import ToyTeacher, settings, toy_batches

from engine.config import LoraSettings
from engine.errors import LossNotFiniteError
from engine.models.lora import attach, trainable_parameters
from engine.spec import LoraPreset
from engine.training.data.sampler import Steps
from engine.training.distributed import ALONE, Processes
from engine.training.optimizer import WHOLE_RATE, apply_gradients, build_optimizer, gradients


def teacher_with_adapter(dropout: float = 0.0) -> ToyTeacher:
    teacher = ToyTeacher()
    attach(teacher, LoraSettings(preset=LoraPreset.ALL, rank=4, alpha=8, dropout=dropout))
    for name, parameter in trainable_parameters(teacher).items():
        if "lora_B" in name:  # with B = 0, A would have no gradient
            nn.init.normal_(parameter, std=0.1)
    return teacher


@pytest.mark.parametrize("micro_batch_size", [2, 1, 3])
def test_the_gradient_does_not_depend_on_how_a_step_is_cut(micro_batch_size: int) -> None:
    teacher = teacher_with_adapter()
    parameters = trainable_parameters(teacher)
    found = []
    for size in (4, micro_batch_size):
        teacher.model.zero_grad()
        steps = Steps(images=4, batch_size=4, micro_batch_size=size, epochs=1, evaluations=1, seed=0)
        batches = [batch for batch, _ in zip(toy_batches(teacher, steps), steps.batches(0), strict=True)]
        losses = gradients(teacher, batches, nullcontext())
        found.append((losses, {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}))
    (whole, whole_gradients), (cut, cut_gradients) = found
    assert cut == pytest.approx(whole, rel=1e-5)
    assert whole_gradients.keys() == cut_gradients.keys() == parameters.keys()
    for name, gradient in whole_gradients.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(cut_gradients[name], gradient, rtol=1e-4, atol=1e-6)


def gradients_of_a_share(processes: Processes, images: int) -> tuple[dict[str, float], dict[str, Tensor | None]]:
    teacher = teacher_with_adapter()
    steps = Steps(images=images, batch_size=4, micro_batch_size=2, epochs=1, evaluations=1, seed=0, rank=processes.rank)
    batches = [batch for batch, _ in zip(toy_batches(teacher, steps), steps.batches(0), strict=True)]
    losses = gradients(teacher, batches, nullcontext(), processes)
    return losses, {name: parameter.grad for name, parameter in trainable_parameters(teacher).items()}


@pytest.mark.parametrize("images", [4, 3, 1])  # 1: of two processes one has nothing to do
def test_processes_that_share_a_step_get_the_gradient_and_losses_of_the_whole(images: int) -> None:
    losses, whole = gradients_of_a_share(ALONE, images)
    shared = together(gradients_of_a_share, images)
    for its_losses, its_gradients in nonempty(shared):
        assert its_losses == pytest.approx(losses, rel=1e-5)
        for name, gradient in nonempty(whole.items()):
            assert gradient is not None
            torch.testing.assert_close(its_gradients[name], gradient, rtol=1e-4, atol=1e-6)
            assert torch.equal(its_gradients[name], shared[0][1][name])


def test_vectors_do_not_decay() -> None:
    layer = nn.Linear(2, 3)
    optimizer = build_optimizer(dict(layer.named_parameters()), settings(weight_decay=0.1))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {id(layer.weight): 0.1, id(layer.bias): 0.0}


def test_completely_trained_modules_learn_at_a_lower_rate_than_lora() -> None:
    layer = nn.Linear(2, 3, bias=False)
    whole = nn.Linear(2, 3, bias=False)
    names = {"a.lora_A.default.weight": layer.weight, "a.modules_to_save.default.weight": whole.weight}
    before = [layer.weight.detach().clone(), whole.weight.detach().clone()]
    optimizer = build_optimizer(names, settings(weight_decay=0.0))
    layer.weight.grad, whole.weight.grad = torch.ones(3, 2), torch.ones(3, 2)
    apply_gradients(optimizer, learning_rate=0.1, clip_norm=1.0, losses={"loss": 1.0})
    steps = [(old - new.detach()).mean().item() for old, new in zip(before, (layer.weight, whole.weight), strict=True)]
    assert steps == pytest.approx([0.1, 0.1 * WHOLE_RATE], rel=1e-4)


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
    with pytest.raises(LossNotFiniteError, match="not finite"):
        apply_gradients(optimizer, learning_rate=0.1, clip_norm=1.0, losses={"loss": loss})
    assert torch.equal(layer.weight.detach(), before)
