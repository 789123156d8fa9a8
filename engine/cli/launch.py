"""The command launch: training with several processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.outcome_file import OutcomeFile
from engine.errors import ConfigError
from engine.processes import child_process
from engine.processes import launch as launcher

MOST = 256
"""Processes of one machine: more would exhaust it before any of them had reported a mistake."""

WORDS_FOLLOW = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
"""Settings of a command whose arguments are another command."""


def launch(
    context: typer.Context,
    processes: Annotated[
        int, typer.Option("--processes", min=1, max=MOST, help="Processes on this machine: one per GPU.")
    ],
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Number of machines that run this command.")] = 1,
    node_rank: Annotated[int, typer.Option("--node-rank", min=0, help="Number of this one, from 0.")] = 0,
    rendezvous: Annotated[
        str | None, typer.Option("--rendezvous", help="HOST:PORT of the first machine, to which all connect.")
    ] = None,
    outcome: OutcomeFile = None,
) -> None:
    """Train with several processes: `teacher launch --processes 8 train --config …`, on each machine of a run."""
    words = context.args
    given = {word.partition("=")[0] for word in words}
    if words[:1] != ["train"] or "--config" not in given:
        raise ConfigError("several processes train a planned run: teacher launch --processes 8 train --config …")
    if "--outcome" in given:
        raise ConfigError("give --outcome before train: it describes all processes")

    def command(file: Path | None) -> Sequence[str]:
        told = [] if file is None else ["--outcome", str(file)]
        return child_process.command(*words, *told)

    exit_code = launcher.launch(
        command, processes=processes, nodes=nodes, node_rank=node_rank, rendezvous=rendezvous, outcome=outcome
    )
    raise typer.Exit(exit_code)
