"""Split a text into WordPiece tokens as BERT does, without its library: inspection runs where that is not installed.

Greedy WordPiece (arXiv:1609.08144, as in ``tokenization.py`` of google-research/bert) of the lower-case models, with
which every Grounding DINO uses.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from engine.errors import BaseModelError
from engine.storage.base_model_identity import LIMITS, TOKENIZER
from engine.text.plain_json import read_object

UNKNOWN = "[UNK]"
LONGEST_WORD = 100
LEAST_PIECES = 10_000
"""Minimum number of tokens of a published vocabulary; the smallest, of Chinese BERT, has 21,128."""


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of a tokenizer; a token that continues a word begins with ``##``."""

    pieces: frozenset[str]

    @property
    def is_of_language(self) -> bool:
        """Test whether it has the words of a language, as BERT's 30,522 tokens, unlike a test model.

        The few hundred tokens of a test model split nearly every word, so a split word proves nothing.
        """
        return len(self.pieces) >= LEAST_PIECES

    @classmethod
    def read(cls, content: bytes) -> Vocabulary:
        """Parse the bytes of ``tokenizer.json`` or of ``vocab.txt``.

        Raises:
            BaseModelError: It is neither, or another kind of tokenizer.
        """
        if not content.lstrip().startswith(b"{"):
            try:
                return cls(frozenset(content.decode().splitlines()))
            except UnicodeDecodeError as error:
                raise BaseModelError(f"the tokenizer's vocabulary cannot be read: {error}") from None
        values = read_object(content, where=TOKENIZER, error=BaseModelError, limit=LIMITS[TOKENIZER])
        model = values.get("model")
        if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
            raise BaseModelError("the tokenizer's vocabulary cannot be read: it has none")
        if model.get("type", "WordPiece") != "WordPiece":
            raise BaseModelError(f"the tokenizer is a {str(model['type'])[:80]}, not a WordPiece")
        return cls(frozenset(model["vocab"]))

    def split(self, word: str) -> tuple[str, ...]:
        """Return the tokens of one of :func:`words`, greedily the longest that fits; ``[UNK]`` if none fits.

        >>> Vocabulary(frozenset({"rb", "##c", "cell"})).split("rbc")
        ('rb', '##c')
        """
        if len(word) > LONGEST_WORD:
            return (UNKNOWN,)
        found: list[str] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self.pieces), None)
            if end is None:
                return (UNKNOWN,)
            found.append(prefix + word[start:end])
            start = end
        return tuple(found)


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text in lower case, without accents; punctuation and Chinese characters are separate words.

    >>> words("Crème brûlée, x-ray")
    ('creme', 'brulee', ',', 'x', '-', 'ray')
    """
    plain = "".join(f" {c} " if _is_chinese(c) else c for c in _readable(text))
    plain = "".join(c.lower() for c in unicodedata.normalize("NFD", plain) if unicodedata.category(c) != "Mn")
    return tuple("".join(f" {c} " if is_punctuation(c) else c for c in plain).split())


def is_punctuation(word: str) -> bool:
    """Test for a character that BERT splits at: punctuation, and all of ASCII except letters and digits."""
    if len(word) != 1:
        return False
    return ("!" <= word <= "~" and not word.isalnum()) or unicodedata.category(word).startswith("P")


def _readable(text: str) -> Iterator[str]:
    for character in text:
        if character in "\t\n\r" or unicodedata.category(character) == "Zs":
            yield " "
        elif character != "\ufffd" and unicodedata.category(character) not in ("Cc", "Cf", "Co"):
            yield character


def _is_chinese(character: str) -> bool:
    code = ord(character)
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x2CEAF
        or 0xF900 <= code <= 0xFAFF
        or 0x2F800 <= code <= 0x2FA1F
    )
