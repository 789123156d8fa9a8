"""A D-FINE small enough to train in seconds, and its run on red and green squares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toy import run_config, training

from engine.config import DistillConfig
from engine.config.students import StudentsConfig
from engine.registry import StudentName
from engine.students.dfine.settings import DFineSettings
from engine.text.plain_yaml import read_document

SIDES = (64, 64)


def student_settings(**changes: Any) -> DFineSettings:
    values = read_document(StudentName.DFINE.traits.default_text(), where="defaults").value
    values |= {"size": "femto", "image_size": SIDES, "epochs": 2, "batch_size": 4, "warmup_fraction": 0.1}
    values |= {"evaluations": 2, "denoising": 10}
    return DFineSettings.model_validate(values | changes)


def distill_config(
    annotations: Path, *, output: Path | str, common: dict[str, Any] | None = None, **changes: Any
) -> DistillConfig:
    base = run_config(annotations, output=output, common=training(**(common or {})))
    plain = base.model_dump(exclude={"teachers"})
    return DistillConfig.model_validate(plain | {"students": StudentsConfig(dfine=student_settings(**changes))})
