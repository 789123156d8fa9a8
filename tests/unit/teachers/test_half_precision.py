"""Grounding DINO in bfloat16: what selects and places the queries is computed in 32 bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import noise, random_teacher
from torch import Tensor, nn

from engine.models.base import Batch
from engine.models.lora import attach, set_training, trainable_parameters
from engine.teachers.grounding_dino.model import GroundingDino

BOXES = [[5, 5, 30, 40], [20, 10, 60, 50]]


@pytest.fixture
def teacher() -> GroundingDino:
    """A random base with an adapter that is not zero."""
    made = random_teacher()
    torch.manual_seed(0)
    attach(made, made.settings.lora)
    set_training(made, True)
    for name, parameter in trainable_parameters(made).items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)
    return made


@pytest.fixture
def batch(teacher) -> Batch:
    samples = [noise(BOXES, [0, 1], seed=seed, size=(96, 128)) for seed in range(2)]
    return teacher.collate([teacher.example(sample, np.random.default_rng(0)) for sample in samples])


def gradient(teacher: GroundingDino, batch: Batch, *, bfloat16: bool) -> Tensor:
    parameters = trainable_parameters(teacher).values()
    for parameter in parameters:
        parameter.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        loss = teacher.loss(batch, count=teacher.count(batch))["loss"]
    loss.backward()
    return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


def test_proposals_are_scored_and_placed_in_32_bit(teacher, batch) -> None:
    seen = {}
    inner = teacher._detector.model
    inner.encoder.register_forward_hook(lambda module, args, output: seen.update(vision=output[0], text=output[1]))
    masks = {}
    make = inner.generate_encoder_output_proposals
    inner.generate_encoder_output_proposals = lambda *args: masks.update(args=args[1:]) or make(*args)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outputs = teacher._see(batch, {name: batch[name] for name in ("input_ids", "attention_mask")})
    with torch.no_grad():
        queries, places = make(seen["vision"].float(), *masks["args"])
        length = batch["attention_mask"].shape[1]
        scores = queries @ seen["text"].float().transpose(1, 2)
        boxes = inner.encoder_output_bbox_embed(queries) + places
    valid = batch["attention_mask"].bool()[:, None].expand_as(scores)
    torch.testing.assert_close(outputs.enc_outputs_class[..., :length][valid], scores[valid], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs.enc_outputs_coord_logits, boxes, rtol=1e-5, atol=1e-5)


def test_boxes_of_decoder_layers_are_32_bit_and_still_adaptable(teacher, batch) -> None:
    kinds = []
    for head in dict.fromkeys(teacher._detector.model.decoder.bbox_embed):
        head.register_forward_hook(lambda module, args, output: kinds.append(output.dtype))
    gradient(teacher, batch, bfloat16=True)
    assert set(kinds) == {torch.float32}
    gradients = {name: p.grad for name, p in trainable_parameters(teacher).items() if "enc_output" in name}
    assert gradients
    assert all(bool(value.any()) for value in gradients.values())
