"""Train one teacher several times: the trials of a sweep, or the folds of a cross-validation.

Trainings run one after the other in the same processes, share base, data and caches, and each has its own folder of
checkpoints. Nothing else is stored: the last checkpoint of a training that has ended holds its result, so a run that
was stopped between or within trainings resumes exactly.

A sweep trains every trial to its end, since the order of learning rates early in a schedule differs from that at its
end. The adapter of the best trial by AP on the validation split is evaluated and published, without another training.

A cross-validation trains once per fold. The images of all folds, each with the detections of the adapter that was not
trained on it, replace the validation split of the result. The published adapter is trained on all of them, for the mean
of the folds' best epochs: nothing is left to choose its best epoch on.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from engine.config import ModelSettings
from engine.errors import LossNotFiniteError, OutOfGpuMemoryError, TeacherError
from engine.evaluation.evaluate import Evaluation
from engine.layout import FINAL, FOLD, TRIAL
from engine.results.events import Event, Listener
from engine.results.trials import cross_validation, trial_sentence
from engine.results.types import TeacherResult, TrialResult
from engine.training.checkpoint import Checkpoint, Progress
from engine.training.context import TrainingContext
from engine.training.data.annotated_splits import SplitData
from engine.training.data.splits import Splits
from engine.training.evaluation import Baseline
from engine.training.finish import finish
from engine.training.folds import detected_in_fold, pool_evaluations
from engine.training.listeners import TensorBoard, thinned
from engine.training.position import Position
from engine.training.prepare import (
    PreparedRun,
    SharedData,
    build_evaluator,
    first_checkpoint,
    prepare_shared,
    prepare_trial,
)
from engine.training.resume import last_checkpoint
from engine.training.strength import apply_strength, strengths_of
from engine.training.trainer import optimize


def train_repeatedly(context: TrainingContext, curves: Listener) -> TeacherResult:
    """Train a teacher whose settings have trials, or whose data has folds.

    Args:
        context: The teacher.
        curves: Receives the events of the published adapter; each training has TensorBoard files of its own.
    """
    sweep = bool(context.settings.trials)
    folders = sorted(path.name for path in context.last.iterdir()) if context.last.is_dir() else []
    known = [path for path in folders if (context.last / path).is_dir()]

    def begun() -> Checkpoint | None:
        found = (last_checkpoint(context.last / path, lambda message: None) for path in known)
        return next((checkpoint for checkpoint in found if checkpoint is not None), None)

    shared = prepare_shared(context, context.processes.decided(begun))
    with ExitStack() as files:
        return (_sweep if sweep else _cross_validate)(context, shared, curves, files)


def _sweep(context: TrainingContext, shared: SharedData, curves: Listener, files: ExitStack) -> TeacherResult:
    """Train every trial, and publish the adapter of the best one.

    Raises:
        OutOfGpuMemoryError: No trial fits into memory.
        LossNotFiniteError: Every trial failed, and the loss of at least one diverged.
    """
    settings = [context.settings.of_trial(index) for index in range(len(context.settings.trials))]
    steps = [_steps(one, shared.splits) for one in settings]
    results: list[TrialResult] = []
    failures: set[type[TeacherError]] = set()
    baseline: Baseline | None = None
    for index, (one, values) in enumerate(zip(settings, context.settings.trials, strict=True)):
        name, position = TRIAL.format(index + 1), Position.of(index, steps, best_ap=_best(results))
        own = _training(context, name, one, position, curves=_curves(context, name, files))
        ended = _train(own, shared, baseline, values=values)
        baseline = baseline or ended.run.baseline
        results.append(ended.result)
        failures |= set() if ended.failure is None else {ended.failure}
        del ended
        _free_memory()
    best = _best(results)
    if best is None:
        kind = failures.pop() if len(failures) == 1 else LossNotFiniteError
        raise kind("; ".join(trial_sentence(trial) for trial in results))
    index = next(index for index, trial in enumerate(results) if trial.ap == best)
    results[index] = results[index].model_copy(update={"chosen": True})
    position = Position(index + 1, len(steps), sum(steps) - steps[index], sum(steps), best)  # all steps are done
    own = _training(context, TRIAL.format(index + 1), settings[index], position, curves=curves, published=True)
    return _publish(own, _train(own, shared, baseline, note=False), lambda strength: results)


def _best(results: Sequence[TrialResult]) -> float | None:
    return max((trial.ap for trial in results if trial.ap is not None), default=None)


def _cross_validate(context: TrainingContext, shared: SharedData, curves: Listener, files: ExitStack) -> TeacherResult:
    """Train on each fold, then on all of them.

    Raises:
        OutOfGpuMemoryError: A training does not fit into memory.
        LossNotFiniteError: The loss of a training diverged.
    """
    splits = shared.splits
    steps = [_steps(context.settings, one) for one in (*splits.folds, splits)]
    results: list[TrialResult] = []
    strengths = strengths_of(context.name.traits, context.config.training)
    parts: dict[float, list[tuple[SplitData, Evaluation]]] = {one: [] for one in strengths}
    for index, fold in enumerate(splits.folds):
        name = FOLD.format(index + 1)
        curves_of_fold = _curves(context, name, files)
        own = _training(context, name, context.settings, Position.of(index, steps), curves=curves_of_fold)
        ended = _train(own, replace(shared, splits=fold, detected=detected_in_fold(shared, fold)), None)
        if ended.failure is not None:
            raise ended.failure(trial_sentence(ended.result))
        with own.watched(ended.run.model.release_memory) as stop:
            evaluator = build_evaluator(own, ended.run.model, stop)
            for strength, evaluated in parts.items():
                apply_strength(evaluator.teacher, strength)
                evaluated.append((fold.val, evaluator.evaluate(fold.val)))
        results.append(ended.result)
        del ended
        _free_memory()
    estimates = {one: pool_evaluations(context, splits.val, evaluated) for one, evaluated in parts.items()}
    epochs = cross_validation(results).epochs
    context.note(f"training on the images of all folds for {epochs} epochs, the mean of their best ones")
    settings = context.settings.model_copy(update={"epochs": epochs, "evaluations": 1})
    position = Position.of(len(results), [*steps[:-1], _steps(settings, splits)])
    own = _training(context, FINAL, settings, position, curves=curves, published=True, patience=0)
    ended = _train(own, shared, None, estimate=estimates[max(estimates)])

    def folds(strength: float) -> list[TrialResult]:
        """Return the results of the folds at the published strength; at strength 0 they are those of the base."""
        measured = [evaluation.metrics.ap for _, evaluation in parts.get(strength, ())]
        aps = measured or [one.ap_before for one in results]
        return [one.model_copy(update={"ap": ap}) for one, ap in zip(results, aps, strict=True)]

    return _publish(own, ended, folds, estimates=estimates)


@dataclass(frozen=True, eq=False)
class _Ended:
    """A training that has ended.

    Attributes:
        run: The prepared training; its teacher has the best adapter.
        result: Its result.
        start: Checkpoint that it started from.
        progress: Its progress.
        failure: Kind of its failure; None: it has not failed. The error itself would hold the memory of the training.
    """

    run: PreparedRun
    result: TrialResult
    start: Checkpoint
    progress: Progress
    failure: type[TeacherError] | None = None


def _train(
    context: TrainingContext,
    shared: SharedData,
    baseline: Baseline | None,
    *,
    values: Mapping[str, Any] | None = None,
    estimate: Evaluation | None = None,
    note: bool = True,
) -> _Ended:
    """Train to the end, or resume; a training that has ended is only loaded.

    A loss that diverges, or a lack of memory, ends this training only, with the progress of its last checkpoint.

    Args:
        context: The training.
        shared: Base and data.
        baseline: Evaluation of the base, if there was one.
        values: Settings of the trial.
        estimate: Evaluation of the adapter, where no validation split is left; None: each adapter is evaluated.
        note: Report the checkpoint that training is resumed from.
    """
    report = context.note if note else lambda message: None
    checkpoint = context.processes.decided(partial(last_checkpoint, context.checkpoints, report))
    run = prepare_trial(context, shared, checkpoint, baseline)
    with context.watched(run.model.release_memory) as stop:
        start = checkpoint or context.processes.decided(partial(first_checkpoint, context, run))
        evaluator = build_evaluator(context, run.model, stop)
        failure: type[TeacherError] | None = None
        reason = ""
        try:
            measured = None if estimate is None else estimate.metrics
            progress = optimize(context, run, start, evaluator, stop, measured=measured)
        except (LossNotFiniteError, OutOfGpuMemoryError) as error:
            several = context.processes.rank.size > 1
            if several and (error.__cause__ is not None or context.processes.failure_shared):
                raise  # of torch, in one process alone
            failure, reason = type(error), str(error)
            last = partial(last_checkpoint, context.checkpoints, lambda message: None)
            progress = context.processes.decided(lambda: (last() or start).progress)
        stop.check()  # after the last step of a training, the loop ignores a signal
    result = TrialResult(
        name=context.trial,
        settings=dict(values or {}),
        ap_before=start.before["val"].ap,
        ap=progress.best_ap if failure is None else None,
        validation_images=len(run.splits.val.dataset),
        best_epoch=run.steps.epochs_at(progress.best_step),
        epochs=run.steps.epochs_at(progress.step),
        images=round(run.steps.epochs_at(progress.step) * run.steps.images),
        seconds=progress.seconds,
        failure=reason,
    )
    if not context.published:
        context.note(trial_sentence(result))
    return _Ended(run, result, start, progress, failure)


def _publish(
    context: TrainingContext,
    ended: _Ended,
    trials: Callable[[float], Sequence[TrialResult]],
    *,
    estimates: Mapping[float, Evaluation] | None = None,
) -> TeacherResult:
    """Evaluate the adapter and write the result of the teacher."""
    run = ended.run
    if ended.failure is not None:
        raise ended.failure(ended.result.failure)
    with context.watched(run.model.release_memory) as stop:
        evaluator = build_evaluator(context, run.model, stop)
        return finish(context, run, ended.start, ended.progress, evaluator, trials=trials, estimates=estimates)


def _training(
    context: TrainingContext,
    name: str,
    settings: ModelSettings,
    position: Position,
    *,
    curves: Listener,
    published: bool = False,
    **common: Any,
) -> TrainingContext:
    """Return the context of one training.

    Args:
        context: The teacher.
        name: Name of the training.
        settings: Settings of the teacher in it.
        position: Place among all trainings.
        curves: Receives its events, of its own steps.
        published: Its adapter is the published one.
        common: Changes of the settings that are common to all teachers.
    """

    def listen(event: Event) -> None:
        if context.processes.first:
            curves(event)
        context.listen(position.place(event))

    return replace(
        context,
        config=context.config.with_settings(context.name, settings, **common),
        settings=settings,
        trial=name,
        published=published,
        listen=thinned(listen, seconds=context.config.training.log_seconds),
    )


def _curves(context: TrainingContext, name: str, files: ExitStack) -> TensorBoard:
    """Return TensorBoard's files of one training, which ``files`` closes."""
    return files.enter_context(closing(TensorBoard(Path(context.layout.logs(context.name)) / name)))


def _steps(settings: ModelSettings, splits: Splits) -> int:
    """Return the optimizer steps of a training."""
    return math.ceil(len(splits.train.dataset) / settings.batch_size) * settings.epochs


def _free_memory() -> None:
    """Free the memory of a model that is no longer used, before the next one is loaded."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
