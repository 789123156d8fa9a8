"""Forecast of GPU memory and time of a planned run, without a GPU and without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field

from engine.config import RunConfig, TeacherSettings
from engine.config.trials import all_trainings
from engine.dataset.images.preprocessing import ShortestEdgeTransform
from engine.dataset.types import DatasetInfo
from engine.errors import BaseModelError, ConfigError, TeacherError
from engine.estimate.base_recommendation import BaseRecommendation
from engine.estimate.batch_shape import BatchShape, inspected_shape
from engine.estimate.cost_model import (
    StepEstimate,
    base_of,
    choose_step,
    counted,
    encoder_layers,
    options,
    published,
    teacher_of,
)
from engine.estimate.training_time import GPUS, training_seconds
from engine.results.metrics import Result
from engine.results.types import MemoryNeed
from engine.spec import LoraPreset, Precision, TeacherName
from engine.storage import Storage, is_remote, join, local_path
from engine.storage.base_model_identity import CONFIG, LIMITS, PREPROCESSOR
from engine.storage.bounded_read import read_bounded
from engine.text.plain_json import read_object

GIBIBYTES = (8, 16, 24, 40, 80)
"""GPU memory sizes in the forecast, in addition to that of the requested GPU."""


class Chosen(Result):
    """Chosen micro-batch size and recomputation on a GPU."""

    micro_batch_size: int
    checkpointing: tuple[str, ...] = Field(description="Groups of layers that are recomputed.")
    memory_bytes: int = Field(description="Expected peak memory of tensors.")


class OnGpu(Result):
    """Forecast of a teacher on one GPU size."""

    gibibytes: int = Field(description="Memory of the GPU.")
    chosen: Chosen | None = Field(description="None: not even one image at a time fits.")


class TeacherForecast(Result):
    """Forecast of the training of a teacher."""

    teacher: TeacherName
    base_model: str
    preset: LoraPreset
    step_images: int = Field(description="Images per optimizer step.")
    epochs: int
    gpus: tuple[OnGpu, ...] = Field(description="From small to large; empty if nothing is known.")
    gpu: str = Field(description="The requested GPU, whose precision all estimates assume.")
    trainings: int = Field(
        default=1, description="Trials of a sweep, or folds and the last training; memory is that of the largest."
    )
    seconds: float | None = Field(
        description="Rough time of all trainings with evaluations on one such GPU; None: unknown, or one does not fit."
    )
    unknown: str = Field(
        default="", description="A sentence with the reason if there is no estimate, and the known bases."
    )


class Inspected(DatasetInfo):
    """Result of the inspection with the forecast of training on it, and recommended base models."""

    forecast: tuple[TeacherForecast, ...] = Field(
        description="One per teacher; empty if nothing can be trained as requested."
    )
    bases: tuple[BaseRecommendation, ...] = Field(
        default=(), description="A recommended base for each teacher that the data has annotations for."
    )


def forecast(config: RunConfig, info: DatasetInfo, storage: Storage, *, gpu: str) -> tuple[TeacherForecast, ...]:
    """Forecast memory and time of each teacher of a run.

    Args:
        config: Configuration of the run.
        info: Result of the inspection of its data.
        storage: Access to bases in object storage.
        gpu: One of :data:`engine.estimate.training_time.GPUS`.
    """
    teachers = ((name, config.teachers.of(name)) for name in config.teachers.names)
    return tuple(_forecast_of(config, name, one, info, storage, gpu) for name, one in teachers if one is not None)


def _forecast_of(
    config: RunConfig, name: TeacherName, settings: TeacherSettings, info: DatasetInfo, storage: Storage, gpu: str
) -> TeacherForecast:
    kind, precision = GPUS[gpu], config.training.precision
    bfloat16 = kind.bfloat16 if precision is Precision.AUTO else precision is Precision.BFLOAT16
    base, transform = find_base(settings, storage)
    shape = inspected_shape(info, settings, transform)
    trainings = [one for one in all_trainings(config, name) if isinstance(one, TeacherSettings)]
    settings = largest_training(trainings, base, shape, bfloat16=bfloat16)
    ways: dict[int, StepEstimate | None] = {}
    if base is not None and any(options(base, settings, shape, bfloat16=bfloat16)):
        ways = {
            size: choose_step(base, settings, shape, bfloat16=bfloat16, available_memory=size * 2**30)
            for size in sorted({*GIBIBYTES, kind.gibibytes})
        }
    train, val = _divided(config, info)
    seconds: float | None = 0.0 if ways else None
    for one in trainings if ways else ():
        here = choose_step(str(base), one, shape, bfloat16=bfloat16, available_memory=kind.gibibytes * 2**30)
        own = None if here is None else training_seconds(here, one, kind, images=train, evaluated=val)
        seconds = None if seconds is None or own is None else seconds + own
    return TeacherForecast(
        teacher=name,
        base_model=settings.base_model,
        preset=settings.lora.preset,
        step_images=settings.batch_size,
        epochs=settings.epochs,
        gpus=tuple(OnGpu(gibibytes=size, chosen=_chosen(way)) for size, way in ways.items()),
        gpu=gpu,
        trainings=len(trainings),
        seconds=seconds,
        unknown="" if ways else _unknown(name, settings, base, bfloat16=bfloat16),
    )


def largest_training(
    trainings: Sequence[TeacherSettings], base: str | None, shape: BatchShape, *, bfloat16: bool
) -> TeacherSettings:
    """Return the settings of the training whose steps need most memory; the first if nothing is known."""

    def memory(settings: TeacherSettings) -> int:
        ways = () if base is None else options(base, settings, shape, bfloat16=bfloat16)
        return next((way.memory_bytes for way in ways), 0)

    return max(trainings, key=memory)


def _chosen(way: StepEstimate | None) -> Chosen | None:
    if way is None:
        return None
    return Chosen(micro_batch_size=way.micro_batch_size, checkpointing=way.checkpointing, memory_bytes=way.memory_bytes)


def _unknown(name: TeacherName, settings: TeacherSettings, base: str | None, *, bfloat16: bool) -> str:
    what = f"what {settings.base_model} needs of a GPU is not known"
    if base is None:
        return (
            f"{what}, or it is no {name}: known are {', '.join(published(name))}, and folders whose config.json has "
            "the dimensions of one of these"
        )
    arithmetic = "bfloat16" if bfloat16 else "float32"
    return f"{what} with the preset {settings.lora.preset} in {arithmetic}: known are {', '.join(counted(base))}"


def _divided(config: RunConfig, info: DatasetInfo) -> tuple[int, int]:
    """Return the numbers of training and validation images."""
    split = config.data.split
    if split is None:
        return info.splits["train"], info.splits["val"]
    if split.folds is not None and "train" in info.splits:
        images = info.splits["train"]
        return images - images // split.folds, max(1, images // split.folds)
    return max(1, info.images * split.train // 100), max(1, info.images * split.val // 100)


def needs(config: RunConfig, info: DatasetInfo, storage: Storage) -> Iterator[MemoryNeed]:
    """Forecast each teacher with a known base model, in bfloat16 unless the run requests float32."""
    bfloat16 = config.training.precision is not Precision.FLOAT32
    for name in config.teachers.names:
        settings = config.teachers.of(name)
        assert settings is not None  # noqa: S101 - it is one of the names
        base, transform = find_base(settings, storage)
        if base is None:
            continue
        shape = inspected_shape(info, settings, transform)
        trainings = [one for one in all_trainings(config, name) if isinstance(one, TeacherSettings)]
        settings = largest_training(trainings, base, shape, bfloat16=bfloat16)
        ways = list(options(base, settings, shape, bfloat16=bfloat16))
        if ways:
            least = min(way.memory_bytes for way in ways)
            yield MemoryNeed(teacher=name, memory_bytes=ways[0].memory_bytes, least_memory_bytes=least)


def check_layers(config: RunConfig, storage: Storage) -> None:
    """Check ``skip_layers`` against the encoder of a known base; for other bases the trainer reports it.

    Raises:
        ConfigError: The encoder has fewer layers.
    """
    for name in config.teachers.names:
        settings = config.teachers.of(name)
        if settings is None or not settings.lora.skip_layers:
            continue
        base, _ = find_base(settings, storage)
        if base is not None and settings.lora.skip_layers > encoder_layers(base):
            raise ConfigError(
                f"teachers.{name.slug}.lora.skip_layers is {settings.lora.skip_layers}, and the encoder of "
                f"{settings.base_model} has {encoder_layers(base)} layers: skip at most so many"
            )


def find_base(settings: TeacherSettings, storage: Storage) -> tuple[str | None, ShortestEdgeTransform | None]:
    """Return the known base of a teacher (in a folder or bucket by ``config.json``) and its image transform."""
    name = settings.base_model
    remote = is_remote(name)
    folder = Path() if remote else local_path(name).expanduser()
    if not remote and not folder.is_dir():
        return _of_kind(base_of(name), settings), None
    where = name if remote else str(folder)
    config = _read(join(where, "config.json"), storage)
    base = transform = None
    with suppress(AttributeError, TypeError):  # which the trainer reports too
        base = base_of(name, config) if config else None
    with suppress(BaseModelError):  # which the trainer reports
        values = _read(join(where, PREPROCESSOR), storage)
        transform = ShortestEdgeTransform.of(values, where=where) if "size" in values else None
    return _of_kind(base, settings), transform


def _of_kind(base: str | None, settings: TeacherSettings) -> str | None:
    return base if base is not None and isinstance(settings, teacher_of(base).traits.settings) else None


def _read(uri: str, storage: Storage) -> dict[str, Any]:
    """Read a JSON file; empty if it is missing or damaged, which the trainer reports."""
    try:
        content = read_bounded(storage, uri, limit=LIMITS[CONFIG])
        return read_object(content, where=uri, error=BaseModelError, limit=LIMITS[CONFIG])
    except TeacherError:
        return {}
