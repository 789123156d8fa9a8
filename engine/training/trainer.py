"""One teacher from its base to its best adapter::

from engine.config import from_yaml
from engine.training import TeacherTrainer

config = from_yaml(Path("teacher_config.yaml").read_text(), where="teacher_config.yaml")
result = TeacherTrainer(config, work_dir=Path("work")).train()
print(result.before.ap, result.after.ap, result.adapter.uri)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from engine.artifacts import ADAPTER, LAST, RESULT, RunLayout
from engine.augmentation import Augmenter
from engine.config import RunConfig, TeacherSettings
from engine.dataset.types import CocoDataset, Detections, Sample
from engine.errors import ConfigError
from engine.evaluation.coco_ap import coco_ap
from engine.evaluation.evaluate import Evaluation, compare, look
from engine.evaluation.retention import retention
from engine.evaluation.thresholds import operation
from engine.progress import Event, EventKind, Listener
from engine.results import AdapterFile, ApMetrics, Retention, TeacherResult
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
    trainable_parameters,
)
from engine.training.balance import repeats
from engine.training.checkpoint import CHECKPOINT, Checkpoint, Progress, load_checkpoint, save_checkpoint
from engine.training.data import Views, batches_from
from engine.training.detected import DETECTOR, Detected, Prompted, masks_of, prepare_detected
from engine.training.loop import Hooks, Loop
from engine.training.parts import Part, Parts, prepare_parts
from engine.training.probe import Probe, prepare_probe
from engine.training.processes import ALONE, Processes
from engine.training.progress import tensorboard, thinned
from engine.training.runtime import Stop, choose_device, memory_errors, seed_all
from engine.training.samples import write_samples
from engine.training.steps import Steps

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
        on_checkpoint: Is given the folder ``last/`` whenever what is in it was replaced.
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
        self.processes = processes

    def train(self) -> TeacherResult:
        """Measure the base, train, measure the best adapter.

        Raises:
            TeacherError: Of the kind that the failure is. After InterruptedTrainingError the same call goes on.
        """
        with tensorboard(Path(self.layout.logs(self.name))) as curves:
            listeners = (*self.listeners, curves) if self.processes.first else ()

            def tell_all(event: Event) -> None:
                for listener in listeners:
                    listener(event)

            listen = thinned(tell_all, seconds=self.config.training.log_seconds)
            checkpoint = self.processes.decided(partial(self._last, listen))
            job = self._prepare(checkpoint, listen)
            with Stop() as stop:
                listen(job.event("start", **_so_far(checkpoint)))
                return self._run(job, checkpoint, listen, stop)

    def _prepare(self, checkpoint: Checkpoint | None, listen: Listener) -> Job:
        """Data and base model, on disk and in memory."""
        data, training = self.config.data, self.config.training
        kind = REGISTRY[self.name]
        note = partial(Event, event="note", teacher=self.name.slug)
        with self.processes.one_here_first():
            listen(note(message="fetching the data"))
            parts = prepare_parts(
                data, masks=kind.needs_masks, seed=training.seed, storage=self.storage, cache=self.cache
            )
            probe = prepare_probe(
                training.retention, data, masks=kind.needs_masks, storage=self.storage, cache=self.cache
            )
            if probe is None:
                listen(note(message=NO_PROBE))
            listen(note(message=f"fetching the base model {self.settings.base_model}"))
            base = self._base(checkpoint)
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
            self._check_same(checkpoint.settings, self._decisive(base, detected))
        if detected is not None:
            parts = replace(parts, train=Prompted(parts.train.dataset, parts.train.paths, detected.train))
        teacher = kind.load(base.folder, classes=data.classes, prompts=data.prompts, settings=self.settings)
        teacher.model.to(choose_device())
        place = self.processes.place
        shown = repeats(parts.train.dataset, exponent=training.class_balance)
        steps = Steps.of(self.settings, images=len(parts.train.dataset), seed=training.seed, place=place, repeats=shown)
        return Job(teacher=teacher, base=base, parts=parts, probe=probe, detected=detected, steps=steps)

    def _run(self, job: Job, checkpoint: Checkpoint | None, listen: Listener, stop: Stop) -> TeacherResult:
        teacher, val = job.teacher, job.parts.val
        measure = partial(self._measure, teacher, stop)
        seed_all(self.config.training.seed)
        attach(teacher, self.settings.lora)
        keep_best = partial(self._keep_best, job)
        seen_before = None
        if checkpoint is None:
            seen_before, checkpoint = self._begin(job, measure, listen)
        elif checkpoint.best:  # the file may be of later steps, which will be done again, or not be on this disk
            load_adapter_tensors(teacher, checkpoint.best, what="the checkpoint does not fit its base")
            keep_best()
        loop = Loop(
            teacher,
            settings=self.settings,
            training=self.config.training,
            steps=job.steps,
            start=checkpoint,
            folder=self.folder / LAST,
            hooks=Hooks(
                batches=partial(self._batches, job),
                evaluate=lambda: measure(val).metrics,
                keep_best=keep_best,
                checkpointed=self._checkpointed,
                listen=listen,
            ),
            stop=stop,
            processes=self.processes,
        )
        progress = loop.run()
        if self.processes.first:
            load_adapter(teacher, self.folder)  # what is on the disk is what is measured
        else:
            load_adapter_tensors(teacher, loop.best, what="the best adapter does not fit its base")
        seen_after = measure(val)
        test_after = None if job.parts.test is None else measure(job.parts.test).metrics
        known = {"ap_before": checkpoint.before["val"].ap, "best_ap": progress.best_ap}
        if test_after is not None:
            listen(job.event("evaluation", step=progress.step, ap=test_after.ap, phase="test", **known))
        if seen_before is None:
            with adapter_off(teacher):
                seen_before = measure(val)
        by_detector = self._by_detector(job, seen_after.dataset, stop)
        retained = self._retention(job, stop)
        if retained is not None:
            for phase, metrics in (("retention_base", retained.base), ("retention", retained.adapted)):
                listen(job.event("evaluation", step=progress.step, ap=metrics.ap, phase=phase, **known))
        seen = (seen_before, seen_after)
        result = self.processes.decided(
            lambda: self._leave(
                job,
                progress,
                checkpoint.before,
                seen=seen,
                test_after=test_after,
                by_detector=by_detector,
                retained=retained,
            )
        )
        listen(job.event("note", message=_summary(result)))
        return result

    def _by_detector(self, job: Job, truth: CocoDataset, stop: Stop) -> tuple[ApMetrics, ApMetrics] | None:
        """What base and best adapter make of the tuned Grounding DINO's boxes in the validation part."""
        if job.detected is None:
            return None
        val, boxes, size = job.parts.val, job.detected.val, self.settings.batch_size

        def measure() -> ApMetrics:
            indices = self.processes.place.share(range(len(val.dataset)))
            seen: list[Detections] = []
            for start in range(0, len(indices), size):
                stop.check()
                some = indices[start : start + size]
                samples = [val.sample(i, with_masks=False) for i in some]
                with memory_errors(job.teacher, self.settings):
                    seen += masks_of(job.teacher, samples, [boxes[i] for i in some])
            seen = self.processes.gather(seen)
            return self.processes.decided(lambda: coco_ap(truth, seen, iou_type="segm"))

        with adapter_off(job.teacher):
            before = measure()
        return before, measure()

    def _retention(self, job: Job, stop: Stop) -> Retention | None:
        """What is left of the base's skill: both are asked for what the data does not have."""
        if job.probe is None:
            return None
        probe = job.probe
        teacher = job.teacher.asking(probe.part.dataset.classes)
        adapted = self._measure(teacher, stop, probe.part).metrics
        with adapter_off(teacher):
            base = self._measure(teacher, stop, probe.part).metrics
        return retention(probe.source, base=base, adapted=adapted)

    def _begin(
        self, job: Job, measure: Callable[[Part], Evaluation], listen: Listener
    ) -> tuple[Evaluation, Checkpoint]:
        """Measure the base: what it sees in the validation part, and the checkpoint of a run without a step."""
        with adapter_off(job.teacher):
            seen = measure(job.parts.val)
            before = {"val": seen.metrics}
            if job.parts.test is not None:
                before["test"] = measure(job.parts.test).metrics
        ap = seen.metrics.ap
        listen(job.event("evaluation", step=0, epoch=0, ap=ap, ap_before=ap, phase="base"))

        def begun() -> Checkpoint:
            adapter = {name: tensor.detach().cpu().clone() for name, tensor in adapter_tensors(job.teacher).items()}
            decisive = self._decisive(job.base, job.detected)
            checkpoint = Checkpoint(Progress(), before, decisive, adapter=adapter, optimizer={})
            save_checkpoint(checkpoint, self.folder / LAST)
            self._checkpointed()
            return checkpoint

        return seen, self.processes.decided(begun)

    def _keep_best(self, job: Job) -> None:
        if self.processes.first:
            save_adapter(job.teacher, self.folder, card=self._card(job.base))

    def _leave(
        self,
        job: Job,
        progress: Progress,
        before: Mapping[str, ApMetrics],
        *,
        seen: tuple[Evaluation, Evaluation],
        test_after: ApMetrics | None,
        by_detector: tuple[ApMetrics, ApMetrics] | None,
        retained: Retention | None,
    ) -> TeacherResult:
        """Write samples of what the base and the best adapter have seen in the validation part, and the result."""
        seen_before, seen_after = seen
        write_samples(
            self.folder,
            job.parts.val.dataset,
            partial(job.parts.val.sample, with_masks=False),
            before=seen_before.detections,
            after=seen_after.detections,
            iou_type=job.teacher.iou_type,
        )
        base, adapted = (
            operation(evaluation.dataset, evaluation.detections, iou_type=job.teacher.iou_type) for evaluation in seen
        )
        adapter = self.folder / ADAPTER
        content = adapter.read_bytes()
        result = TeacherResult(
            teacher=self.name,
            base_model=self.settings.base_model,
            base_revision=job.base.revision,
            before=before["val"],
            after=seen_after.metrics,
            test_before=before.get("test"),
            test_after=test_after,
            from_detector_before=by_detector and by_detector[0],
            from_detector_after=by_detector and by_detector[1],
            thresholds=adapted.thresholds,
            quality=adapted.quality,
            confusion_before=base.confusion,
            confusion_after=adapted.confusion,
            retention=retained,
            history=progress.history,
            best_epoch=job.steps.epochs_at(progress.best_step),
            epochs=job.steps.epochs_at(progress.step),
            steps=progress.step,
            seconds=progress.seconds,
            peak_memory_bytes=progress.peak_memory_bytes,
            trainable_parameters=sum(p.numel() for p in trainable_parameters(job.teacher).values()),
            adapter=AdapterFile(uri=str(adapter), sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content)),
        )
        (self.folder / RESULT).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return result

    def _batches(self, job: Job, step: int) -> Generator[Batch, None, None]:
        seed, workers = self.config.training.seed, self.config.training.workers
        views = Views(job.parts.train, job.teacher, Augmenter(self.config.augmentation), seed=seed)
        return batches_from(step, job.steps, views, workers=workers, pin_memory=job.teacher.device.type == "cuda")

    def _last(self, listen: Listener) -> Checkpoint | None:
        """The checkpoint to go on from; that there is a damaged one is said."""
        folder = self.folder / LAST
        checkpoint = load_checkpoint(folder)
        message = None
        if checkpoint is not None:
            message = f"going on after step {checkpoint.progress.step}"
        elif (folder / CHECKPOINT).exists():
            message = f"{folder / CHECKPOINT} is damaged: starting from the beginning"
        if message is not None:
            listen(Event(event="note", teacher=self.name.slug, message=message))
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

    def _decisive(self, base: LocalModel, detected: Detected | None) -> dict[str, Any]:
        """Every setting that has a part in the result; where things lie has none."""
        config = self.config.model_dump(mode="json")
        data, training, settings = config["data"], config["training"], config["teachers"][self.name.slug]
        return {
            "data": {key: data[key] for key in ("digest", "classes", "prompts", "split")},
            "augmentation": config["augmentation"],
            "training": {key: training[key] for key in ("seed", "precision", "patience", "class_balance")},
            f"teachers.{self.name.slug}": {k: v for k, v in settings.items() if k not in ("base_model", "revision")},
            "base_sha256": base.sha256,
            "base_revision": base.revision,
            **({} if detected is None else {DETECTOR: detected.digest}),
        }

    def _check_same_base(self, base: LocalModel) -> None:
        first = self.processes.decided(lambda: base.sha256)
        if base.sha256 != first:
            raise ConfigError(
                f"the base model {self.settings.base_model} is not the same on all machines (sha256 {first[:12]}… "
                f"on the first, {base.sha256[:12]}… here): set its revision to a commit"
            )

    def _check_same(self, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        old, new = _flat(then), _flat(now)
        changed = [f"{k} was {old.get(k)!r} and is {new.get(k)!r}" for k in old | new if old.get(k) != new.get(k)]
        if changed:
            raise ConfigError(
                f"{self.folder / LAST} is a checkpoint of another configuration: {'; '.join(changed)}. "
                "Set them back to go on, or delete the folder to begin anew"
            )

    def _measure(self, teacher: Teacher, stop: Stop, part: Part) -> Evaluation:
        """What the teacher is worth: all processes look, and learn the metrics; the first has the detections."""

        def load(index: int) -> Sample:
            stop.check()
            return part.sample(index, with_masks=False)  # masks are compared as run lengths

        indices = self.processes.place.share(range(len(part.dataset)))
        with memory_errors(teacher, self.settings):
            seen = look(teacher, part.dataset, load, indices=indices, batch_size=self.settings.batch_size)
        seen = self.processes.gather(seen)
        metrics = self.processes.decided(lambda: compare(part.dataset, seen, iou_type=teacher.iou_type).metrics)
        dataset = replace(part.dataset, images=tuple(image for image, _ in seen))
        return Evaluation(metrics=metrics, detections=[found for _, found in seen], dataset=dataset)

    def _checkpointed(self) -> None:
        if self.on_checkpoint is not None:
            self.on_checkpoint(self.folder / LAST)


def _so_far(checkpoint: Checkpoint | None) -> dict[str, Any]:
    """What a checkpoint knows already, as fields of an event."""
    if checkpoint is None:
        return {"step": 0}
    progress = checkpoint.progress
    return {"step": progress.step, "ap_before": checkpoint.before["val"].ap, "best_ap": progress.best_ap}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their path.

    >>> _flat({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        flat |= _flat(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return flat


def _summary(result: TeacherResult) -> str:
    change = f"AP {result.before.ap:.3f} -> {result.after.ap:.3f}"
    if result.retention is not None and result.retention.share >= 0:
        change += f", {result.retention.share:.0%} of the base's skill on other things is left"
    if result.after.ap > result.before.ap:
        return change
    return f"{change}: no evaluation was better than the base; the best adapter is kept all the same"
