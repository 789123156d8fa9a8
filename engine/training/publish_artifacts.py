"""Export the published student of a distillation, measure each file, and publish what keeps its AP with the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from engine.config import DistillConfig
from engine.layout import ARTIFACTS, RunLayout
from engine.optimization.optimize import build, check_formats, files_of
from engine.optimization.source import measuring_images, trained_student
from engine.registry import ModelName
from engine.results.artifacts import Artifacts
from engine.results.run_files import artifacts_publication, read_artifacts
from engine.storage import Storage
from engine.training.data.annotated_splits import split_files
from engine.training.publish import publish_run


def publish_artifacts(
    config: DistillConfig,
    *,
    storage: Storage,
    cache: Path,
    threads: int,
    working: Callable[[str], None] = lambda sentence: None,
) -> list[Artifacts]:
    """Export every student of a run to the formats of its configuration, and publish the run.

    Each student must be published. Files that this run has published already are not built again.

    Args:
        config: Configuration of the run.
        storage: Access to the run and its data.
        cache: Folder for images, kept between runs.
        threads: Threads of the runtimes.
        working: Is called with what is being done.

    Returns:
        Measurements for each student, also those of refused formats: see
        :func:`engine.results.artifacts.refuse_lossy`.

    Raises:
        TeacherError: The kind names the cause.
    """
    limits = [(target.format, drop) for target, drop in check_formats(config.optimize)]
    layout, made = RunLayout.of(config), []
    for name in config.models.names:
        published = artifacts_publication(layout, name, storage=storage)
        there = read_artifacts(layout, name, storage) if published.settle() else None
        if there is not None and there.lacks(limits):  # another request began this run and was changed before its end
            published.withdraw()
            for item in list(storage.list(layout.artifacts(name))):
                storage.delete(item.uri)
            there = None
        if there is None:
            _publish(config, name, storage=storage, cache=cache, threads=threads, working=working)
            there = read_artifacts(layout, name, storage)
        if there is not None:
            made.append(there)
    publish_run(config, storage=storage)
    return made


def _publish(
    config: DistillConfig,
    name: ModelName,
    *,
    storage: Storage,
    cache: Path,
    threads: int,
    working: Callable[[str], None],
) -> None:
    """Export one student, and publish its files with ``artifacts.json`` last."""
    layout, data = RunLayout.of(config), config.data
    source = trained_student(layout.teacher(name), storage=storage)
    files = split_files(data, storage)
    file = files.get("val") or files["all"]
    images = measuring_images(
        source.model,
        file.annotations,
        file.images,
        uri=source.uri,
        crowds=data.crowds,
        exif_orientation=data.exif_orientation,
        storage=storage,
        cache=cache,
    )
    with TemporaryDirectory(prefix="artifacts-") as temporary:
        folder = Path(temporary)
        made = build(source, images, config.optimize, folder, shape=None, threads=threads, working=working)
        named = {f"{ARTIFACTS}/{name.slug}/{one}": path for one, path in files_of(made, folder).items()}
        artifacts_publication(layout, name, storage=storage).publish(named)
