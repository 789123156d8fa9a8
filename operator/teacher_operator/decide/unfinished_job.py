"""A stage whose Job has not ended: it is replaced, changed, suspended, waits or runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from engine.errors import InterruptedTrainingError
from teacher_operator.api.status import FailureStatus, StageStatus, clip
from teacher_operator.api.timestamps import seconds, timestamp
from teacher_operator.decide import gang_release
from teacher_operator.decide.deadlines import (
    WAITS,
    containers_ran_too_long,
    remaining,
    used_up,
    waited_too_long,
)
from teacher_operator.decide.failed_pods import ends_run, root_cause_pod
from teacher_operator.decide.failures import DISRUPTION, pod_failure
from teacher_operator.decide.job_patches import is_made_from, is_queued, job_patch, last_try
from teacher_operator.decide.job_state import JobState, JobView, next_check, running_seconds, unfinished_state
from teacher_operator.decide.lost_nodes import being_stopped, deleted_by_force
from teacher_operator.decide.pod_state import is_over
from teacher_operator.decide.sidecars import sidecar_deadline, sidecar_message
from teacher_operator.decide.silent_trainers import unresponsive
from teacher_operator.decide.stage_context import Body, StageContext
from teacher_operator.decide.stage_results import progress_text
from teacher_operator.decide.stage_status import RUNNING, TRAINING, failed_for_good, in_state, runs

S = TypeVar("S", bound=StageStatus)

PASSING = frozenset({InterruptedTrainingError.reason, DISRUPTION})
"""Causes of an attempt's end that are not reported once the next attempt runs."""

EVICTIONS = 5
"""Number of evictions in a row after which the run itself counts as their cause: most likely it fills a disk."""


def unfinished(context: StageContext, stage: S, view: JobView) -> S:
    """Return a stage whose Job continues: replaced, changed or left, as the object says now."""
    spec, actions, now = context.spec, context.actions, context.now
    ended_at = sidecar_deadline(view)
    if ended_at is not None and now < ended_at:
        actions.requeue(ended_at)
        return in_state(stage, _running_state(context), sidecar_message(view))
    forced = [pod for pod in view.pods if deleted_by_force(pod, now=now)]
    if forced:
        actions.delete.append(view.name)
        name = forced[-1]["metadata"]["name"]
        message = f"pod {name} was deleted by force: its Job is replaced, and the run resumes"
        return in_state(stage, "Suspended" if spec.suspend else "Pending", message)
    root_cause = root_cause_pod(view.pods)
    if root_cause is not None and ends_run(root_cause):
        actions.patch += last_try(view.job)
        return stage  # until the Job has failed
    if spec.suspend and is_queued(view.job):  # Kueue alone decides whether a queued Job runs: it cannot be suspended
        actions.delete.append(view.name)
        return _suspended(context, stage, view)
    changed = not is_made_from(view.job, spec, context.stage)
    if changed and context.refused is None:
        left = remaining(context.deadline, stage)
        actions.replace.append(context.children(dispatched=stage.dispatched, seconds_left=left)[-1])
        stops = (
            "it stops at a checkpoint and resumes with the new ones" if context.stage.uses_gpu else "it starts again"
        )
        return in_state(stage, "Pending", f"its settings have changed: {stops}")
    over = None if spec.suspend else _over(context, stage, view)
    if over is not None:
        actions.delete.append(view.name)
        return failed_for_good(stage, over, now=now)
    pause = gang_release.paused_until(view)
    paused = pause is not None and now < pause
    view = _patched(context, stage, view, paused=paused)
    if spec.suspend:
        forget = gang_release.suspended_patch(view)
        if forget is not None:
            actions.patch.append((view.name, forget))
        return _suspended(context, stage, view)
    if paused:
        return _paused(context, stage, view)
    return _active(context, _with_failure(context, stage, view, root_cause), view, changed=changed)


def _over(context: StageContext, stage: StageStatus, view: JobView) -> FailureStatus | None:
    """Return the failure of a stage whose time is over, else None."""
    ran = running_seconds(view.pods, context.container, now=context.now)
    return used_up(context.deadline, stage) or containers_ran_too_long(context.stage, ran)


def _patched(context: StageContext, stage: StageStatus, view: JobView, *, paused: bool) -> JobView:
    """Return the Job as it will be once it is set as the object says."""
    left = remaining(context.deadline, stage)
    patch = job_patch(view.job, context.stage, context.spec, seconds_left=left, paused=paused)
    if patch is None:
        return view
    context.actions.patch.append((view.name, patch))
    return view.patched(patch)


def _with_failure(context: StageContext, stage: S, view: JobView, root_cause: Body | None) -> S:
    """Return a stage with the failure of its last attempt."""
    if root_cause is None or (stage.failure is not None and stage.failure.pod == root_cause["metadata"]["name"]):
        return stage
    if view.log is None:
        context.actions.read_log(view.pods, context.container)
    return stage.model_copy(update={"failure": pod_failure(root_cause, context.container, view.log or ())})


def _active(context: StageContext, stage: S, view: JobView, *, changed: bool) -> S:
    """Return a stage whose Job is to run: it runs, or waits, unless for too long."""
    actions, now = context.actions, context.now
    if _evicted_in_vain(stage):
        actions.delete.append(view.name)
        last = stage.failure.message if stage.failure is not None else "the node ran short of something"
        message = f"{EVICTIONS} attempts in a row were evicted, so the next would be too: {last}"
        return failed_for_good(stage, FailureStatus(reason="Evicted", message=clip(message)), now=now)
    state = unfinished_state(view, context.container, now=now)
    actions.read_events(state.events_of)
    if state.events_due_at is not None:
        actions.requeue(state.events_due_at)
    if changed and context.refused is not None:
        message = f"its new settings are refused, and it continues with the old ones: {context.refused.message}"
        state = replace(state, message="; ".join(part for part in (message, state.message) if part))
    again = ""
    if stage.failure is not None and stage.failure.reason not in PASSING:
        again = f"attempt {_attempt_number(stage)}, after {stage.failure.reason}: {stage.failure.message}"
    stage = heard_from(context, stage, view, running=state.phase == "Running")
    if runs(stage) and state.phase in WAITS:
        stage = stage.model_copy(update={"last_ran": timestamp(now)})
    if state.phase == "Running":
        return _running(context, stage, view, state, again)
    return _waiting(context, stage, view, state, again)


def _running(context: StageContext, stage: S, view: JobView, state: JobState, again: str) -> S:
    forget = gang_release.started_patch(view)
    if forget is not None:
        context.actions.patch.append((view.name, forget))
    limit = context.stage.run_limit_seconds
    if limit is not None:
        context.actions.requeue(context.now + limit - running_seconds(view.pods, context.container, now=context.now))
    silent = stage.unresponsive.message if stage.unresponsive is not None else ""
    doing = "" if view.elsewhere else progress_text(stage, view.progress, context.stage.activity)
    stage = stage.model_copy(update={"releases": 0})
    if view.progress is not None and view.progress.progress is not None:
        stage = stage.model_copy(update={"lost_jobs": []})  # this Job makes progress: those before are not in a row
    parts = (silent, doing, state.message, again)
    return in_state(stage, _running_state(context), "; ".join(part for part in parts if part))


def _waiting(context: StageContext, stage: S, view: JobView, state: JobState, again: str) -> S:
    spec, actions, now = context.spec, context.actions, context.now
    rounds = seconds(gang_release.Rounds.of(view.job).since)
    stops = [stage.last_ran, *(one.end_time for one in stage.attempts)]
    ends = [at for at in map(seconds, stops) if at is not None]
    if rounds is not None:  # it released its GPUs before: the wait counts over all rounds
        state, ends = replace(state, since=rounds), []
    failure = waited_too_long(spec, state, actions, attempts_ended=ends, now=now)
    if failure is not None:
        actions.delete.append(view.name)
        return failed_for_good(stage, failure, now=now)
    held = ""
    if state.phase in WAITS:
        actions.requeue(next_check(state.since, now=now))
        part = gang_release.partial_start(view, context.container)
        if part is not None:
            timeout = spec.gang_timeout_seconds or context.settings.gang_timeout_seconds
            until = gang_release.release_at(part, view, timeout=timeout)
            if now >= until:
                since = max([state.since or part.since, *ends])
                patch = gang_release.release(view, timeout=timeout, since=since, now=now)
                actions.patch.append((view.name, patch))
                return _paused(context, stage, view.patched(patch))
            actions.requeue(until)
            held = part.message(spec.gpu_resource_name, until)
    return in_state(stage, state.phase, "; ".join(part for part in (held, state.message, again) if part))


def _paused(context: StageContext, stage: S, view: JobView) -> S:
    """Return a stage whose Job over several nodes has released its GPUs until a pause ends."""
    rounds = gang_release.Rounds.of(view.job)
    state = JobState("Pending", gang_release.paused_message(view), since=seconds(rounds.since))
    failure = waited_too_long(context.spec, state, context.actions, now=context.now)
    if failure is not None:
        context.actions.delete.append(view.name)
        return failed_for_good(stage, failure, now=context.now)
    context.actions.requeue(seconds(rounds.again) or context.now)
    return in_state(stage, state.phase, state.message).model_copy(update={"releases": rounds.count})


def heard_from(context: StageContext, stage: S, view: JobView, *, running: bool) -> S:
    """Return a stage with the reason why its pods are not heard from, if they are not."""
    found = unresponsive(stage.progress, view, context.actions, running=running, now=context.now)
    if found is not None:
        context.actions.requeue(next_check(seconds(found.since), now=context.now))
    return stage.model_copy(update={"unresponsive": found})


def suspended_message(context: StageContext, pods: Sequence[Body], *, holding: bool) -> str:
    """Return the message of a suspended stage, with the pod that does not end.

    Args:
        context: The stage.
        pods: Its pods.
        holding: A pod still has its GPUs.
    """
    how = "it stops at a checkpoint" if holding else "no pod is left, and no GPU is held"
    going = [pod for pod in pods if pod["metadata"].get("deletionTimestamp") and not is_over(pod)]
    if going:
        context.actions.requeue(next_check(None, now=context.now))
    stuck = [being_stopped(pod, now=context.now) for pod in going[-1:]]
    return "; ".join([f"suspended: {how}", *stuck, "set spec.suspend to false to resume"])


def _suspended(context: StageContext, stage: S, view: JobView) -> S:
    return in_state(stage, "Suspended", suspended_message(context, view.pods, holding=view.holds_pods))


def _running_state(context: StageContext) -> str:
    return RUNNING if context.stage.teacher is None else TRAINING


def _attempt_number(stage: StageStatus) -> int:
    """Return the number of the attempt that runs or comes next, from 1."""
    under_way = bool(stage.attempts) and not stage.attempts[-1].end_time
    return stage.attempt_count if under_way else stage.attempt_count + 1


def _evicted_in_vain(stage: StageStatus) -> bool:
    """Return True if the last attempts were all evicted. Kubernetes retries evicted pods without counting them."""
    last = [one for one in stage.attempts if one.end_time][-EVICTIONS:]
    return len(last) == EVICTIONS and all(one.reason == "Evicted" for one in last)
