"""``teacher result``: the published result of one teacher of a planned run, read from storage."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli import options
from engine.cli.outcome_file import OutcomeFile, failures_in
from engine.cli.spec_options import TEACHER
from engine.config import from_yaml
from engine.errors import StorageError
from engine.plan import TrainingRun
from engine.results.no_gain import check_gain
from engine.results.outcome import Outcome, TeacherOutcome, write_outcome
from engine.results.run_files import read_result
from engine.results.types import TeacherResult
from engine.spec import TeacherName
from engine.storage.bounded_read import MANIFEST_BYTES, read_bounded


def result(
    config: Annotated[str, typer.Option("--config", help="teacher_config.yaml of a planned run.")],
    teacher: Annotated[TeacherName, typer.Option("--teacher", help="Which teacher.", **TEACHER)],
    endpoint_url: options.Endpoint = None,
    outcome: OutcomeFile = None,
) -> None:
    """Read the published result of a teacher, with the same outcome as its training. Needs no torch."""
    results: list[TeacherResult] = []
    with failures_in(outcome, results):
        settings = from_yaml(read_bounded(options.storage(endpoint_url), config, limit=MANIFEST_BYTES), where=config)
        layout = TrainingRun(teacher, settings).layout
        found = read_result(layout, teacher, options.storage_of(settings))
        if found is None:
            raise StorageError(f"{teacher} has published nothing in {layout.root}: see the log of its training")
        results.append(found)
        check_gain(results, settings.training.on_no_gain)
    if outcome is not None:
        write_outcome(outcome, Outcome(trained=TeacherOutcome.of(found)))
    typer.echo(layout.root)
