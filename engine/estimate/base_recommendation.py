"""Recommend a base model by the data and the memory of a GPU. Only a recommendation: no setting follows from it."""

from __future__ import annotations

from pydantic import Field

from engine.config import RunConfig, TeacherSettings
from engine.config.data_defaults import MANY_CLASSES, MANY_IMAGES
from engine.config.data_section import train_images
from engine.config.resolve import generate_config
from engine.dataset.types import DatasetInfo
from engine.errors import TeacherError
from engine.estimate.batch_shape import inspected_shape
from engine.estimate.cost_model import StepEstimate, base_of, choose_step
from engine.estimate.training_time import GPUS, Gpu
from engine.results.metrics import Result
from engine.spec import FineTuneSpec, Precision, TeacherName, TeacherSpec
from engine.traits import PublishedBase

SOME_IMAGES, SOME_CLASSES = 1_000, 20
"""From these numbers on, the second smallest base is recommended; the largest from those that double the rank on."""


class BaseRecommendation(Result):
    """The base model that the data asks for, and the reason."""

    teacher: TeacherName
    planned: bool = Field(description="The request tunes this teacher.")
    base_model: str = Field(description="Base model of the request; of a teacher that it does not tune, its default.")
    recommended: str | None = Field(description="Hub id of the recommended base; None: no known base fits the GPU.")
    parameters: int | None = Field(default=None, description="Its number of parameters.")
    licence: str = Field(default="", description="Its licence, as published.")
    memory_bytes: int | None = Field(default=None, description="Expected memory of its steps on the GPU.")
    gpu: str = Field(description="The GPU.")
    reason: str = Field(description="A sentence with the facts that it follows from.")


def recommend_bases(
    info: DatasetInfo, spec: FineTuneSpec, config: RunConfig, *, gpu: str
) -> tuple[BaseRecommendation, ...]:
    """Recommend a base for each registered teacher that the data has annotations for.

    Args:
        info: Result of the inspection of the data.
        spec: The request.
        config: Its configuration.
        gpu: One of :data:`engine.estimate.training_time.GPUS`.
    """
    found = []
    for name in TeacherName:
        planned = config if config.teachers.of(name) is not None else _alone(name, info, spec)
        if name.traits.published and planned is not None:
            found.append(_recommend(name, info, spec, planned, gpu=gpu, planned=planned is config))
    return tuple(found)


def _alone(name: TeacherName, info: DatasetInfo, spec: FineTuneSpec) -> RunConfig | None:
    """Return the configuration that tunes only this teacher, by its defaults; None if the data does not allow it."""
    if not (info.has_masks if name.traits.needs_masks else info.has_boxes):
        return None
    request = spec.model_copy(update={"teachers": [TeacherSpec(name=name)], "settings": {}})
    try:
        return generate_config(info, request)
    except TeacherError:
        return None


def _recommend(
    name: TeacherName, info: DatasetInfo, spec: FineTuneSpec, config: RunConfig, *, gpu: str, planned: bool
) -> BaseRecommendation:
    kind, settings = GPUS[gpu], config.teachers.of(name)
    assert settings is not None  # noqa: S101 - the configuration is of this teacher
    bases = sorted(name.traits.published, key=lambda base: base.parameters)
    wanted, why = _wanted(train_images(info, spec.dataset), len(config.data.classes), bases)
    too_large: list[str] = []
    for base in reversed(bases[: wanted + 1]):
        step = _step(base, settings, info, kind, config.training.precision)
        if step is not None:
            break
        too_large.append(base.name)
    else:
        base, step = None, None
    return BaseRecommendation(
        teacher=name,
        planned=planned,
        base_model=settings.base_model,
        recommended=None if base is None else base.name,
        parameters=None if base is None else base.parameters,
        licence="" if base is None else base.licence,
        memory_bytes=None if step is None else step.memory_bytes,
        gpu=gpu,
        reason=f"{why}{_size_sentence(info, too_large, gpu, kind)}",
    )


def _wanted(images: int, classes: int, bases: list[PublishedBase]) -> tuple[int, str]:
    """Return the index of the base that the data asks for, smallest first, and the reason.

    The largest from the numbers on that double the rank, since the reason is the same: the data contains more than one
    domain. Small data are served by the smallest, which trains fastest.
    """
    facts = f"{images:,} training image{'s' if images != 1 else ''} of {classes} class{'es' if classes != 1 else ''}"
    if images >= MANY_IMAGES or classes >= MANY_CLASSES:
        return len(
            bases
        ) - 1, f"{facts} justify the largest base (from {MANY_IMAGES:,} images or {MANY_CLASSES} classes)"
    if images >= SOME_IMAGES or classes >= SOME_CLASSES:
        limits = f"from {SOME_IMAGES:,} images or {SOME_CLASSES} classes"
        return min(1, len(bases) - 1), f"{facts} justify more than the smallest base ({limits})"
    return 0, f"{facts} are served by the smallest base, which trains fastest"


def _step(
    base: PublishedBase, settings: TeacherSettings, info: DatasetInfo, gpu: Gpu, precision: Precision
) -> StepEstimate | None:
    """Return the step that fits the GPU; None if not even one image fits, or the cost of the base is unknown."""
    known = base_of(base.name)
    if known is None:
        return None
    bfloat16 = gpu.bfloat16 if precision is Precision.AUTO else precision is Precision.BFLOAT16
    return choose_step(
        known, settings, inspected_shape(info, settings), bfloat16=bfloat16, available_memory=gpu.gibibytes * 2**30
    )


def _size_sentence(info: DatasetInfo, too_large: list[str], gpu: str, kind: Gpu) -> str:
    if not too_large:
        return ""
    size = "" if info.image_sizes is None else " at images of {} x {}".format(*info.image_sizes.largest_size)
    return f"; {' and '.join(too_large)} would not fit {gpu} ({kind.gibibytes} GiB){size}"
