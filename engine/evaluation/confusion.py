"""Count mistakes at given score thresholds: missed, false, wrong class, badly localised, duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.evaluation.matching import MATCH_IOU, Match
from engine.results.metrics import ClassMatrix, Confusion

BADLY_LOCALISED = 0.1
"""Minimum IoU of a badly localised detection."""

MATRIX_CLASSES = 12
"""Maximum classes of the matrix: more are not readable."""

Pair = tuple[int, int]
"""Class indices of an object and its detection; -1 if one of them does not exist."""


def confusion(
    matches: Sequence[Match], classes: Sequence[str], thresholds: Mapping[str, float], *, with_matrix: bool
) -> Confusion:
    """Classify every object, and every detection at or above the threshold of its class.

    Kinds and their order are those of TIDE (arXiv:2008.08115, section 2.2; ``tidecv/quantify.py``): an unmatched
    detection is badly localised, or of the wrong class, or a duplicate, or else false.

    Args:
        matches: Match of every image.
        classes: Class names.
        thresholds: Score threshold of each class, by name.
        with_matrix: Also count the confusion matrix of classes.
    """
    limits = np.asarray([thresholds[name] for name in classes])
    counts: Counter[str] = Counter()
    pairs: Counter[Pair] = Counter()
    for match in matches:
        for kind, pair in _events(match, limits[match.seen]):
            counts[kind] += 1
            if pair is not None:
                pairs[pair] += 1
    objects = Counter(int(index) for match in matches for index in match.objects)
    matrix = _matrix(pairs, objects, classes) if with_matrix and len(classes) > 1 else None
    return Confusion(objects=objects.total(), **{kind: counts[kind] for kind in KINDS}, matrix=matrix)


KINDS = ("found", "missed", "false", "wrong_class", "badly_localised", "duplicates")


def _events(match: Match, limits: NDArray[np.float64]) -> Iterator[tuple[str, Pair | None]]:
    """Yield the kind and the matrix cell of each object and detection in one image.

    An unmatched object that was not detected as another class is in the column "no detection" of the matrix; it is not
    counted as missed if a badly localised detection covers it.
    """
    kept = (match.scores >= limits) & ~match.ignored
    found, covered, mistaken = (np.zeros(len(match.objects), np.bool_) for _ in range(3))
    for i in np.flatnonzero(kept & (match.object_of >= 0)):
        found[match.object_of[i]] = True
        yield "found", (int(match.seen[i]), int(match.seen[i]))
    for i in np.flatnonzero(kept & (match.object_of < 0)):
        seen = int(match.seen[i])
        of_class = np.where(match.objects == seen, match.ious[i], 0.0)
        of_other = np.where(match.objects != seen, match.ious[i], 0.0)
        near, near_other = (int(np.argmax(ious)) if len(ious) else -1 for ious in (of_class, of_other))
        if near >= 0 and BADLY_LOCALISED <= of_class[near] < MATCH_IOU:
            covered[near] = True
            yield "badly_localised", (-1, seen)
        elif near >= 0 and of_other[near_other] >= MATCH_IOU:
            covered[near_other] = mistaken[near_other] = True
            yield "wrong_class", (int(match.objects[near_other]), seen)
        elif near >= 0 and of_class[near] >= MATCH_IOU:
            yield "duplicates", (-1, seen)
        else:
            yield "false", (-1, seen)
    for j in np.flatnonzero(~found):
        pair = None if mistaken[j] else (int(match.objects[j]), -1)
        yield ("covered" if covered[j] else "missed"), pair


def _matrix(pairs: Mapping[Pair, int], objects: Mapping[int, int], classes: Sequence[str]) -> ClassMatrix:
    """Build the matrix of the most frequent classes; pairs with other classes are excluded."""
    frequent = sorted(range(len(classes)), key=lambda index: (-objects.get(index, 0), index))[:MATRIX_CLASSES]
    order = [*frequent, -1]
    counts = tuple(tuple(pairs.get((true, seen), 0) for seen in order) for true in order)
    return ClassMatrix(classes=tuple(classes[index] for index in frequent), counts=counts)
