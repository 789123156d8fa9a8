"""Find class names that mean little to a language model: ``RBC``, ``wdgt_07``, words of another language.

Grounding DINO detects what a phrase means. A name that its tokenizer breaks into many pieces has no meaning for it: the
class is learned from scratch, without the base model's knowledge. Users are warned before training, and can give a
better phrase.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.dataset.checks.problems import ProblemLog, worst_first
from engine.dataset.types import DatasetInfo
from engine.dataset.wordpiece import UNKNOWN, Vocabulary, is_punctuation, words
from engine.errors import TeacherError
from engine.storage import Storage, is_remote, join, local_path
from engine.storage.base_model_identity import LIMITS, TOKENIZER
from engine.storage.bounded_read import read_bounded

FILES = ("vocab.txt", "tokenizer.json")
VOWELS = frozenset("aeiouy")
SECONDS = 5
"""Time-out of a request to the hub."""


def cleaned(name: str) -> str:
    """Return a name in lower case, with spaces for underscores.

    >>> cleaned("Traffic_Light")
    'traffic light'
    """
    return " ".join(name.replace("_", " ").lower().split())


def check_class_names(info: DatasetInfo, prompts: Mapping[str, str], vocabulary: Vocabulary | None) -> DatasetInfo:
    """Add a warning about class names without a clear meaning and without a better phrase.

    Args:
        info: Result of inspection.
        prompts: Better phrases for some classes.
        vocabulary: Vocabulary of the base model; None to check names by their spelling only.
    """
    names = [one.name for one in info.classes if one.annotations and one.name not in prompts]
    odd = {name: said for name in names if (said := _oddity(name, names, vocabulary))}
    if not odd:
        return info
    log = ProblemLog()
    log.add("odd_class_name", [f"{name} ({said})" for name, said in odd.items()], count=len(odd))
    return info.model_copy(update={"problems": worst_first((*info.problems, *log.problems()))})


def of_language(vocabulary: Vocabulary | None) -> Vocabulary | None:
    """Return the vocabulary if it is large enough for a published base model, else None."""
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
    """Test for an unknown word, three or more pieces, or very short pieces: ``rb ##c``, but not ``fork ##lift``."""
    return UNKNOWN in pieces or len(pieces) > 2 or (len(pieces) == 2 and len(word) <= 4)


def _looks(name: str, names: Sequence[str]) -> str:
    """Return what is unusual about the spelling of a name; empty if nothing is."""
    parts = re.findall(r"[^\W_]+", name)
    if not any(part.isalpha() for part in parts) or any(re.search(r"\d", p) and re.search(r"[^\d]", p) for p in parts):
        return "a code"
    latin = [part for part in parts if part.isascii() and part.isalpha() and len(part) > 1]
    if any(not VOWELS & set(part.lower()) for part in latin):
        return "no vowels"
    mixed = any(not other.isupper() for other in names)
    return "an abbreviation" if mixed and any(part.isupper() and len(part) <= 4 for part in latin) else ""


def find_vocabulary(base_model: str, revision: str | None, *, storage: Storage, hub: bool = True) -> Vocabulary | None:
    """Return the vocabulary of a base model's tokenizer; None if unavailable (the trainer reports it if it matters).

    Args:
        base_model: Hub id, folder or ``s3://`` prefix.
        revision: Commit, tag or branch of a hub id.
        storage: Access to object storage.
        hub: Download files that are not in the hub's cache.
    """
    with contextlib.suppress(TeacherError):
        content = _content(base_model, revision, storage=storage, hub=hub)
        return None if content is None else Vocabulary.read(content)
    return None


def _content(base_model: str, revision: str | None, *, storage: Storage, hub: bool) -> bytes | None:
    remote = is_remote(base_model)
    folder = Path() if remote else local_path(base_model).expanduser()
    if not remote and not folder.is_dir():
        with contextlib.suppress(Exception):  # a failure of the hub must not stop an inspection
            return _from_hub(base_model, revision, hub=hub)
        return None
    uris = [join(base_model if remote else str(folder), name) for name in FILES]
    found = next((uri for uri in uris if storage.exists(uri)), None)
    return None if found is None else read_bounded(storage, found, limit=LIMITS[TOKENIZER])


def _from_hub(repo: str, revision: str | None, *, hub: bool) -> bytes | None:
    """Read from the hub's cache, else with one request per file: the hub's library would retry for a minute."""
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
