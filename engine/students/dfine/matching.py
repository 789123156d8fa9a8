"""Unite the matches of all layers (arXiv:2410.13842, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from engine.students.matching import Matches


def unite(layers: Sequence[Matches], *, queries: int, objects: Sequence[int]) -> Matches:
    """Return the union of the matches of all layers, which the box losses of every layer share.

    A query that layers match to different objects keeps the one of most layers; of equally many, the first object.

    Args:
        layers: Matches of each layer.
        queries: Number of queries.
        objects: Number of objects of each image.
    """
    united: Matches = []
    for image, count in enumerate(objects):
        votes = np.zeros((queries, max(count, 1)), dtype=np.int64)
        for matches in layers:
            query, found = matches[image]
            votes[query.numpy(), found.numpy()] += 1
        chosen = np.flatnonzero(votes.any(axis=1))
        united.append((torch.from_numpy(chosen), torch.from_numpy(votes[chosen].argmax(axis=1))))
    return united
