"""Prompts of a batch of scenes: which phrases are asked for, and which of them names each object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from kinds import SYNONYMS
from paint import COLORS
from scenes import Object
from tokenizer import nouns

ANY = ("object", "thing", "shape")
WAYS = {"kind": 0.7, "any": 0.12, "color": 0.04, "both": 0.06, "noun": 0.08}
"""Shares of prompts: kinds; any object; colours; coloured kinds; any object by a random noun."""

KNOWN = {word for kind, others in SYNONYMS.items() for word in (kind, *others)} | {*ANY, *COLORS}
FREE = [word for word in nouns() if word not in KNOWN]


@dataclass(frozen=True)
class Asked:
    """Phrases of one caption, and for each object of each scene the index of its phrase, None if it has none."""

    phrases: list[str]
    labels: list[list[int | None]]


def ask(rng: np.random.Generator, scenes: Sequence[list[Object]], *, limit: int) -> Asked:
    """Choose the prompt of a batch of at most about ``limit`` tokens."""
    colored = all(o.color for things in scenes for o in things)
    way = str(rng.choice(list(WAYS), p=list(WAYS.values())))
    if way in ("color", "both") and not colored:
        way = "kind"
    if way in ("any", "noun"):
        phrase = str(rng.choice(ANY if way == "any" else FREE))
        return Asked([phrase], [[0] * len(things) for things in scenes])
    if way == "color":
        return _of(rng, {o.color: str(o.color) for t in scenes for o in t}, [str(c) for c in COLORS], scenes, "color")
    present = {o.name for things in scenes for o in things if o.name != "novel"}
    if way == "both":
        pairs = {(o.color, o.name) for things in scenes for o in things if o.name != "novel"}
        said = {pair: f"{pair[0]} {_word(rng, pair[1])}" for pair in sorted(pairs)}
        absent = [f"{rng.choice(list(COLORS))} {rng.choice(list(SYNONYMS))}" for _ in range(10)]
        return _of(rng, said, absent, scenes, "both", most=limit // 3)
    said_kinds = {name: _word(rng, name, compound=True) for name in sorted(present)}
    absent = [_word(rng, name) for name in SYNONYMS if name not in present]
    return _of(rng, said_kinds, absent, scenes, "name", most=limit // 2)


def _word(rng: np.random.Generator, kind: str, *, compound: bool = False) -> str:
    word = str(rng.choice(SYNONYMS[kind])) if rng.random() < 0.25 else kind
    return f"{rng.choice(FREE)} {word}" if compound and rng.random() < 0.08 else word


def _of(
    rng: np.random.Generator,
    said: dict,
    absent: list[str],
    scenes: Sequence[list[Object]],
    by: str,
    most: int = 40,
) -> Asked:
    """Ask for what is said and for some of what is absent, in random order; sometimes not for all that is said."""
    keys = list(said)
    if len(keys) > 1 and rng.random() < 0.3:
        keys = [keys[i] for i in rng.permutation(len(keys))[: rng.integers(1, len(keys) + 1)]]
    keys = keys[:most] if len(keys) <= most else [keys[i] for i in rng.permutation(len(keys))[:most]]
    others = [absent[i] for i in rng.permutation(len(absent))[: rng.integers(0, len(absent) + 1)]]
    every = [said[key] for key in keys]
    phrases = list(dict.fromkeys([*every, *(word for word in others if word not in said.values())]))[: max(most, 1)]
    order = rng.permutation(len(phrases))
    place = {phrases[i]: rank for rank, i in enumerate(order)}
    kept = {key: place[said[key]] for key in keys}

    def label(thing: Object) -> int | None:
        key = {"name": thing.name, "color": thing.color, "both": (thing.color, thing.name)}[by]
        return kept.get(key)

    return Asked([phrases[i] for i in order], [[label(thing) for thing in things] for things in scenes])
