"""The application: its commands."""

from __future__ import annotations

from typing import Annotated

import typer

from engine import __version__
from engine.cli import (
    convert,
    distill,
    doctor,
    evaluate_predict_export,
    fetch,
    inspect_and_validate,
    labels,
    launch,
    optimize_and_benchmark,
    result,
    run,
    split_and_preview,
    train,
)

app = typer.Typer(
    name="teacher",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"teacher-finetune {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Adapt vision teachers to COCO data by LoRA, and train small students."""


for command in (
    run.run,
    inspect_and_validate.inspect,
    inspect_and_validate.validate,
    split_and_preview.split,
    convert.convert,
    split_and_preview.augment,
    run.prepare,
    distill.distill,
    result.result,
    train.train,
    evaluate_predict_export.evaluate,
    evaluate_predict_export.predict,
    labels.label,
    evaluate_predict_export.export,
    optimize_and_benchmark.optimize,
    optimize_and_benchmark.benchmark,
    fetch.fetch,
    doctor.doctor,
):
    app.command(cls=train.TrainCommand if command is train.train else None)(command)
app.command(context_settings=launch.WORDS_FOLLOW)(launch.launch)
