"""Train one teacher, from its base to its best adapter::

from engine.config import from_yaml
from engine.training import TeacherTrainer

config = from_yaml(Path("teacher_config.yaml").read_text(), where="teacher_config.yaml")
result = TeacherTrainer(config).train()
print(result.before.ap, result.after.ap, result.adapter.uri)

:func:`engine.api.fine_tune` does it for all teachers of a request, from the inspection of the data on.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

from engine.config import RunConfig, TeacherSettings
from engine.errors import ConfigError, NoProgressError
from engine.evaluation.example_images import read_samples
from engine.evaluation.settings_table import settings_table
from engine.layout import RunLayout
from engine.models.lora import AdapterCard, adapter_tensors, load_adapter, load_adapter_tensors, save_adapter
from engine.plan import TrainingRun
from engine.results.events import Event, Listener, better_than
from engine.results.types import TeacherResult
from engine.spec import TeacherName
from engine.storage import Storage, StorageOptions, default_cache
from engine.teachers import Batch
from engine.training.checkpoint import Checkpoint, Progress, save_checkpoint
from engine.training.context import TrainingContext
from engine.training.data.batches import Views, augmentation_of, batches_from, changes_images, features_of
from engine.training.data.sampler import Steps
from engine.training.device import Stop, machine_errors
from engine.training.distributed import ALONE, Processes
from engine.training.evaluation import EvaluationReport, Evaluator
from engine.training.hooks import Hooks
from engine.training.listeners import TensorBoard, thinned
from engine.training.loop import Loop
from engine.training.messages import checkpoint_fields, phases, summary
from engine.training.prepare import PreparedRun, build_evaluator, prepare_run
from engine.training.result_files import write_result
from engine.training.resume import last_checkpoint, run_fingerprint
from engine.training.strength import Strength, find_strength
from engine.training.watchdog import print_failure


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
            raise ConfigError(f"the run tunes {', '.join(names) or 'no teacher'}: name the teacher to train")
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
        self.on_checkpoint = on_checkpoint or (lambda path: None)
        self.on_hang = on_hang
        self.processes = processes

    def train(self) -> TeacherResult:
        """Evaluate the base, train, and evaluate the best adapter.

        Raises:
            TeacherError: Of a subclass by the kind of failure. After InterruptedTrainingError the same call resumes.
        """
        with machine_errors(), closing(TensorBoard(Path(self.layout.logs(self.name)))) as curves:
            context = self._context(curves)
            checkpoint = self.processes.decided(partial(last_checkpoint, context.checkpoints, context.note))
            run = prepare_run(context, checkpoint)
            with context.watched(run.model.release_memory) as stop:
                start = checkpoint or self.processes.decided(partial(_write_first_checkpoint, context, run))
                context.listen(run.event("start", **checkpoint_fields(start)))
                evaluator = build_evaluator(context, run.model, stop)
                progress = _optimize(context, run, start, evaluator, stop)
                strength = _choose_strength(context, run, start, evaluator)
                evaluation = evaluator.adapted(
                    run.splits,
                    before=start.before,
                    base=run.baseline,
                    val_after=strength.val,
                    detected=run.detected,
                    retention_data=run.retention_data,
                    retention=strength.retention,
                )
                result = _finish(context, run, evaluation, progress, strength)
            if self.processes.first:
                curves.summarize(settings_table(self.config, self.name), result, read_samples(self.folder))
        return self.processes.decided(partial(self._published, result)) if self.publishes else result

    def _context(self, curves: TensorBoard) -> TrainingContext:
        listeners: tuple[Listener, ...] = (*self.listeners, curves) if self.processes.first else ()

        def listen(event: Event) -> None:
            for listener in listeners:
                listener(event)

        return TrainingContext(
            config=self.config,
            name=self.name,
            settings=self.settings,
            storage=self.storage,
            layout=self.layout,
            cache=self.cache,
            processes=self.processes,
            listen=thinned(listen, seconds=self.config.training.log_seconds),
            on_checkpoint=self.on_checkpoint,
            on_hang=self.on_hang,
        )

    def _published(self, result: TeacherResult) -> TeacherResult:
        from engine.training.publish import publish_result  # which needs this module

        run = TrainingRun(self.name, self.config)
        whole = self.storage.exists(run.layout.dataset)
        work_dir = Path(self.layout.root)
        return publish_result(result, run, storage=self.storage, work_dir=work_dir, whole=whole)[0]


def _write_first_checkpoint(context: TrainingContext, run: PreparedRun) -> Checkpoint:
    """Write the checkpoint of a new run, before its first step."""
    assert run.baseline is not None  # noqa: S101 - without a checkpoint, the base was evaluated
    model = run.model
    adapter = {name: tensor.detach().cpu().clone() for name, tensor in adapter_tensors(model.teacher).items()}
    settings = run_fingerprint(context.config, context.name, base=model.base, splits=run.splits, detected=run.detected)
    progress = Progress(planned_micro_batch_size=run.steps.micro_batch_size)
    checkpoint = Checkpoint(progress, dict(run.baseline.metrics), settings, adapter=adapter, optimizer={})
    context.on_checkpoint(save_checkpoint(checkpoint, context.checkpoints))
    return checkpoint


def _optimize(
    context: TrainingContext, run: PreparedRun, start: Checkpoint, evaluator: Evaluator, stop: Stop
) -> Progress:
    """Train to the end; the teacher then has the best adapter."""
    teacher = run.model.teacher
    keep_best = partial(_save_best_adapter, context, run)
    if start.best:  # the file may be of later steps, which will be done again, or not be on this disk
        load_adapter_tensors(teacher, start.best, what="the checkpoint does not fit its base")
        keep_best()
    loop = Loop(
        teacher,
        settings=context.settings,
        training=context.config.training,
        steps=run.steps,
        start=start,
        folder=context.checkpoints,
        hooks=Hooks(
            batches=partial(_batches, context, run),
            evaluate=lambda: evaluator.evaluate(run.splits.val).metrics,
            keep_best=keep_best,
            on_checkpoint=context.on_checkpoint,
            listen=context.listen,
        ),
        stop=stop,
        processes=context.processes,
    )
    teacher.features = features = features_of(teacher, context.config, base=run.model.base, cache=context.cache)
    progress = loop.run()
    teacher.features = None  # metrics of an adapter are measured without the cache
    if features is not None:
        context.listen(run.event("note", message=str(features)))
    if context.processes.first:
        load_adapter(teacher, context.folder)  # the adapter on disk is the one to evaluate
    else:
        load_adapter_tensors(teacher, loop.best, what="the best adapter does not fit its base")
    return progress


def _choose_strength(context: TrainingContext, run: PreparedRun, start: Checkpoint, evaluator: Evaluator) -> Strength:
    """Choose the strength of the best adapter, and write the adapter with it."""
    context.note("measuring the adapter at several strengths")
    strength = find_strength(
        evaluator,
        run.splits.val,
        before=start.before,
        retention_data=run.retention_data,
        training=context.config.training,
        note=context.note,
    )
    _save_best_adapter(context, run, strength=strength.value)
    return strength


def _batches(context: TrainingContext, run: PreparedRun, steps: Steps, step: int) -> Generator[Batch, None, None]:
    """Yield the batches of the run from ``step`` on."""
    teacher, training = run.model.teacher, context.config.training
    augment, take_turns = augmentation_of(context.config, run.splits.train, teacher), context.settings.views
    if not changes_images(context.config, teacher) or teacher.features is None:
        take_turns = 0
    views = Views(run.splits.train, teacher, augment, seed=training.seed, take_turns=take_turns)
    return batches_from(step, steps, views, workers=training.workers, pin_memory=teacher.device.type == "cuda")


def _save_best_adapter(context: TrainingContext, run: PreparedRun, *, strength: float = 1.0) -> None:
    if not context.processes.first:
        return
    base, data = run.model.base, context.config.data
    card = AdapterCard(
        teacher=context.name,
        base_revision=base.revision,
        base_sha256=base.sha256,
        base_parts=dict(base.parts),
        classes=data.classes,
        prompts=data.prompts,
        settings=context.settings,
        frame=run.splits.train.dataset.frame,
        strength=strength,
    )
    save_adapter(run.model.teacher, context.folder, card=card)


def _finish(
    context: TrainingContext, run: PreparedRun, evaluation: EvaluationReport, progress: Progress, strength: Strength
) -> TeacherResult:
    """Write the result files and report the result to the listeners."""
    base_ap = evaluation.before["val"].ap
    known = {"ap_before": base_ap, "best_ap": better_than(base_ap, strength.val.metrics.ap)}
    for phase, metrics in phases(evaluation).items():
        context.listen(run.event("evaluation", step=progress.step, ap=metrics.ap, phase=phase, **known))
    plan = run.model.micro_batch.plan
    result = context.processes.decided(
        lambda: write_result(
            context.folder,
            evaluation,
            progress,
            teacher=run.model.teacher,
            base=run.model.base,
            base_model=context.settings.base_model,
            splits=run.splits,
            steps=run.steps,
            plan=plan,
            strength=strength,
        )
    )
    if plan is not None and progress.step_memory_bytes:
        held, expected = progress.step_memory_bytes / 1e9, plan.memory_bytes / 1e9
        context.listen(run.event("note", message=f"steps used {held:.2f} GB; {expected:.2f} GB were estimated"))
    context.listen(run.event("note", message=summary(result)))
    return result
