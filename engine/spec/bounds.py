"""Bounds of arguments that the command line and the Python API share."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import ConfigError


@dataclass(frozen=True)
class Bounds:
    """Lowest and highest value of a number.

    Attributes:
        low: Lowest value.
        high: Highest value; None: no limit.
        whole: The number is an integer.
    """

    low: int
    high: int | None = None
    whole: bool = False

    def check(self, name: str, value: object) -> None:
        """Check the argument ``name``.

        Raises:
            ConfigError: It is not a number, or out of bounds.
        """
        kinds = (int,) if self.whole else (int, float)
        right = isinstance(value, kinds) and not isinstance(value, bool)
        if not right or not self.low <= value or (self.high is not None and not value <= self.high):  # type: ignore[operator]
            limit = f"at least {self.low}" if self.high is None else f"from {self.low} to {self.high}"
            kind = "a whole number" if self.whole else "a number"
            raise ConfigError(f"{name} must be {kind} {limit}, found {value!r}")


BATCH_SIZE = Bounds(1, whole=True)
"""Images per forward pass."""

SCORE = Bounds(0, 1)
"""Score threshold."""

IOU = Bounds(0, 1)
"""IoU of two boxes."""

THREADS = Bounds(1, 1024, whole=True)
"""Threads of a runtime."""
