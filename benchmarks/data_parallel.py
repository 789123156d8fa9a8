"""Compare data-parallel training in two processes with one process on all cores: time per step, and the adapter.

    python benchmarks/data_parallel.py --processes 2 --steps 6

Uses the tiny Grounding DINO of this repository and the same images per step. On a CPU the processes share the cores, so
the ideal is the time of one process: the difference is the cost of communication and waiting. With GPUs each process
has one, and they communicate by NCCL.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from measurements import Measurement, report
from random_teachers import CLASSES, TOKENIZER, scene, settings_of

from engine.models.lora import adapter_tensors, attach, set_training, trainable_parameters
from engine.processes.launch import launch
from engine.spec import LoraPreset, TeacherName
from engine.teachers.grounding_dino.model import GroundingDino
from engine.training.device import choose_device
from engine.training.distributed import joined, on_gpu
from engine.training.optimizer import apply_gradients, build_optimizer, gradients


def train(steps: int, images: int, out: Path) -> None:
    """Train with this process's share of the images; the first process writes time and adapter."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    settings = settings_of(TeacherName.GROUNDING_DINO, LoraPreset.ENCODER_DECODER)
    teacher = GroundingDino.load(TOKENIZER, classes=CLASSES, prompts={}, settings=settings)
    torch.manual_seed(0)
    attach(teacher, settings.lora)
    set_training(teacher, True)
    with joined() as processes:
        teacher.model.to(choose_device())
        optimizer = build_optimizer(trainable_parameters(teacher), settings)
        samples = [scene(seed, objects=4, height=160, width=160) for seed in range(images)]
        examples = [teacher.example(sample, np.random.default_rng(0)) for sample in processes.rank.share(samples)]
        seconds = []
        for _ in range(steps + 1):
            processes.meet()
            begin = time.perf_counter()
            losses = gradients(teacher, [teacher.collate(examples)], nullcontext(), processes)
            apply_gradients(optimizer, learning_rate=1e-3, clip_norm=0.1, losses=losses)
            seconds.append(time.perf_counter() - begin)
        if processes.first:
            adapter = torch.cat([tensor.flatten().cpu() for tensor in adapter_tensors(teacher).values()])
            out.write_text(json.dumps({"seconds": min(seconds[1:]), "adapter": adapter.tolist()}))


def measure(processes: int, arguments: argparse.Namespace) -> tuple[float, torch.Tensor]:
    with TemporaryDirectory() as temporary:
        out = Path(temporary, "out.json")
        command = [sys.executable, __file__, "--worker", str(out)]
        command += ["--steps", str(arguments.steps), "--images", str(arguments.images)]
        if code := launch(lambda _: command, processes=processes):
            raise SystemExit(code)
        found = json.loads(out.read_text())
    return found["seconds"], torch.tensor(found["adapter"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[2])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--images", type=int, default=8, help="images per step, over all processes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", type=Path)
    arguments = parser.parse_args()
    if arguments.worker:
        train(arguments.steps, arguments.images, arguments.worker)
        return
    figures = []
    for count in arguments.processes:
        alone, together = [], []
        for _ in range(arguments.repeats):  # alternating, so that other load on the machine affects both
            alone.append(measure(1, arguments))
            together.append(measure(count, arguments))
        one, many = min(seconds for seconds, _ in alone), min(seconds for seconds, _ in together)
        apart = (alone[0][1] - together[0][1]).norm() / alone[0][1].norm()
        figures.append(
            Measurement(
                f"{count} processes ({'nccl' if on_gpu() else 'gloo'}), step of {arguments.images} images",
                "1 process, one GPU" if on_gpu() else "1 process, all cores given",
                many,
                one,
                "s",
                one / many,
                ">= 0.9 of the ideal",
                f"adapters after {arguments.steps + 1} steps differ by {apart:.1e} of their norm",
            )
        )
    report(figures)


if __name__ == "__main__":
    main()
