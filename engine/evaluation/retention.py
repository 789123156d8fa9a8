"""How much of a base's zero-shot skill an adapter leaves, on images of other things than it was tuned on.

A few labelled images come with the engine, in ``probe/``; their classes are what teachers are asked for.
"""

from __future__ import annotations

from pathlib import Path

from engine.result_types import ApMetrics, Retention

PROBE = Path(__file__).parent / "probe" / "annotations.json"
"""The annotations of the built-in images, which lie beside them."""

BUILT_IN = "built-in"

LEAST_SKILL = 0.02
"""A base with a lower AP has no skill to keep: the ratio would be chance."""


def retention(source: str, *, base: ApMetrics, adapted: ApMetrics) -> Retention:
    """Compare an adapted teacher with its base, measured on the same images and prompts.

    Args:
        source: Where the images come from.
        base: With the adapter off.
        adapted: With the adapter on.
    """
    return Retention(
        source=source,
        prompts=tuple(base.per_class),
        base=base,
        adapted=adapted,
        share=max(adapted.ap, 0.0) / base.ap if base.ap >= LEAST_SKILL else -1.0,
    )
