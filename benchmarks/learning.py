"""Compare training quality: our training and other methods on the same base, data, seed and number of images.

    python benchmarks/learning.py --data ../shared/data/bccd --teacher GroundingDino --method ours --seed 0
    python benchmarks/learning.py --data ../shared/data/dsb2018 --teacher Sam --method full --images 25

trains once and appends one line of JSON to ``--results``; ``learning_table.py`` prints tables of these lines.
``--data`` is a folder with ``images/`` and ``annotations.json`` (split 80/20 with seed 0), or with
``annotations_train.json`` and ``annotations_val.json``. Every teacher is evaluated once, after its last step, on the
validation split; no best epoch is selected on it. The methods:

    ours     same as ``teacher train``
    library  LoRA by PEFT on the same layers, the loss of transformers (its SAM has no loss: binary cross entropy +
             dice, as in its tutorial), a plain loop without augmentation
    package  finetuning-grounding-dino-sam 0.1.2 from PyPI, defaults except epochs, image size and learning rate
    full     our loop and loss, all parameters trained
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.augmentation import Augmenter
from engine.config import RunConfig, TeacherSettings, generate_config
from engine.dataset import CocoDataset, inspect_request, load_dataset
from engine.dataset.coco_export import to_coco
from engine.dataset.splits.stratify import split_dataset
from engine.evaluation.evaluate import evaluate
from engine.models.lora import attach, trainable_parameters
from engine.results.types import ApMetrics
from engine.spec import DatasetSpec, FineTuneSpec, SplitFilesSpec, TeacherName, TeacherSpec
from engine.storage import Storage
from engine.teachers import REGISTRY, Batch, Teacher
from engine.training import TeacherTrainer
from engine.training.data.annotated_splits import AnnotatedSplits
from engine.training.data.batches import Views, batches_from
from engine.training.data.sampler import Steps, learning_rate, repeat_factors
from engine.training.data.splits import Splits
from engine.training.device import seed_all
from engine.training.optimizer import apply_gradients, build_optimizer, gradients

BASES = Path(__file__).resolve().parents[1] / "examples" / "tiny_teachers"
PACKAGE = "finetuning-grounding-dino-sam==0.1.2"


@dataclass(frozen=True)
class Task:
    """Inputs of one training, the same for every method."""

    config: RunConfig
    name: TeacherName
    base: Path
    splits: Splits
    work: Path

    @property
    def settings(self) -> TeacherSettings:
        """The teacher's section of the configuration."""
        settings = self.config.teachers.of(self.name)
        assert settings is not None
        return settings

    @property
    def seed(self) -> int:
        """Random seed of the training."""
        return self.config.training.seed

    def teacher(self) -> Teacher:
        """Load the base with all parameters frozen."""
        data = self.config.data
        kind = REGISTRY[self.name]
        return kind.load(self.base, classes=data.classes, prompts=data.prompts, settings=self.settings)

    def measure(self, teacher: Teacher) -> ApMetrics:
        """Evaluate on the validation split."""
        val = self.splits.val
        teacher.model.eval()
        return evaluate(teacher, val.dataset, lambda i: val.sample(i, with_masks=False), batch_size=4).metrics

    @property
    def steps(self) -> Steps:
        """Image indices of each optimizer step."""
        dataset = self.splits.train.dataset
        shown = repeat_factors(dataset, exponent=self.config.training.class_balance)
        return Steps.of(self.settings, images=len(dataset), seed=self.seed, repeats=shown)


def ours(task: Task) -> ApMetrics:
    """Train as ``teacher train`` does with this configuration."""
    return TeacherTrainer(task.config, work_dir=task.work, cache=task.work / "cache").train().after


def full(task: Task) -> ApMetrics:
    """Train all parameters of the base in our loop, without an adapter."""
    teacher, steps = task.teacher(), task.steps
    teacher.model.requires_grad_(True)
    optimizer = build_optimizer(trainable_parameters(teacher), task.settings)
    views = Views(task.splits.train, teacher, Augmenter(task.config.augmentation), seed=task.seed)
    batches = batches_from(0, steps, views, workers=task.config.training.workers, pin_memory=False)
    for step in range(steps.total):
        some = [next(batches) for _ in steps.batches(step)]
        seed_all(task.seed, step)
        losses = gradients(teacher, some, nullcontext())
        rate = learning_rate(step, steps.total, task.settings)
        apply_gradients(optimizer, learning_rate=rate, clip_norm=task.settings.clip_norm, losses=losses)
    batches.close()
    return task.measure(teacher)


def library(task: Task) -> ApMetrics:
    """Train with PEFT and the loss of transformers in the loop of its tutorials."""
    teacher, steps = task.teacher(), task.steps
    seed_all(task.seed)
    attach(teacher, task.settings.lora)
    parameters = [p for p in teacher.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=task.settings.learning_rate, weight_decay=1e-4)
    views = Views(task.splits.train, teacher, lambda sample, _: sample, seed=task.seed)
    loss_of = {TeacherName.GROUNDING_DINO: library_detection_loss, TeacherName.SAM: tutorial_mask_loss}[task.name]
    teacher.model.train()
    batches = batches_from(0, steps, views, workers=task.config.training.workers, pin_memory=False)
    for batch in batches:
        loss = loss_of(teacher, batch)
        if not loss.requires_grad:
            continue
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, task.settings.clip_norm)
        optimizer.step()
    return task.measure(teacher)


def library_detection_loss(teacher: Any, batch: Batch) -> Tensor:
    """Compute ``outputs.loss`` with labels as documented by the library: classes in the order of the prompt."""
    spans = torch.from_numpy(teacher.book.chunks()[0].token_map())
    width = spans.shape[1]
    labels = [
        {"class_labels": (tokens[:, None, :width] & spans).any(-1).long().argmax(-1), "boxes": boxes}
        for boxes, tokens in zip(batch["boxes"], batch["tokens"], strict=True)
    ]
    names = ("pixel_values", "pixel_mask", "input_ids", "attention_mask")
    loss: Tensor = teacher.model(**{name: batch[name] for name in names}, labels=labels).loss
    return loss


def tutorial_mask_loss(teacher: Any, batch: Batch) -> Tensor:
    """Compute binary cross entropy + dice of one mask per box, as tutorials for transformers' SAM do."""
    if not len(batch["images"]):
        return torch.zeros(())
    embeddings = teacher._embed({"pixel_values": batch["pixel_values"]})
    logits, _ = teacher._decode(embeddings[batch["images"]], boxes=batch["boxes"])
    masks = (batch["masks"] >= 0.5).float()[:, None]
    probability = logits.sigmoid()
    overlap = (probability * masks).sum((-2, -1))
    dice = 1 - (2 * overlap + 1) / (probability.square().sum((-2, -1)) + masks.sum((-2, -1)) + 1)
    return F.binary_cross_entropy_with_logits(logits, masks) + dice.mean()


def package(task: Task) -> ApMetrics:
    """Train with the package from PyPI in its own process, and evaluate its checkpoint as the other methods."""
    target = task.work / "package"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), PACKAGE]
    subprocess.run(pip, check=True)
    for name, split in (("train", task.splits.train), ("test", task.splits.val)):
        folder = task.work / "data" / name
        folder.mkdir(parents=True)
        # The package learns correctly only from category ids that start at 0.
        dataset = CocoDataset(
            split.dataset.images,
            split.dataset.annotations,
            split.dataset.classes,
            tuple(range(len(split.dataset.classes))),
        )
        (folder / "_annotations.coco.json").write_text(json.dumps(to_coco(dataset)))
        for image, path in zip(split.dataset.images, split.paths, strict=True):
            shutil.copy(path, folder / image.file_name)
    call = {TeacherName.GROUNDING_DINO: _package_boxes, TeacherName.SAM: _package_masks}[task.name]
    return call(task, target)


def _package_boxes(task: Task, target: Path) -> ApMetrics:
    arguments = {
        "checkpoint": str(_with_processor(task)),
        "dataset_root": str(task.work / "data"),
        "output_dir": str(task.work / "out"),
        "text_labels": [task.config.data.prompts.get(name, name) for name in task.config.data.classes],
        "image_size": 170,  # longest edge: the base's own size for 4:3 images
        "batch_size": task.settings.batch_size,
        "grad_accum_steps": 1,
        "num_epochs": task.settings.epochs,
        "learning_rate": task.settings.learning_rate,
        "save_every_epoch": False,
        "seed": task.seed,
    }
    # It draws a sample at the end with a function that transformers has removed; the model is saved before that.
    imports = "from finetuning import grounding_dino as peer; peer.save_sample_prediction = lambda **_: None"
    _call(f"{imports}; tune = peer.run_grounding_dino_finetuning", arguments, target)
    kind, data = REGISTRY[task.name], task.config.data
    best = task.work / "out" / "best_model"
    shutil.copy(task.base / "preprocessor_config.json", best)
    return task.measure(kind.load(best, classes=data.classes, prompts=data.prompts, settings=task.settings))


def _package_masks(task: Task, target: Path) -> ApMetrics:
    arguments = {
        "data_root": str(task.work / "data"),
        "model_name": str(task.base),
        "output_dir": str(task.work / "out"),
        "resize_to": 256,
        "batch_size": task.settings.batch_size,
        "num_epochs": task.settings.epochs,
        "lr": task.settings.learning_rate,
        "seed": task.seed,
    }
    _call("from finetuning.sam import run_sam_finetuning as tune", arguments, target)
    teacher = task.teacher()
    saved = torch.load(task.work / "out" / "sam_old_best.pth", weights_only=True)
    teacher.model.load_state_dict(saved["model_state_dict"])
    return task.measure(teacher)


def _with_processor(task: Task) -> Path:
    """Copy the base and add the files that AutoProcessor needs."""
    from transformers import AutoTokenizer, GroundingDinoImageProcessor, GroundingDinoProcessor

    folder = task.work / "base"
    shutil.copytree(task.base, folder)
    tokenizer = AutoTokenizer.from_pretrained(task.base)
    GroundingDinoProcessor(GroundingDinoImageProcessor(), tokenizer).save_pretrained(folder)
    return folder


def _call(imports: str, arguments: dict[str, Any], target: Path) -> None:
    code = f"import json, sys; {imports}; tune(**json.loads(sys.argv[1]))"
    environment = {**os.environ, "PYTHONPATH": str(target)}
    command = [sys.executable, "-c", code, json.dumps(arguments)]
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)


METHODS: dict[str, Callable[[Task], ApMetrics]] = {"ours": ours, "library": library, "package": package, "full": full}


def prepare(options: argparse.Namespace, work: Path) -> Task:
    """Write the splits as files, and generate the configuration that all methods share."""
    folder = Path(options.data).resolve()
    train, val = _splits(folder)
    if options.images:
        chosen = np.random.default_rng(options.seed).permutation(len(train))[: options.images]
        train = train.subset(sorted(int(i) for i in chosen))
    for name, split in (("train", train), ("val", val)):
        (work / f"{name}.json").write_text(json.dumps(to_coco(split)))
    base = BASES / TeacherName(options.teacher).slug
    images = str(folder / "images")
    dataset = DatasetSpec(
        train=SplitFilesSpec(annotations=str(work / "train.json"), images=images),
        val=SplitFilesSpec(annotations=str(work / "val.json"), images=images),
    )
    teacher = TeacherSpec(name=options.teacher, base_model=str(base), epochs=options.epochs)
    spec = FineTuneSpec(dataset=dataset, output=str(work / "out"), teachers=[teacher], class_prompts=options.prompts)
    settings = {
        "training.seed": str(options.seed),
        "training.patience": "0",
        "training.workers": "0",
        "teachers.*.evaluations": "1",
    }
    settings |= dict(one.split("=", 1) for one in options.set)
    spec = spec.model_copy(update={"settings": settings})
    storage = Storage()
    info = inspect_request(dataset, storage=storage)
    config = generate_config(info, spec)
    masks = REGISTRY[TeacherName(options.teacher)].needs_masks
    splits = Splits.of(AnnotatedSplits.of(config.data, masks=masks, seed=0, storage=storage, cache=work / "cache"))
    return Task(config, TeacherName(options.teacher), base, splits, work)


def _splits(folder: Path) -> tuple[CocoDataset, CocoDataset]:
    storage, images = Storage(), str(folder / "images")
    given = [folder / f"annotations_{name}.json" for name in ("train", "val")]
    if all(file.is_file() for file in given):
        train, val = (load_dataset(str(file), images, storage=storage) for file in given)
        return train, val.with_classes(train.classes)
    dataset = load_dataset(str(folder / "annotations.json"), images, storage=storage)
    split = split_dataset(dataset, {"train": 0.8, "val": 0.2, "test": 0.0}, seed=0)
    return dataset.subset(split.train), dataset.subset(split.val)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--teacher", required=True, choices=[name.value for name in TeacherName])
    parser.add_argument("--method", required=True, choices=list(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, help="number of training images, selected by the seed; default: all")
    parser.add_argument("--epochs", type=int, help="default: chosen by the size of the data")
    parser.add_argument("--prompts", type=json.loads, default={}, help="classPrompts as JSON")
    parser.add_argument("--set", action="append", default=[], help="a setting of teacher_config.yaml, PATH=VALUE")
    parser.add_argument("--results", default="learning.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        task = prepare(options, Path(folder))
        begin = time.monotonic()
        metrics = METHODS[options.method](task)
        seconds = time.monotonic() - begin
        images = len(task.splits.train.dataset)
        line = {
            "data": Path(options.data).name,
            "teacher": options.teacher,
            "method": options.method,
            "seed": options.seed,
            "images": images,
            "all": options.images is None,
            "seen": images * task.settings.epochs,
            "learning_rate": task.settings.learning_rate,
            "set": options.set,
            "ap": round(metrics.ap, 4),
            "ap50": round(metrics.ap50, 4),
            "miou": metrics.miou and round(metrics.miou, 4),
            "seconds": round(seconds, 1),
        }
    with Path(options.results).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line))


if __name__ == "__main__":
    main()
