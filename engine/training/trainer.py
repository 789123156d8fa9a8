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

from engine.config import ModelSettings, RunConfig
from engine.config.trials import all_trainings
from engine.errors import ConfigError, NoProgressError
from engine.evaluation.example_images import read_samples
from engine.evaluation.settings_table import settings_table
from engine.layout import RunLayout
from engine.models.model import Batch
from engine.plan import TrainingRun
from engine.registry import ModelName
from engine.results.events import Event, Listener
from engine.results.metrics import ApMetrics
from engine.results.trials import chosen_config
from engine.results.types import TeacherResult
from engine.storage import Storage, StorageOptions, default_cache
from engine.training.checkpoint import Checkpoint, Progress
from engine.training.context import TrainingContext
from engine.training.data.batches import Views, augmentation_of, batches_from, changes_images, features_of
from engine.training.data.sampler import Steps
from engine.training.device import Stop, machine_errors
from engine.training.distributed import ALONE, Processes
from engine.training.evaluation import Evaluator
from engine.training.finish import finish, save_best_adapter
from engine.training.hooks import Hooks
from engine.training.listeners import TensorBoard, thinned
from engine.training.loop import Loop
from engine.training.messages import checkpoint_fields
from engine.training.prepare import PreparedRun, build_evaluator, first_checkpoint, prepare_run
from engine.training.resume import last_checkpoint
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
        teacher: ModelName | None = None,
        *,
        storage: Storage | None = None,
        work_dir: Path | None = None,
        cache: Path | None = None,
        listeners: Sequence[Listener] = (),
        on_checkpoint: Callable[[Path], None] | None = None,
        on_hang: Callable[[NoProgressError], None] = print_failure,
        processes: Processes = ALONE,
    ) -> None:
        names = config.models.names
        if teacher is None and len(names) != 1:
            raise ConfigError(f"the run tunes {', '.join(names) or 'no teacher'}: name the teacher to train")
        self.name = teacher or names[0]
        settings = config.models.of(self.name)
        if settings is None:
            raise ConfigError(f"the run tunes {', '.join(names)}, not {self.name}")
        self.config = config
        self.settings: ModelSettings = settings
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
            if len(all_trainings(self.config, self.name)) > 1:
                from engine.training.repeated import train_repeatedly  # which needs this module

                result = train_repeatedly(self._context(), curves)
            else:
                result = train_once(self._context(curves))
            if self.processes.first:
                chosen = chosen_config(self.config, result)
                curves.summarize(settings_table(chosen, self.name), result, read_samples(self.folder))
        return self.processes.decided(partial(self._published, result)) if self.publishes else result

    def _context(self, *curves: Listener) -> TrainingContext:
        listeners: tuple[Listener, ...] = (*self.listeners, *curves) if self.processes.first else ()

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


def train_once(context: TrainingContext) -> TeacherResult:
    """Evaluate the base, train, and evaluate the best adapter, on the splits of the data."""
    checkpoint = context.processes.decided(partial(last_checkpoint, context.checkpoints, context.note))
    run = prepare_run(context, checkpoint)
    with context.watched(run.model.release_memory) as stop:
        start = checkpoint or context.processes.decided(partial(first_checkpoint, context, run))
        evaluator = build_evaluator(context, run.model, stop)
        progress = optimize(context, run, start, evaluator, stop)
        return finish(context, run, start, progress, evaluator)


def optimize(
    context: TrainingContext,
    run: PreparedRun,
    start: Checkpoint,
    evaluator: Evaluator,
    stop: Stop,
    *,
    measured: ApMetrics | None = None,
) -> Progress:
    """Train to the end; the teacher then has the best adapter.

    Args:
        context: The training.
        run: Its preparation.
        start: Checkpoint to start from.
        evaluator: Evaluates the teacher.
        stop: Set by SIGTERM and Ctrl-C.
        measured: Metrics of every adapter, where no validation split is left; None: each adapter is evaluated.
    """
    context.listen(run.event("start", **checkpoint_fields(start)))
    teacher = run.model.teacher
    keep_best = partial(save_best_adapter, context, run)
    if start.best:  # the file may be of later steps, which will be done again, or not be on this disk
        teacher.load_result_tensors(start.best, what="the checkpoint does not fit its base")
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
            evaluate=lambda: evaluator.evaluate(run.splits.val).metrics if measured is None else measured,
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
        teacher.restore(context.folder)  # the adapter on disk is the one to evaluate
    else:
        teacher.load_result_tensors(loop.best, what="the best adapter does not fit its base")
    return progress


def _batches(context: TrainingContext, run: PreparedRun, steps: Steps, step: int) -> Generator[Batch, None, None]:
    """Yield the batches of the run from ``step`` on."""
    teacher, training = run.model.teacher, context.config.training
    augment, take_turns = augmentation_of(context.config, run.splits.train, teacher), context.settings.views
    if not changes_images(context.config, teacher) or teacher.features is None:
        take_turns = 0
    views = Views(run.splits.train, teacher, augment, seed=training.seed, take_turns=take_turns)
    return batches_from(step, steps, views, workers=training.workers, pin_memory=teacher.device.type == "cuda")
