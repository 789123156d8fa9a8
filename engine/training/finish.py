"""End of a training: choose the strength of its adapter, evaluate it, and write and report the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from engine.evaluation.evaluate import Evaluation
from engine.models.model import Origin
from engine.results.events import better_than
from engine.results.types import TeacherResult, TrialResult
from engine.training.checkpoint import Checkpoint, Progress
from engine.training.context import TrainingContext
from engine.training.evaluation import EvaluationReport, Evaluator
from engine.training.messages import phases, summary
from engine.training.prepare import PreparedRun
from engine.training.reference import evaluate_reference
from engine.training.result_files import write_result
from engine.training.strength import Strength, find_strength
from engine.traits import RANDOM_WEIGHTS


def save_best_adapter(context: TrainingContext, run: PreparedRun, *, strength: float = 1.0) -> None:
    """Write the adapter with its card into the folder of the training, in the first process."""
    if not context.processes.first:
        return
    base, data = run.model.base, context.config.data
    origin = Origin(
        base_revision=base.revision,
        base_sha256=base.sha256,
        base_parts=dict(base.parts),
        classes=data.classes,
        prompts=data.prompts,
        settings=context.settings,
        frame=run.splits.train.dataset.frame,
        strength=strength,
    )
    run.model.teacher.save(context.folder, origin)


def finish(
    context: TrainingContext,
    run: PreparedRun,
    start: Checkpoint,
    progress: Progress,
    evaluator: Evaluator,
    *,
    trials: Callable[[float], Sequence[TrialResult]] = lambda strength: (),
    estimates: Mapping[float, Evaluation] | None = None,
) -> TeacherResult:
    """Choose the strength of the best adapter, evaluate it, and write and report the result.

    Args:
        context: The training whose adapter is published.
        run: Its preparation; the teacher has the best adapter.
        start: Checkpoint that it started from.
        progress: Its progress.
        evaluator: Evaluates the teacher.
        trials: Return the results of all trials of a sweep, or of the folds of a cross-validation, at a strength.
        estimates: Evaluation of the adapter by strength, where no validation split is left.
    """
    adapts = context.name.traits.adapts_base
    context.note("measuring the adapter at several strengths" if adapts else "measuring the best student")
    strength = find_strength(
        evaluator,
        run.splits.val,
        before=start.before,
        retention_data=run.retention_data,
        training=context.config.training,
        note=context.note,
        known=estimates,
    )
    if adapts:
        save_best_adapter(context, run, strength=strength.value)
    evaluation = evaluator.adapted(
        run.splits,
        before=start.before,
        base=run.baseline,
        val_after=strength.val,
        detected=run.detected if estimates is None else None,  # the detector was trained on the images of the folds
        retention_data=run.retention_data,
        retention=strength.retention,
    )
    evaluation = replace(evaluation, reference=evaluate_reference(context, evaluator, run.splits))
    return _report(context, run, evaluation, progress, strength, trials(strength.value))


def _report(
    context: TrainingContext,
    run: PreparedRun,
    evaluation: EvaluationReport,
    progress: Progress,
    strength: Strength,
    trials: Sequence[TrialResult],
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
            base_model=context.settings.base_model or RANDOM_WEIGHTS,
            splits=run.splits,
            steps=run.steps,
            plan=plan,
            strength=strength,
            trials=trials,
        )
    )
    if plan is not None and progress.step_memory_bytes:
        held, expected = progress.step_memory_bytes / 1e9, plan.memory_bytes / 1e9
        context.listen(run.event("note", message=f"steps used {held:.2f} GB; {expected:.2f} GB were estimated"))
    context.listen(run.event("note", message=summary(result)))
    return result
