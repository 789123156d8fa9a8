"""Identity of a base model: its weights, configuration, image preprocessor and tokenizer.

The same weights with another image size, tokenizer or number of heads are a different base: adapters and checkpoints
of one cannot be used with the other. Fields without effect, such as the version that wrote a file, do not count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.errors import BaseModelError
from engine.storage import Storage, is_remote, join, local_path, name, parent
from engine.storage.bounded_read import read_bounded
from engine.storage.publication import sha256_of
from engine.text.plain_json import read_object

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
TOKENIZER, VOCABULARY, TOKENIZER_CONFIG = "tokenizer.json", "vocab.txt", "tokenizer_config.json"
SPECIAL_TOKENS, ADDED_TOKENS = "special_tokens_map.json", "added_tokens.json"

LIMITS: Mapping[str, int] = {
    CONFIG: 1 << 20,
    PREPROCESSOR: 1 << 20,
    TOKENIZER_CONFIG: 4 << 20,
    SPECIAL_TOKENS: 1 << 20,
    ADDED_TOKENS: 1 << 20,
    TOKENIZER: 32 << 20,
    VOCABULARY: 8 << 20,
}
"""The small files of a base model, with their maximum bytes."""

PARTS: Mapping[str, tuple[str, ...]] = {
    "configuration": (CONFIG,),
    "preprocessor": (PREPROCESSOR,),
    "tokenizer": (TOKENIZER, VOCABULARY, TOKENIZER_CONFIG, SPECIAL_TOKENS, ADDED_TOKENS),
}
"""Files of each part of a base model, in addition to its weights."""

WITHOUT_MEANING = frozenset(
    {
        "_commit_hash",
        "_name_or_path",
        "architectures",
        "auto_map",
        "backend",
        "dtype",
        "feature_extractor_type",
        "image_processor_type",
        "is_local",
        "local_files_only",
        "model_max_length",
        "name_or_path",
        "processor_class",
        "special_tokens_map_file",
        "tokenizer_file",
        "torch_dtype",
        "transformers_version",
    }
)
"""Fields without effect on the computation."""

WEIGHTS = "model*.safetensors"


def digest_of(file: Path) -> str:
    """Return the sha256 in hex of a file of weights, which is read once in a process as long as it does not change."""
    there = file.stat()
    return _digest(file, there.st_ino, there.st_size, there.st_mtime_ns, there.st_ctime_ns)


@lru_cache(maxsize=256)
def _digest(file: Path, *_: int) -> str:
    return sha256_of(file)


def parts_of(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return a sha256 in hex of each part of a base.

    Args:
        files: Content of small files, by the names of :data:`LIMITS`; those that are missing do not count.

    Raises:
        BaseModelError: One cannot be read.
    """
    found = {}
    for part, names in PARTS.items():
        if part == "tokenizer" and TOKENIZER in files:
            names = tuple(one for one in names if one != VOCABULARY)  # which is read only where there is no other
        digest = hashlib.sha256()
        for one in names:
            if one in files:
                digest.update(f"{one}\n".encode() + _meaning(one, files[one]) + b"\n")
        found[part] = digest.hexdigest()
    return found


def local_parts(folder: Path) -> dict[str, str]:
    """Return a sha256 in hex of each part of a base in a local folder."""
    return parts_of(_read(str(folder), Storage(), {path.name for path in folder.iterdir()}))


def base_digest(base_model: str, *, storage: Storage) -> str | None:
    """Return a digest over all files of a base in a folder or in object storage.

    Small files and weights on this machine count by their content, weights in object storage by size and ETag, so that
    no download is needed.

    Returns:
        sha256 in hex; None for a hub model, which its commit identifies, and if no weights are found, which the
        loader reports.

    Raises:
        BaseModelError: A small file cannot be read.
        StorageError: The files cannot be read.
    """
    remote = is_remote(base_model)
    if base_model.endswith(".pth"):
        items = [one for one in storage.list(parent(base_model)) if name(one.uri) == name(base_model)]
        files: dict[str, bytes] = {}
    elif remote or local_path(base_model).expanduser().is_dir():
        folder = base_model if remote else str(local_path(base_model).expanduser())
        items = [one for one in storage.list(folder) if "/" not in one.key]
        files = _read(folder, storage, {one.key for one in items})
        items = [one for one in items if fnmatch(one.key, WEIGHTS)]
    else:
        return None
    weights = [(name(one.uri), f"{one.size} {one.etag}" if remote else digest_of(local_path(one.uri))) for one in items]
    if not weights:
        return None
    return hashlib.sha256(json.dumps([sorted(weights), parts_of(files)]).encode()).hexdigest()


def _read(folder: str, storage: Storage, names: set[str]) -> dict[str, bytes]:
    return {
        one: read_bounded(storage, join(folder, one), limit=limit, error=BaseModelError)
        for one, limit in LIMITS.items()
        if one in names
    }


def _meaning(file: str, content: bytes) -> bytes:
    """Return the same bytes for files with the same meaning."""
    if file == VOCABULARY:
        return b"\n".join(content.splitlines())
    return json.dumps(
        _without(read_object(content, where=file, error=BaseModelError, limit=LIMITS[file])), sort_keys=True
    ).encode()


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(inner) for key, inner in value.items() if key not in WITHOUT_MEANING}
    return [_without(inner) for inner in value] if isinstance(value, list) else value
