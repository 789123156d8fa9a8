"""Draw a preview of training images: originals and augmented views with their boxes and masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from engine.dataset.types import Sample

TILE, TITLE, GAP = 320, 18, 4
"""Side of a tile, height of its title, distance to the next, in pixels."""

COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
"""Palette of Okabe and Ito, safe for colour-blind readers. An object has the same colour in every view."""


def contact_sheet(
    samples: Sequence[Sample], augmenter: Callable[[Sample, int], Sample], *, seed: int, columns: int = 4
) -> NDArray[np.uint8]:
    """Draw one row per sample: the original, then ``columns - 1`` views of it.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    rows = [_row(sample, augmenter, seed=(seed, number), columns=columns) for number, sample in enumerate(samples)]
    height = GAP + sum(row.height + GAP for row in rows)
    sheet = Image.new("RGB", (columns * (TILE + GAP) + GAP, height), "white")
    top = GAP
    for row in rows:
        sheet.paste(row, (GAP, top))
        top += row.height + GAP
    return np.array(sheet)


def _row(
    sample: Sample, augmenter: Callable[[Sample, int], Sample], *, seed: tuple[int, int], columns: int
) -> Image.Image:
    seeds = np.random.SeedSequence(seed).generate_state(columns - 1)
    views = [sample, *(augmenter(sample, int(one)) for one in seeds)]
    tiles = [_tile(view) for view in views]
    row = Image.new("RGB", (columns * (TILE + GAP), TITLE + max(tile.height for tile in tiles)), "white")
    for column, (view, tile) in enumerate(zip(views, tiles, strict=True)):
        height, width = view.image.shape[:2]
        name = f"view {column}" if column else "original"
        left = column * (TILE + GAP)
        ImageDraw.Draw(row).text((left + 2, 2), f"{name}: {width} x {height}, {len(view)} objects", fill="black")
        row.paste(tile, (left, TITLE))
    return row


def _tile(sample: Sample) -> Image.Image:
    image = Image.fromarray(_with_masks(sample))
    scale = TILE / max(image.size)
    tile = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)))
    draw = ImageDraw.Draw(tile)
    for box, color in zip(sample.boxes_xyxy, _colors(sample), strict=True):
        left, top, right, bottom = (float(side) * scale for side in box)
        draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=color)
    return tile


def _with_masks(sample: Sample) -> NDArray[np.uint8]:
    image = sample.image.copy()
    if sample.masks is not None:
        for mask, color in zip(sample.masks, _colors(sample), strict=True):
            image[mask] = (image[mask] * 0.6 + np.array(color) * 0.4).astype(np.uint8)
    return image


def _colors(sample: Sample) -> list[tuple[int, int, int]]:
    return [COLORS[index % len(COLORS)] for index in sample.annotation_indices]
