"""Find adapters in a run's folder or bucket, fetch them and check them against what was published."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import BaseModelError
from engine.layout import (
    ADAPTER,
    ADAPTER_CARD,
    ADAPTER_CONFIG,
    METADATA,
    RESULT,
    STUDENT_CARD,
    RunLayout,
    model_folders,
)
from engine.models.base_sources import refuse_pointers
from engine.models.lora import AdapterCard
from engine.models.measured_quality import read_measured
from engine.registry import StudentName
from engine.results.run_files import read_metadata
from engine.spec import TeacherName
from engine.storage import NotFoundError, Storage, is_remote, join, local_path, parent
from engine.storage import name as name_of
from engine.storage.publication import sha256_of


def find_adapters(uri: str, *, storage: Storage) -> dict[TeacherName, str]:
    """Return the adapters in a run's folder, or the adapter whose own folder this is, by teacher.

    Raises:
        BaseModelError: It is neither a run nor an adapter.
    """
    if storage.exists(join(uri, ADAPTER_CARD)):
        return {_read_card(uri, storage).teacher: uri}
    folders = {name: RunLayout(uri).teacher(name) for name in TeacherName}
    found = {name: folder for name, folder in folders.items() if storage.exists(join(folder, ADAPTER_CARD))}
    if not found and any(storage.exists(join(one, STUDENT_CARD)) for one in model_folders(uri, StudentName)):
        raise BaseModelError(f"{uri} has a student, and no adapter of a teacher: --student takes it")
    if not found:
        raise BaseModelError(
            f"{uri} is not the folder of an adapter made here, nor of a run (<output>/<name>/<run id>/, with "
            "teachers/ in it): give the one that the run printed"
        )
    return found


def _read_card(uri: str, storage: Storage) -> AdapterCard:
    """Read ``teacher.json`` of an adapter, without fetching the adapter."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if is_remote(uri) else local_path(uri)
        if is_remote(uri):
            storage.download(join(uri, ADAPTER_CARD), folder / ADAPTER_CARD)
        refuse_pointers(f"{uri}: ", [folder / ADAPTER_CARD])
        return AdapterCard.read(folder)


@contextmanager
def local_adapter(uri: str, storage: Storage) -> Iterator[Path]:
    """Yield a local folder of an adapter, which exists during the block."""
    if not is_remote(uri):
        yield _as_published(local_path(uri), uri, storage)
        return
    with tempfile.TemporaryDirectory() as temporary:
        try:
            storage.download_many(
                [(join(uri, file), Path(temporary, file)) for file in (ADAPTER_CARD, ADAPTER_CONFIG, ADAPTER)]
            )
        except NotFoundError as error:
            raise BaseModelError(f"{uri} is not the folder of an adapter made here: {error}") from None
        yield _as_published(Path(temporary), uri, storage)


def _as_published(folder: Path, uri: str, storage: Storage) -> Path:
    """Check a folder against ``metadata.json`` and ``result.json`` of its run, if they exist, and return it."""
    refuse_pointers(f"{uri}: ", [folder / file for file in (ADAPTER_CARD, ADAPTER_CONFIG, ADAPTER)])
    layout = RunLayout(parent(parent(uri)))
    if storage.exists(layout.metadata):
        for entry in read_metadata(layout, storage).files:
            file = folder / name_of(entry.path)
            ours = name_of(parent(entry.path)) == name_of(uri) and file.name in (ADAPTER_CARD, ADAPTER_CONFIG, ADAPTER)
            if ours and file.is_file() and sha256_of(file) != entry.sha256:
                raise BaseModelError(
                    f"{join(uri, file.name)} is not what was published: its sha256 differs from {METADATA}. Fetch the "
                    "run again, or move the adapter out of the run's folder if you have changed it yourself"
                )
    measured = read_measured(uri, storage).adapter
    if measured is not None and (folder / ADAPTER).is_file() and sha256_of(folder / ADAPTER) != measured.sha256:
        raise BaseModelError(
            f"{join(uri, ADAPTER)} is not the adapter that {RESULT} next to it was written for: its sha256 differs. "
            "Fetch the run again, or delete it if you have changed the adapter yourself"
        )
    return folder
