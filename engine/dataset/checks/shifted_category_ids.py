"""Whether the category ids of annotations are counted from another number than those of the categories."""

from __future__ import annotations

from collections.abc import Iterable

from engine.dataset.id_index import other_spelling
from engine.dataset.types import ImageId

MOST = 0.8
"""Share of the categories that must be used, once moved, for the shift to be no chance."""


def shifted(used: Iterable[ImageId], *, listed: Iterable[ImageId]) -> list[int]:
    """The ids of annotations that are not listed, if all would be, and most categories used, were each one off.

    Args:
        used: Ids of annotations.
        listed: Ids of the categories.

    Returns:
        Nothing if all ids are listed, or it would not help.

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
