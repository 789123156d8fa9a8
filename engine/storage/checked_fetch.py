"""Fetches files with known sha256: into a staging folder, verified, and only then moved into place."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from engine.errors import ConfigError, StorageError
from engine.layout import METADATA
from engine.storage import Storage, join, safe_join
from engine.storage.files import failures
from engine.storage.output_lock import lock_file
from engine.storage.publication import sha256_of

STAGING = ".fetch-"
"""Name prefix of the staging folder, which is inside the target folder and so on the same disk."""

LOCK = ".fetch.lock"


def fetch_checked(
    root: str, digests: Mapping[str, str], folder: Path, *, seal: tuple[str, bytes], storage: Storage
) -> None:
    """Fetch files into a folder. Existing files are not touched until all new files are fetched and verified.

    Args:
        root: URI of the source folder.
        digests: sha256 by relative path. Files that exist already with this digest are not fetched again.
        folder: Target folder on this machine.
        seal: Path and content of a file that marks the folder as complete: removed first, and written last.
        storage: Access to the source folder.

    Raises:
        ConfigError: A link points outside the folder, or a folder exists where a file is needed.
        DataError: A path points outside the folder.
        StorageError: A file is missing or has another sha256; the folder cannot be written; or another process
            fetches into the same folder.
    """
    name, content = seal
    targets = {path: safe_join(folder, path) for path in digests}
    with failures(str(folder), "written"):
        folder.mkdir(parents=True, exist_ok=True)
        for target in (*targets.values(), folder / name):
            _refuse_elsewhere(target, folder)
        with _staging(folder) as staging:
            _fetch(
                root,
                {path: digests[path] for path in digests if not _is(targets[path], digests[path])},
                staging,
                storage,
            )
            (staging / name).write_bytes(content)
            (folder / name).unlink(missing_ok=True)
            for path, target in targets.items():
                if (coming := safe_join(staging, path)).is_file():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    coming.replace(target)
            (staging / name).replace(folder / name)


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Create a staging folder inside ``folder``; remove it at the end, and those of killed processes.

    Raises:
        StorageError: Another process fetches into ``folder``.
    """
    with lock_file(folder / LOCK, what=str(folder)):
        for left in folder.glob(f"{STAGING}*"):
            shutil.rmtree(left, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=folder))
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _fetch(root: str, digests: Mapping[str, str], staging: Path, storage: Storage) -> None:
    storage.download_many([(join(root, path), safe_join(staging, path)) for path in digests])
    for path, digest in digests.items():
        if not _is(safe_join(staging, path), digest):
            raise StorageError(
                f"{join(root, path)} is not what was published: its sha256 differs from {METADATA}. Train it again; "
                "what was here before is as it was"
            )


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_of(path) == digest


def _refuse_elsewhere(target: Path, folder: Path) -> None:
    """Raise ConfigError if a link in the path points outside the folder, or a folder is in place of the file."""
    within = folder.resolve()
    for above in target.parents:
        if above == folder:
            break
        if above.is_symlink() and not above.resolve().is_relative_to(within):
            raise ConfigError(
                f"{above} is a link to {above.resolve()}, outside {folder}: remove it, or fetch into another folder"
            )
        if above.exists() and not above.is_dir():
            raise ConfigError(f"{above} is a file where a folder is needed: move it away, or fetch into another folder")
    if target.is_dir() and not target.is_symlink():
        raise ConfigError(f"{target} is a folder where a file is needed: move it away, or fetch into another folder")
