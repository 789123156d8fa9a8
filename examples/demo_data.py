"""Draw the demo's dataset: bolts, nuts and washers on a mat, as COCO.

    python examples/demo_data.py OUT [--images 72] [--seed 0] [--kind boxes|masks|both]

writes ``OUT/annotations.json`` and ``OUT/images/*.jpg``. The same arguments give the same bytes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from pycocotools import mask as coco_mask

Floats = NDArray[np.floating[Any]]

WIDTH, HEIGHT = 256, 192
CLASSES = ("bolt", "nut", "washer")
METALS = ((168, 173, 180), (172, 142, 84))  # steel, brass
MATS = ((34, 58, 92), (30, 70, 54), (96, 40, 36), (40, 42, 48))  # blue, green, red, grey
VISIBLE = 0.97  # minimum visible share of an object that others overlap


@dataclass(frozen=True)
class Part:
    """One drawn object.

    Attributes:
        cover: (H, W) 0..1, how much of each pixel it covers.
        shade: (H, W) brightness of its metal, about 1.
    """

    cover: Floats
    shade: Floats


def _plane(x: float, y: float, angle: float) -> tuple[Floats, Floats]:
    """Coordinates of all pixels in the frame of an object at (x, y), turned by ``angle``; in pixels, each (H, W)."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    dx, dy = columns - x, rows - y
    return dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)


def _part(distance: Floats, shade: Floats) -> Part:
    """A part from its signed distance in pixels, negative inside: edges are smooth without oversampling."""
    return Part(np.clip(0.5 - distance, 0, 1), shade)


def _bevel(distance: Floats, normal_to_light: Floats, width: float = 3.0) -> Floats:
    """Return the brightness of a rounded rim: bright where it faces the light, dark on the other side."""
    return 0.4 * normal_to_light * np.clip(1 + distance / width, 0, 1)


def nut(x: float, y: float, size: float, angle: float, light: float) -> Part:
    """A hexagon with a threaded hole, seen from above."""
    u, v = _plane(x, y, angle)
    normals = np.arange(6) * np.pi / 3
    faces = np.stack([u * np.cos(a) + v * np.sin(a) for a in normals])  # (6, H, W)
    outside, radius = faces.max(0) - size * 0.88, np.hypot(u, v)
    hole = size * 0.48 - radius
    facing = np.cos(normals + angle - light)[faces.argmax(0)]
    inward = -np.cos(np.arctan2(v, u) + angle - light)
    thread = 0.12 * np.sin(radius * 2.4) * (hole > -3)
    shade = 1 + _bevel(outside, facing) + _bevel(hole, inward) + thread + 0.08 * np.cos(np.arctan2(v, u) * 2 - light)
    return _part(np.maximum(outside, hole), shade)


def washer(x: float, y: float, size: float, angle: float, light: float) -> Part:
    """Draw a flat ring with the radial gloss of turned metal."""
    u, v = _plane(x, y, 0)
    radius, theta = np.hypot(u, v), np.arctan2(v, u)
    outside, hole = radius - size * 0.92, size * 0.5 - radius
    gloss = 0.22 * np.cos(2 * (theta - light)) + 0.07 * np.cos(7 * (theta - angle)) + 0.04 * np.sin(radius * 3)
    facing = np.cos(theta - light)
    return _part(np.maximum(outside, hole), 1.05 + gloss + _bevel(outside, facing, 2) - _bevel(hole, facing, 2))


def bolt(x: float, y: float, size: float, angle: float, light: float) -> Part:
    """A hexagon head and a threaded shaft, seen from the side; as long as 3.4 sizes."""
    u, v = _plane(x, y, angle)
    thread = np.sin(u * 2 * np.pi / 4.2)
    half = size * 0.36 + 0.5 * thread
    tip = np.abs(v) + np.maximum(u - size * 1.55, 0) * 0.8
    shaft = np.maximum(np.maximum(tip - half, u - size * 1.8), -size * 0.9 - u)
    head = np.maximum(np.abs(u + size * 1.2) - size * 0.4, np.abs(v) - size * 0.78)
    head = np.maximum(head, (np.abs(u + size * 1.2) + np.abs(v) - size * 1.02) * 0.7)
    across = np.clip(v / half, -1, 1)
    side = np.sin(angle - light)  # where the light comes from, across the shaft
    round_shade = 0.65 + 0.5 * np.sqrt(1 - across**2) - 0.25 * across * side + 0.18 * thread
    facet = np.where(np.abs(v) < size * 0.4, 1.12, 0.85 - 0.25 * np.sign(v) * side)
    is_head = head < shaft
    rim = _bevel(np.where(is_head, head, shaft), -side * np.sign(v), 2)
    return _part(np.minimum(shaft, head), np.where(is_head, facet, round_shade) + rim)


DRAW = {"bolt": bolt, "nut": nut, "washer": washer}


def _noise(rng: np.random.Generator, columns: int, rows: int) -> Floats:
    """Return smooth noise with the given number of waves across the image; (H, W), about -1..1."""
    coarse = Image.fromarray(rng.normal(size=(rows + 2, columns + 2)).astype(np.float32))
    return np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def mat(rng: np.random.Generator) -> Floats:
    """A dark rubber mat with a little dirt; (H, W, 3) in 0..255."""
    color = np.asarray(MATS[rng.integers(len(MATS))], np.float32) * rng.uniform(0.8, 1.2)
    dirt = 0.06 * _noise(rng, 4, 3) + 0.03 * _noise(rng, WIDTH // 4, HEIGHT // 4)
    return color * (1 + dirt)[..., None]


def _place(rng: np.random.Generator, light: float) -> list[tuple[int, Part]]:
    """Place parts with slight overlaps, the last on top."""
    placed: list[tuple[int, Part]] = []
    visible: list[NDArray[np.bool_]] = []
    wanted = int(rng.integers(2, 5))
    for _ in range(wanted * 20):
        index = int(rng.integers(len(CLASSES)))
        size = rng.uniform(34, 52) * (0.85 if CLASSES[index] == "bolt" else 1)
        x, y = rng.uniform(size, (WIDTH - size, HEIGHT - size))
        part = DRAW[CLASSES[index]](x, y, size, rng.uniform(0, 2 * np.pi), light)
        mask = part.cover >= 0.5
        hides = any(
            (seen & ~mask).sum() < VISIBLE * (below.cover >= 0.5).sum()
            for seen, (_, below) in zip(visible, placed, strict=True)
        )
        touches_border = mask[[0, -1]].any() or mask[:, [0, -1]].any()
        if hides or (touches_border and rng.random() < 0.7):
            continue
        placed.append((index, part))
        visible = [seen & ~mask for seen in visible] + [mask]
        if len(placed) == wanted:
            break
    return placed


def scene(seed: int, number: int) -> tuple[Image.Image, list[tuple[int, NDArray[np.bool_]]]]:
    """Draw one image; return it with class and mask (H, W) of the visible area of each object."""
    rng = np.random.default_rng((seed, number))
    light = rng.uniform(0, 2 * np.pi)
    canvas = mat(rng)
    objects: list[tuple[int, NDArray[np.bool_]]] = []
    for index, part in _place(rng, light):
        dark = Image.fromarray((part.cover * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(3))
        away = (round(-4 * np.cos(light)), round(-4 * np.sin(light)))
        shadow = np.asarray(dark.rotate(0, translate=away), np.float32) / 255
        canvas = canvas * (1 - 0.5 * shadow[..., None])
        metal = np.asarray(METALS[rng.choice(2, p=(0.7, 0.3))], np.float32) * rng.uniform(0.9, 1.1)
        canvas += part.cover[..., None] * (metal * part.shade[..., None] - canvas)
        mask = part.cover >= 0.5
        objects = [(i, seen & ~mask) for i, seen in objects] + [(index, mask)]
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    slope = (columns / WIDTH - 0.5) * np.cos(light) + (rows / HEIGHT - 0.5) * np.sin(light)
    canvas *= rng.uniform(0.85, 1.15) * (1 + 0.25 * slope[..., None])
    canvas += rng.normal(0, 3, canvas.shape)
    return Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8)), objects


def annotation(number: int, image_id: int, index: int, mask: NDArray[np.bool_], *, with_mask: bool) -> dict[str, Any]:
    """Convert an object to COCO JSON; masks are RLE, since polygons cannot have holes."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "id": number,
        "image_id": image_id,
        "category_id": index + 1,
        "bbox": [float(v) for v in coco_mask.toBbox(rle)],
        "area": float(coco_mask.area(rle)),
        "iscrowd": 0,
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")} if with_mask else [],
    }


def write(output: Path, *, images: int, seed: int, kind: str) -> None:
    """Write the dataset."""
    (output / "images").mkdir(parents=True, exist_ok=True)
    data: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i + 1, "name": name, "supercategory": "part"} for i, name in enumerate(CLASSES)],
    }
    for number in range(images):
        picture, objects = scene(seed, number)
        name = f"{number:04d}.jpg"
        picture.save(output / "images" / name, quality=92)
        data["images"].append({"id": number + 1, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for index, mask in objects:
            count = len(data["annotations"])
            data["annotations"].append(annotation(count + 1, number + 1, index, mask, with_mask=kind != "boxes"))
    (output / "annotations.json").write_text(json.dumps(data))


def main() -> None:
    """Parse the arguments and write the dataset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="folder to write to")
    parser.add_argument("--images", type=int, default=72)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=("boxes", "masks", "both"), default="both", help="boxes: without masks")
    arguments = parser.parse_args()
    write(arguments.output, images=arguments.images, seed=arguments.seed, kind=arguments.kind)
    print(f"{arguments.images} images in {arguments.output}")


if __name__ == "__main__":
    main()
