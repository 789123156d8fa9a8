"""A teacher small enough to train in a second: finds the one square in an image, red or green."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from engine.config import DataConfig, LoraSettings, RunConfig, TrainingConfig
from engine.config.model import SplitConfig, SplitFilesConfig, StorageConfig
from engine.config.teachers import TeachersConfig
from engine.dataset import inspect_dataset
from engine.dataset.types import Detections, Sample
from engine.models.base import Batch, Example, LoraTargets, Teacher
from engine.models.lora import adapter_tensors, attach
from engine.results.metrics import ApMetrics
from engine.results.run_files import FileEntry, RunMetadata
from engine.results.types import AdapterFile, TeacherResult
from engine.spec import AugmentationSpec, Intensity, LoraPreset, Precision, TeacherName
from engine.storage.publication import sha256_of
from engine.teachers.grounding_dino.settings import GroundingDinoSettings
from engine.teachers.sam.settings import SamSettings
from engine.training.checkpoint import Checkpoint, Progress
from engine.training.data.sampler import Steps
from engine.training.device import Stop, seed_all
from engine.training.distributed import ALONE, Processes
from engine.training.hooks import Hooks
from engine.training.loop import Loop

SIDE = 32


class ToyModel(nn.Module):
    """(B, 192) mean colours of rows and columns -> (B, 4) cxcywh in 0..1 and (B, 2) class logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6 * SIDE, 64)
        self.box = nn.Linear(64, 4)
        self.label = nn.Linear(64, 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, profiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.dropout(torch.relu(self.body(profiles)))
        return self.box(hidden).sigmoid(), self.label(hidden)


class ToyTeacher(Teacher):
    name = TeacherName.GROUNDING_DINO
    iou_type = "bbox"
    needs_masks = False

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = ToyModel().eval().requires_grad_(False)
        self.classes = ("red", "green")

    @classmethod
    def load(cls, folder: Path, *, classes: Any, prompts: Any, settings: Any) -> ToyTeacher:
        teacher = cls()
        teacher.model.load_state_dict(load_file(folder / "model.safetensors"))
        return teacher

    def lora_targets(self, lora: LoraSettings) -> LoraTargets:
        return LoraTargets({LoraPreset.DECODER: "box|label", LoraPreset.ALL: "body|box|label"}[lora.preset])

    def example(self, sample: Sample, rng: np.random.Generator) -> Example:
        x0, y0, x1, y1 = sample.boxes_xyxy[0] / SIDE
        return {
            "profiles": profiles(sample.image),
            "box": torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]),
            "label": int(sample.class_indices[0]),
        }

    def collate(self, examples: Sequence[Example]) -> Batch:
        return {
            "profiles": torch.stack([e["profiles"] for e in examples]),
            "boxes": torch.stack([e["box"] for e in examples]),
            "labels": torch.tensor([e["label"] for e in examples]),
        }

    def count(self, batch: Batch) -> float:
        return len(batch["labels"])

    def loss(self, batch: Batch, *, count: float) -> dict[str, torch.Tensor]:
        boxes, logits = self.model(batch["profiles"])
        l1 = F.l1_loss(boxes, batch["boxes"], reduction="sum") / count
        label = F.cross_entropy(logits, batch["labels"], reduction="sum") / count
        return {"loss": 5 * l1 + label, "l1": l1.detach(), "label": label.detach()}

    @torch.no_grad()
    def predict(self, samples: Sequence[Sample]) -> list[Detections]:
        boxes, logits = self.model(torch.stack([profiles(sample.image) for sample in samples]))
        scores, labels = logits.softmax(-1).max(-1)
        centre, half = boxes[:, :2], boxes[:, 2:] / 2
        corners = torch.cat([centre - half, centre + half], dim=1) * SIDE
        return [
            Detections(corners[i : i + 1].numpy(), scores[i : i + 1].numpy(), labels[i : i + 1].numpy())
            for i in range(len(samples))
        ]


def profiles(image: NDArray[np.uint8]) -> torch.Tensor:
    """(192,) mean colours of the columns and the rows of an image of any size."""
    small = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.NEAREST))
    pixels = torch.from_numpy(small.copy()).float() / 255
    return torch.cat([pixels.mean(0).flatten(), pixels.mean(1).flatten()])


def toy_sample(index: int) -> Sample:
    """The image of an index: always the same."""
    rng = np.random.default_rng([7, index])
    label = int(rng.integers(2))
    side = int(rng.integers(8, 17))
    x, y = (int(v) for v in rng.integers(0, SIDE - side, 2))
    image = rng.integers(0, 40, (SIDE, SIDE, 3), dtype=np.uint8)
    image[y : y + side, x : x + side, label] = 230
    return Sample.of(image, [[x, y, x + side, y + side]], [label])


def write_toy_base(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_file(ToyTeacher().model.state_dict(), folder / "model.safetensors")
    return folder


def write_toy_data(file: Path, indices: range, *, masks: bool = False) -> Path:
    """A COCO file of these samples, its images beside it; masks lack a corner, so that they are not just the boxes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for i in indices:
        sample = toy_sample(i)
        Image.fromarray(sample.image).save(file.parent / f"{i}.png")
        x0, y0, x1, y1 = sample.boxes_xyxy[0].tolist()
        box = [x0, y0, x1 - x0, y1 - y0]
        found = {"id": i, "image_id": i, "category_id": int(sample.class_indices[0]) + 1, "bbox": box}
        if masks:
            found["segmentation"] = [[x0, y0, x1, y0, x1, y1 - 4, x1 - 4, y1, x0, y1]]
        images.append({"id": i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE})
        annotations.append(found | {"area": box[2] * box[3]})
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


def toy_batches(teacher: Teacher, steps: Steps, start: int = 0) -> Generator[Batch, None, None]:
    for keys in steps.batches_from(start):
        yield teacher.collate(
            [teacher.example(toy_sample(index), np.random.default_rng([*keys[0], index])) for _, index in keys]
        )


def settings(**changes: Any) -> GroundingDinoSettings:
    values: dict[str, Any] = {
        "base_model": "toy",
        "revision": None,
        "lora": LoraSettings(preset=LoraPreset.ALL, rank=8, alpha=16, dropout=0.1),
        "epochs": 6,
        "batch_size": 8,
        "micro_batch_size": 4,
        "learning_rate": 2e-2,
        "weight_decay": 1e-4,
        "warmup_fraction": 0.1,
        "schedule": "cosine",
        "clip_norm": 1.0,
        "evaluations": 3,
        "classification_weight": 2,
        "l1_weight": 5,
        "giou_weight": 2,
        "max_detections": 10,
        "nms": 1,
    }
    return GroundingDinoSettings(**values | changes)


def training(**changes: Any) -> TrainingConfig:
    values = {"seed": 3, "precision": Precision.FLOAT32, "patience": 0, "class_balance": 0.0}
    values |= {"workers": 0, "log_seconds": 1.0, "strengths": (1.0,)}
    return TrainingConfig(**values | changes)


def run_config(
    annotations: Path | str,
    *,
    output: Path | str,
    split: tuple[int, int, int] = (60, 20, 20),
    prompts: Mapping[str, str] | None = None,
    augmentation: AugmentationSpec | None = None,
    common: TrainingConfig | None = None,
    **teachers: GroundingDinoSettings | SamSettings,
) -> RunConfig:
    """A run on red and green squares; its annotations need not be there."""
    file = Path(annotations)
    return RunConfig(
        name="toy",
        run_id="1",
        output=str(output),
        storage=StorageConfig(endpoint_url=None, region=None),
        data=DataConfig(
            digest=inspect_dataset(file).digest if file.is_file() else "0",
            classes=("red", "green"),
            prompts=dict(prompts or {}),
            source=SplitFilesConfig(annotations=str(annotations), images=None),
            split=SplitConfig(**dict(zip(("train", "val", "test"), split, strict=True))),
            train=None,
            val=None,
            test=None,
        ),
        augmentation=augmentation or AugmentationSpec(intensity=Intensity.NONE),
        training=common or training(),
        teachers=TeachersConfig(**teachers),
    )


def metrics(ap: float) -> ApMetrics:
    others = [name for name in ApMetrics.model_fields if name.startswith(("ap5", "ap7", "ap_", "ar"))]
    return ApMetrics(ap=ap, per_class={}, **dict.fromkeys(others, ap))


def overlap(teacher: Teacher, indices: range) -> ApMetrics:
    """Mean IoU of the predicted boxes with the true ones, in place of AP."""
    samples = [toy_sample(i) for i in indices]
    ious = []
    for sample, seen in zip(samples, teacher.predict(samples), strict=True):
        (a,), (b,) = sample.boxes_xyxy, seen.boxes_xyxy
        shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
        ious.append(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))
    return metrics(float(np.mean(ious)))


def toy_loop(
    folder: Path,
    *,
    images: int = 20,
    start: Checkpoint | None = None,
    hooks: dict[str, Any] | None = None,
    stop: Stop | None = None,
    patience: int = 0,
    processes: Processes = ALONE,
    **changes: Any,
) -> Loop:
    """A loop over the toy problem, from a checkpoint or from the beginning; ``hooks`` replace its own."""
    wanted, common = settings(**changes), training(patience=patience)
    teacher = ToyTeacher()
    seed_all(common.seed)
    attach(teacher, wanted.lora)
    steps = Steps.of(wanted, images=images, seed=common.seed, rank=processes.rank)
    own = {
        "batches": lambda steps, step: toy_batches(teacher, steps, step),
        "evaluate": lambda: overlap(teacher, range(1000, 1032)),
        "keep_best": lambda: None,
        "on_checkpoint": lambda path: None,
        "listen": lambda event: None,
    }
    fresh = Checkpoint(Progress(), before={}, settings={}, adapter=adapter_tensors(teacher), optimizer={})
    return Loop(
        teacher,
        settings=wanted,
        training=common,
        steps=steps,
        start=start or fresh,
        folder=folder,
        hooks=Hooks(**own | (hooks or {})),
        stop=stop or Stop(),
        processes=processes,
    )


def result_of(teacher: TeacherName, **changes: Any) -> TeacherResult:
    """The result of a run that has not taken place; ``changes`` replace its values."""
    values: dict[str, Any] = {
        "teacher": teacher,
        "base_model": "base",
        "base_revision": None,
        "before": metrics(0.25),
        "after": metrics(0.5),
        "epochs": 6,
        "steps": 18,
        "seconds": 1,
        "peak_memory_bytes": 1,
        "trainable_parameters": 1,
        "adapter": AdapterFile(uri="a", sha256="0", size_bytes=1),
    }
    return TeacherResult(**values | changes)


def metadata_of(
    *, run_id: str = "", teachers: tuple[TeacherResult, ...] = (), files: Mapping[str, Path] | None = None
) -> RunMetadata:
    """The metadata of a run that has published ``files``, by their path in its folder."""
    entries = tuple(
        FileEntry(path=path, sha256=sha256_of(file), size_bytes=file.stat().st_size)
        for path, file in (files or {}).items()
    )
    return RunMetadata(
        name="parts",
        run_id=run_id,
        created="",
        data_digest="",
        classes=(),
        seed=0,
        environment={},
        teachers=teachers,
        files=entries,
    )
