"""Small BERT tokenizer: common nouns, colours and the words of the scenes, and single letters for all other words."""

from __future__ import annotations

import string
from pathlib import Path

from kinds import SYNONYMS
from paint import COLORS
from transformers import BertTokenizer

# Grounding DINO's architecture knows these ids.
RESERVED = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
LETTERS = string.ascii_lowercase + string.digits + "αβγδεζηθικλμνξοπρστυφχψω" + "абвгдежзийклмнопрстуфхцчшщъыьэюя"
WORDS = Path(__file__).parent / "words.txt"


def nouns() -> list[str]:
    """Read the list of common nouns."""
    return [line for line in WORDS.read_text().splitlines() if not line.startswith("#")]


def tiny_tokenizer() -> BertTokenizer:
    """Build the tokenizer: single characters and their continuations ``##a``, punctuation, then words."""
    tokens = [*LETTERS, *(f"##{letter}" for letter in LETTERS)]
    tokens += [mark for mark in string.punctuation if mark not in ".?"]
    named = [word for kind, others in SYNONYMS.items() for word in (kind, *others)]
    tokens += dict.fromkeys([*COLORS, *named, "object", "thing", "shape", *nouns()])
    places = (i for i in range(len(tokens) + len(RESERVED)) if i not in RESERVED)
    vocabulary = RESERVED | dict(zip(places, tokens, strict=True))
    return BertTokenizer(vocab={token: i for i, token in sorted(vocabulary.items())}, model_max_length=512)
