"""Outlines of plain and of random shapes.

Every kind is a function of a random generator. It returns parts in the order in which they are painted, in a plane
where the object has about radius 1, x to the right and y down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Part:
    """One part of an object, of one paint.

    Attributes:
        contours: Closed outlines (N, 2), of which areas inside two are holes; with ``width`` open lines.
        paint: 0 the object's paint, 1 its second paint, 2 dark, 3 bright.
        width: Line width in radii; 0 for areas.
    """

    contours: tuple[Points, ...]
    paint: int = 0
    width: float = 0.0


Kind = Callable[[np.random.Generator], list[Part]]


def polar(
    radius: Points | float, count: int = 48, *, turn: float = 0.0, at: tuple[float, float] = (0.0, 0.0)
) -> Points:
    """Return a closed outline of ``count`` points at the given distances from its centre."""
    angles = np.arange(count) * (2 * np.pi / count) + turn
    return np.asarray(np.stack([np.cos(angles), np.sin(angles)], 1) * np.broadcast_to(radius, count)[:, None] + at)


def oval(x: float, y: float, a: float, b: float) -> Points:
    return polar(1.0, 32) * (a, b) + (x, y)


def rect(x: float, y: float, a: float, b: float) -> Points:
    """Return a rectangle around x, y with half sides a and b."""
    return np.array([(x - a, y - b), (x + a, y - b), (x + a, y + b), (x - a, y + b)])


def ngon(corners: int) -> Kind:
    return lambda rng: [Part((polar(1.0, corners, turn=-np.pi / 2),))]


def waves(rng: np.random.Generator, strength: float) -> Points:
    """Return a smooth irregular outline."""
    angles = np.arange(64) * (2 * np.pi / 64)
    edge = np.ones(64)
    for k in range(2, 8):
        edge += rng.normal(0, strength / k) * np.cos(k * angles + rng.uniform(0, 2 * np.pi))
    return polar(np.clip(edge, 0.35, 1.6), 64) / np.clip(edge, 0.35, 1.6).max()


def stone(rng: np.random.Generator) -> list[Part]:
    corners = int(rng.integers(5, 10))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners) * 0.35 + np.arange(corners) * 2 * np.pi / corners * 0.65)
    return [Part((np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(0.65, 1, (corners, 1)),))]


def star(rng: np.random.Generator) -> list[Part]:
    points = int(rng.integers(5, 9))
    return [Part((polar(np.tile([1.0, rng.uniform(0.35, 0.55)], points), 2 * points),))]


def gear(rng: np.random.Generator) -> list[Part]:
    teeth = int(rng.integers(7, 13))
    outer = polar(np.tile([1.0, 1.0, 0.78, 0.78], teeth), 4 * teeth)
    return [Part((outer, polar(rng.uniform(0.2, 0.4), 24)))]


def cross(rng: np.random.Generator) -> list[Part]:
    t = rng.uniform(0.22, 0.36)
    corners = [
        (-t, -1),
        (t, -1),
        (t, -t),
        (1, -t),
        (1, t),
        (t, t),
        (t, 1),
        (-t, 1),
        (-t, t),
        (-1, t),
        (-1, -t),
        (-t, -t),
    ]
    return [Part((np.array(corners),))]


def crescent(rng: np.random.Generator) -> list[Part]:
    angles = np.linspace(0.3 * np.pi, 1.7 * np.pi, 24)
    outer = np.stack([np.cos(angles), np.sin(angles)], 1)
    inner = outer[::-1] * (rng.uniform(0.25, 0.6), 0.93) + (0.12, 0)
    return [Part((np.concatenate([outer, inner]),))]


def heart(rng: np.random.Generator) -> list[Part]:
    t = np.arange(48) * (2 * np.pi / 48)
    x, y = 16 * np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return [Part((np.stack([x, y], 1) / 17,))]


def drop(rng: np.random.Generator) -> list[Part]:
    t = np.arange(48) * (2 * np.pi / 48)
    return [Part((np.stack([0.75 * np.sin(t) * np.sin(t / 2) ** 1.5, -np.cos(t)], 1),))]


def leaf(rng: np.random.Generator) -> list[Part]:
    x = np.linspace(-1, 1, 24)
    half = rng.uniform(0.3, 0.5) * (1 - x**2) * (1 - 0.3 * x)
    outline = np.concatenate([np.stack([x, half], 1), np.stack([x, -half], 1)[::-1]])
    return [Part((outline,)), Part((np.array([(-0.95, 0.0), (0.8, 0.0)]),), 2, 0.05)]


def arrow(rng: np.random.Generator) -> list[Part]:
    t, head = rng.uniform(0.12, 0.25), rng.uniform(0.0, 0.4)
    corners = [(-1, -t), (head, -t), (head, -0.6), (1, 0), (head, 0.6), (head, t), (-1, t)]
    return [Part((np.array(corners),))]


def pill(rng: np.random.Generator) -> list[Part]:
    half = rng.uniform(0.25, 0.4)
    ends = polar(half, 32) + np.where(np.cos(np.arange(32) * 2 * np.pi / 32) > 0, 1 - half, half - 1)[:, None] * (1, 0)
    cap = ends[(ends[:, 0] > 0)]
    two = [Part((np.concatenate([cap[cap[:, 1] <= 0], cap[cap[:, 1] > 0]]),), 1)] if rng.random() < 0.5 else []
    return [Part((ends,)), *two]


def worm(rng: np.random.Generator) -> list[Part]:
    x = np.linspace(-1, 1, 20)
    y = rng.uniform(0.2, 0.5) * np.sin(x * rng.uniform(2, 5) + rng.uniform(0, 6))
    return [Part((np.stack([x, y], 1) * 0.92,), 0, rng.uniform(0.14, 0.28))]


def glyph(rng: np.random.Generator) -> list[Part]:
    """A letter-like sign of three to five straight strokes between points of a grid."""
    places = rng.permutation(9)[: int(rng.integers(4, 7))]
    ends = np.stack([places % 3, places // 3], 1) * (0.6, 0.8) - (0.6, 0.8)
    return [Part((ends,), 0, float(rng.uniform(0.16, 0.3)))]
