"""Compare a training step of Grounding DINO with Swin-T with a plain loop of transformers and PEFT on the same batch.

    python benchmarks/step_speed.py --sizes 400x667 800x1333

Preset encoder-decoder, rank 16, random weights, one thread per core. The plain loop follows the documentation of both
libraries: the model in training mode with labels, its own loss, AdamW. Ours is the trainer's step (loss on all decoder
layers, clipped gradients), with new views, and with views whose feature maps are cached. ``benchmarks/learning.py``
compares the training quality.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from measurements import Measurement, report
from random_teachers import CLASSES, as_documented, grounding_dino_tiny, scene
from transformers import AutoTokenizer, GroundingDinoForObjectDetection

from engine.dataset import Sample
from engine.models.feature_cache import FeatureCache
from engine.models.lora import attach, set_training, trainable_parameters
from engine.teachers.grounding_dino.model import GroundingDino
from engine.training.optimizer import apply_gradients, build_optimizer, gradients


def arithmetic(bfloat16: bool) -> AbstractContextManager[Any]:
    """Return the precision context of a forward pass."""
    return torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext()


def plain_loop(folder: Path, teacher: GroundingDino, samples: list[Sample], *, bfloat16: bool) -> Callable[[], Any]:
    """Return a step as documented by the libraries."""
    model, optimizer = as_documented(GroundingDinoForObjectDetection.from_pretrained(folder))
    caption = AutoTokenizer.from_pretrained(folder)([". ".join(CLASSES) + "."] * len(samples), return_tensors="pt")
    batch = teacher.collate([teacher.example(sample, np.random.default_rng(0)) for sample in samples])
    labels = [
        {"class_labels": torch.from_numpy(sample.class_indices), "boxes": boxes}
        for sample, boxes in zip(samples, batch["boxes"], strict=True)
    ]

    def step() -> None:
        with arithmetic(bfloat16):
            outputs = model(
                pixel_values=batch["pixel_values"],
                pixel_mask=batch["pixel_mask"],
                input_ids=caption["input_ids"],
                attention_mask=caption["attention_mask"],
                labels=labels,
            )
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_loop(teacher: GroundingDino, samples: list[Sample], *, bfloat16: bool) -> Callable[[], Any]:
    """Return the trainer's step, without preprocessing, which runs in other processes during training."""
    optimizer = build_optimizer(trainable_parameters(teacher), teacher.settings)
    set_training(teacher, True)

    def examples() -> list[Any]:
        return [teacher.example(sample, np.random.default_rng(0)) for sample in samples]

    if teacher.features is not None:
        gradients(teacher, [teacher.collate(examples())], nullcontext())  # the first epoch
        optimizer.zero_grad()
    batch = teacher.collate(examples())

    def step() -> None:
        losses = gradients(teacher, [batch], arithmetic(bfloat16))
        apply_gradients(optimizer, learning_rate=1e-4, clip_norm=0.1, losses=losses)

    return step


def seconds(step: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["400x667", "800x1333"], help="height x width of the images")
    parser.add_argument("--images", type=int, default=1, help="images per batch")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    figures = []
    with TemporaryDirectory() as temporary:
        folder = Path(temporary, "grounding-dino")
        for size in arguments.sizes:
            height, width = map(int, size.split("x"))
            samples = [scene(seed, objects=5, height=height, width=width) for seed in range(arguments.images)]
            teacher = grounding_dino_tiny(folder)
            teacher.transform = type(teacher.transform)(shortest_edge=height, longest_edge=width)
            torch.manual_seed(0)
            attach(teacher, teacher.settings.lora)
            identity = {**(teacher.frozen() or {}), "size": size}
            features = FeatureCache(Path(temporary, "features"), identity=identity, limit=10**9)
            for bfloat16 in (False, True):
                best: dict[str, float] = {}
                teacher.features = None
                loops = {"plain": plain_loop(folder, teacher, samples, bfloat16=bfloat16)}
                for known in (None, features):
                    teacher.features = known
                    loops["new" if known is None else "known"] = our_loop(teacher, samples, bfloat16=bfloat16)
                for _ in range(arguments.repeats + 1):  # alternating; the first is the warm-up
                    for name, loop in loops.items():
                        teacher.features = features if name == "known" else None
                        best[name] = min(best.get(name, float("inf")), seconds(loop))
                for name, what in (("new", "a new view each time"), ("known", "feature maps known")):
                    figures.append(
                        Measurement(
                            f"Grounding DINO-T, enc+dec preset, step of {arguments.images} x {size}, {what}",
                            "transformers + PEFT loop, the same arithmetic",
                            best[name],
                            best["plain"],
                            "s",
                            best["plain"] / best[name],
                            ">= 1.7",
                            "bfloat16" if bfloat16 else "float32",
                        )
                    )
                del loops
            del teacher
    report(figures)


if __name__ == "__main__":
    main()
