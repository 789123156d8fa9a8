"""Checks whether a run is published, and deletes all of its files."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from engine.config import RunConfig
from engine.dataset.checks.problems import too_many
from engine.errors import ConfigError, StorageError
from engine.layout import ARTIFACTS, STUDENTS, TEACHERS, RunLayout
from engine.plan import TrainingRun
from engine.registry import StudentName
from engine.results.run_files import RunMetadata, artifacts_publication, publication, read_metadata
from engine.runner.artifact_checks import check_artifacts
from engine.runner.planning import ELSEWHERE
from engine.storage import Storage, join, name


def published(layout: RunLayout, storage: Storage, config: RunConfig) -> RunMetadata | None:
    """Return the metadata of a published run, else None.

    Raises:
        ConfigError: It is the metadata of another run, or of one that has left out more images than now allowed, or
            that lacks artifacts.
        StorageError: Files are missing, or an adapter differs from the published one.
    """
    if not storage.exists(layout.metadata):
        return None
    metadata = read_metadata(layout, storage)
    if metadata.run_id != name(layout.root):
        raise ConfigError(f"{layout.metadata} is that of run {metadata.run_id}: {ELSEWHERE.format(layout.root)}")
    _check_whole(layout, metadata, storage)
    _check_left_out(layout, metadata, config)
    check_artifacts(layout, metadata, config)
    return metadata


def _check_whole(layout: RunLayout, metadata: RunMetadata, storage: Storage) -> None:
    there = {item.key for item in storage.list(layout.root)}
    for entry in metadata.files:
        uri = join(layout.root, entry.path)
        whole = entry.path in there
        if whole and entry.path.startswith((f"{TEACHERS}/", f"{STUDENTS}/", f"{ARTIFACTS}/")):
            whole = hashlib.sha256(storage.read_bytes(uri)).hexdigest() == entry.sha256
        if not whole:
            raise StorageError(
                f"this very run is published, but {uri} is missing or not what was published: `teacher run --again` "
                "(again=True) trains it again"
            )


def _check_left_out(layout: RunLayout, metadata: RunMetadata, config: RunConfig) -> None:
    """Raise ConfigError if a published run has left out more images than this configuration allows."""
    data = config.data
    skipped = max((result.images_skipped for result in metadata.teachers), default=0) + data.images_left_out
    if too_many(skipped, (data.images or 0) + data.images_left_out, data.max_skipped_percent):
        raise ConfigError(
            f"{layout.root} is published, but {skipped:,} images were left out of it, more than the "
            f"{data.max_skipped_percent} % that may be now (dataset.onProblem, dataset.maxSkippedPercent): fix "
            "them, or allow it"
        )


def forget(runs: tuple[TrainingRun, ...], storage: Storage, *, work_dir: Path) -> None:
    """Delete all files of earlier attempts, here and in storage; the run is then no longer published."""
    layout = runs[0].layout
    storage.delete(layout.metadata)  # first: a reader must not see half of a run
    shutil.rmtree(work_dir, ignore_errors=True)
    publication(layout, storage=storage).withdraw()
    for run in runs:
        publication(layout, run.teacher, storage=storage).withdraw()
        storage.delete(layout.result(run.teacher))
        if isinstance(run.teacher, StudentName):
            artifacts_publication(layout, run.teacher, storage=storage).withdraw()
        for folder in (layout.teacher(run.teacher), layout.logs(run.teacher), layout.artifacts(run.teacher)):
            for item in list(storage.list(folder)):
                storage.delete(item.uri)
    for uri in (layout.metrics, layout.report, layout.config, layout.dataset):
        storage.delete(uri)
