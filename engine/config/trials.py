"""Trials of a teacher: the combinations of a sweep, each with the settings that differ. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from itertools import product
from typing import TYPE_CHECKING, Any

from engine.registry import ModelName
from engine.spec import SweepSpec
from engine.spec.base import NUMBERS
from engine.text.pydantic_errors import parse

if TYPE_CHECKING:
    from engine.config.model import RunConfig
    from engine.config.model_settings import ModelSettings

Plain = dict[str, Any]

PATHS = {"learning_rates": "learning_rate", "ranks": "lora.rank", "presets": "lora.preset"}
"""Setting of a teacher that each list of a sweep varies."""


def expand_sweep(config: Plain, names: Iterable[ModelName], fill: Callable[[Plain], None]) -> None:
    """Replace ``training.sweep`` of a configuration by ``trials`` of its teachers, in place.

    A sweep of one trial sets its values: the run is that without a sweep. A teacher whose trials are given keeps them.

    Args:
        config: Configuration in which values that follow from the data are not set yet.
        names: Teachers to tune.
        fill: Sets these values of a teacher's settings, in place.

    Raises:
        ConfigError: The sweep is empty, too large or not valid.
    """
    sweep = config["training"].pop("sweep")
    if sweep is None or (isinstance(sweep, Mapping) and set(sweep) <= set(PATHS) and not any(sweep.values())):
        return
    checked = parse(SweepSpec, sweep, where="training.sweep", by_name=True, context=NUMBERS)
    lists = {PATHS[name]: values for name, values in checked.model_dump(mode="json").items() if values}
    lists = {path: [_plain(path, value) for value in values] for path, values in lists.items()}
    trials: list[Plain] = [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]
    for settings in [config[name.section][name.slug] for name in names]:
        if settings.get("trials") is not None:
            continue
        if len(trials) == 1:
            _set(settings, trials[0])
        else:
            settings["trials"] = [_differences(settings, trial, fill) for trial in trials]


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
