"""Local copies of base models, verified by their digests before use.

A faulty disk or an interrupted copy may change a weight without an error: training would continue with another base.
Copies from object storage have a list of sha256 next to them. Files in the hub's cache are named by their digests:
sha256 for large files, git's sha1 for small ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.errors import BaseModelError, TeacherError
from engine.storage.base_model_identity import digest_of
from engine.storage.files import replacing
from engine.storage.publication import sha256_of

LOG = logging.getLogger(__name__)


def cached_copy(cache: Path, key: Sequence[str], fill: Callable[[Path], None], *, model: str) -> Path:
    """Return the complete and verified folder of a key in the cache.

    It is filled in a temporary folder and renamed, so that it is complete or absent. A folder that was damaged since,
    or has no list of digests, is filled again.

    Args:
        cache: Cache folder of this machine.
        key: All that determines the content.
        fill: Fills an empty folder.
        model: Name of the model in messages.

    Raises:
        TeacherError: It cannot be filled.
    """
    models = cache / "base_models"
    folder = models / hashlib.sha256("\n".join(key).encode()).hexdigest()[:32]
    seal = folder.with_suffix(".sha256.json")
    fault = _fault(folder, seal) if folder.is_dir() else None
    if folder.is_dir() and fault is None:
        return folder
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models, prefix=".") as temporary:
        if fault is not None:
            LOG.warning(
                "the cached copy of base model %s in %s is damaged (%s): it is made again", model, folder, fault
            )
            with contextlib.suppress(OSError):  # another process was faster
                folder.rename(Path(temporary, "damaged"))
        filled = Path(temporary, "model")
        filled.mkdir()
        try:
            fill(filled)
        except TeacherError as error:
            if fault is None:
                raise
            raise type(error)(
                f"{error}. The cached copy of base model {model} was damaged ({fault}), and has been removed"
            ) from None
        with replacing(seal) as file:
            file.write_text(json.dumps({path.name: sha256_of(path) for path in sorted(filled.iterdir())}))
        with contextlib.suppress(OSError):  # another process was faster
            filled.rename(folder)
    return folder


def _fault(folder: Path, seal: Path) -> str | None:
    """Describe the damage of a copy; None if it is intact."""
    try:
        written = json.loads(seal.read_bytes())
        for name, digest in written.items():
            if digest_of(folder / name) != digest:
                return f"the sha256 of {name} differs"
        if more := {path.name for path in folder.iterdir()} - written.keys():
            return f"{min(more)} was added"
    except FileNotFoundError as error:
        return f"{Path(error.filename or seal).name} is missing"
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def hub_copy(repo: str, fetch: Callable[[], Path], *, offline: bool) -> Path:
    """Return the folder of a snapshot in the hub's cache; damaged files are fetched again.

    Args:
        repo: Name of the model in messages.
        fetch: Brings the snapshot to the cache; existing files are not fetched again.
        offline: The hub may not be reached.

    Raises:
        BaseModelError: A file is damaged and cannot be fetched again.
    """
    folder = fetch()
    damaged = [path for path in sorted(folder.iterdir()) if _is_damaged(path)]
    if not damaged:
        return folder
    named = ", ".join(str(path.resolve()) for path in damaged)
    if offline:
        raise BaseModelError(
            f"the cached copy of base model {repo} is damaged: the digests of {named} differ from their names. Delete "
            "them, and run this once without HF_HUB_OFFLINE"
        )
    LOG.warning("the cached copy of base model %s is damaged (%s): it is fetched again", repo, named)
    for path in damaged:
        with contextlib.suppress(OSError):
            path.resolve().unlink()
            path.unlink()
    with contextlib.suppress(BaseModelError):
        folder = fetch()
    if still := [path for path in damaged if not path.exists() or _is_damaged(path)]:
        raise BaseModelError(
            f"the cached copy of base model {repo} was damaged and has been removed, and {still[0].name} cannot be "
            "fetched again: check that the hub can be reached and that its cache can be written"
        )
    return folder


def _is_damaged(path: Path) -> bool:
    """Return whether a link into the hub's blobs leads to a file whose digest differs from its name."""
    if not path.is_symlink() or not path.is_file():
        return path.is_symlink()
    blob = path.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return digest_of(blob) != blob.name
    if re.fullmatch(r"[0-9a-f]{40}", blob.name):
        content = blob.read_bytes()
        digest = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        return digest.hexdigest() != blob.name
    return False
