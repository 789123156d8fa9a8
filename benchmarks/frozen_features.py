"""Measure the cache of frozen features: epochs after the first, with and without the cache.

    python benchmarks/frozen_features.py --images 2 --objects 1 5 25

SAM with ViT-B at 1024 pixels, preset decoder, random weights. Both use the same loop and images: preprocessing,
forward and backward pass, optimizer.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from measurements import Measurement, report
from random_teachers import sam_base, scene

from engine.dataset import Sample
from engine.models.feature_cache import FeatureCache
from engine.models.lora import attach, set_training, trainable_parameters
from engine.teachers import Teacher
from engine.training.device import keep_memory
from engine.training.optimizer import apply_gradients, build_optimizer, gradients


def epoch(teacher: Teacher, samples: Sequence[Sample]) -> float:
    """Measure the seconds of one epoch with one step per image."""
    optimizer = build_optimizer(trainable_parameters(teacher), teacher.settings)
    set_training(teacher, True)
    begin = time.perf_counter()
    for sample in samples:
        batch = teacher.collate([teacher.example(sample, np.random.default_rng(0))])
        losses = gradients(teacher, [batch], nullcontext())
        apply_gradients(optimizer, learning_rate=1e-4, clip_norm=1.0, losses=losses)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 5, 25])
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    keep_memory()  # as the trainer does; applies to both
    figures = []
    with TemporaryDirectory() as temporary:
        teacher = sam_base(Path(temporary, "sam"))
        torch.manual_seed(0)
        attach(teacher, teacher.settings.lora)
        for objects in arguments.objects:
            samples = [scene(seed, objects=objects) for seed in range(arguments.images)]
            features = FeatureCache(Path(temporary, "features"), identity=teacher.frozen() or {}, limit=10**9)
            teacher.features = features
            first = epoch(teacher, samples)
            later, plain = [], []
            for _ in range(arguments.repeats):
                teacher.features = features
                later.append(epoch(teacher, samples))
                teacher.features = None
                plain.append(epoch(teacher, samples))
            figures.append(
                Measurement(
                    f"SAM ViT-B, decoder preset, epochs after the first, {objects} objects an image",
                    "same loop, no cache",
                    min(later) / len(samples),
                    min(plain) / len(samples),
                    "s/image",
                    min(plain) / min(later),
                    ">= 15",
                    f"first epoch {first / len(samples):.2f} s/image",
                )
            )
    report(figures)


if __name__ == "__main__":
    main()
