"""Names that share words, or have in them what ends a phrase, are learned apart and scored apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import BASE, grounding_dino_settings, noise, random_teacher
from transformers import AutoTokenizer

from engine.config import LoraSettings
from engine.dataset.types import Sample
from engine.models.lora import attach, trainable_parameters
from engine.spec import LoraPreset
from engine.teachers.grounding_dino.loss import Predictions
from engine.teachers.grounding_dino.model import GroundingDino

PAIRS = (
    ("cell", "cell wall"),
    ("cell wall", "cell"),
    ("car", "cars"),
    ("St. Bernard", "Bernard?"),
    ("x-ray/2", "x_ray, 3"),
    ("Клетка", "клетки"),
    ("Crème", "crèmes"),
    ("日", "red 日"),
    ("😀", "blue 😀"),
)
"""The tiny base reads what it has no letters for as one unknown word."""


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_each_name_is_taught_its_own_tokens_and_learned(pair: tuple[str, str]) -> None:
    teacher = random_teacher(pair)
    torch.manual_seed(0)
    attach(teacher, LoraSettings(preset=LoraPreset.ALL, rank=4, alpha=8, dropout=0))
    sample = noise([(4, 4, 28, 60), (36, 4, 60, 60)], [0, 1])
    batch = teacher.collate([teacher.example(sample, np.random.default_rng(0))])
    (tokens,), ids = batch["tokens"], batch["input_ids"][0]
    own = [AutoTokenizer.from_pretrained(BASE)(name.replace("_", " "))["input_ids"][1:-1] for name in pair]
    assert [ids[row].tolist() for row in tokens] == [[i for i in phrase if i not in (1012, 1029)] for phrase in own]
    assert not (tokens[0] & tokens[1]).any()
    optimizer = torch.optim.AdamW(trainable_parameters(teacher).values(), lr=5e-3)
    losses = []
    for _ in range(4):
        loss = teacher.loss(batch, count=2)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_who_is_sure_of_one_name_scores_the_other_low(pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are told apart by where they stand in the caption: "cell" in "cell wall" is not the class "cell"."""
    teacher = random_teacher(pair)
    (prompt,) = teacher.book.chunks()
    spans = torch.from_numpy(prompt.token_map())

    def say(found: int):
        logits = torch.where(spans[found], 4.0, -4.0).expand(1, 1, -1)
        monkeypatch.setattr(teacher, "_decoder_layers", lambda *_: [Predictions(logits, torch.full((1, 1, 4), 0.5))])
        (seen,) = teacher.predict([noise()])
        return dict(zip(seen.class_indices.tolist(), seen.scores.tolist(), strict=True))

    for one in (0, 1):
        scores = say(one)
        assert scores[one] == pytest.approx(0.982, abs=1e-3)
        assert scores[1 - one] == pytest.approx(0.018, abs=1e-3)


COLORS = ((230, 40, 40), (50, 70, 230))
PLACES = ((8, 8, 60, 60), (68, 52, 120, 112))


@pytest.mark.slow
@pytest.mark.parametrize("pair", [PAIRS[0], PAIRS[2], PAIRS[4]], ids="-".join)
def test_an_adapter_tells_objects_with_such_names_apart(pair: tuple[str, str]) -> None:
    image = np.full((128, 128, 3), 30, np.uint8)
    for color, (x0, y0, x1, y1) in zip(COLORS, PLACES, strict=True):
        image[y0:y1, x0:x1] = color
    sample = Sample.of(image, PLACES, [0, 1])
    teacher = GroundingDino.load(BASE, classes=pair, prompts={}, settings=grounding_dino_settings())
    torch.manual_seed(1)
    attach(teacher, LoraSettings(preset=LoraPreset.ALL, rank=8, alpha=16, dropout=0))
    batch = teacher.collate([teacher.example(sample, np.random.default_rng(0))])
    adapter = list(trainable_parameters(teacher).values())
    optimizer = torch.optim.AdamW(adapter, lr=3e-3)
    for _ in range(800):
        loss = teacher.loss(batch, count=2)["loss"]
        if loss < 0.5:  # it has learned the image
            break
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapter, 1.0)  # else a rare, huge gradient decides all
        optimizer.step()
    (seen,) = teacher.predict([sample])
    for place, index in zip(PLACES, (0, 1), strict=True):
        there = np.abs(seen.boxes_xyxy - place).max(axis=1) < 10
        best = [seen.scores[there & (seen.class_indices == i)].max(initial=0) for i in (index, 1 - index)]
        assert best[0] > 1.2 * best[1]
