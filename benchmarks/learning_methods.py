"""Methods that ``learning.py`` compares: each trains one teacher on the same data, and is evaluated in the same way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from engine.config import RunConfig, TeacherSettings
from engine.dataset import CocoDataset
from engine.dataset.coco_export import to_coco
from engine.evaluation.evaluate import evaluate
from engine.models.lora import trainable_parameters
from engine.results.metrics import ApMetrics
from engine.spec import TeacherName
from engine.teachers import REGISTRY, Batch, Teacher
from engine.teachers.sam.model import Sam
from engine.training import TeacherTrainer
from engine.training.data.annotated_splits import SplitData
from engine.training.data.batches import Views, augmentation_of, batches_from
from engine.training.data.sampler import Steps, learning_rate, repeat_factors
from engine.training.data.splits import Splits
from engine.training.device import seed_all
from engine.training.optimizer import apply_gradients, build_optimizer, gradients

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
        return self.load(self.base)

    def load(self, folder: Path) -> Teacher:
        """Load the model of a folder with all parameters frozen."""
        data = self.config.data
        return REGISTRY[self.name].load(folder, classes=data.classes, prompts=data.prompts, settings=self.settings)

    def views(self, teacher: Teacher) -> Views:
        """Return the augmented views of the training images, as the product draws them."""
        train = self.splits.train
        return Views(train, teacher, augmentation_of(self.config, train, teacher), seed=self.seed)

    @property
    def steps(self) -> Steps:
        """Image indices of each optimizer step."""
        dataset = self.splits.train.dataset
        shown = repeat_factors(dataset, exponent=self.config.training.class_balance)
        return Steps.of(self.settings, images=len(dataset), seed=self.seed, repeats=shown)


@dataclass(frozen=True)
class Outcome:
    """Result of one training: AP on the validation split, by which rates are chosen, and on the test split."""

    val_ap: float
    ap: float
    ap50: float
    parameters: int

    @classmethod
    def of(cls, val: ApMetrics, test: ApMetrics, parameters: int) -> Outcome:
        """Return the result with these metrics and this number of trained parameters."""
        return cls(val.ap, test.ap, test.ap50, parameters)

    @classmethod
    def nothing(cls) -> Outcome:
        """Return the result of a training that diverged."""
        return cls(0.0, 0.0, 0.0, 0)


def measured(task: Task, teacher: Teacher, parameters: int) -> Outcome:
    """Evaluate a trained teacher on both splits."""
    assert task.splits.test is not None
    teacher.model.eval()

    def on(split: SplitData) -> ApMetrics:
        return evaluate(teacher, split.dataset, lambda i: split.sample(i, with_masks=False), batch_size=4).metrics

    return Outcome.of(on(task.splits.val), on(task.splits.test), parameters)


def ours(task: Task) -> Outcome:
    """Train as ``teacher train`` does with this configuration."""
    result = TeacherTrainer(task.config, work_dir=task.work, cache=task.work / "cache").train()
    assert result.test_after is not None
    weights = load_file(task.work / "teachers" / f"{task.name.slug}_lora" / "adapter_model.safetensors")
    return Outcome.of(result.after, result.test_after, sum(tensor.numel() for tensor in weights.values()))


def base(task: Task) -> Outcome:
    """Train nothing."""
    return measured(task, task.teacher(), 0)


def full(task: Task) -> Outcome:
    """Train all parameters of the base in our loop with our loss, without an adapter."""
    teacher, steps = task.teacher(), task.steps
    teacher.model.requires_grad_(True)
    parameters = trainable_parameters(teacher)
    optimizer = build_optimizer(parameters, task.settings)
    batches = batches_from(0, steps, task.views(teacher), workers=0, pin_memory=False)
    for step in range(steps.total):
        some = [next(batches) for _ in steps.batches(step)]
        seed_all(task.seed, step)
        losses = gradients(teacher, some, nullcontext())
        rate = learning_rate(step, steps.total, task.settings)
        apply_gradients(optimizer, learning_rate=rate, clip_norm=task.settings.clip_norm, losses=losses)
    batches.close()
    return measured(task, teacher, sum(p.numel() for p in parameters.values()))


def plain(task: Task) -> Outcome:
    """Train with PEFT and the loss of transformers in a plain loop.

    Rank, augmentation, warm-up, schedule and clipping are those of the product. LoRA is on the attention of encoder and
    decoder and, for Grounding DINO, on their other linear layers, as in the product.
    """
    teacher, steps, lora = task.teacher(), task.steps, task.settings.lora
    seed_all(task.seed)
    layers = _attention(teacher) if isinstance(teacher, Sam) else teacher.lora_targets(lora).target_modules
    adapter = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=layers)
    teacher.model = peft.get_peft_model(teacher.model, adapter)
    parameters = [p for p in teacher.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=task.settings.learning_rate, weight_decay=task.settings.weight_decay)
    loss_of = mask_loss if task.name.traits.needs_masks else detection_loss
    teacher.model.train()
    batches = batches_from(0, steps, task.views(teacher), workers=0, pin_memory=False)
    for step in range(steps.total):
        optimizer.zero_grad()
        some = [next(batches) for _ in steps.batches(step)]
        for batch in some:
            loss = loss_of(teacher, batch) / len(some)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps.total, task.settings)
        torch.nn.utils.clip_grad_norm_(parameters, task.settings.clip_norm)
        optimizer.step()
    batches.close()
    return measured(task, teacher, sum(p.numel() for p in parameters))


def _attention(teacher: Sam) -> str:
    """Return the layers that a plain loop adapts in SAM or SAM 2: the attention of both transformers."""
    names = teacher.module_names
    return rf"{names.layers}\.\d+\.attn\.qkv|mask_decoder\.transformer\.(\w+\.)*(q|k|v|{names.out})_proj"


def detection_loss(teacher: Any, batch: Batch) -> Tensor:
    """Compute ``outputs.loss`` with its auxiliary terms, and labels as documented: classes in the prompt's order."""
    spans = torch.from_numpy(teacher.book.chunks()[0].token_map())
    width = spans.shape[1]
    labels = [
        {"class_labels": (tokens[:, None, :width] & spans).any(-1).long().argmax(-1), "boxes": boxes}
        for boxes, tokens in zip(batch["boxes"], batch["tokens"], strict=True)
    ]
    teacher.model.config.auxiliary_loss = True
    names = ("pixel_values", "pixel_mask", "input_ids", "attention_mask")
    loss: Tensor = teacher.model(**{name: batch[name] for name in names}, labels=labels).loss
    return loss


def mask_loss(teacher: Any, batch: Batch) -> Tensor:
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


def package(task: Task) -> Outcome:
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
    before = {name: p.detach().clone() for name, p in task.teacher().model.named_parameters()}
    teacher = (_package_masks if task.name.traits.needs_masks else _package_boxes)(task, target)
    changed = [p.numel() for name, p in teacher.model.named_parameters() if not torch.equal(p, before[name])]
    return measured(task, teacher, sum(changed))


def _package_boxes(task: Task, target: Path) -> Teacher:
    teacher: Any = task.teacher()
    images = [*task.splits.train.dataset.images, *task.splits.val.dataset.images]
    together = len({(image.width, image.height) for image in images}) == 1  # it stacks images without padding them
    arguments = {
        "checkpoint": str(_with_processor(task)),
        "dataset_root": str(task.work / "data"),
        "output_dir": str(task.work / "out"),
        "text_labels": [task.config.data.prompts.get(name, name) for name in task.config.data.classes],
        "image_size": teacher.transform.longest_edge,
        "batch_size": task.settings.batch_size if together else 1,
        "grad_accum_steps": 1 if together else task.settings.batch_size,
        "num_epochs": task.settings.epochs,
        "learning_rate": task.settings.learning_rate,
        "save_every_epoch": False,
        "seed": task.seed,
    }
    # It draws a sample at the end with a function that transformers has removed; the model is saved before that.
    imports = "from finetuning import grounding_dino as peer; peer.save_sample_prediction = lambda **_: None"
    _call(f"{imports}; tune = peer.run_grounding_dino_finetuning", arguments, target)
    best = task.work / "out" / "best_model"
    shutil.copy(task.base / "preprocessor_config.json", best)
    return task.load(best)


def _package_masks(task: Task, target: Path) -> Teacher:
    teacher: Any = task.teacher()
    arguments = {
        "data_root": str(task.work / "data"),
        "model_name": str(task.base),
        "output_dir": str(task.work / "out"),
        "resize_to": teacher.transform.image_size,
        "batch_size": task.settings.batch_size,
        "num_epochs": task.settings.epochs,
        "lr": task.settings.learning_rate,
        "seed": task.seed,
    }
    _call("from finetuning.sam import run_sam_finetuning as tune", arguments, target)
    saved = torch.load(task.work / "out" / "sam_old_best.pth", weights_only=True)
    teacher.model.load_state_dict(saved["model_state_dict"])
    loaded: Teacher = teacher
    return loaded


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


METHODS: dict[str, Callable[[Task], Outcome]] = {
    "ours": ours,
    "plain": plain,
    "package": package,
    "full": full,
    "base": base,
}
