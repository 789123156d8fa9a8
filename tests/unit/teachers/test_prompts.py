from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tiny import BASE
from transformers import AutoTokenizer, BertTokenizer
from transformers.models.grounding_dino.modeling_grounding_dino import build_label_maps

from engine.errors import BaseModelError, ConfigError
from engine.teachers.grounding_dino.prompts import PromptBook

ODD_NAMES = (
    "St. Bernard",
    "what?",
    "salt, pepper",
    "cat/dog",
    "x-ray",
    "traffic_light",
    "RBC",
    "Straße",
    "клетка",
    "car",
    "cars",
    "cell",
    "cell wall",
    "[SEP] mark",
    "[CLS]x",
    "  two   spaces ",
    "#1",
)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


def book(tokenizer, *classes: str, limit: int = 256, **prompts: str) -> PromptBook:
    return PromptBook.of(classes, prompts, tokenizer=tokenizer, limit=limit)


def many(tokenizer, count: int, limit: int = 20) -> PromptBook:
    return book(tokenizer, *(f"{a}{b}" for a in "abcdefghij" for b in "klmnop"[: count // 10]), limit=limit)


def test_a_caption_has_the_tokens_of_the_phrases_written_with_periods(tokenizer) -> None:
    (prompt,) = book(tokenizer, "red circle", "RBC").chunks()
    assert list(prompt.input_ids) == tokenizer("red circle . rbc .")["input_ids"]


def test_every_class_has_its_own_tokens_whatever_its_name(tokenizer) -> None:
    (prompt,) = book(tokenizer, *ODD_NAMES).chunks()
    spans, ids = prompt.token_map(), np.array(prompt.input_ids)
    assert prompt.class_indices == tuple(range(len(ODD_NAMES)))
    assert spans.shape == (len(ODD_NAMES), len(ids))
    assert spans.any(axis=1).all()
    assert spans.sum(axis=0).max() == 1
    words = {name: tokenizer.decode(ids[row]) for name, row in zip(ODD_NAMES, spans, strict=True)}
    assert words["cell wall"] == "cell wall"
    assert words["traffic_light"] == "traffic light"
    assert words["St. Bernard"] == "st bernard"
    assert words["Straße"] == "[UNK]"
    assert words["[SEP] mark"] == "[ sep ] mark"


def test_only_ends_of_phrases_split_a_caption(tokenizer) -> None:
    """The library counts a phrase for every '.' and '?', and gives the classes after it each other's tokens."""
    classes = ("st. bernard", "cat")
    naive = tokenizer(" . ".join(classes) + " .", return_tensors="pt")["input_ids"]
    assert len(build_label_maps(torch.zeros(1, 1, 64), naive)[0]) == 3
    (prompt,) = book(tokenizer, *classes).chunks()
    rows = build_label_maps(torch.zeros(1, 1, len(prompt.input_ids)), torch.tensor([prompt.input_ids]))[0]
    np.testing.assert_array_equal(rows.numpy().astype(bool), prompt.token_map())


def test_a_better_phrase_is_shown_instead_of_the_name(tokenizer) -> None:
    (prompt,) = book(tokenizer, "RBC", "WBC", RBC="red blood cell").chunks()
    assert list(prompt.input_ids) == tokenizer("red blood cell . wbc .")["input_ids"]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (("cat", "..?"), "'..?' has no letters"),
        (("Cat", "dog", "cat."), "cannot tell class 'cat.' from 'Cat'"),
        (("日", "月"), "cannot tell class '月' from '日'"),
        (("a" * 60,), "takes 60 tokens, 37 are allowed"),
    ],
)
def test_classes_that_cannot_be_requested_are_refused_by_name(tokenizer, classes, said) -> None:
    with pytest.raises(ConfigError, match="classPrompts") as caught:
        book(tokenizer, *classes, limit=40)
    assert said in str(caught.value)


def test_another_models_tokenizer_is_refused() -> None:
    with pytest.raises(BaseModelError, match="101"):
        book(BertTokenizer(), "cat")


def test_classes_that_one_caption_cannot_hold_are_requested_in_several(tokenizer) -> None:
    everything = many(tokenizer, 60)
    chunks = everything.chunks()
    assert [i for prompt in chunks for i in prompt.class_indices] == list(range(60))
    assert max(len(prompt.input_ids) for prompt in chunks) <= 20
    assert len(chunks) == 10  # six phrases of two tokens and a period each
    assert not everything.fits


def test_training_always_asks_for_the_same_caption_if_it_holds_all_classes(tokenizer) -> None:
    all_fit = many(tokenizer, 10, limit=256)
    assert all_fit.sample([3], order=range(9, -1, -1)) == all_fit.chunks()


@pytest.mark.parametrize("seed", range(5))
def test_training_asks_for_all_that_is_there_and_for_some_that_is_not(tokenizer, seed) -> None:
    rng = np.random.default_rng(seed)
    order = rng.permutation(60).tolist()
    present = rng.choice(60, size=4, replace=False).tolist()
    (prompt,) = many(tokenizer, 60).sample(present, order)
    assert set(present) <= set(prompt.class_indices)
    assert len(set(prompt.class_indices)) == len(prompt.class_indices) == 6
    assert list(prompt.class_indices) == sorted(prompt.class_indices, key=order.index)


def test_an_image_without_objects_is_requested_what_is_not_there(tokenizer) -> None:
    (prompt,) = many(tokenizer, 60).sample([], order=range(60))
    assert prompt.class_indices == tuple(range(6))


def test_an_image_of_more_classes_than_a_caption_holds_gets_several(tokenizer) -> None:
    prompts = many(tokenizer, 60).sample(range(0, 40, 2), order=range(60))
    asked = [i for prompt in prompts for i in prompt.class_indices]
    assert set(range(0, 40, 2)) <= set(asked)
    assert len(asked) == len(set(asked))
    assert max(len(prompt.input_ids) for prompt in prompts) <= 20


# Letters that the tiny base knows, what ends phrases or looks as if, and what it has no letters for.
NAMES = st.lists(
    st.text(alphabet="abcXYZé.?,/-_ 日😀", min_size=1, max_size=8), min_size=1, max_size=12, unique_by=lambda name: name
)


def readable(tokenizer, names: list[str]) -> list[str]:
    """Those that can be asked for together."""
    kept: list[str] = []
    for name in names:
        try:
            book(tokenizer, *kept, name, limit=24)
        except ConfigError:
            continue
        kept.append(name)
    return kept


@given(names=NAMES, data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_names_are_all_asked_for_with_tokens_of_their_own(tokenizer, names, data) -> None:
    classes = readable(tokenizer, names)
    assume(classes)
    everything = book(tokenizer, *classes, limit=24)
    order = data.draw(st.permutations(range(len(classes))))
    present = set(data.draw(st.lists(st.sampled_from(range(len(classes))))))
    sampled = everything.sample(present, order)
    asked = [i for prompt in sampled for i in prompt.class_indices]
    assert [i for prompt in everything.chunks() for i in prompt.class_indices] == list(range(len(classes)))
    assert len(asked) == len(set(asked))
    assert present <= set(asked)
    for prompt in (*everything.chunks(), *sampled):
        spans, ids = prompt.token_map(), np.array(prompt.input_ids)
        assert len(ids) <= 24
        assert spans.sum(axis=0).max(initial=0) <= 1
        for phrase, row in zip(prompt.phrases, spans, strict=True):
            assert tuple(ids[row]) == phrase.token_ids == everything.phrases[phrase.class_index].token_ids
        rows = build_label_maps(torch.zeros(1, 1, len(ids)), torch.tensor(prompt.input_ids)[None])[0]
        np.testing.assert_array_equal(rows.numpy().astype(bool), spans)


def test_every_class_is_requested_where_it_is_not_before_long(tokenizer) -> None:
    rng = np.random.default_rng(0)
    everything = many(tokenizer, 60)
    asked = [everything.sample([0], rng.permutation(60).tolist())[0].class_indices for _ in range(200)]
    counts = np.bincount([i for indices in asked for i in indices], minlength=60)
    assert counts[0] == 200
    assert counts[1:].min() > 0
    assert counts[1:].max() < 3 * counts[1:].mean()
