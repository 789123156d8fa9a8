"""Runs the stages of a request on this machine, from inspection to published adapters.

On a cluster the operator does this. Each training run is a separate process, like a Job on a cluster: its memory is
freed when it ends, and its exit code gives the result.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path
from types import FrameType

from engine.config import RunConfig, decisive, from_yaml, to_yaml
from engine.config.data_checks import check_pieces
from engine.dataset import DatasetInfo, inspect_request
from engine.dataset.checks.class_name_checks import find_vocabulary, judge_names, of_language
from engine.dataset.checks.problems import too_many
from engine.dataset.export_layouts import find_single_part
from engine.errors import (
    EXIT_ERRORS,
    ConfigError,
    InterruptedTrainingError,
    StorageError,
    TeacherError,
)
from engine.estimate.forecast import check_layers
from engine.layout import CONFIG, TEACHERS, RunLayout
from engine.manifest import Manifest
from engine.plan import TrainingRun, plan
from engine.processes import child_process
from engine.processes.signals import KILLED_BY_CTRL_C, handle_stop, is_second_ctrl_c, restore_handlers
from engine.results.events import Event, Listener, parse_line
from engine.results.run_files import RunMetadata, publication, read_metadata
from engine.storage import Storage, join, name
from engine.storage.base_identity import base_digest

_ELSEWHERE = "move {} away, train into another output, or give `teacher run --again` to replace it"


def prepare(manifest: Manifest, storage: Storage) -> tuple[DatasetInfo, tuple[TrainingRun, ...]]:
    """Inspect the data and plan the training runs; nothing is written.

    Before a GPU is used, this also checks that the user's retention data exists, that the base has the layers that
    are skipped, and that the base's tokenizer can read the class names.
    """
    info = inspect_request(manifest.spec.dataset, storage=storage)
    runs = plan(manifest, info, base_digest=partial(base_digest, storage=storage))
    check_layers(runs[0].config, storage)
    teachers, prompts = runs[0].config.teachers, runs[0].config.data.prompts
    if teachers.reader is not None and (reader := teachers.of(teachers.reader)) is not None:
        vocabulary = find_vocabulary(reader.base_model, reader.revision, storage=storage)
        if vocabulary is not None:
            title = teachers.reader.traits.title
            check_pieces(runs[0].config.data.classes, prompts, vocabulary, reader=title)
        info = judge_names(info, prompts, of_language(vocabulary))
    retention = runs[0].config.training.retention
    if retention is not None:
        find_single_part(retention.annotations, retention.images, storage=storage)
    return info, runs


def published(layout: RunLayout, storage: Storage, config: RunConfig) -> RunMetadata | None:
    """Return the metadata of a published run, else None.

    Raises:
        ConfigError: It is the metadata of another run, or of one that has left out more images than now allowed.
        StorageError: Files are missing, or an adapter differs from the published one.
    """
    if not storage.exists(layout.metadata):
        return None
    metadata = read_metadata(layout, storage)
    if metadata.run_id != name(layout.root):
        raise ConfigError(f"{layout.metadata} is that of run {metadata.run_id}: {_ELSEWHERE.format(layout.root)}")
    _check_whole(layout, metadata, storage)
    _check_left_out(layout, metadata, config)
    return metadata


def _check_whole(layout: RunLayout, metadata: RunMetadata, storage: Storage) -> None:
    there = {item.key for item in storage.list(layout.root)}
    for entry in metadata.files:
        uri = join(layout.root, entry.path)
        whole = entry.path in there
        if whole and entry.path.startswith(f"{TEACHERS}/"):
            whole = hashlib.sha256(storage.read_bytes(uri)).hexdigest() == entry.sha256
        if not whole:
            raise StorageError(
                f"this very run is published, but {uri} is missing or not what was published: `teacher run --again` "
                "trains it again"
            )


def _check_left_out(layout: RunLayout, metadata: RunMetadata, config: RunConfig) -> None:
    """Raise ConfigError if a published run has left out more images than this configuration allows."""
    data = config.data
    skipped = max((result.images_skipped for result in metadata.teachers), default=0) + data.images_left_out
    if too_many(skipped, (data.images or 0) + data.images_left_out, data.max_skipped_percent):
        raise ConfigError(
            f"{layout.root} is published, but {skipped:,} images were left out of it, more than the "
            f"{data.max_skipped_percent} % that may be now (dataset.onProblem, dataset.maxSkippedPercent): mend "
            "them, or allow it"
        )


def begin(info: DatasetInfo, runs: tuple[TrainingRun, ...], storage: Storage) -> None:
    """Write the input of the training runs of a request: the configuration, and the result of inspection.

    Nothing is deleted: it can be repeated while the training runs are active or published.

    Raises:
        ConfigError: Another configuration exists: it was copied there, or edited since.
        StorageError: The store cannot keep attempts apart that publish at the same moment.
    """
    config, layout = runs[0].config, runs[0].layout
    if storage.exists(layout.config) and not _is_same(storage.read_bytes(layout.config), config):
        raise ConfigError(
            f"{layout.config} is not the configuration of this run, whose folder that is: it was edited or copied "
            f"there; {_ELSEWHERE.format(layout.root)}"
        )
    told = publication(layout, storage=storage).check()
    if told is not None:
        storage.note(told)
    storage.write_bytes(layout.config, to_yaml(config).encode(), content_type="application/yaml")
    storage.write_bytes(layout.dataset, info.model_dump_json(indent=2).encode(), content_type="application/json")


def _is_same(text: bytes, config: RunConfig) -> bool:
    """Return True if two configurations differ only in locations and reporting."""
    try:
        there = from_yaml(text.decode())
    except (ConfigError, UnicodeDecodeError):
        return False
    same = (there.name, there.run_id) == (config.name, config.run_id)
    return same and decisive(there.model_dump()) == decisive(config.model_dump())


def forget(runs: tuple[TrainingRun, ...], storage: Storage, *, work_dir: Path) -> None:
    """Delete all files of earlier attempts, here and in storage; the run is then no longer published."""
    layout = runs[0].layout
    storage.delete(layout.metadata)  # first: a reader must not see half of a run
    shutil.rmtree(work_dir, ignore_errors=True)
    publication(layout, storage=storage).withdraw()
    for run in runs:
        publication(layout, run.teacher, storage=storage).withdraw()
        storage.delete(layout.result(run.teacher))
        for folder in (layout.teacher(run.teacher), layout.logs(run.teacher)):
            for item in list(storage.list(folder)):
                storage.delete(item.uri)
    for uri in (layout.metrics, layout.report, layout.config, layout.dataset):
        storage.delete(uri)


def train(run: TrainingRun, *, listener: Listener, work_dir: Path) -> None:
    """Execute one training run as a child process and pass its events to ``listener``.

    SIGTERM, and Ctrl-C, which a terminal sends to both processes, let it take a checkpoint. It ends with this process.

    Raises:
        TeacherError: The subclass that its exit code stands for, with the message it ended with.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    config_file = work_dir / CONFIG
    config_file.write_text(to_yaml(run.config), encoding="utf-8")
    words = ["train", "--config", str(config_file), "--teacher", run.teacher.value]
    command = child_process.command(*words, "--work-dir", str(work_dir), "--progress", "json")
    failure: Event | None = None
    requested = False
    process: subprocess.Popen[str] | None = None

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        again, requested = is_second_ctrl_c(number), True
        if process is not None:
            process.kill() if again else process.terminate()
        if again and callable(previous[signal.SIGINT]):
            previous[signal.SIGINT](number, frame)

    previous = handle_stop(stop)  # before there is a process, so that none is left behind
    try:
        with subprocess.Popen(  # noqa: S603 - our own command
            command, env=child_process.environment(), stdout=subprocess.PIPE, text=True, errors="replace"
        ) as process:
            if requested:
                process.terminate()
            assert process.stdout is not None  # noqa: S101 - stdout is a pipe
            try:
                for line in process.stdout:
                    event = parse_line(line)
                    if event is None:
                        continue
                    if event.event == "error":
                        failure = event
                    listener(event)
            except BaseException:
                process.terminate()  # otherwise it would continue, and we would wait for it
                raise
    finally:
        restore_handlers(previous)
    if process.returncode != 0:
        raise _failure_of(run.teacher.value, process.returncode, failure)


def _failure_of(teacher: str, code: int, told: Event | None) -> TeacherError:
    """Return the error of a trainer's exit code; if a signal ended it after an error event, that of the event."""
    if code < 0 and told is not None and told.exit_code:
        code = told.exit_code
    stopped = code in (-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, KILLED_BY_CTRL_C)
    error = InterruptedTrainingError if stopped else EXIT_ERRORS.get(code, TeacherError)
    if told is not None and told.message:
        return error(told.message)
    if code == -signal.SIGKILL:
        return error(
            f"the trainer of {teacher} was killed: most likely this machine ran out of memory. The same command "
            "resumes from the last checkpoint"
        )
    how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
    return error(f"the trainer of {teacher} ended with {how}: {error.advice}")
