"""Measure the memory of a training step, its baselines, and the accuracy of its prediction; one image, float32, CPU::

    python benchmarks/memory.py          # fake tensors: no weights, no computation; the plain loop runs for real
    python benchmarks/memory.py --small  # 320x480 instead of 800x1333, for machines with less than 16 GB

All values are counted in the same way (:class:`engine.training.micro_batch.TensorBytes`); for real runs the resident
memory of the process is measured too. The plain loop is that of the library's documentation: ``model.train()``, the
library's loss from ``labels``, PEFT's LoRA on the same layers, AdamW.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import torch
from measurements import Measurement, report
from random_teachers import as_documented
from step_memory import BASES, Shape, resident, step
from transformers import AutoModelForZeroShotObjectDetection

from engine.estimate.batch_shape import BatchShape
from engine.estimate.cost_model import base_of, cost_of, estimate_step, known, teacher_of
from engine.estimate.cost_traits import count_positions
from engine.spec import LoraPreset, TeacherName
from engine.training.micro_batch import TensorBytes

MB = 1e6


def plain(shape: Shape) -> int:
    """Measure the peak bytes of tensors in two steps of the plain loop."""
    torch.manual_seed(0)
    model = AutoModelForZeroShotObjectDetection.from_config(BASES["grounding-dino-tiny"]())
    model, optimizer = as_documented(model, rank=shape.rank)
    phrases = [101, *([2304, 1012] * ((shape.tokens - 2) // 2)), 102]
    ids = torch.tensor([phrases])
    count = len(phrases) // 2 - 1
    labels = [{"class_labels": torch.arange(shape.objects) % count, "boxes": torch.rand(shape.objects, 4) / 2 + 0.1}]
    with TensorBytes([*model.parameters(), *model.buffers()]) as held:
        pixels = torch.rand(1, 3, *shape.size)
        for _ in range(2):
            loss = model(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
            loss.backward()
            del loss
            optimizer.step()
            optimizer.zero_grad()
        return held.peak


def lean(shape: Shape) -> int:
    return max(step("grounding-dino-tiny", shape, groups=("encoder",), fake=False).moments)


def with_resident(run: Callable[[Shape], int], shape: Shape) -> tuple[int, int]:
    """Return the result of ``run``, and the additional resident memory of the process after imports."""
    with resident() as process:
        return run(shape), process()


def alone(run: Callable[[Shape], int], shape: Shape) -> tuple[int, int]:
    """Run :func:`with_resident` in a new process, since a process does not return freed memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(with_resident, run, shape).result()


def ours(base: str, shape: Shape, groups: tuple[str, ...], *, preset: str | None = "encoder-decoder") -> int:
    return max(step(base, shape, preset=preset, groups=groups).moments)


def lora_and_full(shape: Shape) -> list[Measurement]:
    figures = []
    for base, groups in (("grounding-dino-tiny", ("encoder",)), ("sam-vit-base", ("encoder", "decoder"))):
        mine, full = ours(base, shape, groups), ours(base, shape, (), preset=None)
        what = f"{base}, LoRA encoder-decoder, a step of one image"
        note = "counted without computing"
        figures.append(
            Measurement(what, "full fine-tuning, same loop", mine / MB, full / MB, "MB", mine / full, "<= 0.33", note)
        )
    return figures


def beside_plain(shape: Shape) -> list[Measurement]:
    theirs, process = alone(plain, shape)
    real, mine = alone(lean, shape)
    size = "x".join(map(str, shape.size))
    what = f"Grounding DINO tiny, encoder-decoder, {size}, a step of one image"
    against = "plain transformers + PEFT loop"
    kept = ours("grounding-dino-tiny", shape, ())
    return [
        Measurement(
            what, against, real / MB, theirs / MB, "MB", real / theirs, "<= 0.25", "tensors, both run for real"
        ),
        Measurement(f"{what}, nothing computed again", against, kept / MB, theirs / MB, "MB", kept / theirs),
        Measurement(
            what, against, mine / MB, process / MB, "MB", mine / process, "", "resident memory, each in its own process"
        ),
    ]


def predictions(seed: int) -> list[Measurement]:
    """Compare predicted and counted memory at random shapes, which the cost model was not fitted on."""
    rng = np.random.default_rng(seed)
    figures = []
    for base in known():
        sam = teacher_of(base) is TeacherName.SAM
        for bfloat16 in (False, True):
            preset = list(LoraPreset)[rng.integers(len(LoraPreset))]
            ladder = cost_of(base).ladder[preset]
            groups = ladder[rng.integers(len(ladder))]
            shape = Shape(
                images=int(rng.integers(1, 5)),
                size=(int(rng.integers(400, 801)), int(rng.integers(600, 1334))),
                tokens=int(rng.integers(8, 128)),
                objects=int(rng.integers(2, 26)),
            )
            counted = max(step(base, shape, preset=preset, groups=groups, bfloat16=bfloat16).moments)
            expected = expect(base, shape, groups, preset=preset, bfloat16=bfloat16)
            precision, again = "bfloat16" if bfloat16 else "float32", "+".join(groups) or "all kept"
            what = f"{base}, {preset}, {precision}, {again}, {_words(shape, sam)}"
            figures.append(
                Measurement(
                    what, "counted", expected / MB, counted / MB, "MB", expected / counted, "0.85 to 1.15", "predicted"
                )
            )
    return figures


def expect(base: str, shape: Shape, groups: tuple[str, ...], *, preset: str, bfloat16: bool) -> int:
    from step_memory import build

    settings = build(base, preset=preset, rank=shape.rank).settings  # type: ignore[attr-defined]
    area = count_positions(*shape.size)
    batch = BatchShape(positions=area, padded_positions=area, tokens=shape.tokens, objects=shape.objects)
    taken_for = base_of("", BASES[base]().to_dict())
    assert taken_for == base, f"{base} is identified as {taken_for}"
    one = estimate_step(base, settings, batch, micro_batch_size=shape.images, checkpointing=groups, bfloat16=bfloat16)
    assert one is not None, f"cost_model.json of its teacher lacks {base}: run benchmarks/write_cost_models.py"
    return one.memory_bytes


def _words(shape: Shape, sam: bool) -> str:
    if sam:
        return f"{shape.images} images, {shape.objects} objects"
    return f"{shape.images} images, {'x'.join(map(str, shape.size))}, {shape.tokens} tokens"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the predicted shapes")
    arguments = parser.parse_args()
    shape = Shape()
    if arguments.small:
        shape = replace(shape, size=(320, 480))
    report([*beside_plain(shape), *lora_and_full(Shape()), *predictions(arguments.seed)])


if __name__ == "__main__":
    main()
