"""Class names that say little to a model that reads: ``RBC``, ``wdgt_07``, words of another language.

Grounding DINO finds what a phrase means. A name that its tokenizer breaks into many pieces means nothing to it: the
class has to be learned from nothing, and the base's own skill is of no use. So users are told before training, and can
give a better phrase.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.base_identity import LIMITS, TOKENIZER
from engine.dataset.problems import ProblemLog, worst_first
from engine.dataset.types import DatasetInfo
from engine.dataset.wordpiece import UNKNOWN, Vocabulary, is_punctuation, words
from engine.errors import TeacherError
from engine.storage import Storage, is_remote, join, local_path
from engine.storage.bounded import read_bounded

FILES = ("vocab.txt", "tokenizer.json")
VOWELS = frozenset("aeiouy")
SECONDS = 5
"""That the hub has to answer in."""


def cleaned(name: str) -> str:
    """Lower case and without underscores, as words are written.

    >>> cleaned("Traffic_Light")
    'traffic light'
    """
    return " ".join(name.replace("_", " ").lower().split())


def judge_names(info: DatasetInfo, prompts: Mapping[str, str], vocabulary: Vocabulary | None) -> DatasetInfo:
    """The info with a warning of class names that have no better phrase and say little.

    Args:
        info: What inspection found.
        prompts: Better phrases for some classes.
        vocabulary: Of the base model; without one, names are judged by how they look.
    """
    names = [one.name for one in info.classes if one.annotations and one.name not in prompts]
    odd = {name: said for name in names if (said := _oddity(name, names, vocabulary))}
    if not odd:
        return info
    log = ProblemLog()
    log.add("odd_class_name", [f"{name} ({said})" for name, said in odd.items()], count=len(odd))
    return info.model_copy(update={"problems": worst_first((*info.problems, *log.problems()))})


def of_language(vocabulary: Vocabulary | None) -> Vocabulary | None:
    """A vocabulary, if it has enough pieces to be that of a published base."""
    return vocabulary if vocabulary is not None and vocabulary.is_of_language else None


def _oddity(name: str, names: Sequence[str], vocabulary: Vocabulary | None) -> str:
    if vocabulary is None:
        return _looks(name, names)
    read = [word for word in words(name.replace("_", " ")) if not is_punctuation(word)]
    split = [vocabulary.split(word) for word in read]
    if not any(_is_broken(word, pieces) for word, pieces in zip(read, split, strict=True)):
        return ""
    pieces = [piece for word in split for piece in word]
    return f"{len(pieces)} piece{'s' * (len(pieces) > 1)}: {' '.join(pieces)}"


def _is_broken(word: str, pieces: tuple[str, ...]) -> bool:
    """Unknown, or in three pieces and more, or in pieces of a letter or two: ``rb ##c``, but not ``fork ##lift``."""
    return UNKNOWN in pieces or len(pieces) > 2 or (len(pieces) == 2 and len(word) <= 4)


def _looks(name: str, names: Sequence[str]) -> str:
    """What looks odd about a name to one who knows no vocabulary; else empty."""
    parts = re.findall(r"[^\W_]+", name)
    if not any(part.isalpha() for part in parts) or any(re.search(r"\d", p) and re.search(r"[^\d]", p) for p in parts):
        return "a code"
    latin = [part for part in parts if part.isascii() and part.isalpha() and len(part) > 1]
    if any(not VOWELS & set(part.lower()) for part in latin):
        return "no vowels"
    mixed = any(not other.isupper() for other in names)
    return "an abbreviation" if mixed and any(part.isupper() and len(part) <= 4 for part in latin) else ""


def find_vocabulary(base_model: str, revision: str | None, *, storage: Storage, hub: bool = True) -> Vocabulary | None:
    """What a base model's tokenizer knows; None if it cannot be had here, which the trainer will tell if it matters.

    Args:
        base_model: Hub id, folder or ``s3://`` prefix.
        revision: Commit, tag or branch of a hub id.
        storage: How object storage is reached.
        hub: Whether the hub may be asked for what is not in its cache.
    """
    with contextlib.suppress(TeacherError):
        content = _content(base_model, revision, storage=storage, hub=hub)
        return None if content is None else Vocabulary.read(content)
    return None


def _content(base_model: str, revision: str | None, *, storage: Storage, hub: bool) -> bytes | None:
    remote = is_remote(base_model)
    folder = Path() if remote else local_path(base_model).expanduser()
    if not remote and not folder.is_dir():
        with contextlib.suppress(Exception):  # nothing that is wrong with the hub may stop an inspection
            return _from_hub(base_model, revision, hub=hub)
        return None
    uris = [join(base_model if remote else str(folder), name) for name in FILES]
    found = next((uri for uri in uris if storage.exists(uri)), None)
    return None if found is None else read_bounded(storage, found, limit=LIMITS[TOKENIZER])


def _from_hub(repo: str, revision: str | None, *, hub: bool) -> bytes | None:
    """From the hub's cache, else in one request a file: its library would try again for a minute."""
    from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]

    for name in FILES:
        cached = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(cached, str):
            return Path(cached).read_bytes()
    for name in FILES if hub and not constants.HF_HUB_OFFLINE else ():
        url = hf_hub_url(repo, name, revision=revision)
        answer = get_session().get(url, headers=build_hf_headers(), timeout=SECONDS, follow_redirects=True)
        if answer.status_code == 200:
            return answer.content
    return None
