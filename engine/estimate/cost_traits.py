"""Traits of a teacher that determine the cost of its steps, and the table of counted bases."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import resources
from typing import Any, ClassVar

from engine.spec import LoraPreset

Ladder = Mapping[LoraPreset, tuple[tuple[str, ...], ...]]
"""Groups of layers to recompute with each preset, fewest first."""

STRIDES = (8, 16, 32, 64)


class CostTraits(ABC):
    """Dependence of the cost of a teacher's steps on its base, its settings and its inputs.

    Attributes:
        ladder: Groups of layers to recompute with each preset, fewest first.
        bases: Known base by the prefix of published names.
    """

    ladder: ClassVar[Ladder]
    bases: ClassVar[Mapping[str, str]]

    @cached_property
    def table(self) -> Mapping[str, Any]:
        """Counted bases: ``cost_model.json`` next to the module of the class, which the benchmark writes."""
        package = type(self).__module__.rpartition(".")[0]
        content = resources.files(package).joinpath("cost_model.json").read_text(encoding="utf-8")
        table: Mapping[str, Any] = json.loads(content)
        return table

    @abstractmethod
    def dimensions(self, config: Mapping[str, Any]) -> list[Any] | None:
        """Return the values of a ``config.json`` that determine memory, with the library's defaults.

        The last one is the number of the decoder's queries. None: it is the configuration of another model.
        """

    @abstractmethod
    def encoder_layers(self, dimensions: Sequence[Any]) -> int:
        """Return the number of encoder layers of a base with these dimensions."""

    @abstractmethod
    def features(
        self, *, images: int, positions: int, queries: int, tokens: int, objects: int, rank: int
    ) -> tuple[float, ...]:
        """Return the terms whose weighted sums are memory and arithmetic, scaled so that coefficients are near 1.

        Args:
            images: Images per batch.
            positions: Positions of the feature maps of an image, see :func:`count_positions`.
            queries: Queries of the decoder.
            tokens: Tokens of a caption.
            objects: Prompts per image.
            rank: Rank of the adapter.
        """


def count_positions(height: int, width: int) -> int:
    """Count the positions of the feature maps of a detector with four of them.

    >>> count_positions(800, 1333)
    22223
    """
    return sum(math.ceil(height / stride) * math.ceil(width / stride) for stride in STRIDES)
