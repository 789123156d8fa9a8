"""Parse JSON label files, which are small and untrusted."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from engine.dataset.formats.source_files import decode
from engine.errors import DataError

_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{},:]', re.DOTALL)


def parse_json(data: bytes, name: str) -> Any:
    """Parse a JSON text.

    Raises:
        DataError: It is not valid JSON.
    """
    try:
        return json.loads(decode(data, name))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not valid JSON: {str(error)[:100]}") from None


def number(value: Any) -> float:
    """Return a finite JSON number, also one in quotes.

    Raises:
        ValueError: It is not a number; the message shows the value.
    """
    try:
        found = math.nan if isinstance(value, bool | None) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{str(value)[:30]!r} is not a number")
    return found


def outline(text: str) -> tuple[str, set[str], set[str]]:
    """Return the first bracket and the keys of the two outer levels of a JSON text that may be cut off.

    Returns:
        The bracket, or empty text; the keys of the outermost object; and the keys of the objects in it, or of the first
        object of a list.
    """
    stripped = text.lstrip("\ufeff \t\r\n")
    opening = stripped[:1] if stripped[:1] in ("{", "[") else ""
    keys: dict[int, set[str]] = {1: set(), 2: set()}
    brackets: list[str] = []
    before = ""
    for found in _TOKEN.finditer(stripped) if opening else ():
        mark = found.group()
        if mark in "{[":
            brackets.append(mark)
        elif mark in "}]":
            if brackets:
                brackets.pop()
            if not brackets:
                break
        elif mark == ":" and before.startswith('"') and brackets[-1:] == ["{"] and len(brackets) <= 2:
            keys[len(brackets)].add(before[1:-1])
        before = mark
    return opening, keys[1], keys[2]
