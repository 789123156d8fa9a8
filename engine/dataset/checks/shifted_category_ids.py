"""Detect category ids of annotations that are shifted by one from those of the categories."""

from __future__ import annotations

from collections.abc import Iterable

from engine.dataset.id_index import other_spelling
from engine.dataset.types import ImageId

MOST = 0.8
"""Fraction of the categories that must be used after the shift, to exclude a coincidence."""


def shifted(used: Iterable[ImageId], *, listed: Iterable[ImageId]) -> list[int]:
    """Return the unlisted ids of annotations, if a shift by one makes all ids listed and most categories used.

    Args:
        used: Ids of annotations.
        listed: Ids of the categories.

    Returns:
        An empty list if all ids are listed, or a shift does not help.

    >>> shifted([0, 1, 2, 3, 4], listed=[1, 2, 3, 4, 5]), shifted(["0", "1"], listed=[1, 2])
    ([0], [0])
    >>> shifted([0, 1, 2], listed=[1, 2, 3, 4, 5]), shifted([1, 2], listed=[1, 2, 3])
    ([], [])
    """
    found, named = _numbers(used), _numbers(listed)
    moved = [{one + step for one in found} for step in (1, -1)]
    if any(ids <= named and len(ids) >= MOST * len(named) for ids in moved):
        return sorted(found - named)
    return []


def _numbers(ids: Iterable[ImageId]) -> set[int]:
    spelled = (one if isinstance(one, int) else other_spelling(one) for one in ids)
    return {one for one in spelled if isinstance(one, int)}
