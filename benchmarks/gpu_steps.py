"""Measure a training step of each teacher on a GPU: time and memory, next to a plain loop and to the prediction.

    python benchmarks/gpu_steps.py                                       # published sizes, needs a GPU
    python benchmarks/gpu_steps.py --bases shipped-sam --size 64x64      # small, also on a CPU

Weights are random, so nothing is downloaded. Ours is the trainer's step with LoRA (preset encoder-decoder, rank 16).
The plain loop follows the documentation of transformers and PEFT on the same layers and batch: the model in training
mode, the library's loss (its SAM has none: binary cross entropy + dice of one mask per box), AdamW. Both compute in
bfloat16. The memory is the peak of allocated memory of the device, on a CPU of counted tensors. A base that this
version does not have, or that fails, is named and left out.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import peft
import torch
import torch.nn.functional as F
from measurements import Measurement, report
from memory import expect
from random_teachers import scene
from step_memory import BASES, Shape, build
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForZeroShotObjectDetection

from engine.dataset.images.preprocessing import ShortestEdgeTransform
from engine.models.base import Batch, Teacher, to_device
from engine.models.lora import set_training, trainable_parameters
from engine.spec import LoraPreset, Precision
from engine.training.device import autocast, choose_device
from engine.training.micro_batch import TensorBytes
from engine.training.optimizer import apply_gradients, build_optimizer, gradients

PUBLISHED = ("grounding-dino-tiny", "mm-grounding-dino-tiny", "sam-vit-base", "sam2.1-hiera-base-plus")
PRESET = LoraPreset.ENCODER_DECODER
MB = 1e6


def batch_of(teacher: Teacher, *, images: int, objects: int, size: tuple[int, int]) -> Batch:
    """Return a batch of noise with random objects; a teacher of boxes sees images of exactly ``size``."""
    if hasattr(teacher, "book"):
        teacher.transform = ShortestEdgeTransform(min(size), max(size))  # type: ignore[attr-defined]
    samples = [scene(seed, objects=objects, height=size[0], width=size[1]) for seed in range(images)]
    for sample in samples:
        sample.class_indices[:] = 0  # a step's cost does not depend on the class
    return teacher.collate([teacher.example(sample, np.random.default_rng(0)) for sample in samples])


Step = tuple[Callable[[], None], nn.Module]
"""A training step, and its model."""


def our_step(teacher: Teacher, batch: Batch, device: torch.device) -> Step:
    """Return the trainer's step."""
    settings: Any = teacher.settings  # type: ignore[attr-defined]
    optimizer = build_optimizer(trainable_parameters(teacher), settings)
    set_training(teacher, True)

    def step() -> None:
        losses = gradients(teacher, [batch], autocast(device, Precision.BFLOAT16))
        apply_gradients(optimizer, learning_rate=1e-4, clip_norm=0.1, losses=losses)

    return step, teacher.model


def plain_step(base: str, teacher: Teacher, batch: Batch, device: torch.device) -> Step:
    """Return a step as documented by the libraries, on the layers that ``teacher`` adapts."""
    config = BASES[base]()
    targets = teacher.lora_targets(teacher.settings.lora).target_modules  # type: ignore[attr-defined]
    lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules=targets)
    batch = to_device(batch, device)
    if teacher.needs_masks:
        model = AutoModel.from_config(config)
        loss = mask_loss
    else:
        model = AutoModelForZeroShotObjectDetection.from_config(config)
        model.model.get_input_embeddings = model.model.text_backbone.get_input_embeddings  # PEFT fails without
        loss = detection_loss
    model = peft.get_peft_model(model, lora).to(device).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            value = loss(model, batch)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step, model


def detection_loss(model: Any, batch: Batch) -> Tensor:
    """Compute the library's own loss; all objects are of the only class."""
    labels = [
        {"class_labels": torch.zeros(len(boxes), dtype=torch.long, device=boxes.device), "boxes": boxes}
        for boxes in batch["boxes"]
    ]
    names = ("pixel_values", "pixel_mask", "input_ids", "attention_mask")
    loss: Tensor = model(**{name: batch[name] for name in names}, labels=labels).loss
    return loss


def mask_loss(model: Any, batch: Batch) -> Tensor:
    """Compute binary cross entropy + dice of one mask per box, as tutorials for transformers' SAM do."""
    images = len(batch["pixel_values"])
    boxes = batch["boxes"].view(images, -1, 4)
    logits = model(pixel_values=batch["pixel_values"], input_boxes=boxes, multimask_output=False).pred_masks
    logits = logits.flatten(0, 1)[:, 0].float()
    masks = (batch["masks"] >= 0.5).float()
    overlap = (logits.sigmoid() * masks).sum((-2, -1))
    dice = 1 - (2 * overlap + 1) / (logits.sigmoid().sum((-2, -1)) + masks.sum((-2, -1)) + 1)
    return F.binary_cross_entropy_with_logits(logits, masks) + dice.mean()


@contextmanager
def peak_bytes(device: torch.device, model: nn.Module) -> Iterator[Callable[[], int]]:
    """Measure the peak memory inside the block: of the device, or of tensors on a CPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device)
        return
    with TensorBytes([*model.parameters(), *model.buffers()]) as held:
        yield lambda: held.peak


def median_seconds(step: Callable[[], None], device: torch.device, repeats: int) -> float:
    """Measure the median duration of a step that has run before."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def measure(make: Callable[[], Step], device: torch.device, repeats: int) -> tuple[float, int]:
    """Return seconds and peak bytes of a step, of which nothing is left on the device afterwards."""
    step, model = make()
    with peak_bytes(device, model) as peak:
        step()  # the first one compiles kernels and creates the optimizer's state
        step()
        held = peak()
    seconds = median_seconds(step, device, repeats)
    model.cpu()
    del step, model
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return seconds, held


def measurements(base: str, arguments: argparse.Namespace, device: torch.device) -> Iterator[Measurement]:
    """Yield the measurements of one base."""
    height, width = map(int, arguments.size.split("x"))
    shape = Shape(images=arguments.images, size=(height, width), objects=arguments.objects)
    teacher = build(base, preset=PRESET.value, fake=False)
    batch = batch_of(teacher, images=shape.images, objects=shape.objects, size=shape.size)
    if "points" in batch:  # the plain loop has boxes only
        batch["by_point"] = torch.zeros_like(batch["by_point"])
    teacher.model.to(device)
    ours, held = measure(lambda: our_step(teacher, batch, device), device, arguments.repeats)
    theirs, kept = measure(lambda: plain_step(base, teacher, batch, device), device, arguments.repeats)
    what = f"{base}, encoder-decoder, bfloat16, {shape.images} images, step"
    against = "transformers + PEFT loop"
    speed = f"{shape.images / ours:.2f} images/s"
    yield Measurement(what, against, ours, theirs, "s", theirs / ours, ">= 1", speed)
    yield Measurement(f"{what}, memory", against, held / MB, kept / MB, "MB", held / kept, "<= 1")
    tokens = batch["input_ids"].shape[1] if "input_ids" in batch else shape.tokens
    shape = Shape(images=shape.images, size=shape.size, objects=shape.objects, tokens=tokens)
    try:
        expected = expect(base, shape, (), preset=PRESET, bfloat16=True)
    except AssertionError as error:
        print(f"{base}: no predicted memory: {error}", flush=True)
        return
    yield Measurement(
        f"{what}, predicted memory", "held", expected / MB, held / MB, "MB", expected / held, "0.85 to 1.15"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="+", default=list(PUBLISHED), metavar="BASE")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--objects", type=int, default=10, help="objects per image")
    parser.add_argument("--size", default="800x1333", help="height x width of the images; SAM scales them itself")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    device, failed = choose_device(), False
    for base in arguments.bases:
        if base not in BASES:
            print(f"{base}: skipped: benchmarks/step_memory.py has no configuration of it", flush=True)
            continue
        torch.manual_seed(0)
        try:
            report(list(measurements(base, arguments, device)))
        except Exception as error:  # noqa: BLE001 - the other bases are still measured
            print(f"{base}: failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            failed = True
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
