"""The option ``--progress``: how a training reports its progress."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer

from engine.cli.display import is_terminal
from engine.results.events import Listener


class ProgressStyle(StrEnum):
    """Form of the progress output."""

    AUTO = "auto"
    BAR = "bar"
    LINES = "lines"
    JSON = "json"


Progress = Annotated[
    ProgressStyle,
    typer.Option(
        "--progress",
        help="A bar, lines of text, or JSON lines on standard output; auto: a bar in a terminal, else lines of text.",
    ),
]


def progress_listener(style: ProgressStyle) -> Listener:
    """Return a listener that prints progress events in a style."""
    from engine.cli.progress_output import bar, json_lines, lines

    if style is ProgressStyle.AUTO:
        style = ProgressStyle.BAR if is_terminal() else ProgressStyle.LINES
    listeners: dict[ProgressStyle, Callable[[], Listener]] = {
        ProgressStyle.BAR: bar,
        ProgressStyle.LINES: lines,
        ProgressStyle.JSON: json_lines,
    }
    return listeners[style]()
