"""Demonstrate faults of transformers' Grounding DINO: result of the library, of the engine, and the correct result.

    python benchmarks/library_faults.py

prints one table for the tiny base in this repository. Each row is a function that passes the same tensors, or the same
model, to the library and to the engine. ``tests/unit/teachers/test_library_faults.py`` checks that the engine is right
and the library is wrong in every row: remove a row when the library has fixed its fault.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoTokenizer, GroundingDinoForObjectDetection
from transformers.loss.loss_grounding_dino import GroundingDinoForObjectDetectionLoss

from engine.config import LoraSettings
from engine.dataset.types import Sample
from engine.models.lora import attach, merged, trainable_parameters
from engine.spec import LoraPreset
from engine.teachers.grounding_dino.layer_predictions import proposals, stack
from engine.teachers.grounding_dino.loss import Predictions, Targets, detection_losses
from engine.teachers.grounding_dino.model import GroundingDino
from engine.teachers.grounding_dino.prompts import PromptBook
from engine.teachers.grounding_dino.settings import GroundingDinoSettings

BASE = Path(__file__).resolve().parents[1] / "examples" / "tiny_teachers" / "grounding_dino"


@dataclass(frozen=True)
class Fault:
    """One row of the table: numbers or words to compare."""

    what: str
    library: float | str
    ours: float | str
    right: float | str


def own_tokens() -> Fault:
    """Count the objects with correct target tokens, in three images with captions of 1, 2 and 3 classes.

    The library offsets the classes of image i by the number of classes of image i, not of the images before it.
    """
    spans = torch.eye(12, dtype=torch.bool)[[1, 3, 5]]
    maps, classes = [spans[:1], spans[:2], spans], [0, 0, 1]
    right = torch.stack([m[c] for m, c in zip(maps, classes, strict=True)])[:, None]
    logits, boxes = torch.zeros(3, 1, 12, requires_grad=True), torch.full((3, 1, 4), 0.5)
    theirs = _library(logits, boxes, classes=[torch.tensor([c]) for c in classes], maps=maps, targets=list(boxes))
    (library,) = torch.autograd.grad(theirs["loss_ce"], logits)
    targets = [Targets(b, r) for b, r in zip(boxes, right, strict=True)]
    losses = detection_losses(
        Predictions(logits[None], boxes[None]), targets, text_mask=torch.ones(3, 12, dtype=torch.bool), count=3
    )
    (ours,) = torch.autograd.grad(losses.classification, logits)
    hits = [int(((gradient < 0) == right).all(-1).sum()) for gradient in (library, ours)]
    return Fault("captions of their own: objects of 3 that are taught their class", *hits, 3)


def period() -> Fault:
    """Decode the target tokens of class "cat" after a class with a period in its name."""
    return _stop("st. bernard", "a class after 'st. bernard': words that a cat is taught")


def question_mark() -> Fault:
    """Decode the target tokens of a class after one with a question mark in its name."""
    return _stop("what? object", "a class after 'what? object': words that a cat is taught")


def _stop(name: str, what: str) -> Fault:
    tokenizer, image = AutoTokenizer.from_pretrained(BASE), torch.rand(1, 3, 128, 128)
    model = GroundingDinoForObjectDetection.from_pretrained(BASE)
    ids = tokenizer(f"{name} . cat .", return_tensors="pt")["input_ids"]
    label = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]])}
    with _outputs(model.class_embed) as logits:
        loss = model(pixel_values=image, input_ids=ids, labels=[label]).loss_dict["loss_ce"]
    (gradient,) = torch.autograd.grad(loss, logits[-1])
    library = tokenizer.decode(ids[0][(gradient[0, :, : ids.shape[1]] < 0).any(0)])

    teacher = _teacher(name, "cat")
    batch = teacher.collate([teacher.example(_sample([[10, 10, 40, 40]], [1]), np.random.default_rng(0))])
    return Fault(what, library, tokenizer.decode(batch["input_ids"][0][batch["tokens"][0][0]]), "cat")


def proposal_boxes() -> Fault:
    """Compare the gradient of the proposals' box loss by their head with the finite difference, which is right."""
    model = GroundingDinoForObjectDetection.from_pretrained(BASE)
    return _slope(
        "proposals: slope of their box loss",
        model,
        model.model.encoder_output_bbox_embed.layers[-1].bias,
        library=lambda losses: 5 * losses["loss_bbox_enc"] + 2 * losses["loss_giou_enc"],
        ours=lambda losses: 5 * losses.l1 + 2 * losses.giou,
    )


def proposal_classes() -> Fault:
    """Compare the same for the class loss: the library uses the classes of the learned queries."""
    model = GroundingDinoForObjectDetection.from_pretrained(BASE)
    return _slope(
        "proposals: slope of their class loss",
        model,
        model.model.enc_output.bias,
        library=lambda losses: losses["loss_ce_enc"],
        ours=lambda losses: losses.classification,
    )


def _slope(
    what: str, model: Any, at: nn.Parameter, *, library: Callable[[Any], Tensor], ours: Callable[[Any], Tensor]
) -> Fault:
    torch.manual_seed(0)
    book = PromptBook.of(["circle", "square"], {}, tokenizer=AutoTokenizer.from_pretrained(BASE), limit=256)
    (prompt,) = book.chunks()
    ids, image = torch.tensor([prompt.input_ids]), torch.rand(1, 3, 128, 128)
    box, mask = torch.tensor([[0.4, 0.5, 0.3, 0.4]]), torch.ones_like(ids).bool()
    target = Targets(box, torch.from_numpy(prompt.token_map()[1:]))
    direction = torch.randn_like(at)

    def objective() -> Tensor:
        outputs = model(pixel_values=image, input_ids=ids)
        return ours(detection_losses(stack(proposals(outputs, mask)), [target], text_mask=mask, count=1))

    def slope(loss: Tensor) -> float:
        if not loss.requires_grad:
            return 0.0
        (gradient,) = torch.autograd.grad(loss, at, allow_unused=True)
        return 0.0 if gradient is None else float((gradient * direction).sum())

    theirs = model(pixel_values=image, input_ids=ids, labels=[{"class_labels": torch.tensor([1]), "boxes": box}])
    found, step, sides = slope(objective()), 1e-3, []
    with torch.no_grad():
        for sign in (1, -1):
            at += sign * step * direction
            sides.append(objective())
            at -= sign * step * direction
    return Fault(what, slope(library(theirs.loss_dict)), found, float(sides[0] - sides[1]) / (2 * step))


def processes() -> Fault:
    """Compare two processes with ten objects each, averaged as in DDP, with one process with all twenty objects.

    The library's sum over processes is a mean, which it divides by the number of processes again.
    """
    predicted, wanted, classes = torch.rand(2, 12, 4) * 0.4 + 0.2, torch.rand(2, 10, 4) * 0.4 + 0.2, torch.zeros(10)
    case = predicted, wanted, classes.long()
    alone = _box_loss(*case)
    shares = [tuple(part[i : i + 1] for part in case[:2]) + case[2:] for i in range(2)]
    library = sum(_together(shares)) / 2
    ours = sum(
        float(
            detection_losses(
                Predictions(torch.zeros(1, 1, 12, 1), boxes[None]),
                [Targets(objects[0], torch.ones(10, 1, dtype=torch.bool))],
                text_mask=torch.ones(1, 1, dtype=torch.bool),
                count=20,
            ).l1
        )
        for boxes, objects, _ in shares
    )
    return Fault("two processes: loss, as a share of that of one", library / alone, ours / alone, 1.0)


def _box_loss(predicted: Tensor, wanted: Tensor, classes: Tensor) -> float:
    logits, count = torch.zeros(*predicted.shape[:2], 1), len(predicted)
    theirs = _library(
        logits, predicted, classes=[classes] * count, maps=[torch.ones(1, 1)] * count, targets=list(wanted)
    )
    return float(theirs["loss_bbox"])


def _together(shares: Sequence[tuple[Tensor, ...]]) -> list[float]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fork, running = multiprocessing.get_context("fork"), []
    for rank, share in enumerate(shares):
        told, tell = multiprocessing.Pipe(duplex=False)
        process = fork.Process(target=_share, args=(tell, share, rank, len(shares), port))
        process.start()
        running.append((process, told))
    found = [float(told.recv()) if told.poll(60) else float("nan") for _, told in running]
    for process, _ in running:
        process.join(10)
    return found


def _share(tell: Connection, share: tuple[Tensor, ...], rank: int, count: int, port: int) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update(
        {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    )
    torch.set_num_threads(1)
    PartialState(cpu=True)
    tell.send(_box_loss(*share))
    torch.distributed.destroy_process_group()


def accumulation() -> Fault:
    """Compute the share of a single object in the step's loss: one batch has 1 object, the other 7.

    The prediction error of all objects is equal. The library divides each batch by its own number of objects.
    """
    boxes = [torch.full((n, 4), 0.3) + torch.arange(n)[:, None] * 0.02 for n in (1, 7)]
    seen = [b[None] + 0.001 for b in boxes]
    library, ours = [], []
    for predicted, wanted in zip(seen, boxes, strict=True):
        library.append(_box_loss(predicted, wanted[None], torch.zeros(len(wanted)).long()))
        ours.append(
            detection_losses(
                Predictions(torch.zeros(1, 1, len(wanted), 1), predicted[None]),
                [Targets(wanted, torch.ones(len(wanted), 1, dtype=torch.bool))],
                text_mask=torch.ones(1, 1, dtype=torch.bool),
                count=8,
            ).l1.item()
        )
    shares = [parts[0] / sum(parts) for parts in (library, ours)]
    return Fault("a step of batches with 1 and 7 objects: weight of the single one", *shares, 1 / 8)


def auxiliary() -> Fault:
    """Count the decoder layers that have a loss, with the library's defaults."""
    teacher = _teacher("circle", "square")
    batch = teacher.collate([teacher.example(_sample([[10, 10, 40, 40]], [1]), np.random.default_rng(0))])
    label = {"class_labels": torch.tensor([1]), "boxes": batch["boxes"][0]}
    texts = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    teacher.model.requires_grad_(True)
    counts = []
    for loss in (lambda: teacher.model(**texts, labels=[label]).loss, lambda: teacher.loss(batch, count=1)["loss"]):
        with _outputs(teacher.model.class_embed) as logits:
            gradients = torch.autograd.grad(loss(), logits, allow_unused=True)
        counts.append(sum(g is not None and bool(g[g.isfinite()].any()) for g in gradients))
    return Fault("decoder layers that are taught, of 2", *counts, len(teacher.model.class_embed))


def dropout() -> Fault:
    """Compare the base's dropout in training if its configuration has the library's default."""
    with TemporaryDirectory() as folder:
        shutil.copytree(BASE, folder, dirs_exist_ok=True)
        config = Path(folder, "config.json")
        config.write_text(json.dumps(json.loads(config.read_text()) | {"dropout": 0.1}))
        library = GroundingDinoForObjectDetection.from_pretrained(folder).config.dropout
        ours: Any = _teacher("circle", folder=Path(folder)).model
    return Fault("dropout of a base from the hub, in training", library, ours.config.dropout, 0.0)


def wrapping() -> Fault:
    """Wrap the model with PEFT."""
    model = GroundingDinoForObjectDetection.from_pretrained(BASE)
    try:
        get_peft_model(model, LoraConfig(target_modules=["query"]))
        library = "an adapter"
    except NotImplementedError as error:
        library = type(error).__name__
    teacher = _teacher("circle")
    attach(teacher, LoraSettings(preset=LoraPreset.ALL, rank=4, alpha=8, dropout=0))
    return Fault(
        "result of wrapping the model with PEFT",
        library,
        "an adapter" if trainable_parameters(teacher) else "",
        "an adapter",
    )


def merging() -> Fault:
    """Measure the change of logits by merging an adapter of all linear layers; box heads share one module."""
    inputs = {"pixel_values": torch.rand(1, 3, 128, 128), "input_ids": torch.tensor([[101, 200, 1012, 102]])}
    library = _teacher("circle")
    with warnings.catch_warnings(action="ignore"):  # peft uses a deprecated name of transformers
        library.model = get_peft_model(library.model, LoraConfig(r=4, target_modules="all-linear"))
    ours = _teacher("circle")
    attach(ours, LoraSettings(preset=LoraPreset.ALL, rank=4, alpha=8, dropout=0))
    moved = []
    for teacher in (library, ours):
        torch.manual_seed(0)
        for name, parameter in teacher.model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.05)
        with torch.no_grad():
            applied, alone = (m(**inputs).logits[..., :4] for m in (teacher.model.eval(), merged(teacher).eval()))
        moved.append(float((applied - alone).abs().max()))
    return Fault("largest change of a logit when an adapter is merged", *moved, 0.0)


def long_captions() -> Fault:
    """Decode the target tokens of the last of 100 classes of three tokens each; the model's limit is 256 tokens."""
    names = [f"{color} {letter}" for letter in "abcdefghij" for color in ("red", "green", "blue", "pink", "gray")]
    names += [f"dark {name}" for name in names]
    teacher = _teacher(*names)
    image, label = torch.rand(1, 3, 128, 128), {"class_labels": torch.tensor([99]), "boxes": torch.full((1, 4), 0.5)}
    ids = AutoTokenizer.from_pretrained(BASE)(" . ".join(names) + " .", return_tensors="pt")["input_ids"]
    try:
        library = f"{teacher.model(pixel_values=image, input_ids=ids, labels=[label]).loss:.1f}"
    except (RuntimeError, IndexError) as error:
        library = type(error).__name__
    batch = teacher.collate([teacher.example(_sample([[10, 10, 40, 40]], [99]), np.random.default_rng(0))])
    taught = batch["input_ids"][0][batch["tokens"][0][0]]
    found = AutoTokenizer.from_pretrained(BASE).decode(taught)
    return Fault("the hundredth of 100 classes: words that it is taught", library, found, "dark gray j")


FAULTS: tuple[Callable[[], Fault], ...] = (
    own_tokens,
    period,
    question_mark,
    proposal_boxes,
    proposal_classes,
    processes,
    accumulation,
    auxiliary,
    dropout,
    wrapping,
    merging,
    long_captions,
)


def _library(
    logits: Tensor, boxes: Tensor, *, classes: Sequence[Tensor], maps: Sequence[Tensor], targets: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Compute the library's losses of one layer from logits (B, Q, T) and boxes (B, Q, 4)."""
    config = GroundingDinoForObjectDetection.config_class(two_stage=False)
    losses: dict[str, Tensor]
    _, losses, _ = GroundingDinoForObjectDetectionLoss(
        logits,
        [{"class_labels": c, "boxes": b} for c, b in zip(classes, targets, strict=True)],
        logits.device,
        boxes,
        config,
        tuple(maps),
        torch.ones_like(logits, dtype=torch.bool),
    )
    return losses


@contextmanager
def _outputs(modules: nn.ModuleList) -> Iterator[list[Tensor]]:
    """Collect the outputs of these modules inside the block, in order; a shared module is hooked once."""
    kept: list[Tensor] = []
    hooks = [m.register_forward_hook(lambda _, __, output: kept.append(output)) for m in dict.fromkeys(modules)]
    yield kept
    for hook in hooks:
        hook.remove()


def _teacher(*classes: str, folder: Path = BASE) -> GroundingDino:
    weights: dict[str, Any] = {"classification_weight": 2, "l1_weight": 5, "giou_weight": 2, "max_detections": 100}
    settings = GroundingDinoSettings.model_construct(**weights)
    return GroundingDino.load(folder, classes=classes, prompts={}, settings=settings)


def _sample(boxes: Sequence[Sequence[float]], classes: Sequence[int]) -> Sample:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return Sample.of(image, boxes, classes)


def main() -> None:
    print(f"| {'fault':66} | {'library':20} | {'ours':20} | {'right':20} |\n|{'-' * 68}|{('-' * 22 + '|') * 3}")
    for fault in FAULTS:
        torch.manual_seed(0)
        row = fault()
        cells = [f"{c:.4g}" if isinstance(c, float) else str(c) for c in (row.library, row.ours, row.right)]
        print(f"| {row.what:66} | " + " | ".join(f"{cell:20}" for cell in cells) + " |")


if __name__ == "__main__":
    main()
