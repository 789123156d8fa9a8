"""Fetch base models from the Hugging Face hub, a folder, object storage, or a segment-anything checkpoint.

Only configuration, tokenizer and safetensors are fetched: weights in pickle files are rejected, since reading one can
run any code. (Of original segment-anything ``.pth`` files only tensors are read, and converted.)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import transformers
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.errors import HTTPError as HubError  # type: ignore[attr-defined]

from engine.errors import BaseModelError, ConfigError
from engine.models.base_cache import cached_copy, hub_copy
from engine.registry import by_suffix, refusal
from engine.storage import Storage, is_remote, local_path, name, parent
from engine.storage.base_model_identity import CONFIG, LIMITS, digest_of, local_parts
from engine.storage.git_lfs import ADVICE, LONGEST_POINTER, is_pointer
from engine.storage.publication import sha256_of
from engine.text.plain_json import read_object_file
from engine.traits import TeacherTraits

FILES = (
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "processor_config.json",
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer*",
    "vocab.*",
)
"""Name patterns of the files to fetch."""

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ORIGINAL = "original.sha256"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


@dataclass(frozen=True)
class LocalModel:
    """A base model on disk.

    Attributes:
        folder: A transformers model folder; meaningless for random weights.
        revision: The commit of a hub model; of any other, ``sha256``.
        sha256: sha256 of the weights: of ``model.safetensors``, of the digests of its shards, or of the
            original ``.pth``.
        parts: sha256 of the other files that determine results, by the names of
            :data:`engine.storage.base_model_identity.PARTS`; empty for an original ``.pth``, whose configuration
            follows from its weights.
    """

    folder: Path
    revision: str
    sha256: str
    parts: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Digest of the weights and all other parts."""
        return hashlib.sha256(json.dumps([self.sha256, dict(self.parts)], sort_keys=True).encode()).hexdigest()


def is_hub_id(base_model: str) -> bool:
    """Return whether a base model's name is a hub id: ``name`` or ``owner/name``, and not an existing folder."""
    named = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", base_model) is not None
    return named and by_suffix(base_model) is None and not Path(base_model).exists()


def random_base(settings: str, *, seed: int) -> LocalModel:
    """Return the base of a student that begins with random weights, which settings and seed determine."""
    digest = hashlib.sha256(f"{seed} {settings}".encode()).hexdigest()
    return LocalModel(Path(), revision="random", sha256=digest)


def resolve_base_model(base_model: str, revision: str | None, *, storage: Storage, cache: Path) -> LocalModel:
    """Fetch a base model to the disk.

    Args:
        base_model: Hub id; folder; ``s3://`` prefix; or the path or URI of a checkpoint of a teacher's authors.
        revision: Commit, tag or branch of a hub id.
        storage: Access to object storage.
        cache: Folder for models from object storage and converted ones; hub models are in the hub's own cache.

    Raises:
        BaseModelError: It is unavailable or incomplete.
        ConfigError: ``revision`` is given, and the base is not a hub id.
    """
    if is_hub_id(base_model):
        return _from_hub(base_model, revision)
    if revision is not None:
        raise ConfigError(f"revision {revision!r} goes with a hub id, and {base_model!r} is none: leave it out")
    if (original := by_suffix(base_model)) is not None:
        return _from_original(base_model, original, storage, cache)
    if is_remote(base_model):
        folder, names = _from_storage(base_model, storage, cache)
    else:
        folder = local_path(base_model).expanduser()
        if not folder.is_dir():
            raise BaseModelError(f"base model {base_model} is not there: there is no folder {folder.absolute()}")
        names = [path.name for path in folder.iterdir()]
    _check(base_model, folder, names)
    digest = _weights_digest(folder)
    return LocalModel(folder, revision=digest, sha256=digest, parts=local_parts(folder))


def _from_hub(repo: str, revision: str | None) -> LocalModel:
    at = f"{repo} at revision {revision}" if revision else repo
    try:
        folder = hub_copy(
            at,
            lambda: Path(snapshot_download(repo, revision=revision, allow_patterns=list(FILES))),
            offline=constants.HF_HUB_OFFLINE,
        )
    except GatedRepoError:
        if reason := refusal(name(repo)):
            raise BaseModelError(f"base model {at} cannot be tuned: {reason}") from None
        raise BaseModelError(
            f"base model {at} is gated: accept its terms on its hub page, and set HF_TOKEN to a token of that account"
        ) from None
    except RevisionNotFoundError:
        raise BaseModelError(f"base model {repo} has no revision {revision!r}: give a commit, tag or branch") from None
    except RepositoryNotFoundError:
        raise BaseModelError(
            f"base model {at} is neither a folder here nor a model on the hub; if it is a private one, set HF_TOKEN"
        ) from None
    except LocalEntryNotFoundError as error:
        if reason := refusal(name(repo)):
            raise BaseModelError(f"base model {at} cannot be tuned: {reason}") from None
        raise BaseModelError(
            f"base model {at} is not in the hub's cache, and the hub cannot be reached ({_cause(error)}): check the "
            "network, HF_HUB_OFFLINE and HF_ENDPOINT, or name a folder or s3:// prefix that holds the model"
        ) from None
    except (HubError, OSError, ValueError) as error:
        raise BaseModelError(f"base model {at} cannot be fetched from the hub: {_cause(error)}") from error
    _check(at, folder, [path.name for path in folder.iterdir()])
    return LocalModel(folder, revision=folder.name, sha256=_weights_digest(folder), parts=local_parts(folder))


def _from_storage(uri: str, storage: Storage, cache: Path) -> tuple[Path, list[str]]:
    """Return the local folder with the fetched files of a prefix, and the names of all files below the prefix."""
    items = [item for item in storage.list(uri) if "/" not in item.key]
    if not items:
        raise BaseModelError(f"base model {uri} is not there: nothing lies below that prefix")
    wanted = [item for item in items if any(fnmatch(item.key, pattern) for pattern in FILES)]

    def fill(folder: Path) -> None:
        storage.download_many([(item.uri, folder / item.key) for item in wanted])

    key = [f"{item.uri} {item.size} {item.etag}" for item in wanted]
    return cached_copy(cache, key, fill, model=uri), [item.key for item in items]


def _from_original(uri: str, traits: TeacherTraits, storage: Storage, cache: Path) -> LocalModel:
    """Convert a checkpoint of a teacher's authors, once."""
    found = next((item for item in storage.list(parent(uri)) if name(item.uri) == name(uri)), None)
    if found is None:
        raise BaseModelError(f"base model {uri} is not there")
    if found.size <= LONGEST_POINTER and is_pointer(storage.read_start(uri, LONGEST_POINTER)):
        raise BaseModelError(f"base model {uri} {ADVICE}")

    def fill(folder: Path) -> None:
        path = storage.download(uri, folder / name(uri)) if is_remote(uri) else local_path(uri)
        traits.load_class().convert_original(path, folder)
        (folder / ORIGINAL).write_text(sha256_of(path))
        if is_remote(uri):
            path.unlink()

    key = [f"{found.uri} {found.size} {found.etag}", transformers.__version__]
    folder = cached_copy(cache, key, fill, model=uri)
    digest = (folder / ORIGINAL).read_text()
    return LocalModel(folder, revision=digest, sha256=digest)


def _check(model: str, folder: Path, names: Sequence[str]) -> None:
    if not (folder / CONFIG).is_file():
        raise BaseModelError(f"base model {model} has no {CONFIG}: it is not the folder of a transformers model")
    refuse_pointers(f"base model {model}: ", [folder / file for file in names])
    config = read_object_file(folder / CONFIG, error=BaseModelError, limit=LIMITS[CONFIG])
    if reason := refusal(str(config.get("model_type"))):  # before its weights, which may be of another format
        raise BaseModelError(f"base model {model} cannot be tuned: {reason}")
    if not any((folder / weights).is_file() for weights in (WEIGHTS, INDEX)):
        pickles = [file for file in names if any(fnmatch(file, pattern) for pattern in PICKLES)]
        found = f", only {', '.join(sorted(pickles))}" if pickles else ""
        raise BaseModelError(
            f"base model {model} has no {WEIGHTS}{found}: weights in pickle files are refused, since reading one can "
            "run any code; save the model as safetensors (save_pretrained of transformers does) and name that folder"
        )
    for shard in _shards(model, folder):
        if not fnmatch(shard, "model*.safetensors") or not (folder / shard).is_file() or Path(shard).name != shard:
            raise BaseModelError(
                f"base model {model}: {INDEX} names {shard!r}, which is not a file model*.safetensors next to it: save "
                "the model again (save_pretrained of transformers does)"
            )


def refuse_pointers(whose: str, files: Iterable[Path]) -> None:
    """Check that files are not Git LFS pointers.

    Raises:
        BaseModelError: A file is a pointer.
    """
    for file in files:
        if file.is_file() and file.stat().st_size <= LONGEST_POINTER and is_pointer(file.read_bytes()):
            raise BaseModelError(f"{whose}{file.name} {ADVICE}")


def _shards(model: str, folder: Path) -> list[str]:
    """Return the files named in the index, if weights are in several files."""
    if (folder / WEIGHTS).is_file():
        return []
    try:
        index = read_object_file(folder / INDEX, error=BaseModelError, limit=16 << 20)
        return sorted({str(name) for name in index["weight_map"].values()})
    except (TypeError, KeyError, AttributeError):
        raise BaseModelError(f"base model {model}: {INDEX} is not an index of weights; copy it again") from None


def _weights_digest(folder: Path) -> str:
    """Return the sha256 of ``model.safetensors``, or of the digests of the shards in the order of their names."""
    if (folder / WEIGHTS).is_file():
        return digest_of(folder / WEIGHTS)
    shards = _shards(str(folder), folder)
    return hashlib.sha256("\n".join(digest_of(folder / shard) for shard in shards).encode()).hexdigest()


def _cause(error: BaseException) -> str:
    """Return the first line of the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
