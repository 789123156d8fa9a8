"""Makes untrusted text safe for messages: bounded, and without control characters for a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

LONGEST = 2_000
"""Maximum characters of a message."""

NEUTRAL = "\ufffd"
_SEPARATORS = frozenset("\u2028\u2029")


def plain(text: str) -> str:
    r"""Text without characters that control a terminal or the direction of writing, except line breaks and tabs.

    >>> plain("bolt\x1b[2J")
    'bolt\ufffd[2J'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(NEUTRAL if _controls(character) else character for character in text)


def shortened(text: str, longest: int = LONGEST) -> str:
    """The beginning and the end of a long text, and how much is left out between them.

    >>> shortened("abcdefghij" * 10, 60)
    'abcdefghijabcdefghijabcdefgh … (62 characters) … abcdefghij'
    """
    if len(text) <= longest:
        return text
    room = longest - len(f" … ({len(text):,} characters) … ")
    head = max(1, room * 3 // 4)
    tail = max(1, room - head)
    return f"{text[:head]} … ({len(text) - head - tail:,} characters) … {text[-tail:]}"


def listed(names: Iterable[str], most: int = 10) -> str:
    """List some names, and the number of the others.

    >>> listed(["a", "b", "c"], most=2), listed([])
    ('a, b and 1 more', 'nothing')
    """
    known = list(names)
    shown = ", ".join(shortened(name, 60) for name in known[:most]) or "nothing"
    return shown + (f" and {len(known) - most:,} more" if len(known) > most else "")


def _controls(character: str) -> bool:
    kind = unicodedata.category(character)
    bidirectional = kind == "Cf" and unicodedata.bidirectional(character) in _DIRECTIONS
    return (kind == "Cc" and character not in "\n\t") or bidirectional or character in _SEPARATORS


_DIRECTIONS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
