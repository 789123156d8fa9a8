"""The application: its commands."""

from __future__ import annotations

import typer

from engine.cli import adapters, convert, data, labels, launch, runs

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
    convert.convert,
    data.augment,
    runs.prepare,
    runs.train,
    adapters.evaluate,
    adapters.predict,
    labels.label,
    adapters.export,
    runs.fetch,
    runs.doctor,
):
    app.command()(command)
app.command(context_settings=launch.WORDS_FOLLOW)(launch.launch)
