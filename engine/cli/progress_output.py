"""Listeners of a run's events: a bar for people, lines of text for pipes and logs, JSON lines for machines."""

from __future__ import annotations

import math
import sys

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from engine.cli.display import console
from engine.results.events import Event, Listener


def json_lines() -> Listener:
    """Print one JSON object per line on standard output."""

    def tell(event: Event) -> None:
        sys.stdout.write(event.line() + "\n")
        sys.stdout.flush()

    return tell


def lines() -> Listener:
    """Print one line of text per event on standard error, for pipes and log files."""

    def tell(event: Event) -> None:
        if text := sentence(event):
            console.print(text, markup=False, soft_wrap=True)

    return tell


def bar() -> Listener:
    """Show a bar with epoch, loss, speed and time left; evaluations and notes as lines above it."""
    progress = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
    )
    task: TaskID | None = None

    def tell(event: Event) -> None:
        nonlocal task
        if event.event == "start":
            progress.start()
            if task is not None and event.trials:
                progress.remove_task(task)
            task = progress.add_task(_title(event), total=event.steps, completed=event.step or 0, detail="")
        elif event.event == "step" and task is not None:
            detail = ", ".join(_pace(event))
            progress.update(task, description=_title(event), completed=event.step or 0, detail=detail)
        elif event.event in ("done", "error"):
            progress.stop()
        if event.event in ("evaluation", "note", "done") and (text := sentence(event)):
            progress.console.print(
                text, style=None if event.event == "evaluation" else "dim", markup=False, soft_wrap=True
            )

    return tell


def _compared(event: Event) -> str:
    """Compare an evaluation of an adapter with the base and with earlier evaluations."""
    if event.best:
        return ", the best so far"
    if event.phase == "adapted" and event.best_ap is None and event.ap_before is not None:
        return f", none better than the base's {event.ap_before:.3f} yet"
    return ""


def sentence(event: Event) -> str:
    """Describe an event in one line; empty if there is nothing to report.

    >>> sentence(Event(event="step", teacher="sam", epoch=1.5, epochs=4, step=3, steps=8, loss=0.5, seconds_left=90))
    'sam: epoch 2 of 4, step 3 of 8, loss 0.500, 2 min left'
    >>> sentence(Event(event="evaluation", teacher="sam", epoch=1, ap=0.4, ap_before=0.3, best=True, phase="adapted"))
    'sam: AP 0.400 after epoch 1, the best so far'
    """
    told: list[str] = []
    if event.event == "start":
        told = [f"starting, {event.steps} steps" + (f", {event.step} of them done" if event.step else "")]
    elif event.event == "step":
        told = [_epoch(event), f"step {event.step} of {event.steps}", *_pace(event), _time_left(event)]
    elif event.event == "evaluation":
        told = [_evaluation(event)]
    elif event.event == "checkpoint":
        told = [f"checkpoint of step {event.step}"]
    elif event.event == "error":
        return ""  # the command itself reports it, once
    if event.message:
        told.append(event.message)
    text = ", ".join(filter(None, told))
    return f"{event.teacher}: {text}" if text and event.teacher else text


def _title(event: Event) -> str:
    return " ".join(filter(None, [event.teacher, _epoch(event)]))


def _epoch(event: Event) -> str:
    """Return the current epoch, from 1, and the training if there are several."""
    if event.epoch is None:
        return ""
    number = math.floor(event.epoch) + 1
    epoch = f"epoch {number}" if event.epochs is None else f"epoch {min(number, event.epochs)} of {event.epochs}"
    return f"training {event.trial} of {event.trials}, {epoch}" if event.trials else epoch


def _pace(event: Event) -> list[str]:
    loss = f"loss {event.loss:.3f}" if event.loss is not None else ""
    speed = f"{event.images_per_second:.1f} images/s" if event.images_per_second else ""
    return [part for part in (loss, speed) if part]


def _time_left(event: Event) -> str:
    seconds = event.seconds_left
    if seconds is None:
        return ""
    return f"{seconds:.0f} s left" if seconds < 60 else f"{math.ceil(seconds / 60)} min left"


def _evaluation(event: Event) -> str:
    measured = "no AP" if event.ap is None else f"AP {event.ap:.3f}"
    if event.phase not in (None, "adapted"):
        return f"{measured} ({str(event.phase).replace('_', ' of the ')})"
    when = f" after epoch {event.epoch:g}" if event.epoch is not None else ""
    return f"{measured}{when}{_compared(event)}"
