"""Train the tiny student, a D-FINE of size femto, on drawn scenes by ``teacher distill``, as a user would.

    python examples/tiny_teachers/train_student.py                # an hour on two cores; writes dfine/
    python examples/tiny_teachers/train_student.py --scenes 16 --steps 4 --output out  # a quick test

Every object has the class ``object``: at this size a student that begins with it learns the classes of a dataset in a
fraction of the steps.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from model_card import write_card
from scenes import draw_scene

import engine
from engine.results.events import Event

SIZE = "femto"
IMAGE_SIZE = (256, 320)
BATCH_SIZE = 8
HELD_OUT = 200
FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
PLAIN_SHARE = 0.7
"""Share of scenes with a few large objects; the others are those of the teachers."""


def draw(number: int, *, folder: Path, seed: int) -> list[tuple[float, float, float, float]]:
    """Draw one scene, write its image, and return the boxes of its objects."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng((seed, number))
    plain = bool(rng.random() < PLAIN_SHARE)
    few: dict[str, Any] = {"dense": False, "smallest": 0.12, "most": 8} if plain else {}
    image, objects = draw_scene(rng, IMAGE_SIZE, colored=plain, **few)
    cv2.imwrite(str(folder / f"{number:05d}.jpg"), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return [one.box_xyxy for one in objects]


def write_dataset(folder: Path, numbers: range, *, seed: int) -> Path:
    """Draw scenes, and return the path of their COCO annotations."""
    folder.mkdir(parents=True)
    with multiprocessing.Pool() as pool:
        scenes = pool.map(partial(draw, folder=folder, seed=seed), numbers, chunksize=8)
    height, width = IMAGE_SIZE
    images = [{"id": n + 1, "file_name": f"{n:05d}.jpg", "width": width, "height": height} for n in numbers]
    annotations = [
        {
            "id": number,
            "image_id": image["id"],
            "category_id": 1,
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "iscrowd": 0,
        }
        for number, (image, (left, top, right, bottom)) in enumerate(
            ((image, box) for image, boxes in zip(images, scenes, strict=True) for box in boxes), start=1
        )
    ]
    path = folder / "annotations.json"
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    path.write_text(json.dumps(data))
    return path


def report(event: Event) -> None:
    """Print the progress."""
    print(event.model_dump_json(exclude_none=True), flush=True)


def main() -> None:
    """Draw, train, and write the student with its model card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent / "dfine")
    parser.add_argument("--scenes", type=int, default=4000, help="scenes to train on")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        train = write_dataset(folder / "train", range(HELD_OUT, HELD_OUT + options.scenes), seed=options.seed)
        held_out = write_dataset(folder / "val", range(HELD_OUT), seed=options.seed)
        begin = time.monotonic()
        run = engine.distill(
            {"train": {"annotations": str(train)}, "val": {"annotations": str(held_out)}},
            output=folder / "out",
            name="tiny",
            student={
                "size": SIZE,
                "batch_size": BATCH_SIZE,
                "epochs": max(1, options.steps * BATCH_SIZE // options.scenes),
                "masks": False,
            },
            training={"seed": options.seed},
            listener=report,
            work_dir=folder / "work",
        )
        minutes = (time.monotonic() - begin) / 60
        (student,) = run.teachers
        options.output.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copy(Path(run.uri) / "students" / "dfine" / name, options.output)
    write_card(
        options.output,
        title="Tiny D-FINE",
        script=Path(__file__),
        seed=options.seed,
        steps=options.steps,
        minutes=minutes,
        scenes=HELD_OUT,
        prompt="nothing, with one class for all objects",
        figures={"AP": student.after.ap, "AP50": student.after.ap50},
    )


if __name__ == "__main__":
    main()
