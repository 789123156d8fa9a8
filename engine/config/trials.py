"""Trials of a teacher: the combinations of a sweep, each with the settings that differ. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from itertools import product
from typing import TYPE_CHECKING, Any

from pydantic.alias_generators import to_camel

from engine.errors import ConfigError
from engine.registry import ModelName, TeacherName
from engine.spec import SweepSpec, TeacherSpec
from engine.spec.base import NUMBERS
from engine.spec.training import sweep_conflict
from engine.text.pydantic_errors import parse

if TYPE_CHECKING:
    from engine.config.model import RunConfig
    from engine.config.model_settings import ModelSettings

Plain = dict[str, Any]

PATHS = {"learning_rates": "learning_rate", "ranks": "lora.rank", "presets": "lora.preset"}
"""Setting of a teacher that each list of a sweep varies."""


def given_settings(name: ModelName, asked: TeacherSpec | None, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a teacher that a sweep may vary and the request sets, each with the words that set it.

    >>> from engine.spec import TeacherName
    >>> given_settings(TeacherName.SAM, None, {"teachers.*.lora": {"rank": 64}, "teachers.sam.views": 8})
    {'lora.rank': 'teachers.*.lora'}

    Args:
        name: Name of the teacher.
        asked: Its section of the request.
        settings: Values by path, in the order in which they are applied; None restores the default.
    """
    found: dict[str, str] = {}
    if asked is not None:
        typed = {"learningRate": asked.learning_rate, "lora.rank": asked.lora.rank, "lora.preset": asked.lora.preset}
        given = zip(PATHS.values(), typed.items(), strict=True)
        found = {path: f"{words} of {name}" for path, (words, value) in given if value is not None}
    for path, value in settings.items():
        section, slug, *own = path.split(".", 2)
        if section != name.section or slug not in (name.slug, "*") or not own:
            continue
        for changed, new in flat({own[0]: value}).items():
            found.pop(changed, None)
            found |= {changed: path} if new is not None and changed in PATHS.values() else {}
    return found


def expand_sweep(config: Plain, fill: Callable[[Plain], None], given: Mapping[TeacherName, Mapping[str, str]]) -> None:
    """Replace ``training.sweep`` of a configuration by ``trials`` of its teachers, in place.

    A sweep of one trial sets its values: the run is that without a sweep. A teacher whose trials are given keeps them.

    Args:
        config: Configuration in which values that follow from the data are not set yet.
        fill: Sets these values of a teacher's settings, in place.
        given: :func:`given_settings` of each teacher to tune.

    Raises:
        ConfigError: The sweep is empty, too large or not valid, or varies a setting that the user sets.
    """
    sweep = config["training"].pop("sweep")
    if sweep is None or (isinstance(sweep, Mapping) and set(sweep) <= set(PATHS) and not any(sweep.values())):
        return
    checked = parse(SweepSpec, sweep, where="training.sweep", by_name=True, context=NUMBERS)
    lists = {PATHS[name]: values for name, values in checked.model_dump(mode="json").items() if values}
    lists = {path: [_plain(path, value) for value in values] for path, values in lists.items()}
    trials: list[Plain] = [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]
    for name, words in given.items():
        settings = config[name.section][name.slug]
        if settings.get("trials") is not None:
            continue
        _check_not_given(checked, words)
        if len(trials) == 1:
            _set(settings, trials[0])
        else:
            settings["trials"] = [_differences(settings, trial, fill) for trial in trials]


def _check_not_given(sweep: SweepSpec, given: Mapping[str, str]) -> None:
    """Raise ConfigError if the user sets what the sweep varies."""
    for many, path in PATHS.items():
        if path in given and getattr(sweep, many):
            raise ConfigError(sweep_conflict(to_camel(many), given[path]))


def _plain(path: str, value: Any) -> Any:
    return float(value) if path == "learning_rate" else value


def _differences(settings: Plain, trial: Plain, fill: Callable[[Plain], None]) -> Plain:
    """Return the values of a trial, and other settings that follow from them, by path."""
    own, tried = deepcopy(settings), deepcopy(settings)
    _set(tried, trial)
    fill(own)
    fill(tried)
    before, after = flat(own), flat(tried)
    return trial | {path: value for path, value in after.items() if value != before.get(path) and path not in trial}


def _set(settings: Plain, trial: Mapping[str, Any]) -> None:
    for path, value in trial.items():
        *groups, name = path.split(".")
        group = settings
        for one in groups:
            group = group[one]
        group[name] = value


def all_trainings(config: RunConfig, name: ModelName) -> tuple[ModelSettings, ...]:
    """Return the settings of every training of a model: trials of a sweep, or folds and the last training."""
    settings, split = config.models.of(name), config.data.split
    if settings is None:
        return ()
    if settings.trials:
        return tuple(settings.of_trial(index) for index in range(len(settings.trials)))
    return (settings,) * (1 if split is None or split.folds is None else split.folds + 1)


def with_values(settings: Plain, values: Mapping[str, Any]) -> Plain:
    """Return a copy of a teacher's settings with the values of a trial.

    Raises:
        ValueError: A path does not name a setting that a trial may change.
    """
    changed = deepcopy(settings) | {"trials": ()}
    known = flat(changed)
    for path in values:
        if path not in known or path in FIXED:
            raise ValueError(f"trials: {path!r} does not name a setting that a trial can change")
    _set(changed, values)
    return changed


FIXED = frozenset({"base_model", "base_digest", "revision", "trials"})
"""Settings that all trials of a teacher share."""


def flat(values: Mapping[str, Any], prefix: str = "") -> Plain:
    """Flatten nested settings, with their path as the key.

    >>> flat({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    found: Plain = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        found |= flat(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return found
