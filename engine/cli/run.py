"""Commands that start from a request: run, and prepare, its first half. The request is a manifest or flags."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli import options, request_options
from engine.cli.complete_run import complete_run
from engine.cli.display import console, show_info, show_results
from engine.cli.outcome_file import OutcomeFile, failures_in
from engine.cli.progress_style import Progress, ProgressStyle
from engine.cli.request_options import ReadRequest, takes_request
from engine.config import RunConfig
from engine.layout import RunLayout
from engine.results.no_gain import check_gain
from engine.results.outcome import Outcome, Prepared, write_outcome
from engine.results.run_files import RunMetadata


@takes_request(*request_options.ALL)
def run(
    read_request: ReadRequest,
    again: Annotated[bool, typer.Option("--again", help="Train even if this very run is published.")] = False,
    progress: Progress = ProgressStyle.AUTO,
    work_dir: options.WorkDir = None,
) -> None:
    """Inspect the data, train the teachers and publish the adapters, by a manifest (-f) or by flags."""
    manifest = read_request().manifest
    layout, done, config = complete_run(manifest, again=again, progress=progress, work_dir=work_dir)
    _show_run(layout, done, config)


@takes_request(*request_options.ALL)
def prepare(read_request: ReadRequest, outcome: OutcomeFile = None) -> None:
    """Prepare a run: inspect the data, and write the trainers' input to storage. Needs no torch."""
    from engine import runner
    from engine.estimate.forecast import needs

    with failures_in(outcome):
        manifest = read_request().manifest
        storage = options.storage_of(manifest)
        info, runs = runner.prepare(manifest, storage)
        show_info(info)
        layout = runs[0].layout
        done = runner.published(layout, storage, runs[0].config)
        if done is None:
            runner.begin(info, runs, storage)
        else:
            console.print("this very run is published already", style="dim")
    if outcome is not None:
        needed = needs(runs[0].config, info, storage)
        write_outcome(outcome, Outcome(prepared=Prepared.of(info, runs, published=done, needs=needed)))
    typer.echo(layout.root)


def _show_run(layout: RunLayout, metadata: RunMetadata, config: RunConfig) -> None:
    """Print what was published.

    Raises:
        NotBetterThanBaseError: An adapter is not better than its base, and that is to fail.
    """
    show_results(metadata.teachers)
    console.print(layout.report, markup=False, soft_wrap=True)
    typer.echo(layout.root)
    check_gain(metadata.teachers, config.training.on_no_gain)
