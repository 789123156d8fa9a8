"""Small BERT tokenizer with the words of the tiny teacher, and single letters for all other words."""

from __future__ import annotations

import string

from paint import COLORS
from scenes import SYNONYMS
from transformers import BertTokenizer

# Grounding DINO's architecture knows these ids.
RESERVED = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
LETTERS = string.ascii_lowercase + string.digits + "αβγδεζηθικλμνξοπρστυφχψω" + "абвгдежзийклмнопрстуфхцчшщъыьэюя"
WORDS = ("object", "thing", "shape", "bright", "dark", "small", "large")


def tiny_tokenizer() -> BertTokenizer:
    """Build the tokenizer with 1030 tokens: words, single characters, and their continuations ``##a``."""
    tokens = [*COLORS, *SYNONYMS, *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    tokens += [mark for mark in string.punctuation if mark not in ".?"]
    places = [i for i in range(max(RESERVED) + 1) if i not in RESERVED]
    vocabulary = RESERVED | dict(zip(places, tokens, strict=False))
    vocabulary |= {i: f"[unused{i}]" for i in places[len(tokens) :]}
    return BertTokenizer(vocab={token: i for i, token in sorted(vocabulary.items())}, model_max_length=512)
