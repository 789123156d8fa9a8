"""Warning and failure for adapters that are not better than their base.

An adapter without a gain is published, since its report may be useful. If nothing was better than the base on the
validation split, its strength is 0, so that it gives the base's results. The result, the model card, the terminal and
the operator's status report it, and with ``training.onNoGain: Fail`` the process ends with the exit code of
:class:`NotBetterThanBaseError`.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import NotBetterThanBaseError
from engine.results.metrics import ApMetrics
from engine.results.types import TeacherResult
from engine.spec import OnNoGain

ADVICE = "Use the base, or train longer, with another learning rate or on more images"

AS_THE_BASE = "no adapter was better than the base, so the published one has strength 0 and gives the base's results"


def aps(result: TeacherResult) -> str:
    """Return the AP of base and adapter on each evaluated split.

    Returns:
        Such as ``AP 0.312 -> 0.298 (validation), 0.300 -> 0.305 (test)``.
    """
    parts = [f"{_ap(result.before)} -> {_ap(result.after)}"]
    if result.test_before is not None and result.test_after is not None:
        parts[0] += " (validation)"
        parts.append(f"{_ap(result.test_before)} -> {_ap(result.test_after)} (test)")
    return f"AP {', '.join(parts)}"


def has_no_gain(improved: bool | None, *, as_base: bool) -> bool:
    """Test if an adapter is known not to be better than its base; ``as_base``: it has strength 0, on any images."""
    return improved is False or as_base


def warning(result: TeacherResult) -> str | None:
    """Return the warning about an adapter without a gain; None if it is better than its base, or not measured."""
    if not has_no_gain(result.improved, as_base=result.strength == 0):
        return None
    if not result.teacher.traits.adapts_base:
        return f"{result.teacher} finds nothing: {aps(result)}. Train longer, or on more images"
    as_the_base = f". It has strength 0 and gives the base's results{_best_trained(result)}"
    strength = as_the_base if result.strength == 0 else ""
    return f"the adapter of {result.teacher} is not better than its base: {aps(result)}{strength}. {ADVICE}"


def check_gain(results: Sequence[TeacherResult], on_no_gain: OnNoGain) -> None:
    """Fail if ``on_no_gain`` is ``Fail`` and an adapter is not better than its base.

    Raises:
        NotBetterThanBaseError: The message names each such adapter.
    """
    warnings = [said for result in results if (said := warning(result)) is not None]
    if warnings and on_no_gain is OnNoGain.FAIL:
        where = ", ".join(result.adapter.uri for result in results if warning(result) is not None)
        raise NotBetterThanBaseError(
            f"{'; '.join(warnings)}. It is published all the same ({where}), but training.onNoGain is Fail"
        )


def _best_trained(result: TeacherResult) -> str:
    best = max((point.ap for point in result.history if point.ap is not None), default=None)
    return "" if best is None else f": the best one trained had AP {best:.3f}"


def _ap(metrics: ApMetrics) -> str:
    return f"{metrics.ap:.3f}" if metrics.ap >= 0 else "not measured"
