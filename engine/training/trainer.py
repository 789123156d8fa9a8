"""One teacher from its base to its best adapter::

from engine.config import from_yaml
from engine.training import TeacherTrainer

config = from_yaml(Path("teacher_config.yaml").read_text(), where="teacher_config.yaml")
result = TeacherTrainer(config, work_dir=Path("work")).train()
print(result.before.ap, result.after.ap, result.adapter.uri)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from engine.artifacts import LAST, RunLayout
from engine.augmentation import Augmenter
from engine.config import RunConfig, TeacherSettings
from engine.errors import ConfigError, NoProgressError
from engine.evaluation.evaluate import Evaluation
from engine.fit import Predicted
from engine.progress import Event, EventKind, Listener
from engine.results import ApMetrics, TeacherResult
from engine.spec import TeacherName
from engine.storage import Storage, StorageOptions, default_cache
from engine.teachers import REGISTRY, Batch, LocalModel, Teacher, is_hub_id, resolve_base_model
from engine.teachers.lora import (
    AdapterCard,
    adapter_off,
    adapter_tensors,
    attach,
    load_adapter,
    load_adapter_tensors,
    save_adapter,
)
from engine.teachers.recompute import recompute
from engine.training.balance import repeats
from engine.training.checkpoint import Checkpoint, Progress, load_checkpoint, save_checkpoint
from engine.training.data import Views, batches_from
from engine.training.detected import LOOKED_AT_ONCE, Detected, Prompted, prepare_detected
from engine.training.frozen import features_of
from engine.training.loop import Hooks, Loop
from engine.training.machine import machine_errors
from engine.training.parts import Parts, prepare_parts
from engine.training.probe import Probe, prepare_probe
from engine.training.processes import ALONE, Processes
from engine.training.progress import tensorboard, thinned
from engine.training.room import UNKNOWN_AT_ONCE, plan_step, room_of, told
from engine.training.runtime import Stop, autocast, choose_device, seed_all
from engine.training.said import left_out, phases, so_far, summary
from engine.training.same import check_same, check_same_images, decisive
from engine.training.steps import Steps, shapes_of
from engine.training.watchdog import Watchdog, print_failure
from engine.training.worth import Measures, Worth, write_result

NO_PROBE = "what is left of the base's skill is not measured: training.retention shows nothing that the data does not"


@dataclass(frozen=True)
class Job:
    """What is there before training begins."""

    teacher: Teacher
    base: LocalModel
    parts: Parts
    probe: Probe | None
    detected: Detected | None
    steps: Steps

    def event(self, kind: EventKind, **values: Any) -> Event:
        """An event of this job."""
        name = self.teacher.name.slug
        return Event(event=kind, teacher=name, steps=self.steps.total, epochs=self.steps.epochs, **values)


class TeacherTrainer:
    """Trains one teacher of a run and leaves all of it in ``work_dir``.

    What is left under ``teachers/<teacher>_lora/`` is the best adapter (``adapter_config.json``,
    ``adapter_model.safetensors``, ``teacher.json``), ``result.json``, ``samples.json`` with ``samples/``, and
    ``last/`` to go on from; under ``logs/<teacher>/``, TensorBoard's files. A ``last/`` that is there at the start is
    gone on from.

    Where several processes train it together, all of them do the same, and what is said here of files and listeners is
    the first one's doing.

    Args:
        config: Of the run.
        teacher: Which of its teachers; may be left out if it has one.
        storage: Where data and base models come from; default: what ``config.storage`` says.
        work_dir: Default: a new temporary folder.
        cache: Where images and base models are kept between runs; default: the user's cache folder.
        listeners: Are told of progress, at most one step in ``log_seconds``.
        on_checkpoint: Is given the file of every checkpoint that is written.
        on_hang: Is given the failure before the process ends since nothing happens any more.
        processes: Those that train this teacher together.

    Raises:
        ConfigError: The configuration has no such teacher, or several to choose from.
    """

    def __init__(
        self,
        config: RunConfig,
        teacher: TeacherName | None = None,
        *,
        storage: Storage | None = None,
        work_dir: Path | None = None,
        cache: Path | None = None,
        listeners: Sequence[Listener] = (),
        on_checkpoint: Callable[[Path], None] | None = None,
        on_hang: Callable[[NoProgressError], None] = print_failure,
        processes: Processes = ALONE,
    ) -> None:
        names = config.teachers.names
        if teacher is None and len(names) != 1:
            raise ConfigError(f"the run tunes {', '.join(names) or 'no teacher'}: say which one to train")
        self.name = teacher or names[0]
        settings = config.teachers.of(self.name)
        if settings is None:
            raise ConfigError(f"the run tunes {', '.join(names)}, not {self.name}")
        self.config = config
        self.settings: TeacherSettings = settings
        self.storage = storage or Storage(StorageOptions(**config.storage.model_dump()))
        self.layout = RunLayout(str(work_dir or mkdtemp(prefix="teacher-")))
        self.folder = Path(self.layout.teacher(self.name))
        self.cache = cache or default_cache()
        self.listeners = listeners
        self.on_checkpoint = on_checkpoint
        self.on_hang = on_hang
        self.processes = processes

    def train(self) -> TeacherResult:
        """Measure the base, train, measure the best adapter.

        Raises:
            TeacherError: Of the kind that the failure is. After InterruptedTrainingError the same call goes on.
        """
        with machine_errors(), tensorboard(Path(self.layout.logs(self.name))) as curves:
            listeners = (*self.listeners, curves) if self.processes.first else ()

            def tell_all(event: Event) -> None:
                for listener in listeners:
                    listener(event)

            listen = thinned(tell_all, seconds=self.config.training.log_seconds)
            checkpoint = self.processes.decided(partial(self._last, listen))
            job = self._prepare(checkpoint, listen)
            with Watchdog(self.config.training.hang_seconds, self.on_hang) as watchdog, Stop(watchdog.alive) as stop:
                listen(job.event("start", **so_far(checkpoint)))
                return self._run(job, checkpoint, listen, stop)

    def _prepare(self, checkpoint: Checkpoint | None, listen: Listener) -> Job:
        """Data and base model, on disk and in memory."""
        data, training = self.config.data, self.config.training
        kind = REGISTRY[self.name]
        note = partial(Event, event="note", teacher=self.name.slug)
        with self.processes.one_here_first(), ThreadPoolExecutor(1) as beside:
            listen(note(message=f"fetching the base model {self.settings.base_model}"))
            fetching = beside.submit(self._base, checkpoint)
            listen(note(message="fetching the data; every image is decoded once, to see that it can be"))
            parts = prepare_parts(
                data, masks=kind.needs_masks, seed=training.seed, storage=self.storage, cache=self.cache
            )
            for message in left_out(parts.unreadable, parts.objects_skipped):
                listen(note(message=message))
            probe = prepare_probe(
                training.retention, data, masks=kind.needs_masks, storage=self.storage, cache=self.cache
            )
            if probe is None:
                listen(note(message=NO_PROBE))
            else:
                for message in left_out(probe.unreadable):
                    listen(note(message=message))
            base = fetching.result()
        self._check_same_base(base)
        detected = None
        if self.name is TeacherName.SAM:
            detected = prepare_detected(
                self.config,
                parts,
                begun=None if checkpoint is None else checkpoint.settings,
                folder=self.folder / LAST,
                storage=self.storage,
                cache=self.cache,
                processes=self.processes,
                say=lambda message: listen(note(message=message)),
            )
        if checkpoint is not None:
            check_same_images(checkpoint.settings, parts.unreadable)
            now = decisive(self.config, self.name, base=base, parts=parts, detected=detected)
            check_same(self.folder / LAST, checkpoint.settings, now)
        if detected is not None:
            parts = replace(parts, train=Prompted(parts.train.dataset, parts.train.paths, detected.train))
        teacher = kind.load(base.folder, classes=data.classes, prompts=data.prompts, settings=self.settings)
        if probe is not None:
            _check_asking(teacher, probe)
        teacher.model.to(choose_device())
        place = self.processes.place
        shown = repeats(parts.train.dataset, exponent=training.class_balance)
        steps = Steps.of(
            self.settings,
            images=len(parts.train.dataset),
            seed=training.seed,
            place=place,
            repeats=shown,
            shapes=shapes_of(parts.train.dataset) if kind.pads else (),
        )
        return Job(teacher=teacher, base=base, parts=parts, probe=probe, detected=detected, steps=steps)

    def _run(self, job: Job, checkpoint: Checkpoint | None, listen: Listener, stop: Stop) -> TeacherResult:
        teacher, val = job.teacher, job.parts.val
        plan, steps = self._fitted(job, checkpoint, listen)
        looked_at_once = min(steps.at_once or steps.batch_size, LOOKED_AT_ONCE)
        measures = Measures(teacher, self.settings, self.processes, stop, looked_at_once)
        seed_all(self.config.training.seed)
        attach(teacher, self.settings.lora)
        asked = () if self.settings.checkpointing == "auto" else self.settings.checkpointing
        recompute(teacher, asked if plan is None else plan.checkpointing)
        keep_best = partial(self._keep_best, job)
        seen_before = None
        if checkpoint is None:
            seen_before, checkpoint = self._begin(job, measures, listen, planned=steps.at_once)
        elif checkpoint.best:  # the file may be of later steps, which will be done again, or not be on this disk
            load_adapter_tensors(teacher, checkpoint.best, what="the checkpoint does not fit its base")
            keep_best()
        loop = Loop(
            teacher,
            settings=self.settings,
            training=self.config.training,
            steps=steps,
            start=checkpoint,
            folder=self.folder / LAST,
            hooks=Hooks(
                batches=partial(self._batches, job),
                evaluate=lambda: measures.of(val).metrics,
                keep_best=keep_best,
                checkpointed=self._checkpointed,
                listen=listen,
            ),
            stop=stop,
            processes=self.processes,
        )
        teacher.features = features = features_of(teacher, self.config, base=job.base, cache=self.cache)
        progress = loop.run()
        teacher.features = None  # what is told of an adapter is what it comes to without
        if features is not None:
            listen(job.event("note", message=str(features)))
        if self.processes.first:
            load_adapter(teacher, self.folder)  # what is on the disk is what is measured
        else:
            load_adapter_tensors(teacher, loop.best, what="the best adapter does not fit its base")
        worth = self._measured(job, measures, checkpoint.before, seen_before)
        known = {"ap_before": checkpoint.before["val"].ap, "best_ap": progress.best_ap}
        for phase, metrics in phases(worth).items():
            listen(job.event("evaluation", step=progress.step, ap=metrics.ap, phase=phase, **known))
        result = self.processes.decided(
            lambda: write_result(
                self.folder,
                worth,
                progress,
                teacher=teacher,
                base=job.base,
                base_model=self.settings.base_model,
                parts=job.parts,
                steps=job.steps,
                plan=plan,
            )
        )
        if plan is not None and progress.step_memory_bytes:
            held, expected = progress.step_memory_bytes / 1e9, plan.memory_bytes / 1e9
            listen(job.event("note", message=f"steps held {held:.2f} GB; {expected:.2f} GB were expected"))
        listen(job.event("note", message=summary(result)))
        return result

    def _fitted(self, job: Job, checkpoint: Checkpoint | None, listen: Listener) -> tuple[Predicted | None, Steps]:
        """What a step is expected to hold, and the steps, cut so that they have room.

        The first process plans for all, and a run that goes on stays cut as it was: where numbers are rounded follows
        from it.
        """
        teacher, steps = job.teacher, job.steps
        bfloat16 = isinstance(autocast(teacher.device, self.config.training.precision), torch.autocast)

        def decide() -> tuple[Predicted | None, int | None]:
            room = room_of(teacher, self.processes.place)
            return plan_step(teacher, self.settings, job.parts.train.dataset, bfloat16=bfloat16, room=room), room

        plan, room = self.processes.decided(decide)
        if checkpoint is not None:
            at_once = checkpoint.progress.planned or steps.batch_size
        elif plan is not None:
            at_once = plan.at_once
        else:
            at_once = UNKNOWN_AT_ONCE if teacher.device.type == "cuda" else steps.batch_size
        if plan is not None:
            listen(job.event("note", message=told(plan, batch_size=steps.batch_size, room=room)))
        return plan, replace(steps, at_once=at_once) if at_once < steps.batch_size else steps

    def _begin(
        self, job: Job, measures: Measures, listen: Listener, *, planned: int | None
    ) -> tuple[Evaluation, Checkpoint]:
        """Measure the base: what it sees in the validation part, and the checkpoint of a run without a step."""
        with adapter_off(job.teacher):
            seen = measures.of(job.parts.val)
            before = {"val": seen.metrics}
            if job.parts.test is not None:
                before["test"] = measures.of(job.parts.test).metrics
        ap = seen.metrics.ap
        listen(job.event("evaluation", step=0, epoch=0, ap=ap, ap_before=ap, phase="base"))

        def begun() -> Checkpoint:
            adapter = {name: tensor.detach().cpu().clone() for name, tensor in adapter_tensors(job.teacher).items()}
            settings = decisive(self.config, self.name, base=job.base, parts=job.parts, detected=job.detected)
            checkpoint = Checkpoint(Progress(planned=planned), before, settings, adapter=adapter, optimizer={})
            self._checkpointed(save_checkpoint(checkpoint, self.folder / LAST))
            return checkpoint

        return seen, self.processes.decided(begun)

    def _measured(
        self, job: Job, measures: Measures, before: Mapping[str, ApMetrics], seen_before: Evaluation | None
    ) -> Worth:
        """The best adapter, beside the base; what the base sees may be known already."""
        seen_after = measures.of(job.parts.val)
        test_after = None if job.parts.test is None else measures.of(job.parts.test).metrics
        if seen_before is None:
            with adapter_off(job.teacher):
                seen_before = measures.of(job.parts.val)
        by_detector = None
        if job.detected is not None:
            by_detector = measures.by_detector(job.parts.val, job.detected.val, truth=seen_after.dataset)
        retained = None if job.probe is None else measures.retention(job.probe)
        return Worth(before, seen_before, seen_after, test_after, by_detector, retained)

    def _keep_best(self, job: Job) -> None:
        if self.processes.first:
            save_adapter(job.teacher, self.folder, card=self._card(job.base))

    def _batches(self, job: Job, steps: Steps, step: int) -> Generator[Batch, None, None]:
        seed, workers = self.config.training.seed, self.config.training.workers
        augment, take_turns = Augmenter(self.config.augmentation), self.settings.views
        if not augment.chosen or job.teacher.features is None:
            take_turns = 0
        views = Views(job.parts.train, job.teacher, augment, seed=seed, take_turns=take_turns)
        return batches_from(step, steps, views, workers=workers, pin_memory=job.teacher.device.type == "cuda")

    def _last(self, listen: Listener) -> Checkpoint | None:
        """The checkpoint to go on from; that there is a damaged one is said."""
        note = partial(Event, event="note", teacher=self.name.slug)
        damaged: list[Path] = []
        checkpoint = load_checkpoint(self.folder / LAST, damaged.append)
        for path in damaged:
            path.replace(path.with_suffix(".damaged"))  # not to be counted among those that are kept
            listen(note(message=f"{path} is damaged, or of another version: it is not used"))
        if checkpoint is not None:
            listen(note(message=f"going on after step {checkpoint.progress.step}"))
        elif damaged:
            listen(note(message="no checkpoint is whole: starting from the beginning"))
        return checkpoint

    def _base(self, checkpoint: Checkpoint | None) -> LocalModel:
        """The base model; a run that goes on takes the very commit that it began with."""
        name, revision = self.settings.base_model, self.settings.revision
        if checkpoint is not None and is_hub_id(name):
            revision = checkpoint.settings["base_revision"]
        return resolve_base_model(name, revision, storage=self.storage, cache=self.cache)

    def _card(self, base: LocalModel) -> AdapterCard:
        return AdapterCard(
            teacher=self.name,
            base_revision=base.revision,
            base_sha256=base.sha256,
            classes=self.config.data.classes,
            prompts=self.config.data.prompts,
            settings=self.settings,
        )

    def _check_same_base(self, base: LocalModel) -> None:
        first = self.processes.decided(lambda: base.sha256)
        if base.sha256 != first:
            raise ConfigError(
                f"the base model {self.settings.base_model} is not the same on all machines (sha256 {first[:12]}… "
                f"on the first, {base.sha256[:12]}… here): set its revision to a commit"
            )

    def _checkpointed(self, path: Path) -> None:
        if self.on_checkpoint is not None:
            self.on_checkpoint(path)


def _check_asking(teacher: Teacher, probe: Probe) -> None:
    """What cannot be asked for is told before there is anything to lose."""
    try:
        teacher.asking(probe.part.dataset.classes)
    except ConfigError as error:
        raise ConfigError(f"training.retention: {error}") from None
