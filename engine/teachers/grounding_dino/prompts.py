"""Captions of class names for Grounding DINO, ``"red cell . platelet ."``, and the tokens of each class.

The map from tokens to classes is built together with the caption, from the tokens of each phrase: it does not depend on
the contents of a name. Grounding DINO separates phrases by the tokens ``[CLS]``, ``[SEP]``, ``.`` and ``?`` (ids 101,
102, 1012 and 1029 are part of its architecture), so these are removed from phrases.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.dataset.checks.class_name_checks import cleaned
from engine.errors import BaseModelError, ConfigError

CLS, SEP, PERIOD, QUESTION = 101, 102, 1012, 1029


@dataclass(frozen=True)
class Phrase:
    """Phrase of one class.

    Attributes:
        class_index: Index of the class.
        token_ids: Its tokens, without the tokens that end a phrase.
    """

    class_index: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Prompt:
    """Caption of several phrases: ``[CLS] tokens . tokens . [SEP]``.

    Attributes:
        phrases: In the order of the caption.
    """

    phrases: tuple[Phrase, ...]

    @property
    def class_indices(self) -> tuple[int, ...]:
        """Class indices in the order of the caption."""
        return tuple(phrase.class_index for phrase in self.phrases)

    @property
    def input_ids(self) -> tuple[int, ...]:
        """The T tokens of the caption."""
        return (CLS, *(token for phrase in self.phrases for token in (*phrase.token_ids, PERIOD)), SEP)

    def token_map(self) -> NDArray[np.bool_]:
        """Return (number of phrases, T) bool: the tokens that name the i-th class of :attr:`class_indices`."""
        spans = np.zeros((len(self.phrases), len(self.input_ids)), dtype=np.bool_)
        start = 1
        for row, phrase in zip(spans, self.phrases, strict=True):
            row[start : start + len(phrase.token_ids)] = True
            start += len(phrase.token_ids) + 1
        return spans


@dataclass(frozen=True)
class PromptBook:
    """Phrases of all classes of a dataset, and their captions.

    Attributes:
        phrases: One per class, in the order of class indices.
        limit: Maximum tokens of a caption.
    """

    phrases: tuple[Phrase, ...]
    limit: int

    @classmethod
    def of(cls, classes: Sequence[str], prompts: Mapping[str, str], *, tokenizer: Any, limit: int) -> PromptBook:
        """Build the phrases of all classes.

        Args:
            classes: Class names.
            prompts: Better phrases for some of them.
            tokenizer: The base model's tokenizer.
            limit: Maximum tokens of a caption: ``max_text_len`` of the base model.

        Raises:
            BaseModelError: The tokenizer is not the one of a Grounding DINO.
            ConfigError: The phrase of a class is empty, too long, or the same as another.
        """
        _check(tokenizer)
        silent = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id} | {CLS, SEP, PERIOD, QUESTION}
        phrases: list[Phrase] = []
        seen: dict[tuple[int, ...], str] = {}
        for index, name in enumerate(classes):
            text = cleaned(prompts.get(name, name))
            ids = tuple(i for i in tokenizer(text, add_special_tokens=False)["input_ids"] if i not in silent)
            if not ids:
                raise ConfigError(f"class {name!r} has no letters to show to Grounding DINO: {_HELP}")
            if len(ids) + 3 > limit:
                raise ConfigError(f"class {name!r} takes {len(ids)} tokens, {limit - 3} are allowed: {_HELP}")
            if ids in seen:
                raise ConfigError(
                    f"Grounding DINO cannot tell class {name!r} from {seen[ids]!r}: it reads both as "
                    f"{tokenizer.decode(list(ids))!r}. For one of them, {_HELP}"
                )
            seen[ids] = name
            phrases.append(Phrase(index, ids))
        return cls(tuple(phrases), limit)

    def chunks(self) -> tuple[Prompt, ...]:
        """Return the fewest captions that hold all classes in their order, for prediction."""
        return self._pack(self.phrases)

    @property
    def fits(self) -> bool:
        """Whether one caption holds all classes."""
        return len(self.chunks()) == 1

    def sample(self, present: Iterable[int], order: Sequence[int]) -> tuple[Prompt, ...]:
        """Return captions for training on an image that shows the classes ``present``.

        Each present class is in one of the captions, which are filled with absent classes up to the limit. The few
        images with more classes than one caption holds get several.

        Args:
            present: Indices of the classes that the image shows.
            order: A random order of all class indices: selects the absent classes, and the order in captions.
        """
        if self.fits:
            return self.chunks()
        wanted = set(present)
        captions = self._pack([self.phrases[i] for i in order if i in wanted]) or (Prompt(()),)
        others = iter([self.phrases[i] for i in order if i not in wanted])
        rank = {index: position for position, index in enumerate(order)}
        filled = []
        for caption in captions:
            phrases = list(caption.phrases)
            room = self.limit - len(caption.input_ids)
            while (other := next(others, None)) is not None and len(other.token_ids) < room:
                phrases.append(other)
                room -= len(other.token_ids) + 1
            filled.append(Prompt(tuple(sorted(phrases, key=lambda phrase: rank[phrase.class_index]))))
        return tuple(filled)

    def _pack(self, phrases: Sequence[Phrase]) -> tuple[Prompt, ...]:
        captions: list[list[Phrase]] = []
        used = self.limit
        for phrase in phrases:
            length = len(phrase.token_ids) + 1
            if used + length > self.limit:
                captions.append([])
                used = 2
            captions[-1].append(phrase)
            used += length
        return tuple(Prompt(tuple(caption)) for caption in captions)


_HELP = "give a phrase of common words under classPrompts"


def _check(tokenizer: Any) -> None:
    ids = (tokenizer.cls_token_id, tokenizer.sep_token_id, *tokenizer.convert_tokens_to_ids([".", "?"]))
    if ids != (CLS, SEP, PERIOD, QUESTION):
        raise BaseModelError(
            f"the tokenizer has [CLS], [SEP], '.' and '?' at {ids}, Grounding DINO wants {(CLS, SEP, PERIOD, QUESTION)}"
        )
