"""Compare training in bfloat16 with training in float32 on the tiny bases: gradients, and AP after training.

    python benchmarks/gpu_precision.py                                          # on the GPU if there is one
    python benchmarks/gpu_precision.py --batches 1 --images 6 --epochs 1        # a quick test

Gradients of the adapter are compared by their cosine, with random updates of a trained size and on the same batches of
drawn parts. AP is that of ``benchmarks/learning.py --method ours``, the same images, seed and settings.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from measurements import Measurement, report
from random_teachers import settings_of
from torch import Tensor, nn

from engine.dataset import load_dataset
from engine.models.base import Teacher
from engine.models.lora import attach, set_training, trainable_parameters
from engine.spec import LoraPreset, Precision, TeacherName
from engine.teachers import REGISTRY
from engine.training.data.annotated_splits import SplitData
from engine.training.device import autocast, choose_device
from engine.training.optimizer import gradients

HERE = Path(__file__).resolve().parent
TINY = HERE.parent / "examples" / "tiny_teachers"
TEACHERS = (TeacherName.GROUNDING_DINO, TeacherName.SAM, TeacherName.SAM2)
UPDATE = 0.02
"""Standard deviation of the second LoRA matrix, which is zero in a new adapter: the first would have no gradient."""


def adapted(name: TeacherName, classes: tuple[str, ...]) -> Teacher:
    """Load the tiny base with an adapter that is not zero."""
    settings = settings_of(name, LoraPreset.ALL, batch_size=2)
    teacher = REGISTRY[name].load(TINY / name.slug, classes=classes, prompts={}, settings=settings)
    torch.manual_seed(0)
    attach(teacher, settings.lora)
    set_training(teacher, True)
    for path, parameter in trainable_parameters(teacher).items():
        if "lora_B" in path:
            nn.init.normal_(parameter, std=UPDATE)
    return teacher


def gradient(teacher: Teacher, batch: Any, precision: Precision) -> Tensor:
    """Return the gradient of all adapted parameters as one vector."""
    parameters = trainable_parameters(teacher).values()
    for parameter in parameters:
        parameter.grad = None
    gradients(teacher, [batch], autocast(teacher.device, precision))
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])


def cosines(name: TeacherName, file: Path, batches: int) -> list[float]:
    """Return the cosine of both gradients for each of some batches of two images."""
    dataset = load_dataset(file)
    split = SplitData(dataset, tuple(file.parent / "images" / image.file_name for image in dataset.images))
    teacher = adapted(name, dataset.classes)
    teacher.model.to(choose_device())
    found = []
    for number in range(batches):
        samples = [split.sample(2 * number + i, with_masks=teacher.needs_masks) for i in range(2)]
        batch = teacher.collate([teacher.example(one, np.random.default_rng(number)) for one in samples])
        exact, rounded = (gradient(teacher, batch, one) for one in (Precision.FLOAT32, Precision.BFLOAT16))
        found.append(float(nn.functional.cosine_similarity(exact, rounded, dim=0)))
    return found


def ap(name: TeacherName, data: Path, precision: Precision, arguments: argparse.Namespace) -> float:
    """Train on the dataset in ``data`` and return the AP on its validation split."""
    results = data / "results.jsonl"
    command = [sys.executable, str(HERE / "learning.py"), "--data", str(data), "--teacher", name, "--method", "ours"]
    command += ["--epochs", str(arguments.epochs), "--set", f"training.precision={precision}"]
    command += ["--seed", str(arguments.seed), "--results", str(results)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return float(json.loads(results.read_text().splitlines()[-1])["ap"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=12, help="batches whose gradients are compared")
    parser.add_argument("--images", type=int, default=72, help="drawn images")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gradients-only", action="store_true")
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        data = Path(temporary, "data")
        draw = [sys.executable, str(HERE.parent / "examples" / "demo_data.py"), str(data), "--kind", "both"]
        subprocess.run([*draw, "--images", str(arguments.images)], check=True)
        for name in TEACHERS:
            found = cosines(name, data / "annotations.json", arguments.batches)
            mean, note = sum(found) / len(found), f"{len(found)} batches, lowest {min(found):.3f}"
            what = f"{name}, tiny base, cosine of the gradient in bfloat16"
            report([Measurement(what, "float32", mean, 1.0, "", mean, ">= 0.9", note)])
            if arguments.gradients_only:
                continue
            low, high = (ap(name, data, one, arguments) for one in (Precision.BFLOAT16, Precision.FLOAT32))
            what = f"{name}, tiny base, AP after {arguments.epochs} epochs in bfloat16"
            report([Measurement(what, "float32", low, high, "", low / high if high else 1.0, "within 0.02")])


if __name__ == "__main__":
    main()
