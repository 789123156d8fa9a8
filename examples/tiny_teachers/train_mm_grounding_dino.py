"""Make the tiny MM-Grounding-DINO from the tiny Grounding DINO, and train it on with heads of its own in each layer.

    python examples/tiny_teachers/train_mm_grounding_dino.py    # some minutes; writes mm_grounding_dino/
    python examples/tiny_teachers/train_mm_grounding_dino.py --steps 5 --scenes 5 --output out    # a quick test

The copied model predicts the same as its source: logits of MM-Grounding-DINO are divided by the square root of the
number of channels, so the last layer of its text features is multiplied by it. Then the heads of its decoder
layers, which Grounding DINO shares, are trained apart, with all other weights except the text encoder.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from drawings import DETECTOR_PLAN, Plan, batches
from kinds import SYNONYMS
from model_card import write_card
from prompts import ask
from torch import nn
from train_grounding_dino import CAPTION_TOKENS, CLIP_NORM, FOLDER, SETTINGS, WEIGHT_DECAY, collate, losses_of, save
from train_grounding_dino import measure as measured
from transformers import GroundingDinoForObjectDetection, MMGroundingDinoConfig, MMGroundingDinoForObjectDetection

from engine.dataset.images.preprocessing import ShortestEdgeTransform
from engine.teachers.grounding_dino.model import GroundingDino
from engine.teachers.mm_grounding_dino.model import MMGroundingDino
from engine.teachers.mm_grounding_dino.settings import MMGroundingDinoSettings

LEARNING_RATE = 2e-4


def converted(source: Any) -> Any:
    """Return an MM-Grounding-DINO that predicts the same as a Grounding DINO."""
    values = source.config.to_dict()
    values |= {"decoder_bbox_embed_share": False, "decoder_cls_embed_share": False}
    values = {name: value for name, value in values.items() if name not in ("model_type", "architectures")}
    model = MMGroundingDinoForObjectDetection(MMGroundingDinoConfig(**values))
    missing = model.load_state_dict(source.state_dict(), strict=False).missing_keys
    assert all(name.endswith(".bias") and "class_embed" in name for name in missing), missing
    factor = math.sqrt(model.config.d_model)
    with torch.no_grad():
        for name in missing:
            model.get_parameter(name).zero_()
        last = model.model.encoder.layers[-1].text_enhancer_layer.layer_norm_after
        last.weight.mul_(factor)
        last.bias.mul_(factor)
        for layer in model.model.decoder.layers:  # which reads the text too
            layer.encoder_attn_text.key.weight.div_(factor)
            layer.encoder_attn_text.value.weight.div_(factor)
    return model.eval()


def learn(teacher: MMGroundingDino, *, seed: int, steps: int) -> None:
    """Train on scenes of the final size, with a rate that falls to 0."""
    model = teacher.model.train()
    model.model.text_backbone.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    plan = Plan((replace(DETECTOR_PLAN.stages[-1], steps=steps),))
    for step, scenes in zip(range(steps), batches(plan, seed, multiprocessing.Value("d", 0.0)), strict=False):
        rng = np.random.default_rng((seed, 1, step))
        asked = ask(rng, [things for _, things in scenes], limit=CAPTION_TOKENS)
        loss = losses_of(teacher, collate(teacher, scenes, asked, rng), dense=False)["loss"]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min((step + 1) / 20, 0.5 * (1 + math.cos(math.pi * step / steps)))
        optimizer.step()
        if step % 20 == 0:
            print(f"step {step} of {steps}, loss {loss.item():.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=FOLDER, help="folder of the tiny Grounding DINO")
    parser.add_argument("--output", type=Path, default=FOLDER.parent / "mm_grounding_dino")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scenes", type=int, default=200, help="held-out scenes to evaluate on")
    options = parser.parse_args()

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(options.seed)
    source = GroundingDino.load(options.source, classes=list(SYNONYMS), prompts={}, settings=SETTINGS)
    library = GroundingDinoForObjectDetection.from_pretrained(options.source, dtype=torch.float32)
    settings = MMGroundingDinoSettings.model_validate(SETTINGS.model_dump())
    teacher = MMGroundingDino(
        converted(library),
        source.tokenizer,
        classes=list(SYNONYMS),
        prompts={},
        settings=settings,
        transform=ShortestEdgeTransform(),
    )
    edge = DETECTOR_PLAN.stages[-1].edge
    begin = time.monotonic()
    learn(teacher, seed=options.seed, steps=options.steps)
    minutes = (time.monotonic() - begin) / 60
    save(teacher, options.output, edge)
    figures = {}
    for kind, folder in ((GroundingDino, options.source), (MMGroundingDino, options.output)):
        for name, value in measured(folder, edge, seed=options.seed, scenes=options.scenes, kind=kind).items():
            figures[f"{kind.traits.title}, {name}"] = value
            print(f"{kind.traits.title} on held-out scenes, {name}: {value:.3f}", flush=True)
    write_card(
        options.output,
        title="Tiny MM-Grounding-DINO",
        script=Path(__file__),
        begun_as="the tiny Grounding DINO in `../grounding_dino`, rewritten so that it predicts the same,",
        seed=options.seed,
        steps=options.steps,
        minutes=minutes,
        scenes=options.scenes,
        prompt="all kinds, or with one class for all objects",
        figures=figures,
    )


if __name__ == "__main__":
    main()
