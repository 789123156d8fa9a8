"""Loops over assertions, which hold nothing where there is nothing to loop over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def nonempty(things: Iterable[T]) -> list[T]:
    """Return all of them, of which there is at least one."""
    found = list(things)
    assert found, "there is nothing to loop over"
    return found
