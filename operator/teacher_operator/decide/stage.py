"""One stage of a run: which Job it needs, and what its status is. The same for every stage. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from teacher_operator.api.names import stage_job
from teacher_operator.api.status import FailureStatus, StageStatus, clip
from teacher_operator.api.timestamps import seconds, timestamp
from teacher_operator.decide.attempts import with_attempts
from teacher_operator.decide.deadlines import ran_too_long, refused_too_long, remaining, used_up, with_active_time
from teacher_operator.decide.failures import (
    NOTHING_LEFT,
    failure_elsewhere,
    is_final,
    job_failure,
    outcome_failure,
    outcome_of,
)
from teacher_operator.decide.job_patches import retries
from teacher_operator.decide.job_state import BEING_MADE, JobView, live_orphan, next_check, unfinished_state
from teacher_operator.decide.lost_jobs import MAX_REPLACEMENTS, after, with_lost
from teacher_operator.decide.lost_nodes import being_stopped
from teacher_operator.decide.pod_state import node_of
from teacher_operator.decide.sidecars import sidecar_suffix, with_final_condition
from teacher_operator.decide.stage_context import Body, StageContext
from teacher_operator.decide.stage_results import succeeded, with_progress, with_results
from teacher_operator.decide.stage_status import ENDED, failed_for_good, in_state
from teacher_operator.decide.unfinished_job import heard_from, suspended_message, unfinished

S = TypeVar("S", bound=StageStatus)

__all__ = ["StageContext", "decide_stage"]


def decide_stage(context: StageContext, before: S, view: JobView | None, orphans: Sequence[Body] = ()) -> S:
    """Return the status of a stage; actions are noted in ``context.actions``. A stage that has ended stays as it is.

    While the stage ``waits_for`` another, no Job is created; an existing one continues. Nor is a Job of an exclusive
    stage created while a pod of an earlier one has not ended, or before the written status names the Job.

    Args:
        context: The stage, and the run that it is part of.
        before: Its last known status.
        view: Its Job, if it exists.
        orphans: Pods of the run whose Job no longer exists.
    """
    actions, now, spec = context.actions, context.now, context.spec
    if before.state in ENDED:
        if view is not None and view.unfinished:  # a sidecar keeps it from its end
            actions.delete.append(view.name)
        return before
    view = view and with_final_condition(view, now=now)
    if context.refused is not None and view is None and not context.waits_for:
        return _refused(context, before, context.refused)
    before = before.model_copy(update={"refused_since": None, "unresponsive": None})
    known = with_attempts(with_active_time(before, view, now=now), view, gpu_resource=spec.gpu_resource_name, now=now)
    if view is None:
        return _without_job(context, known, orphans)
    known = with_progress(known.model_copy(update={"job": view.name}), view.progress)
    if view.elsewhere and (view.complete or view.failed):
        return _ended_elsewhere(context, known, view)
    if view.complete:
        return _complete(context, known, view)
    if view.failed and not (view.deleting and view.job["metadata"]["uid"] in known.lost_jobs):
        return _failed(context, known, view)
    if view.deleting and spec.suspend:
        return in_state(known, "Suspended", suspended_message(context, view.pods, holding=view.holds_pods))
    if view.deleting:
        return _being_replaced(context, known, view)
    return unfinished(context, known, view)


def _without_job(context: StageContext, stage: S, orphans: Sequence[Body]) -> S:
    """Return a stage without a Job; it is created if no stage must end before, and the written status names it."""
    spec, actions, now = context.spec, context.actions, context.now
    name = stage_job(context.body["metadata"]["name"], context.stage)
    orphan = live_orphan(orphans, name) if context.stage.exclusive else None
    if spec.suspend:
        pods = [orphan] if orphan is not None else []
        return in_state(stage, "Suspended", suspended_message(context, pods, holding=orphan is not None))
    if context.waits_for:
        return in_state(stage, "Pending", f"waits for {context.waits_for}")
    over = used_up(context.deadline, stage)
    if over is not None:
        return failed_for_good(stage, over, now=now)
    if orphan is not None:
        actions.requeue(next_check(None, now=now))
        return in_state(stage, "Pending", _waits_for_orphan(orphan, now=now))
    queued = spec.queue_name and context.stage.uses_gpu and not stage.dispatched
    state, message = ("Queued", f"queued by Kueue in {spec.queue_name}") if queued else ("Pending", BEING_MADE)
    announced = context.written and stage.job == name and stage.state in {"Pending", "Queued"}
    if announced or not context.stage.exclusive:
        children = context.children(dispatched=stage.dispatched, seconds_left=remaining(context.deadline, stage))
        actions.apply += children
    else:
        actions.requeue_after_write = True
    return in_state(stage, state, message).model_copy(update={"job": name})


def _being_replaced(context: StageContext, stage: S, view: JobView) -> S:
    """Return a stage whose Job is being deleted and will be replaced."""
    state = unfinished_state(view, context.container, now=context.now)
    stage = heard_from(context, stage, view, running=state.phase == "Running")
    context.actions.requeue(next_check(state.since, now=context.now))
    resumes = "the run resumes from its last checkpoint" if context.stage.uses_gpu else "it starts again"
    replaced = f"its Job is being replaced; {resumes}"
    return in_state(stage, "Pending", f"{replaced}; {state.message}" if state.message else replaced)


def _complete(context: StageContext, stage: S, view: JobView) -> S:
    """Return a stage whose Job is complete: it has succeeded, unless its result cannot be read."""
    actions, now = context.actions, context.now
    outcome = outcome_of(view.pods, context.container)
    if outcome is not None and context.stage.result(outcome) is not None:
        done = succeeded(stage, outcome, now=now)
        return in_state(done, done.state, done.message + sidecar_suffix(view))
    if view.unsettled:
        actions.read_pods(view.name)
    lost = outcome_failure(view.pods, context.container)
    if lost is not None and lost.reason == NOTHING_LEFT:
        return _made_again(context, stage, view, lost)
    if lost is not None:
        return failed_for_good(stage, lost, now=now)
    if not view.deleting:
        actions.delete.append(view.name)
    return in_state(
        stage, "Pending", f"the result of {context.stage.title} was lost with its pod: its Job is made again"
    )


def _failed(context: StageContext, stage: S, view: JobView) -> S:
    """Return a stage whose Job has failed: for good, or its Job is replaced."""
    actions, now = context.actions, context.now
    if view.unsettled:
        actions.read_pods(view.name)
    if view.log is None and actions.read_log(view.pods, context.container):
        return stage
    failure = job_failure(view.job, view.pods, context.container, view.log or ())
    if failure.reason == "DeadlineExceeded" and context.deadline:
        failure = ran_too_long(context.deadline)
    failure = failure.model_copy(update={"message": clip(failure.message + sidecar_suffix(view))})
    if not is_final(view.job, view.pods):
        limit = retries(context.stage, context.spec) if view.sidecars else MAX_REPLACEMENTS
        return _made_again(context, stage, view, failure, limit=limit)
    outcome = outcome_of(view.pods, context.container)
    if outcome is not None and context.stage.result(outcome) is not None:  # published, and not better than the base
        stage = with_results(stage, outcome)
    return failed_for_good(stage, failure, now=now)


def _ended_elsewhere(context: StageContext, stage: S, view: JobView) -> S:
    """Return a stage whose Job ended in another cluster: its result has to be read from the object store."""
    actions = context.actions
    failure = failure_elsewhere(view.job) if view.failed else None
    if failure is not None:
        return failed_for_good(stage, failure, now=context.now)
    if not stage.dispatched:
        actions.requeue_after_write = True  # the Job is kept until the status says that it must not be replaced
    elif not view.deleting:
        actions.delete.append(view.name)
    message = "its Job is done in another cluster: what it published is read from the object store"
    return in_state(stage, "Pending", message).model_copy(update={"dispatched": True})


def _made_again(
    context: StageContext, stage: S, view: JobView, failure: FailureStatus, *, limit: int = MAX_REPLACEMENTS
) -> S:
    """Return a stage whose Job ended without an outcome: it is replaced, or the stage fails after too many."""
    lost = with_lost(stage.lost_jobs, view, limit=limit)
    if lost is None:
        return failed_for_good(stage, after(failure, stage.lost_jobs), now=context.now)
    if not view.deleting:
        context.actions.delete.append(view.name)
    message = f"its Job is made again, after {failure.reason}: {failure.message}"
    return in_state(stage, "Pending", message).model_copy(update={"lost_jobs": lost, "failure": failure})


def _refused(context: StageContext, stage: S, refused: FailureStatus) -> S:
    """Return a stage whose Job is refused: it fails if that is for good or for too long, else it waits."""
    since = seconds(stage.refused_since) or context.now
    failure = refused_too_long(context.spec, refused, context.actions, since=since, now=context.now)
    if failure is not None:
        return failed_for_good(stage, failure, now=context.now)
    stage = stage.model_copy(update={"refused_since": stage.refused_since or timestamp(context.now)})
    return in_state(stage, "Pending", refused.message)


def _waits_for_orphan(pod: Body, *, now: float) -> str:
    """Return the reason why no Job is created: two processes would write to the same run."""
    name, node = pod["metadata"]["name"], node_of(pod)
    where = f" on node {node}" if node else ""
    if pod["metadata"].get("deletionTimestamp"):
        return f"its Job was deleted, and {being_stopped(pod, now=now)}; a new Job is made when it has ended"
    return (
        f"its Job was deleted, and pod {name}{where} has not ended: a new Job is made when it has; "
        f"kubectl delete pod {name} stops it at a checkpoint"
    )
