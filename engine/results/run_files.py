"""Files of a whole run: their content, reading them, and fetching a published run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError

from engine.config import RunConfig
from engine.errors import ConfigError, StorageError
from engine.layout import ARTIFACT_RESULTS, METADATA, RunLayout, adapter_folder
from engine.registry import ModelName
from engine.results.artifacts import Artifacts
from engine.results.licences import Licences
from engine.results.metrics import Result
from engine.results.types import TeacherResult
from engine.storage import NotFoundError, Storage, join, safe_join
from engine.storage.bounded_read import JSON_BYTES, read_bounded
from engine.storage.checked_fetch import fetch_checked
from engine.storage.publication import Publication, sha256_of
from engine.text.format_version import FORMAT_VERSION, refuse_newer

R = TypeVar("R", bound=Result)


class RunMetrics(Result):
    """``metrics.json``: the results of every teacher."""

    name: str
    run_id: str
    teachers: tuple[TeacherResult, ...]


class FileEntry(Result):
    """One published file."""

    path: str = Field(description="Relative to the run's folder.")
    sha256: str
    size_bytes: int


class RunMetadata(Result):
    """``metadata.json``: the published files, their data and their environment."""

    format_version: int = FORMAT_VERSION
    name: str
    run_id: str
    created: str = Field(description="UTC, ISO 8601.")
    data_digest: str
    classes: tuple[str, ...] = Field(description="In the order of the prompt.")
    seed: int
    environment: dict[str, str] = Field(description="Versions and hardware.")
    teachers: tuple[TeacherResult, ...]
    licences: dict[str, Licences] = Field(default={}, description="By model name, those of code, weights and labels.")
    artifacts: tuple[Artifacts, ...] = Field(default=(), description="Exported files of each student.")
    files: tuple[FileEntry, ...] = Field(description="Every file of the run but this one and what resuming needs.")


def publication(layout: RunLayout, teacher: ModelName | None = None, *, storage: Storage) -> Publication:
    """Return the publication of one teacher, or of the files of the whole run: once, by one attempt."""
    return Publication(layout.root, "run" if teacher is None else teacher.slug, storage=storage)


def artifacts_publication(layout: RunLayout, student: ModelName, *, storage: Storage) -> Publication:
    """Return the publication of the exported files of a student: once, by one attempt."""
    return Publication(layout.root, f"{student.slug}_artifacts", storage=storage)


def run_metrics(config: RunConfig, results: Sequence[TeacherResult]) -> RunMetrics:
    """The content of ``metrics.json``."""
    return RunMetrics(name=config.name, run_id=config.run_id, teachers=tuple(results))


def read_metadata(layout: RunLayout, storage: Storage) -> RunMetadata:
    """Return ``metadata.json`` of a run.

    Raises:
        StorageError: The file does not exist, or was not written by this version.
    """
    return _read(RunMetadata, layout.metadata, storage)


def read_result(layout: RunLayout, teacher: ModelName, storage: Storage) -> TeacherResult | None:
    """Return the result of a published teacher, else None.

    Raises:
        StorageError: The file was not written by this version.
    """
    uri = layout.result(teacher)
    return _read(TeacherResult, uri, storage) if storage.exists(uri) else None


def read_artifacts(layout: RunLayout, student: ModelName, storage: Storage) -> Artifacts | None:
    """Return the measurements of the exported files of a student, else None.

    Raises:
        StorageError: The file was not written by this version.
    """
    uri = join(layout.artifacts(student), ARTIFACT_RESULTS)
    return _read(Artifacts, uri, storage) if storage.exists(uri) else None


def _read(kind: type[R], uri: str, storage: Storage) -> R:
    content = read_bounded(storage, uri, limit=JSON_BYTES)
    refuse_newer(content, where=uri, error=StorageError)
    try:
        return kind.model_validate_json(content)
    except ValidationError:
        raise StorageError(
            f"{uri} was not written by this version of teacher: read it with the version that wrote it, "
            "or train into another output"
        ) from None


def fetch_run(layout: RunLayout, folder: Path, *, storage: Storage, overwrite: bool = False) -> list[Path]:
    """Download a published run into ``folder``, checking every file against its sha256.

    After any failure the folder is unchanged: files are replaced only when all are fetched and verified.

    Args:
        layout: Layout of the run.
        folder: Target folder. Files of this run that it holds already are not fetched again.
        storage: Access to the run.
        overwrite: Replace files of another run, or other files.

    Returns:
        The adapter folders, one per teacher.

    Raises:
        ConfigError: Other files in the folder would be overwritten, or a link in it points outside.
        StorageError: The run is not published, or a file differs from the published one.
    """
    try:
        metadata = read_metadata(layout, storage)
    except NotFoundError:
        raise StorageError(
            f"{layout.root} is not a published run: it has no {METADATA}. Give <output>/<name>/<run id>/ of a run "
            "that has ended, as `teacher run` prints it"
        ) from None
    digests = {entry.path: entry.sha256 for entry in metadata.files}
    if not overwrite:
        _refuse_others(metadata, folder)
    seal = METADATA, metadata.model_dump_json(indent=2).encode()
    fetch_checked(layout.root, digests, folder, seal=seal, storage=storage)
    return [folder / adapter_folder(result.teacher) for result in metadata.teachers]


def _refuse_others(metadata: RunMetadata, folder: Path) -> None:
    """Raise ConfigError unless the folder holds at most an earlier fetch of this run, perhaps interrupted."""
    advice = "fetch into another folder, or give --overwrite"
    there = folder / METADATA
    if there.is_file():
        content = there.read_bytes()
        refuse_newer(content, where=str(there), error=ConfigError)
        try:
            run_id = RunMetadata.model_validate_json(content).run_id
        except ValidationError:
            run_id = "another version's or program's"
        if run_id != metadata.run_id:
            raise ConfigError(f"{folder} holds another run already ({run_id}, not {metadata.run_id}): {advice}")
        return
    for entry in metadata.files:
        path = safe_join(folder, entry.path)
        if path.is_file() and sha256_of(path) != entry.sha256:
            raise ConfigError(f"{path} exists already, and is not a file of this run: {advice}")
