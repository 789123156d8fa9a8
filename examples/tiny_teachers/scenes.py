"""Draw scenes with exact boxes and masks, on which the tiny teachers are trained.

The given random generator determines everything. Scenes vary so that what is learned holds for photographs and
microscopy: some forty kinds of objects and random ones, textures, soft and noisy edges, translucent paint, few large or
dozens of small touching ones, backgrounds with the statistics of nature, clutter without labels, imperfect cameras.

    python examples/tiny_teachers/scenes.py sheet.png    # writes a contact sheet
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import numpy as np
from kinds import KINDS, SMALL_KINDS, SYNONYMS, TYPICAL, UPRIGHT, novel
from numpy.typing import NDArray
from outlines import Part
from paint import Look, Paint, background, camera, choose_paint, cover

Box = tuple[float, float, float, float]

UNNAMED_SHARE = 0.4
"""How often kinds without a name are drawn, compared with those that have one."""

TYPICAL_SHARE = 0.85
"""Share of the objects that have the colour and the texture of their kind."""

MOST_HIDDEN = 0.3
"""Largest share of an object that others in front of it hide."""


@dataclass(frozen=True, eq=False)
class Object:
    """One drawn object.

    Attributes:
        name: Kind, a key of :data:`kinds.SYNONYMS`; ``novel`` for objects without a name.
        color: A key of :data:`paint.COLORS`; None in grey scenes and where the colour has no name.
        box_xyxy: Corners in pixels around the visible part: left, top, right and bottom edge.
        mask: (H, W) bool, the visible part.
    """

    name: str
    color: str | None
    box_xyxy: Box
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class _Plan:
    """Settings of one scene."""

    kinds: tuple[str, ...]
    count: int
    diameters: tuple[float, float]
    clustered: bool
    uniform: bool
    grey: bool
    contrast: float


def _plan(
    rng: np.random.Generator, *, dense: bool, colored: bool, smallest: float, most: int, smallest_dense: float
) -> _Plan:
    grey = not colored and rng.random() < 0.25
    faint = not colored and rng.random() < 0.25
    names = [*KINDS, "novel"]
    if not dense:
        chances = np.array([1.0 if name in SYNONYMS else UNNAMED_SHARE for name in names])
        count = int(rng.integers(2, 9))
        kinds = tuple(names[i] for i in rng.choice(len(names), count, replace=False, p=chances / chances.sum()))
        count, diameters = int(rng.integers(1, most + 1)), (smallest, 0.7)
    else:
        pool = SMALL_KINDS if rng.random() < 0.7 else names
        kinds = tuple(pool[i] for i in rng.choice(len(pool), int(rng.integers(1, 4))))
        many = rng.random() < 0.3
        count = int(rng.integers(40, 81)) if many else int(rng.integers(12, 41))
        typical = rng.uniform(0.05, 0.1) if many else rng.uniform(0.07, 0.2)
        typical = max(typical, smallest_dense)
        diameters = (typical * 0.75, typical * 1.35)
    return _Plan(
        kinds=kinds,
        count=count,
        diameters=diameters,
        clustered=bool(rng.random() < 0.4),
        uniform=dense and bool(rng.random() < 0.8),
        grey=bool(grey),
        contrast=float(rng.uniform(0.3, 0.7)) if faint else 1.0,
    )


def draw_scene(
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    dense: bool | None = None,
    colored: bool = False,
    smallest: float = 0.05,
    most: int = 15,
    smallest_dense: float = 0.0,
) -> tuple[NDArray[np.uint8], list[Object]]:
    """Draw one scene.

    Args:
        rng: Random generator.
        size: Height and width in pixels.
        dense: Draw dozens of small objects of one to three kinds instead of a few of any kind; None: in 1 of 4 scenes.
        colored: Exclude grey and faint scenes, so that every object's colour has a name.
        smallest: Minimum diameter of objects, as a share of the shorter side; not for dense scenes.
        most: Maximum number of objects; not for dense scenes.
        smallest_dense: Minimum of the typical diameter in dense scenes, as a share of the shorter side.

    Returns:
        (H, W, 3) uint8 RGB, and at least one object, ordered from back to front. A large part of each is visible.
    """
    dense = bool(rng.random() < 0.25) if dense is None else dense
    plan = _plan(rng, dense=dense, colored=colored, smallest=smallest, most=most, smallest_dense=smallest_dense)
    objects: list[Object] = []
    while not objects:
        canvas, mean = background(rng, size)
        palette = [choose_paint(rng, mean, grey=plan.grey, contrast=plan.contrast) for _ in range(6)]
        dress = partial(_dress, rng, mean, palette=palette, plan=plan)
        dressed = {kind: dress(kind) for kind in plan.kinds}
        objects = []
        for _ in range(plan.count):
            kind = plan.kinds[int(rng.integers(len(plan.kinds)))]
            paint, look = dressed[kind] if plan.uniform or rng.random() < 0.3 else dress(kind)
            objects = _add(rng, canvas, objects, kind=kind, paint=paint, look=look, plan=plan)
    return camera(rng, canvas, grey=plan.grey), objects


def _dress(
    rng: np.random.Generator, mean: NDArray[np.float32], kind: str, *, palette: list[Paint], plan: _Plan
) -> tuple[Paint, Look]:
    """Choose paint and look of an object: mostly those that are typical of its kind."""
    look = Look.any(rng)
    if kind not in TYPICAL or rng.random() >= TYPICAL_SHARE:
        return palette[int(rng.integers(len(palette)))], look
    color, texture = TYPICAL[kind]
    paint = choose_paint(rng, mean, grey=plan.grey, contrast=plan.contrast, wanted=color)
    return paint, replace(look, texture=texture)


def _add(
    rng: np.random.Generator,
    canvas: NDArray[np.float32],
    objects: list[Object],
    *,
    kind: str,
    paint: Paint,
    look: Look,
    plan: _Plan,
) -> list[Object]:
    """Draw one object where it hides little of the others; return all, or what there was if no place is found."""
    height, width = canvas.shape[:2]
    low, high = np.log(plan.diameters)
    radius = max(2.5, float(np.exp(rng.uniform(low, high))) * min(height, width) / 2)
    parts = novel(rng) if kind == "novel" else KINDS[kind](rng)
    matrix = _pose(rng, upright=kind in UPRIGHT) * radius
    for _attempt in range(8):
        center = rng.uniform(0, 1, 2) * (width, height)
        if plan.clustered and objects and rng.random() < 0.6:
            center = _beside(rng, objects[int(rng.integers(len(objects)))].box_xyxy, radius)
        covers, (top, left) = _rasterize(parts, matrix, center, (height, width))
        if covers is None:
            continue
        window = np.s_[top : top + covers[0].shape[0], left : left + covers[0].shape[1]]
        solid = np.max(covers, axis=0) > 127
        placed = _place(
            objects, solid, (top, left), (height, width), name=kind if kind in SYNONYMS else "novel", color=paint.name
        )
        if placed:
            canvas[window] = cover(rng, canvas[window], covers, parts, paint=paint, look=look, radius=radius)
            return placed
    return objects


def _pose(rng: np.random.Generator, *, upright: bool) -> NDArray[np.float64]:
    """Return a 2 x 2 matrix: rotation, a little stretching and shear, and reflection."""
    angle = rng.normal(0, 0.15) if upright and rng.random() < 0.7 else rng.uniform(0, 2 * np.pi)
    turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    stretch = np.exp(rng.normal(0, 0.1))
    shape = np.array([(stretch, rng.normal(0, 0.08)), (0, 1 / stretch)])
    result: NDArray[np.float64] = turn @ shape * (rng.choice([-1, 1]), 1)
    return result


def _beside(rng: np.random.Generator, box: Box, radius: float) -> NDArray[np.float64]:
    """Return a centre such that an object of the radius about touches the one in the box."""
    angle = rng.uniform(0, 2 * np.pi)
    reach = np.array([(box[2] - box[0]) / 2, (box[3] - box[1]) / 2]) + radius * 0.95
    center = np.array([box[0] + box[2], box[1] + box[3]]) / 2
    return np.asarray(center + reach * (np.cos(angle), np.sin(angle)))


def _rasterize(
    parts: list[Part], matrix: NDArray[np.float64], center: NDArray[np.float64], size: tuple[int, int]
) -> tuple[list[NDArray[np.uint8]] | None, tuple[int, int]]:
    """Return each part's cover 0..255 in a window of the scene, and the window's top left corner; None if outside."""
    moved = [[contour @ matrix.T + center for contour in part.contours] for part in parts]
    unit = float(np.sqrt(abs(np.linalg.det(matrix))))
    reach = max(part.width for part in parts) * unit / 2 + 2
    every = np.concatenate([contour for contours in moved for contour in contours])
    low, high = np.floor(every.min(0) - reach).astype(int), np.ceil(every.max(0) + reach).astype(int)
    left, top = (int(v) for v in np.maximum(low, 0))
    right, bottom = (int(v) for v in np.minimum(high, (size[1], size[0])))
    if right - left < 3 or bottom - top < 3:
        return None, (0, 0)
    covers = []
    for part, contours in zip(parts, moved, strict=True):
        plane = np.zeros((bottom - top, right - left), np.uint8)
        fixed = [np.round((contour - (left, top) - 0.5) * 16).astype(np.int32) for contour in contours]
        if part.width:
            cv2.polylines(plane, fixed, False, 255, max(1, round(part.width * unit)), cv2.LINE_AA, 4)
        else:
            cv2.fillPoly(plane, fixed, 255, cv2.LINE_AA, 4)
        covers.append(plane)
    return covers, (top, left)


def _place(
    objects: list[Object],
    solid: NDArray[np.bool_],
    corner: tuple[int, int],
    size: tuple[int, int],
    *,
    name: str,
    color: str | None,
) -> list[Object]:
    """Add an object in front; return an empty list if it is barely visible or hides too much of another one."""
    if solid.sum() < 10:
        return []
    mask = np.zeros(size, np.bool_)
    mask[corner[0] : corner[0] + solid.shape[0], corner[1] : corner[1] + solid.shape[1]] = solid
    box = _box(solid, corner)
    placed = []
    for other in objects:
        seen = other
        if _touch(other.box_xyxy, box):
            x0, y0, x1, y1 = (int(v) for v in other.box_xyxy)
            own, above = other.mask[y0:y1, x0:x1], mask[y0:y1, x0:x1]
            left = own & ~above
            rest, whole = int(left.sum()), int(own.sum())
            if rest < (1 - MOST_HIDDEN) * whole or rest < 10:
                return []
            if rest < whole:
                visible = other.mask & ~mask
                seen = replace(other, mask=visible, box_xyxy=_box(left, (y0, x0)))
        placed.append(seen)
    return [*placed, Object(name=name, color=color, box_xyxy=box, mask=mask)]


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _box(mask: NDArray[Any], corner: tuple[int, int]) -> Box:
    rows, columns = np.flatnonzero(mask.any(1)) + corner[0], np.flatnonzero(mask.any(0)) + corner[1]
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def main() -> None:
    rng = np.random.default_rng(0)
    tiles = []
    for _ in range(24):
        image, objects = draw_scene(rng, (256, 341))
        for o in objects:
            x0, y0, x1, y1 = (int(v) for v in o.box_xyxy)
            cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), (0, 255, 0), 1)
        tiles.append(image)
    sheet = np.vstack([np.hstack(tiles[i : i + 6]) for i in range(0, 24, 6)])
    cv2.imwrite(sys.argv[1], sheet[..., ::-1])


if __name__ == "__main__":
    main()
