"""Listeners of a run's events: a bar for people, JSON lines for machines."""

from __future__ import annotations

import sys

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from engine.cli.display import console
from engine.progress import Event, Listener


def json_lines() -> Listener:
    """One JSON object a line on standard output."""

    def tell(event: Event) -> None:
        sys.stdout.write(event.line() + "\n")
        sys.stdout.flush()

    return tell


def bar() -> Listener:
    """A bar with loss, speed and time left; evaluations and notes as lines above it."""
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
            task = progress.add_task(event.teacher, total=event.steps, detail="")
        elif event.event == "step" and task is not None:
            speed = f"{event.images_per_second:.1f} images/s" if event.images_per_second else ""
            loss = f"loss {event.loss:.3f}" if event.loss is not None else ""
            progress.update(task, completed=event.step or 0, detail=f"{loss} {speed}")
        elif event.event == "evaluation":
            where = event.phase.replace("_", " of the ") if event.phase else f"epoch {event.epoch:g}"
            progress.console.print(f"{event.teacher}: AP {event.ap:.3f} ({where}{_compared(event)})")
        elif event.event in ("done", "error"):
            progress.stop()
        if event.message and event.event != "error":
            progress.console.print(f"{event.teacher}: {event.message}", style="dim", markup=False, soft_wrap=True)

    return tell


def _compared(event: Event) -> str:
    """How an evaluation of an adapter compares with the base and with those before it."""
    if event.best:
        return ", the best so far"
    if event.phase == "adapted" and event.best_ap is None and event.ap_before is not None:
        return f", none better than the base's {event.ap_before:.3f} yet"
    return ""
