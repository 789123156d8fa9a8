"""Draw scenes with exact boxes and masks, on which the tiny teachers are trained.

The given random generator determines everything. Scenes vary so that training generalizes: filled, shaded, speckled
and outlined shapes with sharp, soft or noisy edges, bright on dark and dark on bright, in colour and in grey, few large
ones or dozens of small touching ones, on plain, graded and mottled backgrounds, with blur and sensor noise.

    python examples/tiny_teachers/shapes.py sheet.png    # writes a contact sheet
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Gauge = Callable[[Plane, Plane, np.random.Generator], Plane]
"""Maps points of the plane to a number that is below 1 inside a shape of radius 1, and grows outwards."""

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (205, 45, 45),
    "green": (50, 160, 70),
    "blue": (50, 80, 200),
    "yellow": (225, 205, 60),
    "cyan": (70, 195, 205),
    "magenta": (200, 60, 180),
    "orange": (235, 135, 40),
    "purple": (115, 60, 160),
    "brown": (130, 85, 50),
    "pink": (240, 160, 185),
    "white": (240, 240, 240),
    "gray": (128, 128, 128),
    "black": (20, 20, 20),
}

SYNONYMS: dict[str, tuple[str, ...]] = {
    "circle": ("disc", "ball"),
    "ellipse": ("oval", "bean"),
    "square": ("box", "tile"),
    "rectangle": ("bar", "brick"),
    "triangle": ("wedge", "arrowhead"),
    "cross": ("plus", "x mark"),
    "star": ("asterisk", "spark"),
    "ring": ("loop", "donut"),
    "blob": ("spot", "patch"),
}
"""Every shape's name, and other words for it."""


@dataclass(frozen=True, eq=False)
class Object:
    """One drawn object.

    Attributes:
        name: Shape, a key of :data:`SYNONYMS`.
        color: A key of :data:`COLORS`; None in grey scenes and where the colour has no name.
        box_xyxy: Corners in pixels around the visible part: left, top, right and bottom edge.
        mask: (H, W) bool, the visible part.
    """

    name: str
    color: str | None
    box_xyxy: tuple[float, float, float, float]
    mask: NDArray[np.bool_]


def draw_scene(
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    dense: bool | None = None,
    colored: bool = False,
    smallest: float = 0.06,
    most: int = 15,
) -> tuple[NDArray[np.uint8], list[Object]]:
    """Draw one scene.

    Args:
        rng: Random generator.
        size: Height and width in pixels.
        dense: Draw dozens of small objects of one or two kinds instead of a few of any kind; None: in 1 of 4 scenes.
        colored: Exclude grey and low-contrast scenes, so that every object's colour has a name.
        smallest: Minimum diameter of objects, as a share of the shorter side; not for dense scenes.
        most: Maximum number of objects; not for dense scenes.

    Returns:
        (H, W, 3) uint8 RGB, and at least one object, ordered from back to front. A large part of each is visible.
    """
    dense = bool(rng.random() < 0.25) if dense is None else dense
    canvas, background = _background(rng, size)
    grey = not colored and rng.random() < 0.25
    contrast = rng.uniform(0.25, 0.6) if not colored and rng.random() < 0.25 else 1.0
    count = int(rng.integers(12, 41)) if dense else int(rng.integers(1, most + 1))
    side = min(size)
    typical = rng.uniform(0.06, 0.16) if dense else 0.0
    names = list(SYNONYMS)
    kinds = [names[i] for i in rng.choice(len(names), size=2)]
    if dense and rng.random() < 0.7:
        kinds = [("blob", "circle", "ellipse")[i] for i in rng.choice(3, size=2)]
    look = _look(rng)
    palette = [_paint(rng, background, grey=grey, contrast=contrast) for _ in range(2 if dense else 6)]
    objects: list[Object] = []
    for _ in range(count):
        name = kinds[rng.integers(2)] if dense else names[rng.integers(len(names))]
        diameter = typical * rng.uniform(0.7, 1.4) if dense else np.exp(rng.uniform(np.log(smallest), np.log(0.6)))
        color, paint = palette[rng.integers(len(palette))]
        if not dense and rng.random() < 0.7:
            look = _look(rng)
        for _attempt in range(12):
            center = rng.uniform(0, 1, 2) * (size[1], size[0])
            window, alpha, gauge = _shape(
                rng, name, size, center=center, radius=max(3.0, diameter * side / 2), look=look
            )
            mask = np.zeros(size, np.bool_)
            mask[window] = alpha > 0.5
            if placed := _place(objects, mask, name=name, color=color):
                objects = placed
                canvas[window] = _blend(canvas[window], alpha, gauge, paint, look, rng)
                break
    return _camera(rng, canvas, grey=grey), objects


@dataclass(frozen=True)
class _Look:
    """Appearance of the inside and the edge of a shape."""

    softness: float
    outline: float
    shading: float
    speckle: float
    opacity: float
    core: float


def _look(rng: np.random.Generator) -> _Look:
    def sometimes(share: float, low: float, high: float) -> float:
        return float(rng.uniform(low, high)) if rng.random() < share else 0.0

    return _Look(
        softness=1.0 + sometimes(0.4, 0.5, 3.0),
        outline=sometimes(0.4, 0.1, 0.3),
        shading=sometimes(0.5, 0.15, 0.6) * (1 if rng.random() < 0.5 else -1),
        speckle=sometimes(0.4, 4, 30),
        opacity=1.0 - sometimes(0.3, 0.1, 0.4),
        core=sometimes(0.2, 0.3, 0.6),
    )


def _paint(
    rng: np.random.Generator, background: Plane, *, grey: bool, contrast: float
) -> tuple[str | None, NDArray[np.float32]]:
    """Choose a colour name and a similar RGB value with enough contrast to the background."""
    names = list(COLORS)
    while True:
        name = names[rng.integers(len(names))]
        rgb = np.asarray(COLORS[name], np.float32) + rng.normal(0, 12, 3).astype(np.float32)
        rgb = np.clip(rgb, 0, 255)
        difference = rgb.mean() - background.mean() if grey else rgb - background
        if np.abs(difference).max() > 45:
            named = None if grey or contrast < 1 else name
            return named, background + (rgb - background) * contrast


def _background(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Plane, Plane]:
    """(H, W, 3) canvas and its mean RGB."""
    rgb = rng.uniform(0, 255, 3) if rng.random() < 0.6 else np.full(3, rng.choice([8, 30, 128, 215, 245]))
    canvas = np.broadcast_to(rgb.astype(np.float32), (*size, 3)).copy()
    if rng.random() < 0.6:  # light falls off in one direction
        y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
        angle = rng.uniform(0, 2 * np.pi)
        ramp = (x / size[1] - 0.5) * np.cos(angle) + (y / size[0] - 0.5) * np.sin(angle)
        canvas += (ramp * rng.uniform(10, 70))[..., None]
    if rng.random() < 0.6:
        canvas += _mottle(rng, size, rng.uniform(4, 25))[..., None]
    if rng.random() < 0.3:
        canvas += np.stack([_mottle(rng, size, rng.uniform(3, 12)) for _ in range(3)], -1)
    return np.clip(canvas, 0, 255), canvas.mean((0, 1))


def _mottle(rng: np.random.Generator, size: tuple[int, int], strength: float) -> Plane:
    """(H, W) smooth noise of a random coarseness, standard deviation ``strength``."""
    cells = int(rng.integers(3, 40))
    coarse = rng.normal(0, strength, (cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)


def _shape(
    rng: np.random.Generator,
    name: str,
    size: tuple[int, int],
    *,
    center: NDArray[np.float64],
    radius: float,
    look: _Look,
) -> tuple[tuple[slice, slice], Plane, Plane]:
    """Return a window of the scene, its opacity 0..1 and its gauge: 0 in the centre, 1 at the edge, larger outside."""
    long, short = _aspect(rng, name)
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.7 else 0.0
    reach = radius * long * 1.5 + 2
    top, left = (int(max(0, np.floor(center[i] - reach))) for i in (1, 0))
    bottom, right = (int(min(size[1 - i], np.ceil(center[i] + reach))) for i in (1, 0))
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32) + 0.5
    x, y = (x - center[0]) / radius, (y - center[1]) / radius
    u = (x * np.cos(angle) + y * np.sin(angle)) / long
    v = (y * np.cos(angle) - x * np.sin(angle)) / short
    gauge = GAUGES[name](u, v, rng)
    alpha = np.clip(0.5 + (1 - gauge) * radius * short / look.softness, 0, 1)
    return np.s_[top:bottom, left:right], alpha, gauge


def _aspect(rng: np.random.Generator, name: str) -> tuple[float, float]:
    """Return the half sides of a shape in radii, the longer first; only some shapes are elongated."""
    if name in ("ellipse", "rectangle"):
        ratio = rng.uniform(1.5, 3.2)
    elif name == "blob":
        ratio = rng.uniform(1.0, 1.5)
    else:
        ratio = rng.uniform(1.0, 1.12)
    return float(np.sqrt(ratio)), float(1 / np.sqrt(ratio))


def _polygon(u: Plane, v: Plane, corners: int) -> Plane:
    turns = np.arange(corners) * (2 * np.pi / corners)
    return np.max([u * np.cos(t) + v * np.sin(t) for t in turns], axis=0) / np.cos(np.pi / corners)


def _cross(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    thin = rng.uniform(0.25, 0.4)
    return np.minimum(np.maximum(abs(u), abs(v) / thin), np.maximum(abs(u) / thin, abs(v)))


def _star(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    points = int(rng.integers(5, 8))
    wave = np.cos(points * np.arctan2(v, u))
    return np.hypot(u, v) / (0.68 + 0.32 * wave * abs(wave))


def _ring(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    half = rng.uniform(0.12, 0.22)
    return 1 + (abs(np.hypot(u, v) - (1 - half)) - half)


def _blob(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    theta = np.arctan2(v, u)
    edge = np.ones_like(theta)
    for k in range(2, 8):
        edge += rng.normal(0, 0.22 / k) * np.cos(k * theta + rng.uniform(0, 2 * np.pi))
    return np.hypot(u, v) / np.clip(edge, 0.4, 1.5)


GAUGES: dict[str, Gauge] = {
    "circle": lambda u, v, rng: np.hypot(u, v),
    "ellipse": lambda u, v, rng: np.hypot(u, v),
    "square": lambda u, v, rng: np.maximum(abs(u), abs(v)) / 0.85,
    "rectangle": lambda u, v, rng: np.maximum(abs(u), abs(v)) / 0.85,
    "triangle": lambda u, v, rng: _polygon(u, v, 3),
    "cross": _cross,
    "star": _star,
    "ring": _ring,
    "blob": _blob,
}


def _place(objects: list[Object], mask: NDArray[np.bool_], *, name: str, color: str | None) -> list[Object]:
    """Add an object in front; return an empty list if it is barely visible or hides too much of another one."""
    box = _box(mask)
    if mask.sum() < 12:
        return []
    placed = []
    for other in objects:
        seen = other
        if _touch(other.box_xyxy, box):
            left = other.mask & ~mask
            if left.sum() < 0.7 * other.mask.sum():
                return []
            seen = replace(other, mask=left, box_xyxy=_box(left))
        placed.append(seen)
    return [*placed, Object(name=name, color=color, box_xyxy=box, mask=mask)]


def _touch(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return (0.0, 0.0, 0.0, 0.0)
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _blend(ground: Plane, alpha: Plane, gauge: Plane, paint: Plane, look: _Look, rng: np.random.Generator) -> Plane:
    """(h, w, 3): one shape painted over the ground."""
    depth = np.clip(gauge, 0, 1)[..., None]
    color = paint + rng.normal(0, 5, 3).astype(np.float32)
    body = color * (1 - look.shading * (depth**2 - 0.4))
    if look.outline:
        body = np.where(depth > 1 - look.outline, color * 0.45, body)
    if look.core:
        body = np.where(depth < look.core, color * 0.5 + 20, body)
    if look.speckle:
        body = body + rng.normal(0, look.speckle, (*depth.shape[:2], 1)).astype(np.float32)
    opacity = (alpha * look.opacity)[..., None]
    return ground * (1 - opacity) + np.clip(body, 0, 255) * opacity


def _camera(rng: np.random.Generator, canvas: Plane, *, grey: bool) -> NDArray[np.uint8]:
    """Simulate the blur of a lens and the noise of a sensor."""
    if grey:
        canvas = np.repeat(canvas.mean(-1, keepdims=True), 3, axis=-1)
    if rng.random() < 0.3:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 1.3))
    if rng.random() < 0.6:
        channels = 1 if grey or rng.random() < 0.5 else 3
        canvas = canvas + rng.normal(0, rng.uniform(1, 12), (*canvas.shape[:2], channels))
    return np.clip(canvas, 0, 255).astype(np.uint8)


def main() -> None:
    rng = np.random.default_rng(0)
    tiles = []
    for _ in range(24):
        image, objects = draw_scene(rng, (192, 256))
        for o in objects:
            x0, y0, x1, y1 = (int(v) for v in o.box_xyxy)
            cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), (0, 255, 0), 1)
        tiles.append(image)
    sheet = np.vstack([np.hstack(tiles[i : i + 6]) for i in range(0, 24, 6)])
    cv2.imwrite(sys.argv[1], sheet[..., ::-1])


if __name__ == "__main__":
    main()
