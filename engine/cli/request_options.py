"""The request of a command: a manifest, or flags that set the same fields, and settings by their path.

:func:`takes_request` gives a command the options, and a function that returns the :class:`Request` they make.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any, Generic

import typer
from pydantic import BaseModel

from engine.cli import options
from engine.cli.spec_options import option_type, spec_option
from engine.errors import ConfigError
from engine.manifest import DistillManifest, M, Manifest
from engine.registry import class_reader
from engine.spec import (
    DatasetSpec,
    FineTuneSpec,
    LoraSpec,
    RetentionSpec,
    SplitFilesSpec,
    SplitSpec,
    StorageSpec,
    SweepSpec,
    TeacherSpec,
    TrainingSpec,
)
from engine.text.pydantic_errors import parse


@dataclass(frozen=True)
class Flag:
    """One option of a request.

    Attributes:
        flag: Name of the option, ``--lora-rank``; without dashes: a positional argument.
        model: Part of the spec that has the field.
        field: Name of the field in Python.
        path: Where the value goes: a path in the manifest's ``spec``, or under :data:`SETTINGS`, which a manifest takes
            in addition.
        more: Sentence that follows the field's description in the help.
    """

    flag: str
    model: type[BaseModel]
    field: str
    path: str
    more: str = ""

    @property
    def parameter(self) -> str:
        """Name of the Python parameter."""
        return self.flag.strip("-").replace("-", "_")

    @property
    def setting(self) -> str | None:
        """Path in ``teacher_config.yaml``, for a flag that is a setting."""
        return self.path.removeprefix(SETTINGS) if self.path.startswith(SETTINGS) else None

    def annotation(self) -> Any:
        """Return the annotated type of the parameter."""
        kind = option_type(self.model, self.field)
        if not self.flag.startswith("--"):
            return Annotated[kind | None, typer.Argument(help=self.model.model_fields[self.field].description)]
        kind = list[kind] if self.path in (TEACHER_NAMES, FORMATS) else kind  # type: ignore[valid-type]
        return Annotated[kind | None, spec_option(self.model, self.field, self.flag, more=self.more)]


SETTINGS = "settings/"
TEACHER_NAMES = "teachers.name"
FORMATS, MAX_AP_DROP = "optimize.format", "optimize.maxApDrop"

ANNOTATIONS = Flag("annotations", DatasetSpec, "annotations", "dataset.annotations")
IMAGES = Flag("--images", DatasetSpec, "images", "dataset.images")
CROWDS = Flag("--crowds", DatasetSpec, "crowds", "dataset.crowds")
EXIF = Flag("--exif-orientation", DatasetSpec, "exif_orientation", "dataset.exifOrientation")
ENDPOINT = Flag("--endpoint-url", StorageSpec, "endpoint_url", "storage.endpointUrl")
LORA_PRESET = Flag("--lora-preset", LoraSpec, "preset", f"{SETTINGS}teachers.*.lora.preset")

_READER = class_reader()
DETECTOR_BASE = Flag(
    "--base-model",
    TeacherSpec,
    "base_model",
    f"{SETTINGS}teachers.{'*' if _READER is None else _READER.slug}.base_model",
    "Of the detector to estimate for; default: as in training.",
)

DATA = (
    Flag("--data", DatasetSpec, "annotations", "dataset.annotations"),
    Flag("--train", SplitFilesSpec, "annotations", "dataset.train.annotations", "With --val, instead of --data."),
    Flag("--val", SplitFilesSpec, "annotations", "dataset.val.annotations", "With --train."),
    Flag("--test", SplitFilesSpec, "annotations", "dataset.test.annotations", "With --train and --val."),
    IMAGES,
    CROWDS,
    EXIF,
    Flag("--group-by", DatasetSpec, "group_by", "dataset.groupBy"),
    Flag("--folds", SplitSpec, "folds", "dataset.split.folds"),
    Flag("--output", FineTuneSpec, "output", "output"),
    Flag("--name", Manifest, "name", "name"),
    Flag("--teacher", TeacherSpec, "name", TEACHER_NAMES, "Repeatable; default: those the data calls for."),
    Flag("--base-model", TeacherSpec, "base_model", "teachers.baseModel", "With exactly one --teacher."),
    ENDPOINT,
)
"""What a manifest holds already."""

SWEEP = {"--sweep-learning-rate": "learning_rates", "--sweep-rank": "ranks", "--sweep-preset": "presets"}

HYPERPARAMETERS = (
    Flag("--epochs", TeacherSpec, "epochs", f"{SETTINGS}teachers.*.epochs"),
    Flag("--batch-size", TeacherSpec, "batch_size", f"{SETTINGS}teachers.*.batch_size"),
    Flag("--learning-rate", TeacherSpec, "learning_rate", f"{SETTINGS}teachers.*.learning_rate"),
    LORA_PRESET,
    Flag("--lora-rank", LoraSpec, "rank", f"{SETTINGS}teachers.*.lora.rank"),
    Flag("--lora-alpha", LoraSpec, "alpha", f"{SETTINGS}teachers.*.lora.alpha", "Default: twice the rank."),
    Flag("--seed", TrainingSpec, "seed", f"{SETTINGS}training.seed"),
    Flag("--min-retention", RetentionSpec, "min_share", f"{SETTINGS}training.min_retention"),
    *(
        Flag(flag, SweepSpec, field, f"{SETTINGS}training.sweep.{field}", "Repeatable: try each in a sweep.")
        for flag, field in SWEEP.items()
    ),
)
"""Settings of all teachers, which a manifest takes in addition."""

ALL = (*DATA, *HYPERPARAMETERS)


@dataclass(frozen=True)
class Request(Generic[M]):
    """Request of a command.

    Attributes:
        manifest: Name and spec.
        file: URI or path of the manifest; None if it was made from flags.
        settings: Settings given on the command line, by their path.
    """

    manifest: M
    file: str | None
    settings: Mapping[str, str]

    @property
    def spec(self: Request[Manifest]) -> FineTuneSpec:
        """The spec, with the settings of the command line."""
        return self.manifest.spec


ReadRequest = Callable[[], Request[Manifest]]
"""Reads the manifest or the flags. Called by the command, so that its failures are those of the command."""


def takes_request(
    *flags: Flag, output: str | None = None, settable: bool = True, kind: type[Manifest | DistillManifest] = Manifest
) -> Callable[[Any], Callable[..., None]]:
    """Replace the parameter ``read_request`` of a command by ``-f``, ``--set`` and one option per flag (decorator).

    Args:
        *flags: Options of the command.
        output: ``spec.output`` of a request from flags, for a command that publishes nothing.
        settable: Offer ``--set``.
        kind: Kind of the manifest.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters
        taken = {flag.parameter: flag.annotation() for flag in flags}
        taken["manifest"] = Annotated[str | None, options.manifest_file(kind)]
        if settable:
            taken["set_"] = options.Set
        keyword = inspect.Parameter.KEYWORD_ONLY
        made = [inspect.Parameter(name, keyword, default=None, annotation=one) for name, one in taken.items()]
        others = [one.replace(kind=keyword) for name, one in own.items() if name != "read_request"]

        @wraps(command)
        def called(**values: Any) -> None:
            given = {flag: values.pop(flag.parameter) for flag in flags}
            file, assignments = values.pop("manifest"), values.pop("set_", None)
            command(read_request=lambda: _request(kind, file, given, assignments, output), **values)

        called.__signature__ = inspect.Signature([*made, *others])  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in (*made, *others)}
        return called

    return decorate


def _request(
    kind: type[M], file: str | None, given: Mapping[Flag, Any], assignments: list[str] | None, output: str | None
) -> Request[M]:
    """Return the request of a manifest, or of flags, with the settings of the command line.

    Raises:
        ConfigError: Flags contradict the manifest or each other, or values are wrong.
    """
    flags = {flag: value for flag, value in given.items() if value is not None}
    settings = {flag.setting: _yaml(value) for flag, value in flags.items() if flag.setting is not None}
    settings |= options.settings(assignments)
    data = {flag: value for flag, value in flags.items() if flag.setting is None}
    data |= {flag: value for flag, value in flags.items() if flag == DETECTOR_BASE and file is not None}
    if file is None:
        request = _from_flags(data, given, output)
        name = request.pop("name", "run")
        whole = {"name": name, "spec": request | {"settings": settings}}
        return Request(parse(kind, whole, where="the command line"), None, settings)
    if data:
        names = ", ".join(flag.flag if flag.flag.startswith("-") else flag.flag.upper() for flag in data)
        raise ConfigError(f"-f {file} holds the data and the models: leave out {names}")
    manifest = options.read_manifest(file, kind)
    if settings:
        plain = manifest.spec.model_dump(mode="json", by_alias=True)
        spec: Any = parse(type(manifest.spec), plain | {"settings": plain["settings"] | settings}, where="--set")
        changed: Any = manifest.model_copy(update={"spec": spec})
        return Request(changed, file, settings)
    return Request(manifest, file, settings)


def _yaml(value: object) -> str:
    """Return the YAML text of an option's value, which is a list if the option is repeatable."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


def _from_flags(data: Mapping[Flag, Any], given: Mapping[Flag, Any], output: str | None) -> dict[str, Any]:
    """Return the name and the spec of a request as plain data."""
    wanted = {} if output is None else {"output": output}
    by_path = {flag.path: value for flag, value in data.items()}
    names, base_model = by_path.pop(TEACHER_NAMES, []), by_path.pop("teachers.baseModel", None)
    formats, drop = by_path.pop(FORMATS, []), by_path.pop(MAX_AP_DROP, None)
    if not any(path.startswith("dataset.") and path.endswith("annotations") for path in by_path):
        first = next(flag for flag in given if flag.path == "dataset.annotations")
        missing = first.flag if first.flag.startswith("-") else first.flag.upper()
        raise ConfigError(f"give {missing}{'' if output is not None else ' and --output'}, or a manifest with -f")
    if "output" not in by_path and output is None:
        raise ConfigError("give --output, or a manifest with -f")
    if base_model is not None and len(names) != 1:
        raise ConfigError("--base-model goes with exactly one --teacher: each teacher has a base of its own")
    if drop is not None and not formats:
        raise ConfigError("--max-ap-drop goes with --format: it limits the loss of AP of exported files")
    request: dict[str, Any] = dict(wanted)
    for path, value in by_path.items():
        *groups, name = path.split(".")
        group = request
        for one in groups:
            group = group.setdefault(one, {})
        group[name] = value
    if formats:
        request["optimize"] = [{"format": one.value, "maxApDrop": drop} for one in formats]
    if names:
        request["teachers"] = [{"name": name, "baseModel": base_model} for name in names]
    return request
