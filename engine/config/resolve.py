"""Generate one complete configuration from defaults, the inspected data and the user's settings. Pure."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from importlib import resources
from typing import Any

from engine.config import data_defaults
from engine.config.base import MOST, ConfigModel, outside_run_id
from engine.config.data_checks import check_data
from engine.config.data_section import data_section, train_images
from engine.config.model import DataConfig, DistillConfig, RunConfig, TrainingConfig
from engine.config.model_settings import ModelSettings
from engine.config.trials import expand_sweep, given_settings
from engine.dataset.types import DatasetInfo
from engine.errors import ConfigError
from engine.registry import ModelName
from engine.spec import (
    FineTuneSpec,
    RetentionSpec,
    SpecModel,
    TeacherName,
    TeacherSpec,
)
from engine.text.plain_yaml import read_document, read_documents
from engine.text.pydantic_errors import closest, parse
from engine.text.safe_text import listed

Plain = dict[str, Any]


def generate_config(
    info: DatasetInfo,
    spec: FineTuneSpec,
    *,
    name: str = "run",
    run_id: str | None = None,
    base_digest: Callable[[str], str | None] = lambda base_model: None,
) -> RunConfig:
    """Return the complete configuration of a run.

    Args:
        info: Result of the inspection of the data of ``spec``.
        spec: The user's request.
        name: Name of the request; artifacts go to ``<output>/<name>/<run id>/``.
        run_id: Default: a digest of the configuration, so the same request on the same data has the same run id.
        base_digest: Returns a digest of the files of a base model, so that another base is another run.

    Raises:
        ConfigError: Settings are unknown, or contradict each other or the data.
        DataError: No teacher can be trained on this data.
    """
    names = check_data(info, spec)
    asked = {teacher.name: teacher for teacher in spec.teachers}
    training = training_defaults() | {
        "seed": spec.training.seed,
        "precision": spec.training.precision,
        "patience": spec.training.early_stopping.patience,
        **_retention(spec.training.retention),
        "sweep": None if spec.training.sweep is None else plain(spec.training.sweep),
        "on_no_gain": spec.training.on_no_gain,
    }
    config: Plain = {
        "name": name,
        "run_id": run_id or "",
        "output": spec.output.rstrip("/"),
        "storage": plain(spec.storage),
        "data": data_section(info, spec.dataset, spec.class_prompts),
        "augmentation": plain(data_defaults.augmentation(spec.augmentation, info)),
        "training": first_set(training, training_defaults()),
        "teachers": {n.slug: _teacher(n, asked.get(n)) for n in names},
    }
    groups = groups_of(config)
    values = {path: setting_value(path, text) for path, text in spec.settings.items()}
    for path, value in values.items():
        override(config, path, value)
    check_groups(config, groups)
    images, classes = train_images(info, spec.dataset), config["data"]["classes"]
    fill = partial(_fill, images=images, classes=len(classes) if isinstance(classes, list) else 0)
    expand_sweep(config, fill, {name: given_settings(name, asked.get(name), values) for name in names})
    for teacher in names:
        fill(config["teachers"][teacher.slug])
    _check_one_comparison(config, [config["teachers"][teacher.slug] for teacher in names])
    config["run_id"] = run_id or "unknown"
    parse(RunConfig, config, where="the configuration")
    for teacher in names:
        settings = config["teachers"][teacher.slug]
        if settings is not None and settings.get("base_digest") is None:
            settings["base_digest"] = base_digest(settings["base_model"])
    checked = parse(RunConfig, config, where="the configuration")
    return checked if run_id is not None else checked.model_copy(update={"run_id": digest_of(config)})


def _retention(spec: RetentionSpec | None) -> Plain:
    spec = spec or RetentionSpec()
    files = None if spec.annotations is None else {"annotations": spec.annotations, "images": spec.images}
    return {"retention": files, "min_retention": number(spec.min_share)}


def _check_one_comparison(config: Plain, teachers: list[Plain]) -> None:
    """Raise ConfigError for a sweep with cross-validation."""
    folds = (config["data"]["split"] or {}).get("folds")
    if folds is not None and any(settings.get("trials") for settings in teachers):
        raise ConfigError(
            "training.sweep and dataset.split.folds cannot be combined: run the sweep on one split first, then "
            "cross-validate with the settings that it has chosen"
        )


def _teacher(name: TeacherName, asked: TeacherSpec | None) -> Plain:
    settings = teacher_defaults(name)
    if asked is not None:
        own = plain(asked) | {"learning_rate": number(asked.learning_rate)}
        lora = plain(asked.lora) | {"dropout": number(asked.lora.dropout)}
        settings = first_set(own, settings) | {"lora": first_set(lora, settings["lora"])}
    return settings


def _fill(settings: Plain, *, images: int, classes: int) -> None:
    """Fill unset values from the data; wrong values are left to validation, and do not leave others unset."""
    lora = settings["lora"]
    if lora["rank"] is None:
        lora["rank"] = data_defaults.rank(images, classes=classes)
    if lora["alpha"] is None:
        lora["alpha"] = 2 * count_of(lora["rank"], 1)
    if settings["views"] is None:
        settings["views"] = data_defaults.views(lora["preset"])
    if settings["batch_size"] is None:
        settings["batch_size"] = data_defaults.batch_size(images)
    batch_size = count_of(settings["batch_size"], data_defaults.batch_size(images))
    if settings["epochs"] is None:
        settings["epochs"] = data_defaults.epochs(images, batch_size=batch_size)
    if settings["warmup_fraction"] is None:
        steps = count_of(settings["epochs"], 1) * math.ceil(images / batch_size)
        settings["warmup_fraction"] = data_defaults.warmup_fraction(steps)


def count_of(value: object, otherwise: int) -> int:
    """Return a number of images, epochs or ranks; ``otherwise`` for a value that validation rejects.

    >>> count_of(6, 4), count_of("6", 4), count_of(0, 4), count_of("four", 4)
    (6, 6, 4, 4)
    """
    with suppress(TypeError, ValueError, ArithmeticError):
        number = int(value)  # type: ignore[call-overload]
        if 1 <= number <= MOST:
            return int(number)
    return otherwise


def setting_value(path: str, text: str) -> Any:
    """Return the value of a setting that is given as YAML.

    Raises:
        ConfigError: The text is not YAML, or is more than one document.
    """
    documents = read_documents(text, where=f"setting {path}")
    return documents[0].value if documents else None


def override(config: Plain, path: str, value: object) -> None:
    """Set one setting; ``*`` stands for every name at that level. An unknown last name is left to validation.

    Raises:
        ConfigError: A group on the path does not exist.
    """
    *groups, last = path.split(".")
    found: list[Any] = [config]
    for depth, group in enumerate(groups):
        inner = [one.get(name) for one in found for name in (one if group == "*" else [group])]
        if not all(isinstance(one, dict) for one in inner):
            known = [name for one in found for name, value in one.items() if isinstance(value, dict)]
            raise ConfigError(_unknown_group(path, depth, known))
        found = inner
    for one in found:
        one.update(dict.fromkeys(one if last == "*" else [last], value))


def _unknown_group(path: str, depth: int, known: list[str]) -> str:
    """Return the error message for a path whose part number ``depth`` is not a group: it suggests a whole path."""
    parts = path.split(".")
    close = closest(parts[depth], known)
    if close is None:
        advice = f" (known here: {listed(sorted(known), 20)})" if known else ""
    else:
        advice = f" (did you mean {'.'.join([*parts[:depth], close, *parts[depth + 1 :]])!r}?)"
    return f"--set or settings: there is no setting {path!r}: no {'.'.join(parts[: depth + 1])!r}{advice}"


TOP_GROUPS = ("data", "training", "teachers", "students", "labels", "storage", "augmentation")


def groups_of(config: Plain) -> dict[str, Plain]:
    """Return the groups of settings with fixed names, by their path."""
    groups = {name: config[name] for name in TOP_GROUPS if config.get(name) is not None}
    for section in ("teachers", "students"):
        for name, settings in config.get(section, {}).items():
            groups[f"{section}.{name}"] = settings
            groups |= {f"{section}.{name}.lora": settings["lora"]} if "lora" in settings else {}
    return {path: dict(values) for path, values in groups.items()}


def check_groups(config: Plain, before: Mapping[str, Plain]) -> None:
    """Reject an override of a whole group that is not a mapping or lacks some of its settings."""
    for path, names in before.items():
        value: Any = config
        for name in path.split("."):
            value = value[name]
        lacking = names.keys() - value.keys() if isinstance(value, dict) else names.keys()
        if lacking:
            example = f"{path}.{min(lacking)}"
            raise ConfigError(f"{path} is a group of settings, and {example} has no value: set one of them by its path")


def first_set(first: Plain, then: Plain) -> Plain:
    """Return ``then``, with the values that are set in ``first``; keys are those of ``then``."""
    return {key: value if first.get(key) is None else first[key] for key, value in then.items()}


def plain(model: SpecModel) -> Plain:
    """Return a section of a request as plain values."""
    return model.model_dump(mode="json", by_alias=False)


def number(text: str | None) -> float | None:
    """Return the number of a decimal string."""
    return None if text is None else float(text)


def decisive(config: Plain) -> Plain:
    """Return the settings that determine the result of a run, as plain values; the run id is their digest."""
    sections = {section: _decisive_models(config[section]) for section in ("teachers", "students") if section in config}
    return (
        _decisive(config, DistillConfig if "students" in config else RunConfig)
        | sections
        | {
            "features": config["training"]["features_gb"] > 0,  # cached features are rounded
            "data": _decisive(config["data"], DataConfig),
            "training": _decisive(config["training"], TrainingConfig),
        }
    )


def _decisive_models(section: Plain) -> Plain:
    models = {name.slug: name.traits.settings for name in ModelName}
    decided = {
        slug: _decisive(settings, models.get(slug, ModelSettings)) if isinstance(settings, dict) else settings
        for slug, settings in section.items()
        if settings is not None
    }
    for settings in decided.values():
        if isinstance(settings, dict) and settings.get("base_digest") is None:
            settings.pop("base_digest", None)
    return decided


def _decisive(values: Plain, model: type[ConfigModel]) -> Plain:
    outside = outside_run_id(model)
    return {name: value for name, value in values.items() if name not in outside}


def digest_of(config: Plain) -> str:
    """Return the run id of a configuration."""
    return hashlib.sha256(json.dumps(decisive(config), sort_keys=True).encode()).hexdigest()[:12]


def training_defaults() -> Plain:
    """Return the default settings that are common to all teachers of a run."""
    text = resources.files("engine.config").joinpath("training.yaml").read_text(encoding="utf-8")
    settings: Plain = read_document(text, where="training.yaml").value
    return settings


def teacher_defaults(name: ModelName) -> Plain:
    """Return the default settings of a teacher or student; None means: derived from the data."""
    settings: Plain = read_document(name.traits.default_text(), where=f"defaults of {name}").value
    return settings
