"""Students small enough to train in seconds, and their runs on red and green squares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from toy import run_config, training

from engine.config import DistillConfig
from engine.config.students import StudentsConfig
from engine.dataset.types import Sample
from engine.models.student import Student
from engine.plan import TrainingRun
from engine.registry import StudentName
from engine.storage import Storage
from engine.students.dfine.settings import DFineSettings
from engine.students.rf_detr.settings import RfDetrSettings
from engine.text.plain_yaml import read_document
from engine.training.publish import train_and_publish

SIDES = (64, 64)


def student_settings(**changes: Any) -> DFineSettings:
    values = read_document(StudentName.DFINE.traits.default_text(), where="defaults").value
    values |= {"size": "femto", "image_size": SIDES, "epochs": 2, "batch_size": 4, "warmup_fraction": 0.1}
    values |= {"evaluations": 2, "denoising": 10}
    return DFineSettings.model_validate(values | changes)


def rf_detr_settings(**changes: Any) -> RfDetrSettings:
    values = read_document(StudentName.RF_DETR.traits.default_text(), where="defaults").value
    values |= {"size": "tiny", "image_size": (128, 128), "epochs": 2, "batch_size": 4, "warmup_fraction": 0.1}
    return RfDetrSettings.model_validate(values | {"evaluations": 2} | changes)


SETTINGS = {StudentName.DFINE: student_settings, StudentName.RF_DETR: rf_detr_settings}


def learn_one_image(one: Student, sample: Sample, steps: int) -> list[float]:
    """Train a student on one image, twice in each batch, and return the losses."""
    one.begin_training(one.settings)
    optimizer = torch.optim.AdamW(one.trained_parameters().values(), lr=1e-3)
    torch.manual_seed(1)
    batch, losses = one.collate([one.example(sample, np.random.default_rng(0))] * 2), []
    for step in range(steps):
        one.set_training(True)
        loss = one.loss(batch, count=one.count(batch))["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        one.after_step(step + 1)
        losses.append(float(loss.detach()))
    one.set_training(False)
    return losses


def publish_in(folder: Path, config: DistillConfig) -> DistillConfig:
    """Train and publish the student of a configuration, with scratch files in a folder."""
    (name,) = config.students.names
    train_and_publish(
        TrainingRun(name, config),
        storage=Storage(),
        listener=lambda event: None,
        work_dir=folder / "work",
        cache=folder / "cache",
    )
    return config


def distill_config(
    annotations: Path,
    *,
    output: Path | str,
    common: dict[str, Any] | None = None,
    student: StudentName = StudentName.DFINE,
    **changes: Any,
) -> DistillConfig:
    base = run_config(annotations, output=output, common=training(**(common or {})))
    plain = base.model_dump(exclude={"teachers"})
    own = {student.slug: SETTINGS[student](**changes)}
    return DistillConfig.model_validate(plain | {"students": StudentsConfig(**own)})
