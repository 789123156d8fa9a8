"""Warning for adapters that keep less zero-shot AP than ``training.retention.minShare`` requires. Pure."""

from __future__ import annotations

from engine.results.no_gain import warning
from engine.results.types import TeacherResult


def warnings_of(result: TeacherResult) -> list[str]:
    """Return the warnings about an adapter: that it has no gain, and that it keeps too little."""
    return [said for said in (warning(result), retention_warning(result)) if said is not None]


def retention_warning(result: TeacherResult) -> str | None:
    """Return the warning; None if the required share is kept, or none is required. Strength 0 keeps everything."""
    required = None if result.strength_curve is None else result.strength_curve.min_retention
    if not required or result.strength == 0:
        return None
    wanted = f"training.retention.minShare requires {required:.0%}"
    share = -1.0 if result.retention is None else result.retention.share
    if share < 0:
        return f"the retention of {result.teacher} could not be measured, and {wanted}"
    if share >= required:
        return None
    return (
        f"the adapter of {result.teacher} keeps {share:.1%} of the base's zero-shot AP, and {wanted}. A lower learning "
        "rate or fewer epochs may keep more, with less gain"
    )
