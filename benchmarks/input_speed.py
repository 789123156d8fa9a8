"""Measure the input pipeline: images per second that one worker process decodes, augments and preprocesses.

python benchmarks/input_speed.py --images 24 --training-speed 20 40

The inputs are one-megapixel JPEGs, prepared for Grounding DINO (800 x 1333) and for SAM (1024 x 1024, ten objects with
masks). The baseline is decoding alone, which every input pipeline needs. ``--training-speed`` are the images per
second that a GPU trains on, of Grounding DINO and of SAM; they are compared with the output of eight workers.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from measurements import Measurement, report
from PIL import Image

from engine.augmentation import Augmenter
from engine.config import generate_config
from engine.dataset import inspect_dataset, load_dataset
from engine.dataset.images.preprocessing import LongestEdgeTransform, ShortestEdgeTransform
from engine.evaluation.retention import PROBE
from engine.spec import AugmentationSpec, DatasetSpec, FineTuneSpec, Intensity, TeacherName
from engine.teachers import REGISTRY, Teacher
from engine.training.data.annotated_splits import SplitData
from engine.training.data.batches import MAX_WORKERS, Views

TINY = Path(__file__).resolve().parents[1] / "examples" / "tiny_teachers"
WIDTH, HEIGHT = 1152, 864
OBJECTS = 10


def photographs(count: int, folder: Path) -> Path:
    """Write a dataset of one-megapixel photographs, with outlines of random sizes."""
    sources, rng = sorted(PROBE.parent.glob("*.jpg")), np.random.default_rng(0)
    images, annotations = [], []
    for number in range(count):
        name = f"{number}.jpg"
        with Image.open(sources[number % len(sources)]) as image:
            image.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(folder / name, quality=90)
        images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        annotations += [
            {"id": number * OBJECTS + k, "image_id": number, "category_id": k % 2 + 1, "iscrowd": 0, **outline(rng)}
            for k in range(OBJECTS)
        ]
    classes = [{"id": 1, "name": "red thing"}, {"id": 2, "name": "green thing"}]
    file = folder / "annotations.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": classes}))
    return file


def outline(rng: np.random.Generator) -> dict[str, Any]:
    width, height = rng.uniform(20, 400, 2)
    left, top = rng.uniform(0, WIDTH - width), rng.uniform(0, HEIGHT - height)
    angles = [math.tau * k / 40 for k in range(40)]
    points = [v for a in angles for v in (left + width * (1 + math.cos(a)) / 2, top + height * (1 + math.sin(a)) / 2)]
    return {"segmentation": [points], "bbox": [left, top, width, height], "area": width * height * math.pi / 4}


def teachers(file: Path) -> Iterator[Teacher]:
    """Load the tiny teachers, with settings generated from the data and the input sizes of the published teachers."""
    spec = FineTuneSpec(dataset=DatasetSpec(annotations=str(file)), output="unused")
    config = generate_config(inspect_dataset(str(file)), spec)
    for name, folder in ((TeacherName.GROUNDING_DINO, "grounding_dino"), (TeacherName.SAM, "sam")):
        settings, classes = config.teachers.of(name), config.data.classes
        teacher: Any = REGISTRY[name].load(
            TINY / folder, classes=classes, prompts=config.data.prompts, settings=settings
        )
        if name is TeacherName.SAM:
            teacher.transform, teacher.mask_size = LongestEdgeTransform(), 256
        else:
            teacher.transform = ShortestEdgeTransform()
        yield teacher


def best_ms(work: Callable[[int], object], images: int, repeats: int) -> float:
    """Measure CPU milliseconds per image, which do not depend on other processes."""
    best = math.inf
    for _ in range(repeats):
        start = time.process_time()
        for index in range(images):
            work(index)
        best = min(best, (time.process_time() - start) / images * 1e3)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--training-speed", type=float, nargs=2, help="images per second of the GPU, of each teacher")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    figures: list[Measurement] = []
    with TemporaryDirectory() as temporary:
        file = photographs(given.images, Path(temporary))
        dataset = load_dataset(file)
        split = SplitData(dataset, tuple(file.parent / image.file_name for image in dataset.images))
        decoding = best_ms(lambda index: np.asarray(Image.open(split.paths[index])), given.images, given.repeats)
        for teacher, speed in zip(teachers(file), given.training_speed or (None, None), strict=True):
            masks = teacher.needs_masks
            loaded = [split.sample(index, with_masks=masks) for index in range(given.images)]
            sample = best_ms(lambda index: split.sample(index, with_masks=masks), given.images, given.repeats)  # noqa: B023
            rng = np.random.default_rng(0)
            example = best_ms(lambda index: teacher.example(loaded[index], rng), given.images, given.repeats)  # noqa: B023
            for intensity in (Intensity.LOW, Intensity.MEDIUM):
                augmenter = Augmenter(AugmentationSpec(intensity=intensity))
                augment = best_ms(lambda index: augmenter(loaded[index], index), given.images, given.repeats)  # noqa: B023
                views = Views(split, teacher, augmenter, seed=0)
                whole = best_ms(lambda index: views[0, index], given.images, given.repeats)  # noqa: B023
                note = f"decode {sample:.0f} ms, augment {augment:.0f} ms, preprocess {example:.0f} ms"
                name = f"{teacher.name}, intensity {intensity}, images a second of a worker"
                figures.append(
                    Measurement(name, "decoding alone", 1e3 / whole, 1e3 / decoding, "/s", decoding / whole, note=note)
                )
                if speed:
                    fed = MAX_WORKERS * 1e3 / whole
                    ratio = fed / speed
                    against = "images a second that are trained on"
                    name = f"{teacher.name}, intensity {intensity}, {MAX_WORKERS} workers"
                    figures.append(Measurement(name, against, fed, speed, "/s", ratio, ">= 2"))
    report(figures)


if __name__ == "__main__":
    main()
