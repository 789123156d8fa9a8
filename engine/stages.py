"""The stages of a run: inspection, one per model, optimization. Each is a Job or a process of this machine.

The operator and the local runner both work from :func:`all_stages`. A teacher in the registry has its stage; any other
stage is added to ``AFTER_TRAINING``. Both then start it, report it and wait for it by the same code as every other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import NamedTuple

from engine.errors import ArtifactRefusedError, NotBetterThanBaseError, TeacherError
from engine.registry import ModelName, prompters
from engine.results.metrics import Result
from engine.results.outcome import Outcome
from engine.spec import TeacherName


class StageInput(NamedTuple):
    """Inputs of the command of a stage.

    Attributes:
        request: File with the manifest.
        config: URI of the run's ``teacher_config.yaml``, which inspection writes; empty before.
    """

    request: str = ""
    config: str = ""


@dataclass(frozen=True)
class Stage:
    """One step of a run that executes as a process of its own.

    Its command gets ``--outcome FILE`` after :attr:`arguments`. It must accept this option and write an
    :class:`engine.results.outcome.Outcome` to the file when it ends, in success or not: see
    :mod:`engine.cli.outcome_file`. With :attr:`uses_gpu` it must accept ``--work-dir`` and ``--progress json`` too.

    Attributes:
        name: CamelCase name in ``spec.stages`` and in status.
        slug: The same in names of files, Jobs, labels and containers.
        title: The same in sentences.
        activity: What it does before it reports progress, for its status.
        arguments: Arguments of the command ``teacher``.
        result: The result in an outcome; None where the outcome holds none.
        teacher: The teacher that it trains, if it trains one.
        requires: Names of the stages that must have succeeded before.
        follows: Names of the stages that must have ended before, in success or not, each with the reason.
        uses_gpu: It runs in the trainer image with the run's GPUs, and reports progress.
        exclusive: Two processes of it must never run at a time.
        retries: Number of retries; None: as the run says (``spec.backoffLimit``).
        published: Its result is part of the published run, so that a published run needs no process of it.
        verdict: Error with which it ends after it has published a result that is not good enough: later stages run all
            the same; None: every error ends the run.
        run_limit_seconds: Longest time in which its containers may run, over all attempts; None: as the run says
            (``spec.activeDeadlineSeconds``).
    """

    name: str
    slug: str
    title: str
    activity: str
    arguments: Callable[[StageInput], Sequence[str]]
    result: Callable[[Outcome], Result | Mapping[str, str] | None] = lambda outcome: outcome.finished
    teacher: ModelName | None = None
    requires: tuple[str, ...] = ()
    follows: Mapping[str, str] = field(default_factory=dict)
    uses_gpu: bool = False
    exclusive: bool = True
    retries: int | None = 2
    published: bool = False
    verdict: type[TeacherError] | None = None
    run_limit_seconds: int | None = 4 * 3600


INSPECTION = Stage(
    name="Inspection",
    slug="inspect",
    title="inspection",
    activity="the data is being inspected",
    arguments=lambda given: ("prepare", "-f", given.request),
    result=lambda outcome: outcome.prepared,
    exclusive=False,
)


@cache
def training(teacher: ModelName) -> Stage:
    """Return the stage that trains one teacher or student, after those whose boxes prompt it."""
    return Stage(
        name=teacher.value,
        slug=teacher.slug,
        title=teacher.traits.title,
        activity="fetching the data and the base model",
        arguments=lambda given: ("train", "--config", given.config, f"--{teacher.kind}", teacher.value),
        result=lambda outcome: outcome.trained,
        teacher=teacher,
        requires=(INSPECTION.name,),
        follows={before.value: "whose boxes it is prompted by" for before in prompters(teacher)},
        uses_gpu=True,
        retries=None,
        published=True,
        verdict=NotBetterThanBaseError,
        run_limit_seconds=None,
    )


OPTIMIZATION = Stage(
    name="Optimization",
    slug="optimize",
    title="optimization",
    activity="the student is being exported and measured",
    arguments=lambda given: ("optimize", "--config", given.config),
    published=True,
    verdict=ArtifactRefusedError,
)
"""Exports the student of a distillation that asks for it. It needs a CPU only."""

AFTER_TRAINING: tuple[Stage, ...] = ()
"""Stages that come after the training of all teachers."""


def all_stages() -> tuple[Stage, ...]:
    """Return every stage of a run of teachers, in order of execution."""
    return (INSPECTION, *map(training, TeacherName), *AFTER_TRAINING)


def of_run(models: Sequence[ModelName], *, optimize: bool = False) -> tuple[Stage, ...]:
    """Return the stages of a run that trains these models, in order, and exports them with ``optimize``."""
    trained = [training(name) for name in ModelName if name in models]
    exported = (replace(OPTIMIZATION, requires=tuple(stage.name for stage in trained)),) if optimize else ()
    return (INSPECTION, *trained, *exported, *AFTER_TRAINING)
