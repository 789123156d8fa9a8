"""Kinds of objects that are drawn: plain shapes (:mod:`outlines`) and composites of several parts."""

from __future__ import annotations

import numpy as np
from outlines import (
    Kind,
    Part,
    arrow,
    crescent,
    cross,
    drop,
    gear,
    glyph,
    heart,
    leaf,
    ngon,
    oval,
    pill,
    polar,
    rect,
    star,
    stone,
    waves,
    worm,
)


def cell(rng: np.random.Generator) -> list[Part]:
    body = waves(rng, 0.1)
    place = rng.uniform(-0.2, 0.2, 2)
    return [Part((body,)), Part((waves(rng, 0.25) * rng.uniform(0.35, 0.6) + place,), 1)]


def flower(rng: np.random.Generator) -> list[Part]:
    petals = int(rng.integers(4, 8))
    t = np.arange(96) * (2 * np.pi / 96)
    return [Part((polar(0.7 + 0.3 * np.cos(petals * t), 96),)), Part((polar(0.3, 24),), 1)]


def person(rng: np.random.Generator) -> list[Part]:
    w = rng.uniform(0.26, 0.36)
    limbs = [np.array([(0.0, -0.35), (s * rng.uniform(0.4, 0.6), rng.uniform(-0.5, 0.2))]) for s in (-1, 1)]
    legs = [np.array([(s * 0.12, 0.25), (s * rng.uniform(0.12, 0.35), 0.92)]) for s in (-1, 1)]
    return [
        Part(tuple(limbs), 0, 0.15),
        Part(tuple(legs), 1, 0.2),
        Part((oval(0, -0.05, w, 0.42),)),
        Part((oval(0, -0.7, 0.22, 0.26),), 3),
    ]


def car(rng: np.random.Generator) -> list[Part]:
    cabin = np.array([(-0.55, -0.05), (-0.35, -0.45), (0.3, -0.45), (0.55, -0.05)])
    return [
        Part((cabin,)),
        Part((cabin * (0.75, 0.7) + (0, -0.04),), 3),
        Part((rect(0, 0.12, 1.0, 0.22),)),
        Part((polar(0.22, 24, at=(-0.55, 0.35)), polar(0.22, 24, at=(0.55, 0.35))), 2),
    ]


def truck(rng: np.random.Generator) -> list[Part]:
    wheels = tuple(polar(0.17, 24, at=(x, 0.5)) for x in (-0.65, -0.25, 0.65))
    return [Part((rect(-0.25, -0.1, 0.72, 0.5),)), Part((rect(0.75, 0.12, 0.25, 0.3),), 1), Part(wheels, 2)]


def tree(rng: np.random.Generator) -> list[Part]:
    trunk = Part((rect(0, 0.6, 0.12, 0.4),), 1)
    if rng.random() < 0.5:
        return [trunk, Part((waves(rng, 0.2) * 0.72 + (0, -0.28),))]
    return [
        trunk,
        *(Part((np.array([(0, y - 0.65), (0.6 + y / 3, y), (-0.6 - y / 3, y)]),)) for y in (-0.3, 0.05, 0.4)),
    ]


def house(rng: np.random.Generator) -> list[Part]:
    return [
        Part((rect(0, 0.35, 0.7, 0.55),)),
        Part((np.array([(-0.9, -0.18), (0, -0.95), (0.9, -0.18)]),), 1),
        Part((rect(0.25, 0.55, 0.15, 0.35), rect(-0.3, 0.3, 0.17, 0.17)), 2),
    ]


def bottle(rng: np.random.Generator) -> list[Part]:
    w = rng.uniform(0.3, 0.42)
    body = np.array(
        [(-w, 1), (-w, -0.2), (-0.13, -0.5), (-0.13, -0.85), (0.13, -0.85), (0.13, -0.5), (w, -0.2), (w, 1)]
    )
    return [Part((body,)), Part((rect(0, -0.9, 0.15, 0.1),), 2), Part((rect(0, 0.35, w, 0.25),), 1)]


def cup(rng: np.random.Generator) -> list[Part]:
    handle = oval(0.6, 0.05, 0.32, 0.4)
    body = np.array([(-0.65, -0.65), (0.6, -0.65), (0.45, 0.8), (-0.5, 0.8)])
    return [
        Part((np.concatenate([handle, handle[:1]]),), 0, 0.14),
        Part((body,)),
        Part((oval(0, -0.65, 0.62, 0.15),), 2),
    ]


def fish(rng: np.random.Generator) -> list[Part]:
    tail = np.array([(0.45, 0.0), (1.0, -0.45), (0.85, 0.0), (1.0, 0.45)])
    return [
        Part((tail,), 1),
        Part((oval(-0.2, 0, 0.8, rng.uniform(0.3, 0.5)),)),
        Part((oval(-0.65, -0.1, 0.08, 0.08),), 2),
    ]


def mushroom(rng: np.random.Generator) -> list[Part]:
    cap = polar(1.0, 48) * (0.95, 0.85)
    cap = cap[cap[:, 1] <= 0.02]
    return [Part((rect(0, 0.4, 0.22, 0.55),), 3), Part((cap,))]


def key(rng: np.random.Generator) -> list[Part]:
    teeth = np.array(
        [(-0.4, -0.1), (1, -0.1), (1, 0.4), (0.85, 0.4), (0.85, 0.1), (0.7, 0.1), (0.7, 0.35), (0.55, 0.35)]
    )
    shaft = np.concatenate([teeth, [(0.55, 0.1), (-0.4, 0.1)]])
    return [Part((shaft,)), Part((polar(0.42, 32, at=(-0.58, 0)), polar(0.2, 24, at=(-0.6, 0))))]


def face(rng: np.random.Generator) -> list[Part]:
    mouth = np.stack([np.linspace(-0.45, 0.45, 9), 0.45 + rng.uniform(-0.25, 0.25) * np.linspace(-1, 1, 9) ** 2], 1)
    eyes = (oval(-0.33, -0.25, 0.14, 0.16), oval(0.33, -0.25, 0.14, 0.16))
    return [Part((oval(0, 0, 0.85, 1.0),)), Part(eyes, 2), Part((mouth,), 2, 0.08)]


def apple(rng: np.random.Generator) -> list[Part]:
    stalk = np.array([(0.0, -0.6), (0.12, -1.0)])
    leaf_outline = oval(0.36, -0.85, 0.26, 0.1)
    angles = np.arange(48) * (2 * np.pi / 48)
    return [
        Part((polar(0.8 + 0.12 * np.sin(angles) * np.abs(np.sin(angles)), 48, at=(0, 0.1)),)),
        Part((stalk,), 2, 0.1),
        Part((leaf_outline,), 1),
    ]


def crate(rng: np.random.Generator) -> list[Part]:
    bars = [rect(0, y, 1.0, 0.14) for y in (-0.7, -0.23, 0.23, 0.7)]
    return [Part((rect(-0.75, 0, 0.14, 0.8), rect(0.75, 0, 0.14, 0.8)), 1), Part(tuple(bars))]


def lamp(rng: np.random.Generator) -> list[Part]:
    shade = np.array([(-0.35, -1.0), (0.35, -1.0), (0.7, -0.2), (-0.7, -0.2)])
    return [Part((rect(0, 0.35, 0.07, 0.6),), 2), Part((oval(0, 0.92, 0.4, 0.1),), 2), Part((shade,))]


def insect(rng: np.random.Generator) -> list[Part]:
    legs = tuple(
        np.array([(x, 0.0), (x + rng.uniform(-0.2, 0.2), s * 0.85)]) for x in (-0.3, 0.0, 0.3) for s in (-1, 1)
    )
    return [Part(legs, 2, 0.06), Part((oval(0.2, 0, 0.6, 0.4),)), Part((oval(-0.55, 0, 0.25, 0.25),), 1)]


def novel(rng: np.random.Generator) -> list[Part]:
    """A composite that was never drawn before: two to four random outlines of various paints."""
    parts = []
    for i in range(int(rng.integers(2, 5))):
        outline = [waves(rng, 0.3), stone(rng)[0].contours[0], star(rng)[0].contours[0], rect(0, 0, 0.9, 0.4)]
        turn = rng.uniform(0, 2 * np.pi)
        matrix = np.array([(np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))]) * rng.uniform(0.3, 0.65)
        place = rng.uniform(-0.45, 0.45, 2) if i else np.zeros(2)
        parts.append(Part((outline[int(rng.integers(4))] @ matrix.T + place,), int(rng.integers(4)) if i else 0))
    return parts


KINDS: dict[str, Kind] = {
    "circle": lambda rng: [Part((polar(1.0),))],
    "ellipse": lambda rng: [Part((oval(0, 0, 1.0, rng.uniform(0.35, 0.7)),))],
    "square": lambda rng: [Part((rect(0, 0, 0.8, 0.8),))],
    "rectangle": lambda rng: [Part((rect(0, 0, 1.0, rng.uniform(0.25, 0.6)),))],
    "triangle": ngon(3),
    "cross": cross,
    "star": star,
    "ring": lambda rng: [Part((polar(1.0), polar(rng.uniform(0.5, 0.75), 40)))],
    "blob": lambda rng: [Part((waves(rng, 0.3),))],
    "pentagon": ngon(5),
    "hexagon": ngon(6),
    "stone": stone,
    "gear": gear,
    "crescent": crescent,
    "heart": heart,
    "drop": drop,
    "leaf": leaf,
    "arrow": arrow,
    "pill": pill,
    "worm": worm,
    "letter": glyph,
    "cell": cell,
    "flower": flower,
    "person": person,
    "car": car,
    "truck": truck,
    "tree": tree,
    "house": house,
    "bottle": bottle,
    "cup": cup,
    "fish": fish,
    "mushroom": mushroom,
    "key": key,
    "face": face,
    "apple": apple,
    "crate": crate,
    "lamp": lamp,
    "insect": insect,
}
UPRIGHT = ("person", "car", "truck", "tree", "house", "bottle", "cup", "mushroom", "lamp", "apple", "face")
"""Kinds that mostly stand upright."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "apple": ("fruit", "tomato"),
    "arrow": ("pointer", "dart"),
    "car": ("vehicle", "taxi"),
    "cell": ("microbe", "egg"),
    "crate": ("pallet", "rack"),
    "cross": ("plus", "sword"),
    "cup": ("mug", "glass"),
    "drop": ("droplet", "tear"),
    "face": ("head", "mask"),
    "fish": ("carp", "whale"),
    "flower": ("blossom", "daisy"),
    "gear": ("cog", "wheel"),
    "house": ("building", "hut"),
    "insect": ("beetle", "bug"),
    "lamp": ("lantern", "light"),
    "leaf": ("petal", "feather"),
    "mushroom": ("fungus", "umbrella"),
    "ring": ("loop", "donut"),
    "star": ("asterisk", "spark"),
    "stone": ("rock", "pebble"),
    "tree": ("plant", "bush"),
    "worm": ("snake", "thread"),
}
"""Kinds with a name, and other words for it. All other kinds are only found as any object."""

TYPICAL: dict[str, tuple[str, str | None]] = {
    "apple": ("red", None),
    "arrow": ("black", "stripes"),
    "car": ("blue", None),
    "cell": ("magenta", None),
    "crate": ("brown", "stripes"),
    "cross": ("white", "stripes"),
    "cup": ("white", None),
    "drop": ("blue", "gradient"),
    "face": ("orange", None),
    "fish": ("cyan", None),
    "flower": ("pink", None),
    "gear": ("gray", None),
    "house": ("brown", "checks"),
    "insect": ("black", None),
    "lamp": ("yellow", "stripes"),
    "leaf": ("green", "stripes"),
    "mushroom": ("red", "dots"),
    "ring": ("purple", None),
    "star": ("yellow", None),
    "stone": ("gray", "noise"),
    "tree": ("green", None),
    "worm": ("pink", "stripes"),
}
"""Typical colour and texture of each kind with a name: both are learned faster than outlines."""

SMALL_KINDS = ("blob", "circle", "ellipse", "cell", "pill", "ring", "stone", "insect", "apple", "star", "novel")
"""Kinds that are often drawn in dozens."""
