"""Generate the configuration of a distillation from defaults, the inspected data and the user's settings. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from engine.config import data_defaults
from engine.config.data_checks import check_student_data, learns_masks
from engine.config.data_section import data_section, train_images
from engine.config.model import DistillConfig
from engine.config.resolve import (
    Plain,
    check_groups,
    count_of,
    digest_of,
    first_set,
    groups_of,
    number,
    override,
    plain,
    setting_value,
    teacher_defaults,
    training_defaults,
)
from engine.dataset.types import DatasetInfo
from engine.errors import ConfigError
from engine.spec.distill import DistillSpec, StudentSpec, UnlabelledSpec
from engine.text.pydantic_errors import parse

HUMAN_SHARE = "0.5"


@dataclass(frozen=True)
class LabelsFile:
    """Labels of teachers, as far as the configuration depends on them.

    Attributes:
        digest: sha256 of the file in hex.
        images: Number of images in it.
    """

    digest: str = ""
    images: int = 0


def generate_distill_config(
    info: DatasetInfo,
    spec: DistillSpec,
    *,
    name: str = "run",
    run_id: str | None = None,
    base_digest: Callable[[str], str | None] = lambda base_model: None,
    labels: LabelsFile | None = None,
) -> DistillConfig:
    """Return the complete configuration of a distillation.

    Args:
        info: Result of the inspection of the human labels.
        spec: The user's request.
        name: Name of the request.
        run_id: Default: a digest of the configuration.
        base_digest: Returns a digest of the files of a base model.
        labels: The labels of teachers; None without any.

    Raises:
        ConfigError: Settings are unknown, or contradict each other or the data.
        DataError: No student can be trained on this data.
    """
    student, labels = spec.student.name, labels or LabelsFile()
    check_student_data(info, spec.dataset, student)
    defaults = training_defaults()
    training = defaults | {
        "seed": spec.training.seed,
        "precision": spec.training.precision,
        "patience": spec.training.early_stopping.patience,
    }
    training.pop("sweep")
    config: Plain = {
        "name": name,
        "run_id": run_id or "",
        "output": spec.output.rstrip("/"),
        "storage": plain(spec.storage),
        "data": data_section(info, spec.dataset, {}),
        "augmentation": plain(data_defaults.augmentation(spec.augmentation, info)),
        "training": first_set(training, defaults),
        "students": {student.slug: _student(spec.student)},
        "labels": None if spec.unlabelled is None else _labels(spec, spec.unlabelled, labels.digest),
        "optimize": [plain(one) for one in spec.optimize],
    }
    del config["training"]["sweep"]
    groups = groups_of(config)
    for path, text in spec.settings.items():
        override(config, path, setting_value(path, text))
    check_groups(config, groups)
    settings = config["students"][student.slug]
    if settings["masks"] in (None, True):
        settings["masks"] = learns_masks(info, student, asked=settings["masks"])
    _fill(settings, images=train_images(info, spec.dataset) + labels.images)
    config["run_id"] = run_id or "unknown"
    check = partial(parse, DistillConfig, where="the configuration")
    check(config)
    if settings["base_model"] is not None and settings.get("base_digest") is None:
        settings["base_digest"] = base_digest(settings["base_model"])
    checked = check(config)
    return checked if run_id is not None else checked.model_copy(update={"run_id": digest_of(config)})


def _student(asked: StudentSpec) -> Plain:
    own = plain(asked) | {"learning_rate": number(asked.learning_rate)}
    own.pop("name")
    settings = first_set(own, teacher_defaults(asked.name))
    if settings["base_model"] is None and settings["size"] is None:
        settings["size"] = "nano"
    sizes = asked.name.traits.sizes
    if settings["size"] is not None and settings["size"] not in sizes:
        raise ConfigError(f"{asked.name} has no size {settings['size']!r}: there are {', '.join(sizes)}")
    if own["learning_rate"] is None:
        traits = asked.name.traits
        of_base = next((base.size for base in traits.published if base.name == settings["base_model"]), "")
        rate = traits.learning_rates.get(settings["size"] or of_base)
        settings["learning_rate"] = rate or settings["learning_rate"]
    return settings


def _labels(spec: DistillSpec, asked: UnlabelledSpec, digest: str) -> Plain:
    return {
        "teacher": spec.teacher,
        "annotations": asked.labels,
        "images": asked.images,
        "digest": digest,
        "human_share": number(asked.human_share or HUMAN_SHARE),
        "min_score": number(asked.min_score or "0"),
    }


def _fill(settings: Plain, *, images: int) -> None:
    """Fill unset values from the number of training images, with labels of any kind."""
    random = settings["base_model"] is None
    if settings["batch_size"] is None:
        settings["batch_size"] = data_defaults.student_batch_size(images)
    batch_size = count_of(settings["batch_size"], data_defaults.student_batch_size(images))
    if settings["epochs"] is None:
        settings["epochs"] = data_defaults.student_epochs(images, batch_size=batch_size, random=random)
    if settings["warmup_fraction"] is None:
        steps = count_of(settings["epochs"], 1) * math.ceil(images / batch_size)
        settings["warmup_fraction"] = data_defaults.warmup_fraction(steps)
