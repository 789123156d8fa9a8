"""One teacher from its base to its best adapter::

from engine.config import from_yaml
from engine.training import TeacherTrainer

config = from_yaml(Path("teacher_config.yaml").read_text(), where="teacher_config.yaml")
result = TeacherTrainer(config).train()
print(result.before.ap, result.after.ap, result.adapter.uri)

:func:`engine.fine_tune.fine_tune` does it for all teachers of a request, from the inspection of the data on.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from engine.augmentation import Augmenter
from engine.config import RunConfig, TeacherSettings
from engine.dataset.types import Frame
from engine.errors import ConfigError, NoProgressError
from engine.evaluation.example_images import read_samples
from engine.evaluation.ground_truth import GroundTruths
from engine.evaluation.settings_table import settings_table
from engine.layout import LAST, RunLayout
from engine.models.activation_checkpointing import recompute
from engine.models.lora import (
    AdapterCard,
    adapter_tensors,
    attach,
    load_adapter,
    load_adapter_tensors,
    save_adapter,
)
from engine.plan import TrainingRun
from engine.registry import prompter
from engine.results.events import Event, EventKind, Listener, better_than
from engine.results.types import TeacherResult
from engine.spec import TeacherName
from engine.storage import Storage, StorageOptions, default_cache
from engine.teachers import REGISTRY, Batch, LocalModel, Teacher, is_hub_id, resolve_base_model
from engine.training.background import BackgroundTask
from engine.training.box_prompts import DETECTION_BATCH, DetectedBoxes, Prompted, detect_box_prompts
from engine.training.checkpoint import Checkpoint, Progress, save_checkpoint
from engine.training.data import Views, batches_from, features_of
from engine.training.device import (
    Stop,
    autocast,
    choose_device,
    give_back_memory,
    keep_memory,
    machine_errors,
    resident_bytes,
    seed_all,
)
from engine.training.distributed import ALONE, Processes
from engine.training.evaluation import Baseline, Evaluator, write_result
from engine.training.listeners import TensorBoard, thinned
from engine.training.loop import Hooks, Loop
from engine.training.messages import left_out, phases, shared_images, so_far, summary
from engine.training.micro_batch import MicroBatchPlan, describe_plan, plan_micro_batch
from engine.training.prepare import PreparedData, fetch, wait_for_training_images
from engine.training.resume import (
    check_planned_base,
    check_same_base,
    check_same_images,
    check_same_run,
    last_checkpoint,
    run_fingerprint,
)
from engine.training.retention_data import RetentionData
from engine.training.sampler import Steps, repeats, shapes_of
from engine.training.splits import Data, Splits
from engine.training.watchdog import Watchdog, print_failure


@dataclass(frozen=True)
class Job:
    """State before training starts; ``baseline`` is None for a resumed run, whose base was measured before."""

    teacher: Teacher
    base: LocalModel
    splits: Splits
    retention_data: RetentionData | None
    detected: DetectedBoxes | None
    micro_batch: MicroBatchPlan
    steps: Steps
    baseline: Baseline | None

    def event(self, kind: EventKind, **values: Any) -> Event:
        """Create an event of this job."""
        name = self.teacher.name.slug
        return Event(event=kind, teacher=name, steps=self.steps.total, epochs=self.steps.epochs, **values)


class TeacherTrainer:
    """Train one teacher of a run and write all results to ``work_dir``; without one, publish them under the output.

    ``teachers/<teacher>_lora/`` then contains the best adapter (``adapter_config.json``,
    ``adapter_model.safetensors``, ``teacher.json``), ``result.json``, ``samples.json`` with ``samples/``, and
    ``last/`` with checkpoints; ``logs/<teacher>/`` contains TensorBoard's files. If ``last/`` exists at the start, the
    run is resumed from it.

    If several processes train the teacher together, only the first writes files and calls listeners.

    Args:
        config: Configuration of the run.
        teacher: Name of the teacher; optional if the run has only one.
        storage: Source of data and base models; default: by ``config.storage``.
        work_dir: Output folder. Default: a new temporary folder, from which the teacher is published to
            ``<output>/<name>/<run id>/``.
        cache: Folder for images and base models, kept between runs; default: the user's cache folder.
        listeners: Receive progress events, at most one step in ``log_seconds``.
        on_checkpoint: Receives the file of every new checkpoint.
        on_hang: Receives the error before the process ends for lack of progress.
        processes: All processes of the run.

    Raises:
        ConfigError: The configuration lacks this teacher, or has several and none was named.
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
        self.publishes = work_dir is None
        self.layout = RunLayout(str(work_dir or mkdtemp(prefix="teacher-")))
        self.folder = Path(self.layout.teacher(self.name))
        self.cache = cache or default_cache()
        self.listeners = listeners
        self.on_checkpoint = on_checkpoint
        self.on_hang = on_hang
        self.processes = processes
        self._held_at_most: int | None = None
        self._truths = GroundTruths()

    def train(self) -> TeacherResult:
        """Measure the base, train, measure the best adapter.

        Raises:
            TeacherError: Of a subclass by the kind of failure. After InterruptedTrainingError the same call resumes.
        """
        with machine_errors(), closing(TensorBoard(Path(self.layout.logs(self.name)))) as curves:
            listeners: tuple[Listener, ...] = (*self.listeners, curves) if self.processes.first else ()

            def tell_all(event: Event) -> None:
                for listener in listeners:
                    listener(event)

            listen = thinned(tell_all, seconds=self.config.training.log_seconds)
            note = partial(self._note, listen)
            checkpoint = self.processes.decided(partial(last_checkpoint, self.folder / LAST, note))
            job = self._prepare(checkpoint, listen)
            with self._watched(self._give_back) as stop:
                start = checkpoint or self.processes.decided(partial(self._begin, job))
                listen(job.event("start", **so_far(start)))
                result = self._run(job, start, listen, stop)
            if self.processes.first:
                curves.summarize(settings_table(self.config, self.name), result, read_samples(self.folder))
        return self.processes.decided(partial(self._published, result)) if self.publishes else result

    def _published(self, result: TeacherResult) -> TeacherResult:
        from engine.training.publish import publish_result  # which needs this module

        run = TrainingRun(self.name, self.config)
        whole = self.storage.exists(run.layout.dataset)
        work_dir = Path(self.layout.root)
        return publish_result(result, run, storage=self.storage, work_dir=work_dir, whole=whole)[0]

    @contextmanager
    def _watched(self, check: Callable[[], None] = lambda: None) -> Iterator[Stop]:
        """Inside the block, end the process if it makes no progress, and set a flag on SIGTERM instead of exiting.

        Args:
            check: Is called at every sign of progress.
        """
        with Watchdog(self.config.training.hang_seconds, self.on_hang) as watchdog:

            def alive() -> None:
                watchdog.alive()
                check()

            with Stop(alive) as stop:
                yield stop

    def _give_back(self) -> None:
        if self._held_at_most is not None:
            give_back_memory(above=self._held_at_most)

    def _prepare(self, checkpoint: Checkpoint | None, listen: Listener) -> Job:
        """Prepare data and base model, on disk and in memory; the base is measured while training images download."""
        note, settings, data = partial(self._note, listen), self.settings, self.config.data
        kind, training = REGISTRY[self.name], self.config.training
        with BackgroundTask[Splits]() as training_images:
            note(f"fetching the base model {settings.base_model}")
            prepared = fetch(
                self.config,
                self.name,
                partial(self._base, checkpoint),
                training_images=training_images,
                storage=self.storage,
                cache=self.cache,
                processes=self.processes,
                say=note,
            )
            base, retention_data = prepared.base, prepared.retention
            check_same_base(settings.base_model, base, self.processes)
            teacher = kind.load(base.folder, classes=data.classes, prompts=data.prompts, settings=settings)
            if retention_data is not None:
                _check_asking(teacher, retention_data)
            device = choose_device()
            teacher.model.to(device)
            micro_batch = self._fitted(teacher, prepared.data, checkpoint, note)
            baseline = None
            if checkpoint is None:
                baseline = self._measure_base(teacher, micro_batch, prepared, training_images, listen)
            if training_images.busy:
                note("waiting for the images to learn from")
            splits = wait_for_training_images(prepared, training_images, self.processes)
        for message in (
            *left_out(splits.unreadable, splits.objects_skipped, asked=data.exif_orientation),
            *shared_images(splits.shared),
        ):
            note(message)
        detected = None
        if prompter(self.name) is not None:
            teacher.model.to("cpu")  # the prompting teacher has the GPU to itself
            detected = detect_box_prompts(
                self.config,
                self.name,
                splits,
                begun=None if checkpoint is None else checkpoint.settings,
                folder=self.folder / LAST,
                storage=self.storage,
                cache=self.cache,
                processes=self.processes,
                say=note,
            )
            teacher.model.to(device)
        if checkpoint is not None:
            check_same_images(checkpoint.settings, splits.unreadable)
            now = run_fingerprint(self.config, self.name, base=base, splits=splits, detected=detected)
            check_same_run(self.folder / LAST, checkpoint.settings, now)
        if detected is not None:
            splits = replace(splits, train=Prompted(splits.train.dataset, splits.train.paths, detected.train))
        train = splits.train.dataset
        steps = Steps.of(
            settings,
            images=len(train),
            seed=training.seed,
            place=self.processes.place,
            repeats=repeats(train, exponent=training.class_balance),
            shapes=shapes_of(train) if kind.pads else (),
            micro_batch_size=micro_batch.micro_batch_size
            if micro_batch.micro_batch_size < settings.batch_size
            else None,
        )
        return Job(teacher, base, splits, retention_data, detected, micro_batch, steps, baseline)

    def _fitted(
        self, teacher: Teacher, data: Data, checkpoint: Checkpoint | None, note: Callable[[str], None]
    ) -> MicroBatchPlan:
        """Give the teacher its adapter, and choose how its steps are cut: by all images there may be to learn from."""
        training, settings = self.config.training, self.settings
        micro_batch = plan_micro_batch(
            teacher,
            settings,
            data.whole["train"].dataset,
            bfloat16=isinstance(autocast(teacher.device, training.precision), torch.autocast),
            begun=None if checkpoint is None else checkpoint.progress,
            processes=self.processes,
        )
        if micro_batch.plan is not None:
            note(
                describe_plan(
                    micro_batch.plan,
                    batch_size=settings.batch_size,
                    available_memory=micro_batch.available_memory,
                    kept_bytes=micro_batch.kept_bytes,
                )
            )
        if micro_batch.kept_bytes:
            keep_memory()
            self._held_at_most = (
                resident_bytes() + micro_batch.kept_bytes * 3 // 4
            )  # the next step adds to what is held
        seed_all(training.seed)
        attach(teacher, settings.lora)
        asked = () if settings.checkpointing == "auto" else settings.checkpointing
        recompute(teacher, asked if micro_batch.plan is None else micro_batch.plan.checkpointing)
        return micro_batch

    def _measure_base(
        self,
        teacher: Teacher,
        micro_batch: MicroBatchPlan,
        prepared: PreparedData,
        training_images: BackgroundTask[Splits],
        listen: Listener,
    ) -> Baseline:
        """Evaluate the base on the available splits; a failed download of the training images is raised early."""
        splits = prepared.data.usable(prepared.unreadable)
        with self._watched(training_images.check) as stop:
            self._note(
                listen, "measuring the base" + (", while images to learn from arrive" if training_images.busy else "")
            )
            baseline = self._measures(teacher, micro_batch, stop).base(splits)
        stop.check()
        ap = baseline.metrics["val"].ap
        slug = self.name.slug
        listen(Event(event="evaluation", teacher=slug, step=0, epoch=0, ap=ap, ap_before=ap, phase="base"))
        return baseline

    def _measures(self, teacher: Teacher, micro_batch: MicroBatchPlan, stop: Stop) -> Evaluator:
        size = min(micro_batch.micro_batch_size, DETECTION_BATCH)
        return Evaluator(teacher, self.settings, self.processes, stop, size, self._truths)

    def _begin(self, job: Job) -> Checkpoint:
        """Write the initial checkpoint of a run, before its first step."""
        assert job.baseline is not None  # noqa: S101 - without a checkpoint, the base was measured
        adapter = {name: tensor.detach().cpu().clone() for name, tensor in adapter_tensors(job.teacher).items()}
        settings = run_fingerprint(self.config, self.name, base=job.base, splits=job.splits, detected=job.detected)
        progress = Progress(planned_micro_batch_size=job.steps.micro_batch_size)
        checkpoint = Checkpoint(progress, dict(job.baseline.metrics), settings, adapter=adapter, optimizer={})
        self._checkpointed(save_checkpoint(checkpoint, self.folder / LAST))
        return checkpoint

    def _run(self, job: Job, checkpoint: Checkpoint, listen: Listener, stop: Stop) -> TeacherResult:
        teacher, steps, plan = job.teacher, job.steps, job.micro_batch.plan
        evaluator = self._measures(teacher, job.micro_batch, stop)
        keep_best = partial(self._keep_best, job)
        if checkpoint.best:  # the file may be of later steps, which will be done again, or not be on this disk
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
                evaluate=lambda: evaluator.of(job.splits.val).metrics,
                keep_best=keep_best,
                checkpointed=self._checkpointed,
                listen=listen,
            ),
            stop=stop,
            processes=self.processes,
        )
        teacher.features = features = features_of(teacher, self.config, base=job.base, cache=self.cache)
        progress = loop.run()
        teacher.features = None  # metrics of an adapter are measured without the cache
        if features is not None:
            listen(job.event("note", message=str(features)))
        if self.processes.first:
            load_adapter(teacher, self.folder)  # what is on the disk is what is measured
        else:
            load_adapter_tensors(teacher, loop.best, what="the best adapter does not fit its base")
        evaluation = evaluator.adapted(
            job.splits,
            before=checkpoint.before,
            base=job.baseline,
            detected=job.detected,
            retention_data=job.retention_data,
        )
        base_ap = checkpoint.before["val"].ap
        known = {"ap_before": base_ap, "best_ap": better_than(base_ap, progress.best_ap)}
        for phase, metrics in phases(evaluation).items():
            listen(job.event("evaluation", step=progress.step, ap=metrics.ap, phase=phase, **known))
        result = self.processes.decided(
            lambda: write_result(
                self.folder,
                evaluation,
                progress,
                teacher=teacher,
                base=job.base,
                base_model=self.settings.base_model,
                splits=job.splits,
                steps=job.steps,
                plan=plan,
            )
        )
        if plan is not None and progress.step_memory_bytes:
            held, expected = progress.step_memory_bytes / 1e9, plan.memory_bytes / 1e9
            listen(job.event("note", message=f"steps held {held:.2f} GB; {expected:.2f} GB were expected"))
        listen(job.event("note", message=summary(result)))
        return result

    def _keep_best(self, job: Job) -> None:
        if self.processes.first:
            save_adapter(job.teacher, self.folder, card=self._card(job.base, job.splits.train.dataset.frame))

    def _batches(self, job: Job, steps: Steps, step: int) -> Generator[Batch, None, None]:
        seed, workers = self.config.training.seed, self.config.training.workers
        augment, take_turns = Augmenter(self.config.augmentation), self.settings.views
        if not augment.chosen or job.teacher.features is None:
            take_turns = 0
        views = Views(job.splits.train, job.teacher, augment, seed=seed, take_turns=take_turns)
        return batches_from(step, steps, views, workers=workers, pin_memory=job.teacher.device.type == "cuda")

    def _base(self, checkpoint: Checkpoint | None) -> LocalModel:
        """Fetch the base model; a resumed run uses the same commit as before."""
        name, revision = self.settings.base_model, self.settings.revision
        if checkpoint is not None and is_hub_id(name):
            revision = checkpoint.settings["base_revision"]
        check_planned_base(name, self.settings.base_digest, storage=self.storage)
        return resolve_base_model(name, revision, storage=self.storage, cache=self.cache)

    def _card(self, base: LocalModel, frame: Frame) -> AdapterCard:
        return AdapterCard(
            teacher=self.name,
            base_revision=base.revision,
            base_sha256=base.sha256,
            base_parts=dict(base.parts),
            classes=self.config.data.classes,
            prompts=self.config.data.prompts,
            settings=self.settings,
            frame=frame,
        )

    def _note(self, listen: Listener, message: str) -> None:
        listen(Event(event="note", teacher=self.name.slug, message=message))

    def _checkpointed(self, path: Path) -> None:
        if self.on_checkpoint is not None:
            self.on_checkpoint(path)


def _check_asking(teacher: Teacher, retention_data: RetentionData) -> None:
    """Check before training that the teacher can be prompted for the retention classes."""
    try:
        teacher.asking(retention_data.part.dataset.classes)
    except ConfigError as error:
        raise ConfigError(f"training.retention: {error}") from None
