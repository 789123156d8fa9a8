"""From a trainer's last lines to how far it is. Pure, and small whatever the lines hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from engine.results.events import Event, better_than, parse_line
from teacher_operator.api.status import ProgressStatus
from teacher_operator.api.timestamps import seconds, timestamp

NOTE_MAX = 256
GAP_MAX = 4 * 3600
"""Longest gap between two lines in seconds that is one: a clock may be set while a trainer runs."""

LARGEST = 2**53
"""Larger numbers are not the same to every reader of JSON."""


@dataclass(frozen=True)
class ProgressView:
    """What a trainer has said of late.

    Attributes:
        progress: How far it is; None before the first step.
        ap_before: AP of the base, once measured.
        ap_after: AP of the best adapter so far; None while none is better than the base.
        evaluated: An adapter was evaluated.
        heard: Time of the newest line, in seconds since the epoch.
        gap: Longest time between two lines, in seconds.
        note: What it does before the first step.
    """

    progress: ProgressStatus | None = None
    ap_before: float | None = None
    ap_after: float | None = None
    note: str = ""
    evaluated: bool = False
    heard: float | None = field(default=None, compare=False)
    gap: float = field(default=0.0, compare=False)


def read_progress(lines: Iterable[str], previous: ProgressView | None = None) -> ProgressView:
    """The newest of what the lines say, over what was known before.

    Whoever may run a pod can write lines: those with numbers that no trainer comes to are passed over.
    """
    view = previous or ProgressView()
    progress, before, after, note = view.progress, view.ap_before, view.ap_after, view.note
    evaluated, heard, gap = view.evaluated, view.heard, view.gap
    for line in lines:
        event = parse_line(line)
        if event is None:
            continue
        try:
            timestamp(event.time)
            longest = max(gap, min(GAP_MAX, event.time - heard)) if heard is not None else gap
            progress = _progress(event, progress, longest=longest)
        except (ValueError, OverflowError, OSError):
            continue
        heard, gap = max(heard or event.time, event.time), longest
        if progress is not None:
            note = ""
        elif event.event == "note":
            note = _note(event)
        measured, base, best = _ap(event.ap), _ap(event.ap_before), _ap(event.best_ap)
        if event.event == "evaluation" and measured is not None:
            if event.phase == "base":
                before = measured
            elif event.phase == "adapted":
                evaluated = True
                after = max(measured, after if after is not None else measured)
        before = base if base is not None else before
        after = best if best is not None else after
    return ProgressView(progress, before, better_than(before, after), note, evaluated, heard, gap)


def _progress(event: Event, before: ProgressStatus | None, *, longest: float) -> ProgressStatus | None:
    if event.step is None or not event.steps:
        if before is None:
            return None
        changes = {"updated": timestamp(event.time), "seconds_left": _later(before, event)}
        changes |= {"longest_gap_seconds": _whole(longest)} | ({"note": _note(event)} if event.event == "note" else {})
        return ProgressStatus.model_validate({**before.model_dump(), **changes})
    old = before or ProgressStatus(percent=0, step=0, steps=0)
    return ProgressStatus(
        percent=min(100, 100 * event.step // event.steps),
        step=_whole(event.step),
        steps=_whole(event.steps),
        epoch=f"{event.epoch:.2f}" if event.epoch is not None else old.epoch,
        epochs=_whole(event.epochs) if event.epochs is not None else old.epochs,
        loss=f"{event.loss:.4g}" if event.loss is not None else old.loss,
        seconds_left=_whole(event.seconds_left) if event.seconds_left is not None else _later(old, event),
        memory_bytes=_whole(event.memory_bytes) if event.memory_bytes is not None else old.memory_bytes,
        note="",
        updated=timestamp(event.time),
        longest_gap_seconds=_whole(longest),
    )


def _later(before: ProgressStatus, event: Event) -> int | None:
    """Seconds left at the time of a line that does not say it."""
    then = seconds(before.updated)
    if before.seconds_left is None or then is None:
        return before.seconds_left
    return max(0, min(LARGEST, before.seconds_left - _whole(event.time - then)))


def _note(event: Event) -> str:
    return (event.message or "")[:NOTE_MAX]


def _whole(number: float) -> int:
    """A number as the status has it.

    Raises:
        ValueError: It is too large.
        OverflowError: It is infinite.
    """
    whole = int(number)
    if abs(whole) > LARGEST:
        raise ValueError(f"{number} is too large")
    return whole


def _ap(number: float | None) -> float | None:
    """An average precision: 0..1, or -1 where there was nothing to measure."""
    return number if number is not None and -1 <= number <= 1 else None


def plain_lines(lines: Iterable[str]) -> list[str]:
    """The lines that are meant for people: no progress lines, no empty ones."""
    return [line for line in lines if line.strip() and parse_line(line) is None]


def percent_text(fractions: Iterable[int]) -> str:
    """Of several teachers, the mean: ``37%``."""
    values = list(fractions)
    return f"{sum(values) // len(values)}%" if values else ""
