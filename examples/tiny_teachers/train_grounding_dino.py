"""Train the tiny Grounding DINO from nothing on drawn scenes: about 85 minutes on two cores, one of which draws.

    python examples/tiny_teachers/train_grounding_dino.py    # writes examples/tiny_teachers/grounding_dino/
    python examples/tiny_teachers/train_grounding_dino.py --steps 50 --output out    # a quick test

The architecture is Grounding DINO's, a sixtieth as large. Every batch has another prompt: kinds, colours, coloured
kinds, any object, or nouns without a meaning, so that detections depend on the prompt and new words are learned easily.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from backbone_training import train_backbone
from denoising import denoising_losses, recorded_inputs
from dense import dense_losses
from drawings import BACKBONE_PLAN, BATCH_SIZE, DETECTOR_PLAN, Plan, Scene, batches
from kinds import SYNONYMS
from model_card import write_card
from prompts import Asked, ask
from scenes import Object, draw_scene
from scoring import average_precision
from tiny_grounding_dino import freeze_text, tiny_model
from tokenizer import tiny_tokenizer
from torch import Tensor, nn

from engine.config import LoraSettings
from engine.dataset.images.preprocessing import ShortestEdgeTransform
from engine.dataset.types import Sample
from engine.models.base import Batch
from engine.spec import LoraPreset
from engine.teachers.grounding_dino.layer_predictions import decoder_layers, proposals, recorded_shifts, stack
from engine.teachers.grounding_dino.loss import Targets, detection_losses
from engine.teachers.grounding_dino.model import GroundingDino
from engine.teachers.grounding_dino.prompts import Prompt, PromptBook
from engine.teachers.grounding_dino.settings import GroundingDinoSettings

FOLDER = Path(__file__).parent / "grounding_dino"
LEARNING_RATE = 1e-3
WARMUP_STEPS = 150
WEIGHT_DECAY = 1e-3
CLIP_NORM = 1.0
EMA_DECAY = 0.995
DENSE_SHARE = 0.6
"""Share of the steps in which many positions of the encoder learn each object, before only the best one does. The rest
must be long: only then does the detector learn to find each object once."""

BACKBONE_SHARE = 0.2
"""Share of the time limit for the backbone's own training."""

REPORTED = ("loss", "class", "l1", "giou", "dense", "noise")

CAPTION_TOKENS = 96
"""Captions shorter than the model's maximum make training faster."""

SETTINGS = GroundingDinoSettings(
    base_model="tiny",
    revision=None,
    lora=LoraSettings(preset=LoraPreset.ALL, rank=1, alpha=1, dropout=0),  # not used: everything is trained
    epochs=1,
    batch_size=BATCH_SIZE,
    learning_rate=LEARNING_RATE,
    weight_decay=WEIGHT_DECAY,
    warmup_fraction=0,
    schedule="cosine",
    clip_norm=CLIP_NORM,
    evaluations=1,
    classification_weight=2,
    l1_weight=5,
    giou_weight=2,
    max_detections=100,
    nms=0.7,
)


def collate(teacher: GroundingDino, scenes: list[Scene], asked: Asked, rng: np.random.Generator) -> Batch:
    """Build one batch and set the teacher's prompts for it."""
    teacher.book = PromptBook.of(
        asked.phrases, {}, tokenizer=teacher.tokenizer, limit=teacher.model.config.max_text_len
    )
    teacher.classes = tuple(asked.phrases)
    edge = scenes[0][0].shape[0]
    teacher.transform = ShortestEdgeTransform(shortest_edge=edge, longest_edge=2 * edge)
    samples = [sample_of(image, things, row) for (image, things), row in zip(scenes, asked.labels, strict=True)]
    return teacher.collate([teacher.example(sample, rng) for sample in samples])


def sample_of(image: np.ndarray, things: list[Object], labels: Sequence[int | None]) -> Sample:
    """Convert a scene to a sample with the objects that have a label."""
    kept = [(thing.box_xyxy, label) for thing, label in zip(things, labels, strict=True) if label is not None]
    return Sample.of(image, [box for box, _ in kept], [label for _, label in kept])


def losses_of(teacher: GroundingDino, batch: Batch, *, dense: bool) -> dict[str, Tensor]:
    """Compute the product's objective; with ``dense`` many positions of the encoder learn each object."""
    text_mask = batch["attention_mask"].bool()
    names = ("boxes", "tokens", "crowd_boxes", "crowd_tokens")
    targets = [Targets(*one) for one in zip(*(batch[name] for name in names), strict=True)]
    model = teacher.model
    with recorded_inputs(model) as inputs, recorded_shifts(model) as shifts:
        outputs = model(**{n: batch[n] for n in ("pixel_values", "pixel_mask", "input_ids", "attention_mask")})
    layers = list(decoder_layers(model, outputs, text_mask, shifts))
    layers += [] if dense else list(proposals(outputs, text_mask))
    count = max(teacher.count(batch), 1)
    found = detection_losses(stack(layers), targets, text_mask=text_mask, count=count)
    total = (
        SETTINGS.classification_weight * found.classification
        + SETTINGS.l1_weight * found.l1
        + SETTINGS.giou_weight * found.giou
    )
    parts = {"class": found.classification, "l1": found.l1, "giou": found.giou}
    weights = (SETTINGS.classification_weight, SETTINGS.l1_weight, SETTINGS.giou_weight)
    if dense:
        spans = spans_of(teacher, text_mask.shape[1])
        parts["noise"] = denoising_losses(model, inputs, targets, text_mask=text_mask, spans=spans, weights=weights)
        parts["dense"] = dense_losses(
            outputs.enc_outputs_class[..., : text_mask.shape[1]],
            outputs.enc_outputs_coord_logits.sigmoid(),
            targets,
            text_mask=text_mask,
            spans=spans,
            size=tuple(batch["pixel_values"].shape[-2:]),
        )
        total = total + parts["dense"] + parts["noise"]
    return {"loss": total, **parts}


def spans_of(teacher: GroundingDino, length: int) -> Tensor:
    """Return (P, length) bool, the tokens of each phrase of the caption."""
    spans = torch.from_numpy(Prompt(teacher.book.phrases).token_map())
    return nn.functional.pad(spans, (0, length - spans.shape[1]))


def learn(teacher: GroundingDino, plan: Plan, *, seed: int, minutes: float, snapshot: Path | None) -> None:
    """Train; the model ends with the moving average of its weights. A busy machine takes fewer steps in the time."""
    model = teacher.model
    freeze_text(model)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for _, p in trained if p.ndim > 1]
    rest = [p for _, p in trained if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}], lr=LEARNING_RATE
    )
    average = copy.deepcopy(model.state_dict())
    recent: list[list[float]] = []
    begin = time.monotonic()
    clock = multiprocessing.Value("d", 0.0)
    model.train()
    for step, scenes in zip(range(plan.steps), batches(plan, seed, clock), strict=False):
        clock.value = (time.monotonic() - begin) / (60 * minutes)
        progress = max(step / plan.steps, clock.value)
        if progress >= 1:
            break
        rng = np.random.default_rng((seed, 1, step))
        asked = ask(rng, [things for _, things in scenes], limit=CAPTION_TOKENS)
        batch = collate(teacher, scenes, asked, rng)
        losses = losses_of(teacher, batch, dense=progress < DENSE_SHARE)
        optimizer.zero_grad()
        losses["loss"].backward()
        nn.utils.clip_grad_norm_([p for _, p in trained], CLIP_NORM)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min((step + 1) / WARMUP_STEPS, 0.5 * (1 + math.cos(math.pi * progress)))
        optimizer.step()
        decay = min(EMA_DECAY, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if value.is_floating_point():
                    average[name].lerp_(value, 1 - decay)
        recent.append([losses[name].item() if name in losses else 0 for name in REPORTED])
        if (step + 1) % 50 == 0:
            means = dict(zip(REPORTED, np.mean(recent, axis=0).round(2).tolist(), strict=True))
            seconds = time.monotonic() - begin
            print(f"{step + 1} ({progress:.0%}) {scenes[0][0].shape[0]}px {means} {seconds:.0f} s", flush=True)
            recent = []
        if snapshot and (step + 1) % 200 == 0:
            torch.save(average, snapshot)
    model.load_state_dict(average)


def save(teacher: GroundingDino, folder: Path, edge: int) -> None:
    """Write weights in 16 bit (they are loaded in 32 bit), tokenizer and the image size."""
    halves: dict[int, Tensor] = {}  # tensors with several names are stored once
    values = teacher.model.state_dict()
    weights = {name: halves.setdefault(value.data_ptr(), value.half()) for name, value in values.items()}
    teacher.model.eval().save_pretrained(folder, state_dict=weights)
    teacher.tokenizer.save_pretrained(folder)
    size = {"shortest_edge": edge, "longest_edge": edge * 4 // 3}
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": size}, indent=2) + "\n")


def measure(
    folder: Path, edge: int, *, seed: int, scenes: int = 200, kind: type[GroundingDino] = GroundingDino
) -> dict[str, float]:
    """Compute AP and AP50 on scenes that were not used in training, of all kinds and with one class for all."""
    rng = np.random.default_rng((seed, 2))
    drawn = [draw_scene(rng, (edge, edge * 4 // 3)) for _ in range(scenes)]
    names = list(SYNONYMS)
    result = {}
    for title, classes in (("kinds", names), ("object", ["object"])):
        teacher = kind.load(folder, classes=classes, prompts={}, settings=SETTINGS)
        labels = [[None if o.name not in names else names.index(o.name) for o in things] for _, things in drawn]
        if title == "object":
            labels = [[0] * len(things) for _, things in drawn]
        samples = [sample_of(image, things, row) for (image, things), row in zip(drawn, labels, strict=True)]
        result[f"{title} AP"], result[f"{title} AP50"] = average_precision(teacher, samples, BATCH_SIZE)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FOLDER)
    parser.add_argument(
        "--steps", type=int, default=DETECTOR_PLAN.steps, help="steps of the detector; the backbone's follow"
    )
    parser.add_argument("--minutes", type=float, default=90.0, help="end after this time, with fewer steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=200, help="held-out scenes to evaluate on")
    parser.add_argument("--snapshot", type=Path, help="file for the average weights, written every 200 steps")
    options = parser.parse_args()

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(options.seed)
    tokenizer = tiny_tokenizer()
    model = tiny_model(len(tokenizer))
    teacher = GroundingDino(
        model, tokenizer, classes=list(SYNONYMS), prompts={}, settings=SETTINGS, transform=ShortestEdgeTransform()
    )
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    share = options.steps / DETECTOR_PLAN.steps
    begin = time.monotonic()
    backbone = model.model.backbone.conv_encoder.model
    train_backbone(backbone, BACKBONE_PLAN.of(share), seed=options.seed + 1, minutes=options.minutes * BACKBONE_SHARE)
    left = options.minutes - (time.monotonic() - begin) / 60
    learn(teacher, DETECTOR_PLAN.of(share), seed=options.seed, minutes=left, snapshot=options.snapshot)
    minutes = (time.monotonic() - begin) / 60
    edge = DETECTOR_PLAN.stages[-1].edge
    save(teacher, options.output, edge)
    figures = measure(options.output, edge, seed=options.seed, scenes=options.scenes)
    for name, value in figures.items():
        print(f"held-out scenes, {name}: {value:.3f}")
    write_card(
        options.output,
        title="Tiny Grounding DINO",
        script=Path(__file__),
        seed=options.seed,
        steps=options.steps,
        minutes=minutes,
        scenes=options.scenes,
        prompt=f"the names of all {len(SYNONYMS)} kinds, or with one name for all objects",
        figures=figures,
    )


if __name__ == "__main__":
    main()
