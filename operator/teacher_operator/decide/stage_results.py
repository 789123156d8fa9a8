"""Turns the outcome and the progress of a stage into its status. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from engine.results.metric_table import metric_text
from engine.results.no_gain import AS_THE_BASE
from engine.results.outcome import FoldSummary, Outcome, TeacherOutcome
from teacher_operator.api.status import (
    AP,
    METRICS,
    AdapterStatus,
    CrossValidationStatus,
    MetricStatus,
    ProgressStatus,
    StageStatus,
    TeacherStatus,
    clip,
)
from teacher_operator.api.timestamps import timestamp
from teacher_operator.decide.progress import ProgressView
from teacher_operator.decide.stage_status import in_state

S = TypeVar("S", bound=StageStatus)
T = TypeVar("T", bound=TeacherStatus)

NOT_MEASURED = "not measured"

SELECTION_MAX = 512
"""Maximum characters of the selection in the status."""


def succeeded(stage: S, outcome: Outcome, *, now: float) -> S:
    """Return a stage that has succeeded, with its results."""
    done = None
    if stage.progress is not None:
        done = stage.progress.model_copy(update={"percent": 100, "seconds_left": None, "note": ""})
    stage = with_results(stage, outcome)
    stage = stage.model_copy(
        update={"completion_time": timestamp(now), "progress": done, "failure": None, "unresponsive": None}
    )
    return in_state(stage, "Succeeded", _result_message(stage, outcome))


def with_results(stage: S, outcome: Outcome) -> S:
    """Return a stage with the results in its outcome, even if its process failed."""
    if isinstance(stage, TeacherStatus) and outcome.trained is not None:
        return _published(stage, outcome.trained)
    return stage.model_copy(update={"results": outcome.finished or {}})


def _result_message(stage: StageStatus, outcome: Outcome) -> str:
    if not isinstance(stage, TeacherStatus) or outcome.trained is None:
        return "; ".join(f"{name}: {value}" for name, value in (outcome.finished or {}).items()) or "done"
    if outcome.trained.strength == 0:
        return f"AP {stage.ap.before or NOT_MEASURED}: {AS_THE_BASE}"
    message = f"AP {stage.ap.before or NOT_MEASURED} -> {stage.ap.after or NOT_MEASURED}"
    message = f"{message}, not better than its base" if stage.improved is False else message
    return f"{message}; {stage.selection}" if stage.selection else message


def _published(teacher: T, result: TeacherOutcome) -> T:
    return teacher.model_copy(
        update={
            "metrics": [
                MetricStatus(name=name, before=_text(change.before), after=_text(change.after))
                for name, change in list(result.metrics.items())[:METRICS]
            ],
            "improved": result.improved,
            "adapter": AdapterStatus(
                **result.adapter.model_dump(),
                strength=f"{result.strength:g}",
                retention="" if result.retention is None else f"{result.retention:.3f}",
            ),
            "selection": clip(result.selection, SELECTION_MAX),
            "cross_validation": _cross_validation(result.cross_validation),
            "images_skipped": result.images_skipped,
            "objects_skipped": result.objects_skipped,
        }
    )


def _cross_validation(summary: FoldSummary | None) -> CrossValidationStatus | None:
    if summary is None:
        return None
    mean, sigma = _text(summary.ap_mean), _text(summary.ap_sigma)
    return CrossValidationStatus(folds=summary.folds, ap_mean=mean, ap_sigma=sigma)


def with_progress(stage: S, view: ProgressView | None) -> S:
    """Return a stage with its newest progress; earlier values are kept where the newest lines have none."""
    if view is None:
        return stage
    stage = stage.model_copy(update={"progress": _longest_kept(view.progress, stage.progress) or stage.progress})
    if not isinstance(stage, TeacherStatus):
        return stage
    return stage.model_copy(update={"metrics": _with_ap(stage.metrics, stage.ap, view)})


def progress_text(stage: StageStatus, view: ProgressView | None, activity: str) -> str:
    """Return the message of a running stage: its activity and progress.

    Args:
        stage: Its status, with its newest progress.
        view: The newest progress lines of its current attempt.
        activity: Text to show before it reports progress.
    """
    begins = view.note if view is not None else ""
    parts = [_position(stage.progress, begins, activity), _none_better(stage, view)]
    return "; ".join(part for part in parts if part)


def _text(metric: float | None) -> str:
    """Return a metric as text, such as ``0.312``; empty if it was not measured."""
    return metric_text(metric, missing="")


def _with_ap(metrics: Sequence[MetricStatus], known: MetricStatus, view: ProgressView) -> list[MetricStatus]:
    """Return the metrics with the AP that a running trainer has reported."""
    changes = {"before": view.ap_before, "after": view.ap_after}
    ap = known.model_copy(update={name: _text(value) for name, value in changes.items() if value is not None})
    others = [one for one in metrics if one.name != AP]
    return [ap, *others] if ap.before or ap.after else others


def _position(progress: ProgressStatus | None, begins: str, activity: str) -> str:
    if progress is None:
        return begins or activity
    at = f"epoch {progress.epoch} of {progress.epochs}" if progress.epoch else f"step {progress.step}"
    at = f"training {progress.trial} of {progress.trials}, {at}" if progress.trials else at
    at += f", loss {progress.loss}" if progress.loss else ""
    note = begins or progress.note
    return f"{at}, {note}" if note else at


def _none_better(stage: StageStatus, view: ProgressView | None) -> str:
    """Return the hint that the base is better than every adapter evaluated so far; empty if it does not apply."""
    if not isinstance(stage, TeacherStatus) or view is None or not view.evaluated:
        return ""
    return (
        f"no adapter is better than the base (AP {stage.ap.before}) yet"
        if stage.ap.before and not stage.ap.after
        else ""
    )


def _longest_kept(progress: ProgressStatus | None, before: ProgressStatus | None) -> ProgressStatus | None:
    """Return progress with the longest gap of the run: after a restart the operator has only read the last lines."""
    if progress is None or before is None or before.longest_gap_seconds <= progress.longest_gap_seconds:
        return progress
    return progress.model_copy(update={"longest_gap_seconds": before.longest_gap_seconds})
