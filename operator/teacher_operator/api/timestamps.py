"""Timestamps in the notation of Kubernetes, and durations as text. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

MINUTES = (1, 2, 5, 10, 20, 30)
"""Durations below one hour that a text may give, in minutes."""


def timestamp(seconds: float) -> str:
    """Return a time in seconds since the epoch as ``2026-01-31T12:00:00Z``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str | None) -> float | None:
    """Return a timestamp in seconds since the epoch; None for a missing one. Fractions of a second are accepted."""
    if not text:
        return None
    return datetime.fromisoformat(text).timestamp()


def duration(span: float) -> str:
    """Return a duration in seconds as text, rounded down coarsely: the longer it is, the less often its text changes.

    Each change of the text is a write of the status.

    >>> [duration(s) for s in (5, 90, 754, 2500, 4000, 200000)]
    ['less than a minute', '1m', '10m', '30m', '1h', '2d']
    """
    minutes = int(span // 60)
    if minutes < 1:
        return "less than a minute"
    if minutes < 60:
        return f"{max(step for step in MINUTES if step <= minutes)}m"
    hours = minutes // 60
    return f"{hours}h" if hours < 48 else f"{hours // 24}d"


def left(span: float) -> str:
    """Return the remaining time for a column: in seconds below two minutes, in minutes below two hours.

    >>> left(41), left(2460), left(9000)
    ('41s', '41m', '2h30m')
    """
    if span < 120:
        return f"{int(span)}s"
    minutes = int(span // 60)
    return f"{minutes}m" if minutes < 120 else f"{minutes // 60}h{minutes % 60:02d}m"
