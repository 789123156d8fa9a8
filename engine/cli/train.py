"""The command train: one planned run, from its ``teacher_config.yaml``."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from engine.cli import options
from engine.cli.outcome_file import OutcomeFile, failures_in
from engine.cli.progress_style import Progress, ProgressStyle, progress_listener
from engine.cli.spec_options import STUDENT, TEACHER
from engine.config import from_yaml
from engine.errors import ConfigError, NoProgressError, TeacherError
from engine.plan import TrainingRun
from engine.processes.launch import Rank
from engine.registry import ModelName, StudentName
from engine.results.events import Event, Listener, ignore_event
from engine.results.no_gain import check_gain
from engine.results.outcome import Outcome, TeacherOutcome, write_outcome
from engine.results.types import TeacherResult
from engine.spec import TeacherName
from engine.storage import Storage, default_cache
from engine.storage.bounded_read import MANIFEST_BYTES, read_bounded

if TYPE_CHECKING:
    from engine.training.distributed import Processes


class TrainCommand(TyperCommand):
    """The command train, which refuses options of ``teacher run`` by an error that names that command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments.

        Raises:
            ConfigError: An option belongs to ``teacher run``.
        """
        run = ctx.parent and ctx.parent.command.get_command(ctx.parent, "run")
        if run is not None and not ctx.resilient_parsing:
            foreign = _flags(run, ctx) - _flags(self, ctx)
            wrong = next((flag for flag in (arg.partition("=")[0] for arg in args) if flag in foreign), None)
            if wrong is not None:
                raise ConfigError(
                    f"{wrong} is an option of teacher run: write teacher run {wrong} …, or give teacher train the "
                    "configuration of a planned run, --config teacher_config.yaml"
                )
        return super().parse_args(ctx, args)


def _flags(command: TyperCommand, ctx: Any) -> set[str]:
    return {flag for parameter in command.get_params(ctx) for flag in parameter.opts + parameter.secondary_opts}


def train(
    config: Annotated[str, typer.Option("--config", help="teacher_config.yaml of a planned run.")],
    teachers: Annotated[
        list[TeacherName] | None, typer.Option("--teacher", help="Only this teacher; repeatable.", **TEACHER)
    ] = None,
    student: Annotated[
        StudentName | None, typer.Option("--student", help="Only this student of a distillation.", **STUDENT)
    ] = None,
    progress: Progress = ProgressStyle.AUTO,
    work_dir: options.WorkDir = None,
    endpoint_url: options.Endpoint = None,
    outcome: OutcomeFile = None,
) -> None:
    """Train a planned run from its teacher_config.yaml, perhaps as one of several processes. A Job runs this."""
    speaks = Rank.of(os.environ).index == 0
    listener = progress_listener(progress) if speaks else ignore_event
    processes: Processes | None = None
    teacher: ModelName | None = teachers[0] if teachers else None
    results: list[TeacherResult] = []
    try:
        with failures_in(outcome, results):
            content = read_bounded(options.storage(endpoint_url), config, limit=MANIFEST_BYTES, error=ConfigError)
            planned = from_yaml(content, where=config)
            names = [*(teachers or ()), *((student,) if student else ())] or planned.models.names
            if outcome is not None and len(names) != 1:
                raise ConfigError(f"--outcome describes one model, not {', '.join(names)}: give one --teacher")
            from engine.training.device import GPUS, check_gpus
            from engine.training.distributed import joined

            check_gpus(int(os.environ.get(GPUS) or 0))
            with joined() as processes:
                for teacher in names:
                    run = TrainingRun(teacher, planned)
                    hung = partial(_hung, outcome, teacher.slug)
                    results.append(_train_one(run, options.storage_of(planned), listener, work_dir, processes, hung))
            check_gain(results, planned.training.on_no_gain)
    except TeacherError as error:
        slug = teacher.slug if teacher is not None else ""
        listener(Event(event="error", teacher=slug, message=str(error), reason=error.reason, exit_code=error.exit_code))
        # The JSON lines contain the failure already; other processes than the first leave the report to it.
        if progress is ProgressStyle.JSON if speaks else processes is not None and processes.failure_shared:
            raise typer.Exit(error.exit_code) from None
        raise
    if outcome is not None:
        write_outcome(outcome, Outcome(trained=TeacherOutcome.of(results[-1])))


def _train_one(
    run: TrainingRun,
    storage: Storage,
    listener: Listener,
    work_dir: Path | None,
    processes: Processes,
    on_hang: Callable[[NoProgressError], None],
) -> TeacherResult:
    from engine.runner import only_here, scratch_of
    from engine.training.publish import train_and_publish

    folder = work_dir or scratch_of(run.layout)
    with only_here(run, folder) if processes.first else nullcontext():
        return train_and_publish(
            run,
            storage=storage,
            listener=listener,
            work_dir=folder,
            cache=default_cache(),
            processes=processes,
            on_hang=on_hang,
        )


def _hung(outcome: Path | None, teacher: str, error: NoProgressError) -> None:
    """Report a failure from another thread than the hanging one, which may hold the streams."""
    event = Event(event="error", teacher=teacher, message=str(error), reason=error.reason, exit_code=error.exit_code)
    if outcome is not None:
        write_outcome(outcome, Outcome.failure(error))
    for stream, text in ((2, f"error: {error}\n"), (1, f"\n{event.line()}\n")):
        with suppress(OSError):  # the reader may have ended
            os.write(stream, text.encode())
