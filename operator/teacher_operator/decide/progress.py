"""Progress of a trainer from the last lines of its log. Pure; the result is small for any input."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from engine.results.events import Event, better_than, parse_line
from teacher_operator.api.status import ProgressStatus
from teacher_operator.api.timestamps import seconds, timestamp

NOTE_MAX = 256
"""Maximum length of a note, in characters."""

GAP_MAX = 4 * 3600
"""Upper limit of a gap between two lines, in seconds: the clock of a node may be changed while a trainer runs."""

LARGEST = 2**53
"""Largest integer that every JSON parser reads exactly."""


@dataclass(frozen=True)
class ProgressView:
    """Latest progress reported by a trainer.

    Attributes:
        progress: Progress; None before the first step.
        ap_before: AP of the base, once measured.
        ap_after: AP of the best adapter so far; None while none is better than the base.
        evaluated: True once an adapter was evaluated.
        heard: Time of the newest line, in seconds since the epoch.
        gap: Longest time between two lines, in seconds.
        note: Current activity before the first step.
    """

    progress: ProgressStatus | None = None
    ap_before: float | None = None
    ap_after: float | None = None
    note: str = ""
    evaluated: bool = False
    heard: float | None = field(default=None, compare=False)
    gap: float = field(default=0.0, compare=False)


def read_progress(lines: Iterable[str], previous: ProgressView | None = None) -> ProgressView:
    """Return the progress in ``lines``, with values of ``previous`` where the lines have none.

    The output of a pod is untrusted: lines with numbers out of range are ignored.
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
        trial=_whole(event.trial) if event.trial is not None else old.trial,
        trials=_whole(event.trials) if event.trials is not None else old.trials,
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
    """Return the remaining seconds at the time of a line without that number, from the previous estimate."""
    then = seconds(before.updated)
    if before.seconds_left is None or then is None:
        return before.seconds_left
    return max(0, min(LARGEST, before.seconds_left - _whole(event.time - then)))


def _note(event: Event) -> str:
    return (event.message or "")[:NOTE_MAX]


def _whole(number: float) -> int:
    """Return a number as an integer.

    Raises:
        ValueError: The number is too large.
        OverflowError: The number is infinite.
    """
    whole = int(number)
    if abs(whole) > LARGEST:
        raise ValueError(f"{number} is too large")
    return whole


def _ap(number: float | None) -> float | None:
    """Return a valid average precision (0..1, or -1 if nothing could be measured), else None."""
    return number if number is not None and -1 <= number <= 1 else None


def plain_lines(lines: Iterable[str]) -> list[str]:
    """Return the lines for people: without progress lines and empty lines."""
    return [line for line in lines if line.strip() and parse_line(line) is None]


def percent_text(fractions: Iterable[int]) -> str:
    """Return the mean of percentages as text, such as ``37%``; empty without any."""
    values = list(fractions)
    return f"{sum(values) // len(values)}%" if values else ""
