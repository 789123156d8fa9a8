"""Prepare a run: data, model, evaluation of the base, box prompts, and the steps of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from engine.config import DistillConfig, RunConfig
from engine.errors import ConfigError
from engine.models.model import Model
from engine.results.events import Event, EventKind
from engine.training.background import BackgroundTask
from engine.training.checkpoint import Checkpoint, Progress, save_checkpoint
from engine.training.context import TrainingContext
from engine.training.data.annotated_splits import SplitData
from engine.training.data.box_prompts import DETECTION_BATCH, DetectedBoxes, Prompted, detect_box_prompts
from engine.training.data.prepare_data import PreparedData, fetch, wait_for_training_images
from engine.training.data.retention_data import RetentionData
from engine.training.data.sampler import Steps, repeat_factors
from engine.training.data.shape_groups import shapes_of
from engine.training.data.splits import Splits
from engine.training.device import Stop
from engine.training.evaluation import Baseline, Evaluator
from engine.training.messages import left_out_messages, shared_image_messages, skipped_messages
from engine.training.prepare_model import PreparedModel, fetch_base, load_base, prepare_model
from engine.training.resume import check_same_base, check_same_images, check_same_run, run_fingerprint
from engine.traits import RANDOM_WEIGHTS


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """State before training starts.

    Attributes:
        model: The teacher with its adapter.
        splits: Data of the run, with its images on disk.
        retention_data: Images that measure retention; None if it is not measured.
        detected: Box prompts that another teacher detected, if there are any.
        steps: Steps of training.
        baseline: Evaluation of the base; None for a resumed run, whose checkpoint has its metrics.
    """

    model: PreparedModel
    splits: Splits
    retention_data: RetentionData | None
    detected: DetectedBoxes | None
    steps: Steps
    baseline: Baseline | None

    def event(self, kind: EventKind, **values: Any) -> Event:
        """Create an event of this run."""
        slug = self.model.teacher.name.slug
        return Event(event=kind, teacher=slug, steps=self.steps.total, epochs=self.steps.epochs, **values)


@dataclass(frozen=True, eq=False)
class SharedData:
    """Base model and data on this disk, which all trainings of a teacher share.

    Attributes:
        data: The base model and the annotations.
        splits: Data of one training, with its images.
        detected: Box prompts that another teacher detected, if there are any.
    """

    data: PreparedData
    splits: Splits
    detected: DetectedBoxes | None


def prepare_shared(context: TrainingContext, checkpoint: Checkpoint | None) -> SharedData:
    """Prepare what several trainings of a teacher share.

    Args:
        context: The teacher.
        checkpoint: Any checkpoint of the trainings; None for a new run.

    Raises:
        TeacherError: Something is unavailable, unusable, or not that of the checkpoint.
    """
    with BackgroundTask[Splits]() as training_images:
        data = _fetch(context, checkpoint, training_images)
        splits = wait_for_training_images(data, training_images, context.processes)
    _note_skipped(context, splits)
    return SharedData(data, splits, _detect_box_prompts(context, None, splits, checkpoint))


def prepare_trial(
    context: TrainingContext, shared: SharedData, checkpoint: Checkpoint | None, baseline: Baseline | None
) -> PreparedRun:
    """Prepare one of several trainings, new or to resume from ``checkpoint``.

    Args:
        context: The training.
        shared: Base and data.
        checkpoint: Checkpoint to resume; None for a new training.
        baseline: Evaluation of the base, if there was one; else a new training evaluates it.
    """
    data = shared.data
    model = _load_model(context, data, checkpoint)
    if checkpoint is None and baseline is None:
        splits = {"val": shared.splits.val} | ({} if shared.splits.test is None else {"test": shared.splits.test})
        baseline = _evaluate_base(context, model, splits)
    return _prepared(context, model, shared, checkpoint, baseline)


def prepare_run(context: TrainingContext, checkpoint: Checkpoint | None) -> PreparedRun:
    """Prepare a new run, or one to resume from ``checkpoint``.

    The base is evaluated while training images are downloaded.

    Raises:
        TeacherError: Something is unavailable, unusable, or not that of the checkpoint.
    """
    with BackgroundTask[Splits]() as training_images:
        data = _fetch(context, checkpoint, training_images)
        model = _load_model(context, data, checkpoint)
        baseline = None
        if checkpoint is None:
            baseline = _evaluate_base(context, model, data.annotated.usable(data.unreadable), training_images)
        if training_images.busy:
            context.note("waiting for the training images")
        splits = wait_for_training_images(data, training_images, context.processes)
    _note_skipped(context, splits)
    if splits.human is not None:
        others = len(splits.train.paths) - splits.human
        context.note(f"training on {splits.human:,} images with human labels and {others:,} with labels of teachers")
    shared = SharedData(data, splits, _detect_box_prompts(context, model.teacher, splits, checkpoint))
    return _prepared(context, model, shared, checkpoint, baseline)


def _fetch(
    context: TrainingContext, checkpoint: Checkpoint | None, training_images: BackgroundTask[Splits]
) -> PreparedData:
    """Fetch base and data; ``training_images`` are downloaded in the background."""
    if (base := context.settings.base_model) is not None:
        context.note(f"fetching the base model {base}")
    data = fetch(
        context.config,
        context.name,
        partial(fetch_base, context, checkpoint),
        training_images=training_images,
        storage=context.storage,
        cache=context.cache,
        processes=context.processes,
        note=context.note,
    )
    check_same_base(base or RANDOM_WEIGHTS, data.base, context.processes)
    return data


def _load_model(context: TrainingContext, data: PreparedData, checkpoint: Checkpoint | None) -> PreparedModel:
    teacher = load_base(context, data.base)
    if data.retention is not None:
        _check_retention_prompts(teacher, data.retention)
    return prepare_model(context, teacher, data.base, data.annotated.whole["train"].dataset, checkpoint)


def _note_skipped(context: TrainingContext, splits: Splits) -> None:
    skipped = skipped_messages(
        splits.unreadable, splits.objects_skipped, requested=context.config.data.exif_orientation
    )
    for message in (*skipped, *left_out_messages(splits.left_out), *shared_image_messages(splits.shared)):
        context.note(message)


def _prepared(
    context: TrainingContext,
    model: PreparedModel,
    shared: SharedData,
    checkpoint: Checkpoint | None,
    baseline: Baseline | None,
) -> PreparedRun:
    """Check that the run is that of the checkpoint, and return it with its steps."""
    settings, training = context.settings, context.config.training
    data, splits, detected, teacher = shared.data, shared.splits, shared.detected, model.teacher
    if checkpoint is not None:
        check_same_images(checkpoint.settings, splits.unreadable)
        now = run_fingerprint(context.config, context.name, base=data.base, splits=splits, detected=detected)
        check_same_run(context.checkpoints, checkpoint.settings, now)
    if detected is not None:
        splits = replace(splits, train=Prompted(splits.train.dataset, splits.train.paths, detected.train))
    train, size = splits.train.dataset, model.micro_batch.micro_batch_size
    steps = Steps.of(
        settings,
        images=len(train),
        seed=training.seed,
        rank=context.processes.rank,
        repeats=repeat_factors(train, exponent=training.class_balance),
        shapes=shapes_of(train) if teacher.pads else (),
        micro_batch_size=size if size < settings.batch_size else None,
        human=splits.human,
        human_share=_human_share(context.config),
    )
    if checkpoint is not None:
        steps = replace(steps, stopped_at=checkpoint.progress.stopped_at)
    return PreparedRun(model, splits, data.retention, detected, steps, baseline)


def _human_share(config: RunConfig) -> float:
    labels = config.labels if isinstance(config, DistillConfig) else None
    return 1.0 if labels is None else labels.human_share


def build_evaluator(context: TrainingContext, model: PreparedModel, stop: Stop) -> Evaluator:
    """Create the evaluator of a prepared teacher."""
    return Evaluator(
        model.teacher,
        context.settings,
        context.processes,
        stop,
        min(model.micro_batch.micro_batch_size, DETECTION_BATCH),
        context.truths,
    )


def first_checkpoint(context: TrainingContext, run: PreparedRun) -> Checkpoint:
    """Write the checkpoint of a new run, before its first step."""
    assert run.baseline is not None  # noqa: S101 - without a checkpoint, the base was evaluated
    model = run.model
    adapter = {name: tensor.detach().cpu().clone() for name, tensor in model.teacher.training_tensors().items()}
    settings = run_fingerprint(context.config, context.name, base=model.base, splits=run.splits, detected=run.detected)
    progress = Progress(planned_micro_batch_size=run.steps.micro_batch_size)
    checkpoint = Checkpoint(progress, dict(run.baseline.metrics), settings, adapter=adapter, optimizer={})
    context.on_checkpoint(save_checkpoint(checkpoint, context.checkpoints))
    return checkpoint


def _evaluate_base(
    context: TrainingContext,
    model: PreparedModel,
    splits: Mapping[str, SplitData],
    training_images: BackgroundTask[Splits] | None = None,
) -> Baseline:
    """Evaluate the base on the available splits; a failed download of the training images is raised early."""
    with context.watched(training_images.check if training_images is not None else lambda: None) as stop:
        busy = training_images is not None and training_images.busy
        meanwhile = ", while the training images are downloaded" if busy else ""
        if context.name.traits.adapts_base:
            context.note(f"evaluating the base model{meanwhile}")
        baseline = build_evaluator(context, model, stop).base(splits)
    stop.check()
    ap, slug = baseline.metrics["val"].ap, context.name.slug
    context.listen(Event(event="evaluation", teacher=slug, step=0, epoch=0, ap=ap, ap_before=ap, phase="base"))
    return baseline


def _detect_box_prompts(
    context: TrainingContext, teacher: Model | None, splits: Splits, checkpoint: Checkpoint | None
) -> DetectedBoxes | None:
    """Detect box prompts with the teacher that prompts this one, which has the GPU to itself meanwhile."""
    if not context.name.traits.prompted:
        return None
    device = None if teacher is None else teacher.device
    if teacher is not None:
        teacher.model.to("cpu")
    detected = detect_box_prompts(
        context.config,
        context.name,
        splits,
        begun=None if checkpoint is None else checkpoint.settings,
        folder=context.last,
        storage=context.storage,
        cache=context.cache,
        processes=context.processes,
        note=context.note,
    )
    if teacher is not None:
        teacher.model.to(device)
    return detected


def _check_retention_prompts(teacher: Model, retention_data: RetentionData) -> None:
    """Check before training that the teacher can be prompted for the retention classes."""
    try:
        teacher.asking(retention_data.split.dataset.classes)
    except ConfigError as error:
        raise ConfigError(f"training.retention: {error}") from None
