"""Estimated memory and duration of training, for `teacher inspect`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from engine.cli.display import console, note
from engine.estimate.base_recommendation import BaseRecommendation
from engine.estimate.forecast import Chosen, TeacherForecast


def show_forecast(forecast: Sequence[TeacherForecast]) -> None:
    """Print for each teacher the memory, the settings on GPUs of some sizes, and the time on the selected GPU."""
    for one in forecast:
        if one.unknown:
            note(f"{one.teacher}: {one.unknown}")
            continue
        steps = f"steps of {_count(one.step_images, 'image')}"
        note(f"{one.teacher} ({one.base_model}, preset {one.preset}, {steps}):")
        table = Table("on a GPU of", "micro-batch", "recomputed", "GPU memory", box=None, header_style="dim")
        for row in one.gpus:
            table.add_row(f"{row.gibibytes} GiB", *_row(row.chosen))
        console.print(table)
        if one.seconds is not None:
            epochs, time = _count(one.epochs, "epoch"), _duration(one.seconds)
            several = f" in each of {one.trainings} trainings" if one.trainings > 1 else ""
            note(f"training for {epochs}{several} on one {one.gpu}: roughly {time} (from its data sheet, not measured)")


def show_recommendation(bases: Sequence[BaseRecommendation]) -> None:
    """Print the recommended base of each teacher with its reason, first those of the teachers that are tuned."""
    for one in sorted(bases, key=lambda one: not one.planned):
        note(f"{one.teacher}: {_recommended(one)}. Reason: {one.reason}")


def _recommended(one: BaseRecommendation) -> str:
    if one.recommended is None or one.parameters is None or one.memory_bytes is None:
        return f"no known base fits {one.gpu}"
    facts = f"{one.parameters / 1e6:.0f} M parameters, {one.licence}, {one.memory_bytes / 2**30:.1f} GiB on {one.gpu}"
    if one.recommended == one.base_model:
        return f"recommended base: {one.recommended}, which is {'used' if one.planned else 'its default'} ({facts})"
    how = "" if one.planned else f": teacher run --teacher {one.teacher} --base-model {one.recommended}"
    return f"recommended base: {one.recommended} ({facts}) instead of {one.base_model}{how}"


def _row(chosen: Chosen | None) -> tuple[str, str, str]:
    if chosen is None:
        return "too small", "", ""
    again = ", ".join(chosen.checkpointing) or "nothing"
    return str(chosen.micro_batch_size), again, f"{chosen.memory_bytes / 2**30:.1f} GiB"


def _duration(seconds: float) -> str:
    """In a unit that suits it.

    >>> [_duration(seconds) for seconds in (1, 90, 3599, 3600, 5000, 400_000)]
    ['1 minute', '2 minutes', '60 minutes', '1 hour', '1.4 hours', '110 hours']
    """
    if seconds < 3600:
        return _count(max(1, round(seconds / 60)), "minute")
    return _count(float(f"{seconds / 3600:.2g}"), "hour")


def _count(number: float, what: str) -> str:
    return f"{number:g} {what}" + ("" if number == 1 else "s")
