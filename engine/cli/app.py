"""The application: its commands, and how failures reach the user and whatever started the process."""

from __future__ import annotations

import os
import sys

import typer

from engine.cli import adapters, data, runs
from engine.cli.display import fail, is_terminal
from engine.errors import TeacherError

app = typer.Typer(
    name="teacher",
    help="Adapt vision teachers (Grounding DINO, SAM) to COCO data by LoRA.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (
    runs.run,
    data.inspect,
    data.validate,
    data.split,
    data.augment,
    runs.train,
    adapters.evaluate,
    adapters.predict,
    adapters.export,
    runs.fetch,
    runs.doctor,
):
    app.command()(command)


def main() -> None:
    """Run the command line; a failure is one sentence on standard error and the exit code it stands for."""
    # Threads that spin while they wait make a small step ten times slower where others use the machine too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not is_terminal():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except TeacherError as error:
        fail(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
