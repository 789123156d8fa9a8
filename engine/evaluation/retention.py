"""Retention: the share of the base's zero-shot AP that an adapter keeps on classes that it was not tuned on.

The engine contains a few labelled images for it, in ``probe/``; teachers are prompted for their classes.
"""

from __future__ import annotations

from pathlib import Path

from engine.results.metrics import ApMetrics
from engine.results.types import Retention

PROBE = Path(__file__).parent / "probe" / "annotations.json"
"""Annotations of the built-in images, in the same folder as the images."""

BUILT_IN = "built-in"

MIN_BASE_AP = 0.02
"""Minimum AP of the base: below it the ratio would be noise."""


def retention(source: str, *, base: ApMetrics, adapted: ApMetrics) -> Retention:
    """Compare an adapted teacher with its base, evaluated on the same images and prompts.

    Args:
        source: Source of the images.
        base: Metrics with the adapter off.
        adapted: Metrics with the adapter on.
    """
    return Retention(
        source=source,
        prompts=tuple(base.per_class),
        base=base,
        adapted=adapted,
        share=max(adapted.ap, 0.0) / base.ap if base.ap >= MIN_BASE_AP else -1.0,
    )
