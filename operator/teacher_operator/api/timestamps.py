"""Times as Kubernetes writes them, and durations as people read them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

MINUTES = (1, 2, 5, 10, 20, 30)


def timestamp(seconds: float) -> str:
    """Seconds since the epoch as ``2026-01-31T12:00:00Z``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str | None) -> float | None:
    """The reverse; None of nothing. Fractions of a second, as in events, are read too."""
    if not text:
        return None
    return datetime.fromisoformat(text).timestamp()


def duration(span: float) -> str:
    """A span in words that change ever more rarely as it grows, so that saying it anew costs few writes.

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
    """The time that is left, in a column: seconds below two minutes, minutes below two hours.

    >>> left(41), left(2460), left(9000)
    ('41s', '41m', '2h30m')
    """
    if span < 120:
        return f"{int(span)}s"
    minutes = int(span // 60)
    return f"{minutes}m" if minutes < 120 else f"{minutes // 60}h{minutes % 60:02d}m"
