"""Train the tiny Grounding DINO from scratch on drawn shapes, and save it for the demo and the tests.

    python examples/tiny_teachers/train_grounding_dino.py    # about forty minutes on one core

The architecture is Grounding DINO's, about a hundredth as wide. Each batch has different prompts: shapes, colours,
coloured shapes or any object, so that detections depend on the prompt.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from paint import COLORS
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scenes import SYNONYMS, Object, draw_scene
from tokenizer import tiny_tokenizer
from torch import nn
from transformers import BertConfig, BertTokenizer, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

from engine.config import LoraSettings
from engine.dataset.images.preprocessing import ShortestEdgeTransform
from engine.dataset.types import Sample
from engine.models.base import Batch
from engine.spec import LoraPreset
from engine.teachers.grounding_dino.model import GroundingDino
from engine.teachers.grounding_dino.prompts import PromptBook
from engine.teachers.grounding_dino.settings import GroundingDinoSettings

FOLDER = Path(__file__).parent / "grounding_dino"
SEED = 0
BATCH_SIZE = 8
LEARNING_RATE = 1e-3
WARMUP_STEPS = 200
CLIP_NORM = 0.5


@dataclass(frozen=True)
class Stage:
    """Training stage: shortest edge in pixels, minimum object size as a share of it, most objects, colour prompts."""

    edge: int
    steps: int
    smallest: float
    most: int = 15
    colors: bool = True


COURSES = (
    (Stage(96, 1500, 0.15), Stage(128, 200, 0.1), Stage(192, 250, 0.06)),
    (Stage(96, 2100, 0.22, most=6, colors=False), Stage(160, 220, 0.12, most=6, colors=False)),
    (Stage(128, 520, 0.15, most=6, colors=False),),
)
"""Each course has its own warm-up and decay of the learning rate. The first course trains localization, with all kinds
of prompts; the others train names, in simple scenes. Small images come first: a step takes a quarter of the time. The
last size is the size used for inference."""

CAPTION_TOKENS = 48
"""Captions shorter than the model's maximum make training faster."""


def tiny_model(vocabulary: int) -> GroundingDinoForObjectDetection:
    """Build a model with about a million parameters, and weights from torch's global generator."""
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            embed_dim=24, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], window_size=8, out_indices=[2, 3, 4]
        ),
        text_config=BertConfig(
            vocab_size=vocabulary,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=256,
        ),
        d_model=64,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_queries=100,
        dropout=0.0,
        fusion_droppath=0.0,
    )
    model = GroundingDinoForObjectDetection(config)
    initialize(model)
    return model


@torch.no_grad()
def initialize(model: GroundingDinoForObjectDetection) -> None:
    """Initialize weights as DETR and Grounding DINO do; the library's initialization is not meant for training."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and not name.endswith(("sampling_offsets", "attention_weights")):
            nn.init.xavier_uniform_(module.weight)
    nn.init.normal_(model.model.query_position_embeddings.weight)
    for head in (*model.bbox_embed, model.model.encoder_output_bbox_embed):
        nn.init.zeros_(head.layers[-1].weight)
    for layer in model.model.encoder.layers:  # couple text and image features from the start
        nn.init.constant_(layer.fusion_layer.text_param, 0.1)
        nn.init.constant_(layer.fusion_layer.vision_param, 0.1)
    # Otherwise the first logits are products of two vectors of norm 8, and dominate the loss.
    nn.init.constant_(model.model.enc_output_norm.weight, 0.2)
    nn.init.constant_(model.model.decoder.layer_norm.weight, 0.2)


def words_for(
    rng: np.random.Generator, scenes: Sequence[list[Object]], *, plain: bool
) -> tuple[list[str], list[list[int]]]:
    """Choose the prompts of a batch: class names, and each object's class per scene; ``plain`` excludes synonyms."""
    colored = all(thing.color for things in scenes for thing in things)
    shares = [0.9, 0, 0, 0.1] if plain else [0.3, 0.2, 0.3, 0.2] if colored else [0.7, 0, 0, 0.3]
    way = rng.choice(["shape", "color", "both", "any"], p=shares)
    rare = 0.0 if plain else 0.15
    said = {name: str(rng.choice(others)) if rng.random() < rare else name for name, others in SYNONYMS.items()}
    if way == "any":
        return [str(rng.choice(["object", "thing", "shape"]))], [[0] * len(things) for things in scenes]
    if way == "shape":
        names = list(said.values())
        of = {name: i for i, name in enumerate(said)}
        labels = [[of[thing.name] for thing in things] for things in scenes]
    elif way == "color":
        names = list(COLORS)
        labels = [[names.index(str(thing.color)) for thing in things] for things in scenes]
    else:
        names = [f"{color} {shape}" for color in COLORS for shape in said.values()]
        of = {(color, shape): i for i, (color, shape) in enumerate((c, s) for c in COLORS for s in said)}
        labels = [[of[str(thing.color), thing.name] for thing in things] for things in scenes]
    order = rng.permutation(len(names))
    rank = np.argsort(order)
    return [names[i] for i in order], [[int(rank[i]) for i in row] for row in labels]


def sample_of(image: np.ndarray, things: list[Object], labels: list[int]) -> Sample:
    return Sample.of(image, [thing.box_xyxy for thing in things], labels)


def batch_of(rng: np.random.Generator, teacher: GroundingDino, tokenizer: BertTokenizer, stage: Stage) -> Batch:
    """Draw one batch of new scenes and set the teacher's prompts for it."""
    edge = stage.edge
    size = (edge, int(edge * rng.choice([1, 4 / 3])))
    colored = stage.colors and bool(rng.random() < 0.6)  # words for colours need scenes in colour
    dense = None if stage is COURSES[0][-1] else False
    drawn = [
        draw_scene(rng, size, dense=dense, colored=colored, smallest=stage.smallest, most=stage.most)
        for _ in range(BATCH_SIZE)
    ]
    names, labels = words_for(rng, [things for _, things in drawn], plain=not stage.colors)
    teacher.book = PromptBook.of(names, {}, tokenizer=tokenizer, limit=CAPTION_TOKENS)
    teacher.classes = tuple(names)
    teacher.transform = ShortestEdgeTransform(shortest_edge=edge, longest_edge=2 * edge)
    samples = [sample_of(*scene, row) for scene, row in zip(drawn, labels, strict=True)]
    return teacher.collate([teacher.example(sample, rng) for sample in samples])


def learn(teacher: GroundingDino, tokenizer: BertTokenizer, stages: list[Stage], rng: np.random.Generator) -> None:
    """Train one course, with one step for each entry of ``stages``."""
    model = teacher.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / WARMUP_STEPS, 0.5 * (1 + math.cos(math.pi * step / len(stages)))),
    )
    recent: list[list[float]] = []
    model.train()
    for step, stage in enumerate(stages, start=1):
        batch = batch_of(rng, teacher, tokenizer, stage)
        losses = teacher.loss(batch, count=max(teacher.count(batch), 1))
        optimizer.zero_grad()
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        schedule.step()
        recent.append([loss.item() for loss in losses.values()])
        if step % 100 == 0 or step == len(stages):
            means = dict(zip(losses, np.mean(recent, axis=0).round(2).tolist(), strict=True))
            print(f"{step}/{len(stages)} {stage.edge}px {means}", flush=True)
            recent = []


def evaluate(teacher: GroundingDino, samples: list[Sample]) -> tuple[float, float]:
    """Compute AP and AP50 of the teacher's classes."""
    boxes = [(i, b, c) for i, s in enumerate(samples) for b, c in zip(s.boxes_xyxy, s.class_indices, strict=True)]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i} for i in range(len(samples))],
        "categories": [{"id": i} for i in range(len(teacher.classes))],
        "annotations": [
            {"id": n, "image_id": i, "category_id": int(c), "iscrowd": 0, **_box(b)}
            for n, (i, b, c) in enumerate(boxes, start=1)
        ],
    }
    truth.createIndex()
    found = [
        {"image_id": i, "category_id": int(c), "score": float(s), "bbox": _box(b)["bbox"]}
        for start in range(0, len(samples), BATCH_SIZE)
        for i, d in enumerate(teacher.predict(samples[start : start + BATCH_SIZE]), start=start)
        for b, s, c in zip(d.boxes_xyxy, d.scores, d.class_indices, strict=True)
    ]
    measured = COCOeval(truth, truth.loadRes(found), "bbox")
    measured.evaluate()
    measured.accumulate()
    measured.summarize()
    return float(measured.stats[0]), float(measured.stats[1])


def _box(box: np.ndarray) -> dict:
    left, top, right, bottom = (float(v) for v in box)
    return {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=FOLDER)
    parser.add_argument("--share", type=float, default=1.0, help="share of the steps, for a trial")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)

    tokenizer = tiny_tokenizer()
    model = tiny_model(len(tokenizer))
    settings = GroundingDinoSettings(
        base_model=str(options.output),
        revision=None,
        lora=LoraSettings(preset=LoraPreset.ALL, rank=1, alpha=1, dropout=0),
        epochs=1,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        weight_decay=1e-4,
        warmup_fraction=0,
        schedule="cosine",
        clip_norm=CLIP_NORM,
        evaluations=1,
        classification_weight=2,
        l1_weight=5,
        giou_weight=2,
        max_detections=100,
    )
    teacher = GroundingDino(
        model, tokenizer, classes=list(SYNONYMS), prompts={}, settings=settings, transform=ShortestEdgeTransform()
    )
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")

    begin = time.monotonic()
    for course in COURSES:
        learn(teacher, tokenizer, [stage for stage in course for _ in range(int(stage.steps * options.share))], rng)
    print(f"{time.monotonic() - begin:.0f} s")

    model.eval()
    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    edge = COURSES[-1][-1].edge
    size = {"shortest_edge": edge, "longest_edge": edge * 4 // 3}
    (options.output / "preprocessor_config.json").write_text(json.dumps({"size": size}, indent=2) + "\n")

    rng = np.random.default_rng(SEED + 1)  # scenes not used in training
    drawn = [draw_scene(rng, (edge, edge * 4 // 3), dense=False, smallest=0.12, most=6) for _ in range(200)]
    names = list(SYNONYMS)
    samples = [sample_of(image, things, [names.index(thing.name) for thing in things]) for image, things in drawn]
    saved = GroundingDino.load(options.output, classes=names, prompts={}, settings=settings)
    begin = time.monotonic()
    ap, ap50 = evaluate(saved, samples)
    print(f"shapes: AP {ap:.3f} AP50 {ap50:.3f}, {(time.monotonic() - begin) / len(samples) * 1000:.0f} ms an image")


if __name__ == "__main__":
    main()
