"""Decides on the stages of a run in order, and sums them up. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from engine import stages
from engine.layout import RunLayout
from engine.results.outcome import Prepared
from engine.spec import OnNoGain, TeacherName
from engine.stages import INSPECTION, Stage
from teacher_operator.api.names import network_policy, request_config_map, stage_job
from teacher_operator.api.status import FailureStatus, StageStatus, TeacherFineTuneStatus, TeacherStatus
from teacher_operator.decide.conditions import NAME_TAKEN, Summary, published_teacher
from teacher_operator.decide.dataset_status import dataset_status
from teacher_operator.decide.failures import outcome_of
from teacher_operator.decide.job_state import JobView
from teacher_operator.decide.stage import decide_stage
from teacher_operator.decide.stage_context import Observed, StageContext
from teacher_operator.decide.stage_status import ENDED, RUNNING, TRAINING, failed_for_good

FOREMOST = (TRAINING, RUNNING, "Starting", "Pending", "Queued", "Suspended")
"""States of stages: the first that occurs is the reason of a run that has not ended."""

INSPECTING = "Inspecting"


def is_planned(status: TeacherFineTuneStatus) -> bool:
    """Return True if the status has all that inspection found."""
    return bool(status.run_id and status.config_uri and status.dataset and status.teachers)


def walk(run: StageContext, status: TeacherFineTuneStatus, observed: Observed) -> TeacherFineTuneStatus:
    """Return the status with every stage decided on. Which ones follow inspection is known once it has succeeded.

    Args:
        run: The run; its stage is replaced by each stage in turn.
        status: The last known status.
        observed: Children of the object.
    """
    for stage in stages.all_stages():
        known = _by_name(status)
        before = known.get(stage.name)
        if stage.teacher is not None and before is None:
            continue  # the data does not call for this teacher
        if stage is INSPECTION and run.written and before is None:
            continue  # an earlier version of the operator wrote this status
        if before is None or (stage is INSPECTION and not run.written and before.state == "Succeeded"):
            before = StageStatus(name=stage.name)
        context = replace(
            run,
            stage=stage,
            config_uri=status.config_uri,
            refused=run.refused or _refused(run, stage, observed.refused),
            waits_for=_waits_for(stage, known),
        )
        view = observed.jobs.get(stage.name)
        missing = _missing(stage, known)
        if missing is not None and view is None and before.state not in ENDED:
            status = _with_stage(status, failed_for_good(before, missing, now=run.now))
            continue
        status = _with_stage(status, decide_stage(context, before, view, observed.orphans))
        if stage is INSPECTION and not run.written:
            status = _planned(context, status, view)
            if not is_planned(status):
                break
    spent = sum(one.gpu_seconds for one in (*status.stages, *status.teachers))
    return status.model_copy(update={"gpu_seconds": spent})


def inspection_failure(status: TeacherFineTuneStatus) -> FailureStatus | None:
    """Return the failure of inspection, which ends the run; None if it has not failed."""
    inspection = _by_name(status).get(INSPECTION.name)
    return inspection.failure if inspection is not None and inspection.state == "Failed" else None


def summary_of(status: TeacherFineTuneStatus, refused: Mapping[str, FailureStatus]) -> Summary:
    """Return one summary of all stages.

    Args:
        status: The stages.
        refused: Children that the API server has refused, by name.
    """
    known = _by_name(status)
    failed = [one for one in known.values() if one.state == "Failed"]
    active = [one for one in known.values() if one.state not in ENDED]
    words = "; ".join(map(_sentence, [*failed, *active]))
    if not active and failed:
        cause = failed[0].failure or FailureStatus(reason="TrainerFailed", message=words)
        return Summary.failed(cause.reason, words)
    if not active:
        return Summary.succeeded("; ".join(filter(None, map(_success, known.values()))))
    if all(one.state == "Suspended" for one in active):
        return Summary.suspended(words)
    states = {one.state for one in active if one.state != "Pending" or not _waits_for(_stage(one), known)}
    foremost = next(state for state in FOREMOST if state in states or state == FOREMOST[-1])
    if foremost == "Pending" and any(one.reason == NAME_TAKEN for one in refused.values()):
        return Summary.active(NAME_TAKEN, words)
    inspects = active[0].name == INSPECTION.name and active[0].refused_since is None
    return Summary.active(INSPECTING if inspects else foremost, words)


def _planned(context: StageContext, status: TeacherFineTuneStatus, view: JobView | None) -> TeacherFineTuneStatus:
    """Return the status with the result of inspection, if it has succeeded; teachers of the same run are kept."""
    outcome = outcome_of(view.pods, context.container) if view is not None else None
    inspection = _by_name(status)[INSPECTION.name]
    if outcome is None or outcome.prepared is None or inspection.state != "Succeeded":
        return status
    prepared = outcome.prepared
    known = {one.name: one for one in status.teachers} if status.run_id in {"", prepared.run_id} else {}
    new = _new_teachers(prepared, context.spec.training.on_no_gain, now=context.now)
    return status.model_copy(
        update={
            "run_id": prepared.run_id,
            "uri": prepared.uri,
            "config_uri": prepared.config_uri,
            "dataset": dataset_status(prepared.info, uri=RunLayout(prepared.uri).dataset),
            "teachers": [known.get(one.name, one) for one in new],
        }
    )


def _new_teachers(prepared: Prepared, on_no_gain: OnNoGain, *, now: float) -> list[TeacherStatus]:
    published = {result.teacher: result for result in prepared.published}
    return [
        published_teacher(one, published.get(one), needs=prepared.needs, on_no_gain=on_no_gain, now=now)
        for one in prepared.teachers
        if isinstance(one, TeacherName)
    ]


def _by_name(status: TeacherFineTuneStatus) -> dict[str, StageStatus]:
    """Return the known stages by name, in order of execution."""
    known: dict[str, StageStatus] = {str(one.name): one for one in (*status.stages, *status.teachers)}
    return {stage.name: known[stage.name] for stage in stages.all_stages() if stage.name in known}


def _stage(status: StageStatus) -> Stage:
    return next(stage for stage in stages.all_stages() if stage.name == status.name)


def _with_stage(status: TeacherFineTuneStatus, stage: StageStatus) -> TeacherFineTuneStatus:
    """Return the status with one stage replaced or added."""
    field = "teachers" if isinstance(stage, TeacherStatus) else "stages"
    known: Sequence[StageStatus] = getattr(status, field)
    if all(one.name != stage.name for one in known):
        return status.model_copy(update={field: [*known, stage]})
    return status.model_copy(update={field: [stage if one.name == stage.name else one for one in known]})


def _waits_for(stage: Stage, known: Mapping[str, StageStatus]) -> str:
    """Return what has to end before a stage begins; empty if nothing has. A failed one is not waited for."""
    waits = [
        f"{other.title}, {stage.follows[other.name]}" if other.name in stage.follows else other.title
        for other in stages.all_stages()
        if (other.name in stage.requires or other.name in stage.follows)
        and other.name in known
        and known[other.name].state not in ENDED
    ]
    return " and ".join(waits)


def _missing(stage: Stage, known: Mapping[str, StageStatus]) -> FailureStatus | None:
    """Return the failure of a stage that cannot run since one that it requires has failed, else None."""
    failed = [name for name in stage.requires if name in known and known[name].state == "Failed"]
    if not failed:
        return None
    return FailureStatus(reason="RequiredStageFailed", message=f"not run, since {' and '.join(failed)} failed")


def _refused(run: StageContext, stage: Stage, refused: Mapping[str, FailureStatus]) -> FailureStatus | None:
    """Return the reason why the API server has refused a child of a stage, or of the run; None if it has not."""
    name, uid = run.body["metadata"]["name"], run.body["metadata"]["uid"]
    children = [network_policy(name), stage_job(name, stage)]
    if stage is INSPECTION:
        children.append(request_config_map(name, uid))
    return next((refused[child] for child in children if child in refused), None)


def _sentence(stage: StageStatus) -> str:
    words = stage.message or stage.state
    return words if stage.name == INSPECTION.name else f"{stage.name}: {words}"


def _success(stage: StageStatus) -> str:
    if isinstance(stage, TeacherStatus):
        return f"{stage.name}: AP {stage.ap.before} -> {stage.ap.after}, {stage.adapter.uri}" if stage.adapter else ""
    return "" if stage.name == INSPECTION.name else f"{stage.name}: {stage.message}"
