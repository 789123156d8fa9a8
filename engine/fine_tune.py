"""A whole request in one call: inspect, configure, train, publish. What ``teacher run`` does with a manifest.

run = fine_tune(FineTuneSpec(dataset=DatasetSpec(annotations="data/annotations.json"), output="out/"))
print(run.teachers[0].adapter.uri)
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path

from engine import runner
from engine.dataset import DatasetInfo
from engine.errors import NotBetterThanBaseError, TeacherError
from engine.layout import RunLayout
from engine.manifest import Manifest
from engine.plan import TrainingRun
from engine.results.events import Event, Listener
from engine.results.no_gain import check_gain
from engine.results.run_files import RunMetadata
from engine.spec import FineTuneSpec
from engine.storage import Storage, StorageOptions, default_cache
from engine.storage.output_lock import lock_file
from engine.text.pydantic_errors import parse


def train_all(
    info: DatasetInfo,
    runs: tuple[TrainingRun, ...],
    storage: Storage,
    *,
    listener: Listener,
    work_dir: Path | None = None,
    again: bool = False,
) -> RunMetadata:
    """Train every teacher of a planned request and publish the run; one that is published already is not trained.

    An adapter that is not better than its base does not keep the next teacher from being trained:
    :func:`engine.results.no_gain.check_gain` judges the whole run.

    Args:
        info: What inspection found.
        runs: Of :func:`engine.runner.prepare`.
        storage: Where data comes from and artifacts go.
        listener: Receives the progress events.
        work_dir: Scratch folder; default: one of this request in the cache folder.
        again: Remove what was published or begun before, and train again.

    Returns:
        The metadata of what is published.

    Raises:
        TeacherError: Of the kind that the failure is.
    """
    layout, config = runs[0].layout, runs[0].config
    done = None if again else runner.published(layout, storage, config)
    if done is not None:
        return done
    folder = work_dir or scratch_of(layout)
    if again:
        with ExitStack() as locks:
            for run in runs:
                locks.enter_context(only_here(run, folder))
            runner.forget(runs, storage, work_dir=folder)
    runner.begin(info, runs, storage)
    for run in runs:
        with suppress(NotBetterThanBaseError):
            runner.train(run, listener=listener, work_dir=folder)
    done = runner.published(layout, storage, config)
    if done is None:
        raise TeacherError(f"the trainers ended well, but {layout.metadata} is missing")
    return done


def scratch_of(layout: RunLayout) -> Path:
    """Scratch folder of one request in the cache: requests that differ in name or output may have the same run id."""
    return default_cache() / "runs" / hashlib.sha256(layout.root.encode()).hexdigest()[:16]


def only_here(run: TrainingRun, folder: Path) -> AbstractContextManager[None]:
    """Keep other processes of this machine from training the same teacher in the same folder, or emptying it."""
    file = folder.resolve().with_name(f"{folder.name}.{run.teacher.slug}.lock")
    return lock_file(file, what=f"{run.teacher.value} of this run in {folder}")


def _silent(event: Event) -> None:
    pass


def fine_tune(
    spec: FineTuneSpec,
    *,
    name: str = "run",
    listener: Listener = _silent,
    work_dir: Path | None = None,
    again: bool = False,
) -> RunMetadata:
    """Inspect, configure, train and publish, as ``teacher run`` does with a manifest.

    Args:
        spec: The request; artifacts go to ``<spec.output>/<name>/<run id>/``.
        name: Name of the request: lower-case letters, digits and ``-``.
        listener: Receives the progress events; default: nobody.
        work_dir: Scratch folder; default: one of this request in the cache folder.
        again: Train even if this very run is published.

    Returns:
        What was published: the result of each teacher, with its AP before and after and the URI of its adapter.

    Raises:
        TeacherError: Of the kind that the failure is; NotBetterThanBaseError after publishing, if ``onNoGain`` is
            ``Fail``.
    """
    manifest = parse(Manifest, {"name": name, "spec": spec}, where="the request")
    storage = Storage(StorageOptions(**spec.storage.model_dump()))
    info, runs = runner.prepare(manifest, storage)
    done = train_all(info, runs, storage, listener=listener, work_dir=work_dir, again=again)
    check_gain(done.teachers, runs[0].config.training.on_no_gain)
    return done
