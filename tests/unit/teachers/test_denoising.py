from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from tiny import KINDS, random_teacher
from tiny import noise as image_of_noise

from engine.config import LoraSettings
from engine.models.lora import attach, trainable_parameters
from engine.spec import LoraPreset
from engine.teachers.grounding_dino.denoising import Copies, copies, decoder_call, denoise, denoising_losses, noise
from engine.teachers.grounding_dino.loss import Losses, Predictions, Targets, to_corners
from engine.teachers.grounding_dino.model import GroundingDino, denoising

BOXES = np.array([[0.5, 0.5, 0.2, 0.4], [0.3, 0.6, 0.2, 0.2]], np.float32)
SPANS = torch.eye(6, dtype=torch.bool)[[1, 3]]


def batch_of(teacher: GroundingDino, *samples):
    return teacher.collate([teacher.example(s, np.random.default_rng(i)) for i, s in enumerate(samples)])


OBJECTS = image_of_noise([(10.0, 10.0, 40.0, 50.0), (0.0, 20.0, 30.0, 64.0)], [1, 0])


@pytest.mark.parametrize(("objects", "groups"), [(2, 25), (3, 16), (60, 1), (0, 0)])
def test_an_image_has_about_as_many_copies_as_wanted_and_each_object_a_pair(objects: int, groups: int) -> None:
    drawn = noise(np.repeat(BOXES[:1], objects, axis=0), queries=100, rng=np.random.default_rng(0))
    assert drawn.shape == (groups, 2, objects, 5)
    assert drawn.dtype == np.float32


def test_near_copies_are_moved_by_up_to_half_a_side_and_far_ones_by_more() -> None:
    drawn = torch.from_numpy(noise(BOXES, queries=4000, rng=np.random.default_rng(0)))
    true = to_corners(torch.from_numpy(BOXES))
    side = torch.from_numpy(BOXES)[:, 2:].repeat(1, 2)
    near, far = ((to_corners(drawn[:, i, :, :4]) - true).abs() / side for i in (0, 1))
    assert near.max() <= 0.5 + 1e-5
    assert near.max() > 0.49
    assert near.min() < 0.01
    crossed = (drawn[:, 1, :, 2:4] == 0).any(-1)  # the sides met; mmdetection leaves no width either
    assert far[~crossed].min() >= 0.5 - 1e-5
    assert not crossed.all()
    assert drawn[..., 2:4].min() >= 0


def test_copies_lie_in_the_image() -> None:
    corner = np.array([[0.1, 0.1, 0.2, 0.2]], np.float32)
    drawn = torch.from_numpy(noise(corner, queries=1000, rng=np.random.default_rng(0)))
    corners = to_corners(drawn[..., :4])
    assert corners.min() >= -1e-6
    assert corners.max() <= 1


def test_a_quarter_is_told_a_class_at_random_and_the_rest_its_own() -> None:
    drawn = torch.from_numpy(noise(BOXES, queries=4000, rng=np.random.default_rng(0)))
    given = copies([drawn], [Targets(torch.from_numpy(BOXES), SPANS)], [SPANS])
    true = SPANS[torch.arange(2).repeat(2000)]
    told = (given.tokens[0] == true).all(-1).float().mean().item()
    assert told == pytest.approx(1 - 0.25 / 2, abs=0.02)  # one in two of the classes at random is the right one
    assert given.objects[0, :4].tolist() == [0, 1, -1, -1]
    assert given.groups[0, ::4].tolist() == list(range(1000))


def test_losses_by_hand() -> None:
    """Two groups of one object, mended but for 0.1 in one: means over the groups."""
    target = Targets(torch.tensor([[0.5, 0.5, 0.2, 0.4]]), SPANS[:1])
    given = Copies(
        boxes=torch.zeros(1, 5, 4),
        tokens=torch.zeros(1, 5, 6, dtype=torch.bool),
        objects=torch.tensor([[0, -1, 0, -1, -2]]),
        groups=torch.tensor([[0, 0, 1, 1, -1]]),
    )
    boxes = target.boxes.repeat(1, 5, 1).reshape(1, 1, 5, 4).clone()
    boxes[0, 0, 2, 0] += 0.1
    mask = torch.tensor([[True] * 5 + [False]])
    found = denoising_losses(Predictions(torch.zeros(1, 1, 5, 6), boxes), given, [target], text_mask=mask, count=4)
    focal = (0.25 + 4 * 0.75 + 5 * 0.75) * 0.25 * log(2)  # a near copy has one token right of five, a far one none
    assert found.classification.item() == pytest.approx(focal / 4)
    assert found.l1.item() == pytest.approx(0.1 / 2 / 4)
    assert found.giou.item() == pytest.approx((1 - 1 / 3) / 2 / 4)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_do_not_see_each_other(kind: str) -> None:
    teacher = random_teacher(kind=kind, denoising=12)
    batch = batch_of(teacher, OBJECTS)
    given, decoder = Copies(**batch["copies"]), teacher.model.model.decoder
    texts = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    with torch.no_grad(), decoder_call(decoder) as call:
        teacher.model(**texts)
        whole = denoise(decoder, dict(call), given).last_hidden_state
        elsewhere = given.boxes.clone()
        elsewhere[given.groups == 1] = torch.tensor([0.1, 0.1, 0.1, 0.1])
        changed = denoise(decoder, dict(call), Copies(**vars(given) | {"boxes": elsewhere})).last_hidden_state
    same = given.groups[0] != 1
    torch.testing.assert_close(changed[0, same], whole[0, same])
    assert (changed[0, ~same] - whole[0, ~same]).abs().max() > 0.01


def test_what_the_model_says_of_itself_is_what_it_says_without(monkeypatch: pytest.MonkeyPatch) -> None:
    zero = torch.zeros(())
    monkeypatch.setattr(
        "engine.teachers.grounding_dino.model.denoising_losses", lambda *_, **__: Losses(zero, zero, zero)
    )
    with torch.no_grad():
        losses = [
            teacher.loss(batch_of(teacher, OBJECTS), count=2)
            for teacher in (random_teacher(), random_teacher(denoising=12))
        ]
    assert losses[0] == losses[1]


def test_images_without_objects_have_no_copies_and_no_say() -> None:
    teacher = random_teacher(denoising=12)
    attach(teacher, LoraSettings(preset=LoraPreset.ALL, rank=2, alpha=2, dropout=0))
    empty = batch_of(teacher, image_of_noise(), image_of_noise(seed=1))
    assert (empty["copies"]["objects"] == -2).all()
    losses = teacher.loss(empty, count=1)
    losses["loss"].backward()
    assert losses["loss"].isfinite()
    assert losses["l1"] == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in trainable_parameters(teacher).values())


def test_copies_teach_where_and_what_objects_are() -> None:
    teacher = random_teacher(denoising=12)
    attach(teacher, LoraSettings(preset=LoraPreset.ALL, rank=2, alpha=2, dropout=0))
    more, less = (
        teacher.loss({k: v for k, v in batch_of(teacher, OBJECTS).items() if k != left_out}, count=2)
        for left_out in ("", "copies")
    )
    for part in ("classification", "l1", "giou"):
        assert more[part] > less[part]


def test_an_example_without_denoising_draws_nothing() -> None:
    rng = np.random.default_rng(0)
    random_teacher().example(OBJECTS, rng)
    assert rng.random() == np.random.default_rng(0).random()


def test_the_models_configuration_is_left_as_it_was() -> None:
    teacher = random_teacher()
    before = teacher.model.model.decoder.config
    with pytest.raises(ZeroDivisionError), denoising.decoder_call(teacher.model.model.decoder):
        raise ZeroDivisionError
    assert teacher.model.model.decoder.config is before
    assert before.num_queries == 12
