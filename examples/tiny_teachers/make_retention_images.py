"""Create the built-in images on which the engine measures retention: drawn scenes and photographs, with labels.

    python examples/tiny_teachers/make_retention_images.py engine/evaluation/probe --photos DIR

writes ``annotations.json`` and the images into the folder. ``DIR`` is ``skimage/data`` of the scikit-image wheel, which
contains the photographs; the README next to the images names their sources. The boxes and outlines of photographs were
drawn by hand, those of scenes are exact. No tiny teacher was trained on the seeds of these scenes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from kinds import SYNONYMS
from PIL import Image
from pycocotools import mask as coco_mask
from scenes import draw_scene

SCENES, SEED, SIZE = 20, 20_260_101, (240, 320)

Outline = list[float]
"""x, y, x, y, … in pixels of the original photograph."""

# fmt: off
PHOTOS: dict[str, tuple[float, list[tuple[str, Outline]]]] = {
    "astronaut.png": (0.75, [
        ("person", [
            155, 60, 190, 30, 235, 15, 275, 30, 298, 65, 300, 95, 285, 130, 270, 135, 258, 172, 290, 205, 305, 230,
            335, 255, 352, 300, 362, 345, 330, 362, 300, 395, 281, 440, 278, 512, 25, 512, 22, 470, 20, 400, 25,
            330, 40, 290, 75, 235, 115, 205, 122, 165, 150, 150, 185, 148, 180, 128, 165, 110, 155, 85,
        ]),
        ("helmet", [
            280, 512, 277, 460, 290, 410, 320, 370, 350, 350, 390, 343, 440, 355, 475, 385, 492, 425, 498, 455, 510,
            480, 512, 512,
        ]),
        ("space shuttle", [
            400, 0, 430, 0, 438, 40, 447, 40, 455, 60, 456, 235, 470, 278, 365, 287, 375, 235, 355, 222, 360, 205,
            380, 185, 382, 45, 395, 50, 397, 20,
        ]),
        ("flag", [
            0, 0, 53, 0, 64, 88, 42, 118, 75, 165, 97, 215, 75, 236, 40, 290, 25, 335, 20, 400, 22, 470, 25, 512, 0,
            512,
        ]),
    ]),
    "chelsea.png": (0.9, [
        ("cat", [
            35, 0, 397, 0, 375, 45, 358, 80, 362, 120, 355, 170, 330, 200, 320, 240, 310, 280, 300, 300, 0, 300, 0,
            180, 25, 110, 33, 60,
        ]),
    ]),
    "coffee.png": (0.75, [
        ("cup", [
            173, 107, 180, 70, 210, 40, 250, 22, 285, 18, 330, 25, 375, 45, 402, 80, 407, 110, 400, 145, 375, 225,
            365, 245, 345, 248, 320, 275, 275, 285, 250, 275, 230, 300, 215, 307, 200, 295, 196, 280, 205, 250, 215,
            235, 190, 205, 178, 165,
        ]),
        ("saucer", [
            175, 72, 130, 100, 95, 145, 78, 200, 82, 250, 105, 300, 150, 345, 210, 375, 290, 388, 365, 375, 425,
            340, 460, 295, 477, 240, 478, 210, 468, 170, 445, 135, 420, 107, 412, 125, 387, 210, 384, 236, 405, 265,
            404, 290, 385, 318, 358, 326, 335, 312, 326, 285, 318, 278, 275, 286, 252, 278, 232, 302, 215, 308, 198,
            297, 195, 280, 213, 237, 190, 207, 178, 165, 172, 110,
        ]),
        ("spoon", [
            328, 270, 345, 248, 370, 235, 375, 225, 383, 200, 400, 150, 412, 100, 400, 72, 408, 67, 424, 75, 422,
            95, 412, 125, 398, 170, 387, 210, 383, 235, 400, 258, 406, 280, 395, 305, 375, 322, 352, 325, 332, 308,
            326, 285,
        ]),
    ]),
    "rocket.jpg": (0.75, [
        ("rocket", [
            311, 145, 315, 135, 323, 127, 331, 137, 333, 150, 333, 178, 331, 185, 331, 406, 312, 406, 314, 243, 313,
            180, 311, 165,
        ]),
    ]),
    "camera.png": (0.75, [
        ("person", [
            0, 260, 25, 215, 60, 160, 100, 135, 130, 122, 155, 105, 163, 95, 180, 75, 210, 65, 240, 78, 262, 98,
            271, 120, 268, 131, 258, 130, 255, 160, 250, 170, 241, 183, 240, 205, 248, 245, 275, 210, 290, 205, 315,
            172, 330, 170, 332, 195, 318, 218, 303, 235, 305, 270, 290, 285, 245, 312, 207, 293, 142, 378, 150, 470,
            150, 512, 0, 512,
        ]),
        ("camera", [
            253, 141, 325, 139, 325, 155, 318, 175, 320, 182, 272, 187, 260, 175, 261, 151, 253, 151,
        ]),
    ]),
}
# fmt: on


def write(folder: Path, photos: Path) -> None:
    """Write annotations and images."""
    ids: dict[str, int] = {}
    data: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [],
    }

    def add(image: Image.Image, file_name: str, objects: list[tuple[str, Any]]) -> None:
        image.convert("RGB").save(folder / file_name, quality=85, optimize=True)
        number = len(data["images"]) + 1
        data["images"].append({"id": number, "file_name": file_name, "width": image.width, "height": image.height})
        for name, segmentation in objects:
            rle = segmentation
            if isinstance(segmentation, list):
                rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, image.height, image.width))
            found = {
                "id": len(data["annotations"]) + 1,
                "image_id": number,
                "category_id": ids.setdefault(name, len(ids) + 1),
                "bbox": coco_mask.toBbox(rle).tolist(),
                "area": float(coco_mask.area(rle)),
                "iscrowd": 0,
                "segmentation": segmentation,
            }
            if not isinstance(segmentation, list):
                found["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
            data["annotations"].append(found)

    folder.mkdir(parents=True, exist_ok=True)
    for i in range(SCENES):
        rng, named = np.random.default_rng((SEED, i)), []
        while not named:
            pixels, shapes = draw_scene(rng, SIZE, dense=False, colored=True, smallest=0.14, most=7)
            named = [shape for shape in shapes if shape.name in SYNONYMS]
        masks = [(s.name, coco_mask.encode(np.asfortranarray(s.mask.astype(np.uint8)))) for s in named]
        add(Image.fromarray(pixels), f"scene-{i:02}.jpg", masks)
    for file_name, (scale, outlines) in PHOTOS.items():
        with Image.open(photos / file_name) as photo:
            size = (round(photo.width * scale), round(photo.height * scale))
            scaled = photo.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        objects = [(name, [[round(v * scale, 1) for v in outline]]) for name, outline in outlines]
        add(scaled, f"{Path(file_name).stem}.jpg", objects)
    data["categories"] = [{"id": number, "name": name} for name, number in ids.items()]
    (folder / "annotations.json").write_text(json.dumps(data, separators=(",", ":")) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where annotations and images go")
    parser.add_argument("--photos", type=Path, required=True, help="skimage/data of the scikit-image wheel")
    arguments = parser.parse_args()
    write(arguments.folder, arguments.photos)


if __name__ == "__main__":
    main()
