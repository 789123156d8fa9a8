"""Runs all stages of a planned request, one process each."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from engine.config import DistillConfig, to_yaml
from engine.dataset import DatasetInfo
from engine.errors import TeacherError
from engine.layout import CONFIG, RunLayout
from engine.plan import TrainingRun
from engine.results.events import Listener
from engine.results.run_files import RunMetadata
from engine.runner.planning import begin
from engine.runner.published_run import forget, published
from engine.runner.stage_process import outcome_file, read_outcome, run_stage
from engine.stages import INSPECTION, Stage, StageInput, of_run
from engine.storage import Storage, default_cache
from engine.storage.output_lock import lock_file


def run_stages(
    info: DatasetInfo,
    runs: tuple[TrainingRun, ...],
    storage: Storage,
    *,
    listener: Listener,
    work_dir: Path | None = None,
    again: bool = False,
    done: RunMetadata | None = None,
) -> RunMetadata:
    """Run every stage of a planned request that follows inspection; those that have their result are not run again.

    An adapter that is not better than its base does not keep the next stage from being run, and a refused artifact
    does not keep the run from being published: :func:`engine.results.no_gain.check_gain` and
    :func:`engine.results.artifacts.refuse_lossy` judge the whole run. Any other failure ends the run; the next call
    resumes it.

    Args:
        info: Result of inspection.
        runs: Planned runs, from :func:`engine.runner.prepare`.
        storage: Access to the data and the artifacts.
        listener: Receives the progress events.
        work_dir: Scratch folder; default: one of this request in the cache folder.
        again: Remove what was published or begun before, and train again.
        done: Metadata of the published run, if the caller has read it already.

    Returns:
        The metadata of the published run.

    Raises:
        TeacherError: The kind names the cause.
    """
    layout, config = runs[0].layout, runs[0].config
    folder = work_dir or scratch_of(layout)
    if again:
        with ExitStack() as locks:
            for run in runs:
                locks.enter_context(only_here(run, folder))
            forget(runs, storage, work_dir=folder)
    done = None if again else done or published(layout, storage, config)
    optimize = isinstance(config, DistillConfig) and bool(config.optimize)
    stages = [stage for stage in of_run([run.teacher for run in runs], optimize=optimize) if stage is not INSPECTION]
    if done is None:
        begin(info, runs, storage)
        for stage in stages:
            if not stage.published:  # its result is of an earlier training, whose files are gone
                outcome_file(stage, folder).unlink(missing_ok=True)
    for stage in stages:
        if not stage.published and done is None:
            done = published(layout, storage, config)
        if not _has_result(stage, done, folder):
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / CONFIG
            file.write_text(to_yaml(config), encoding="utf-8")
            try:
                run_stage(stage, StageInput(config=str(file)), listener=listener, work_dir=folder)
            except TeacherError as error:
                if stage.verdict is None or not isinstance(error, stage.verdict):
                    raise
    done = done or published(layout, storage, config)
    if done is None:
        raise TeacherError(f"the trainers ended well, but {layout.metadata} is missing")
    return done


def _has_result(stage: Stage, done: RunMetadata | None, work_dir: Path) -> bool:
    """Return True if a stage needs no process: its run is published, or its last process left its result."""
    if stage.published:
        return done is not None
    outcome = read_outcome(stage, work_dir)
    return outcome is not None and outcome.exit_code == 0 and stage.result(outcome) is not None


def scratch_of(layout: RunLayout) -> Path:
    """Scratch folder of one request in the cache: requests that differ in name or output may have the same run id."""
    return default_cache() / "runs" / hashlib.sha256(layout.root.encode()).hexdigest()[:16]


def only_here(run: TrainingRun, folder: Path) -> AbstractContextManager[None]:
    """Keep other processes of this machine from training the same teacher in the same folder, or emptying it."""
    file = folder.resolve().with_name(f"{folder.name}.{run.teacher.slug}.lock")
    return lock_file(file, what=f"{run.teacher.value} of this run in {folder}")
