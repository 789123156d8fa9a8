"""Run a planned training and publish its artifacts in object storage, across interruptions.

Checkpoints are uploaded during the run, so that another machine can resume from the last one. The runs of one request
(one per teacher) share a folder: each publishes its own teacher, and the one that finds all teachers of the request
published publishes the whole run. Of simultaneous attempts only one succeeds: :mod:`engine.storage.publication`.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pydantic import BaseModel

from engine.config import DistillConfig, RunConfig, to_yaml
from engine.dataset import DatasetInfo
from engine.errors import LossNotFiniteError, NoProgressError, StorageError
from engine.evaluation.example_images import SampleView, read_samples
from engine.evaluation.report import render_report
from engine.evaluation.settings_table import settings_table
from engine.layout import ATTEMPTS, LAST, README, RESULT, SAMPLE_IMAGES, SAMPLES, RunLayout
from engine.plan import TrainingRun
from engine.results.events import Event, Listener, better_than
from engine.results.licences import licences_of
from engine.results.model_card import model_card
from engine.results.run_files import FileEntry, RunMetadata, publication, read_artifacts, read_result, run_metrics
from engine.results.trials import chosen_config
from engine.results.types import TeacherResult
from engine.storage import Storage, join
from engine.storage import name as name_of
from engine.training.device import check_disk
from engine.training.distributed import ALONE, Processes
from engine.training.resume import fetch_checkpoints, upload_best_adapter, upload_checkpoint
from engine.training.trainer import TeacherTrainer
from engine.training.watchdog import print_failure

VERSIONS_OF = ("torch", "transformers", "peft", "albumentations", "teacher-finetune")


def environment() -> dict[str, str]:
    """Return the versions and the hardware of this run."""
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"
    return {"python": platform.python_version(), **{name: version(name) for name in VERSIONS_OF}, "hardware": hardware}


def train_and_publish(
    run: TrainingRun,
    *,
    storage: Storage,
    listener: Listener,
    work_dir: Path,
    cache: Path,
    processes: Processes = ALONE,
    on_hang: Callable[[NoProgressError], None] = print_failure,
) -> TeacherResult:
    """Train one teacher, resuming from its last checkpoint if there is one, and publish it.

    A teacher that this run has published already is not trained again: a retry of a process that was killed after it
    had finished costs little.

    Args:
        run: What to train.
        storage: Source of the data and target of the artifacts.
        listener: Receives progress events.
        work_dir: Scratch folder of this request; an earlier attempt found in it is resumed.
        cache: Folder for base models and images, kept between runs.
        processes: All processes of the run: the first fetches the checkpoint, and publishes.
        on_hang: See :class:`TeacherTrainer`.

    Raises:
        TeacherError: Of a subclass by the kind of failure; its exit code is that of the process.
    """
    check_disk(work_dir)
    target = run.layout.teacher(run.teacher)
    checkpoints = join(target, LAST)

    def note(message: str) -> None:
        listener(Event(event="note", teacher=run.teacher.slug, message=message))

    storage.on_retry = note
    local = Path(RunLayout(str(work_dir)).teacher(run.teacher), LAST)
    earlier = processes.decided(lambda: _published_result(run, local, storage=storage, note=note))
    if earlier is not None:
        listener(_done(earlier, f"{target} is published already"))
        return earlier

    trainer = TeacherTrainer(
        run.config,
        run.teacher,
        storage=storage,
        work_dir=work_dir,
        cache=cache,
        listeners=(listener,),
        on_checkpoint=partial(upload_checkpoint, storage=storage, uri=checkpoints),
        on_hang=on_hang,
        processes=processes,
    )
    result = _train(trainer, first=processes.first, storage=storage, checkpoints=checkpoints)
    published, mine = processes.decided(partial(publish_result, result, run, storage=storage, work_dir=work_dir))
    others = f"another attempt has already published {target}: its result is kept"
    listener(_done(published, f"published {target}" if mine else others))
    return published


def _train(trainer: TeacherTrainer, *, first: bool, storage: Storage, checkpoints: str) -> TeacherResult:
    """Train; if the loss diverges, the error of the first process names the best adapter so far."""
    try:
        return trainer.train()
    except LossNotFiniteError as error:
        if not first:
            raise
        raise _with_best_adapter(error, trainer.folder, storage=storage, uri=checkpoints) from None


def _published_result(
    run: TrainingRun, checkpoints: Path, *, storage: Storage, note: Callable[[str], None]
) -> TeacherResult | None:
    """Return the result that this run has published already; None after fetching its last checkpoint."""
    layout = run.layout
    message = publication(layout, run.teacher, storage=storage).check()
    if message is not None:
        note(message)
    publication(layout, run.teacher, storage=storage).settle()
    earlier = read_result(layout, run.teacher, storage)
    if earlier is None:
        fetch_checkpoints(storage, join(layout.teacher(run.teacher), LAST), checkpoints)
    elif not storage.exists(layout.metadata):
        publish_run(run.config, storage=storage)
    return earlier


def _with_best_adapter(error: LossNotFiniteError, folder: Path, *, storage: Storage, uri: str) -> LossNotFiniteError:
    """Upload the best adapter of a failed run, or of each of its trainings, and return the error with their URIs."""
    trainings = sorted(path.name for path in (folder / LAST).glob("*") if path.is_dir())
    places = [(folder, uri), *((folder / LAST / name, join(uri, name)) for name in trainings)]
    try:
        found = [upload_best_adapter(place, storage=storage, uri=target) for place, target in places]
    except StorageError as failure:
        return LossNotFiniteError(f"{error} at {folder} only, because the upload failed: {failure}")
    alone, *others = found
    uploaded = [one for one in others if one is not None]
    if alone is not None:
        return LossNotFiniteError(f"{error} at {alone}")
    return LossNotFiniteError(f"{error}. Best adapters: {', '.join(uploaded)}") if uploaded else error


def publish_result(
    result: TeacherResult, run: TrainingRun, *, storage: Storage, work_dir: Path, whole: bool = True
) -> tuple[TeacherResult, bool]:
    """Publish what training has left of one teacher in ``work_dir``, and the whole run if it was the last one.

    Args:
        result: Of the teacher.
        run: That trained it.
        storage: Where artifacts go.
        work_dir: Of the trainer.
        whole: Publish the run; it needs what :func:`engine.runner.begin` has written.

    Returns:
        What is published, and whether it is of this attempt.
    """
    mine = _publish_teacher(result, run, storage=storage, work_dir=work_dir)
    if whole:
        publish_run(run.config, storage=storage)
    return read_result(run.layout, run.teacher, storage) or result, mine


def _done(result: TeacherResult, message: str) -> Event:
    return Event(
        event="done",
        teacher=result.teacher.slug,
        step=result.steps,
        epoch=result.epochs,
        ap=result.after.ap,
        ap_before=result.before.ap,
        best_ap=better_than(result.before.ap, result.after.ap),
        message=message,
    )


def _publish_teacher(result: TeacherResult, run: TrainingRun, *, storage: Storage, work_dir: Path) -> bool:
    """Publish all of one teacher, ``result.json`` last; whether it is this attempt that has."""
    local, layout = RunLayout(str(work_dir)), run.layout
    folder, logs = Path(local.teacher(run.teacher)), Path(local.logs(run.teacher))
    target = layout.teacher(run.teacher)
    uri = join(target, Path(result.adapter.uri).name)
    published = result.model_copy(update={"adapter": result.adapter.model_copy(update={"uri": uri})})
    card = model_card(published, chosen_config(run.config, result), versions=environment())
    (folder / README).write_text(card, encoding="utf-8")
    (folder / RESULT).write_bytes(_json(published))
    made = [*_files(folder), *_files(logs)]
    files = {file.relative_to(work_dir).as_posix(): file for file in made if folder / LAST not in file.parents}
    waited_for = (folder / RESULT).relative_to(work_dir).as_posix()
    files[waited_for] = files.pop(waited_for)
    return publication(layout, run.teacher, storage=storage).publish(files)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def publish_run(config: RunConfig, *, storage: Storage) -> None:
    """Publish the whole run, ``metadata.json`` last, if all its models and artifacts are; otherwise do nothing."""
    layout, names = RunLayout.of(config), config.models.names
    results = [result for name in names if (result := read_result(layout, name, storage)) is not None]
    exported = names if isinstance(config, DistillConfig) and config.optimize else []
    artifacts = [made for name in exported if (made := read_artifacts(layout, name, storage)) is not None]
    if len(results) < len(names) or len(artifacts) < len(exported):
        return
    info = DatasetInfo.model_validate_json(storage.read_bytes(layout.dataset))
    created = datetime.now(UTC).isoformat(timespec="seconds")
    report = render_report(
        name=config.name,
        run_id=config.run_id,
        created=created,
        info=info,
        config_yaml=to_yaml(config),
        settings={one.teacher: settings_table(chosen_config(config, one), one.teacher) for one in results},
        results=results,
        artifacts=artifacts,
        samples={name: _samples(layout.teacher(name), storage) for name in config.models.names},
        environment=environment(),
    )
    of_all = {layout.metrics: _json(run_metrics(config, results)), layout.report: report.encode()}
    entries = {entry.path: entry for entry in _entries(layout, storage)}
    entries |= {name_of(uri): _entry(name_of(uri), content) for uri, content in of_all.items()}
    metadata = RunMetadata(
        name=config.name,
        run_id=config.run_id,
        created=created,
        data_digest=config.data.digest,
        classes=config.data.classes,
        seed=config.training.seed,
        environment=environment(),
        teachers=tuple(results),
        licences={result.teacher.value: licences_of(result) for result in results},
        artifacts=tuple(artifacts),
        files=tuple(entries[path] for path in sorted(entries)),
    )
    with TemporaryDirectory() as temporary:
        files = {}
        for uri, content in (of_all | {layout.metadata: _json(metadata)}).items():
            files[name_of(uri)] = Path(temporary, name_of(uri))
            files[name_of(uri)].write_bytes(content)
        publication(layout, storage=storage).publish(files)


def _samples(folder: str, storage: Storage) -> list[SampleView]:
    """Return the sample images of one teacher for the report."""
    with TemporaryDirectory() as temporary:
        storage.download(join(folder, SAMPLES), Path(temporary, SAMPLES))
        storage.download_folder(join(folder, SAMPLE_IMAGES), Path(temporary, SAMPLE_IMAGES))
        return read_samples(Path(temporary))


def _json(model: BaseModel) -> bytes:
    return model.model_dump_json(indent=2).encode()


def _entries(layout: RunLayout, storage: Storage) -> Iterator[FileEntry]:
    """Yield the published files of the run, except those of the whole run and checkpoints."""
    for item in storage.list(layout.root):
        path = f"/{item.key}"
        if path == f"/{name_of(layout.metadata)}" or f"/{LAST}/" in path or path.startswith(f"/{ATTEMPTS}/"):
            continue
        yield _entry(item.key, storage.read_bytes(item.uri))


def _entry(path: str, content: bytes) -> FileEntry:
    return FileEntry(path=path, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
