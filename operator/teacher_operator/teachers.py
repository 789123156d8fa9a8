"""One teacher of a run: what its Job is to be, and what is true of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.outcome import TeacherOutcome
from teacher_operator import render
from teacher_operator.api import TeacherFineTuneSpec
from teacher_operator.attempts import attempted
from teacher_operator.causes import job_failure, outcome_of, pod_failure
from teacher_operator.names import PLATFORM_HASH, TRAINER
from teacher_operator.observe import JobView, Waiting, waiting
from teacher_operator.progress import ProgressView
from teacher_operator.settings import Settings
from teacher_operator.status import AdapterStatus, FailureStatus, ProgressStatus, TeacherStatus, clip
from teacher_operator.times import seconds, timestamp
from teacher_operator.todo import Todo

Body = Mapping[str, Any]

ENDED = frozenset({"Succeeded", "Failed"})


def decide_teacher(
    body: Body,
    spec: TeacherFineTuneSpec,
    settings: Settings,
    before: TeacherStatus,
    view: JobView | None,
    *,
    refused: FailureStatus | None,
    config_uri: str,
    todo: Todo,
    now: float,
) -> TeacherStatus:
    """What is true of a teacher; what is to be done is noted in ``todo``. A teacher that has ended stays as it is."""
    if before.state in ENDED:
        return before
    if refused is not None:
        return _refused(before, refused, todo, now=now)
    if view is None:
        before = attempted(before, None, gpu_resource=spec.gpu_resource_name, now=now)
        if spec.suspend:
            return _state(before, "Suspended", "suspended: set spec.suspend to false to go on")
        job = render.training(body, spec, settings, teacher=before.name, config_uri=config_uri)
        todo.apply += [render.rendezvous(body, before.name), job] if spec.nodes > 1 else [job]
        state = "Queued" if spec.queue_name else "Pending"
        waits = f"queued by Kueue in {spec.queue_name}" if spec.queue_name else "its Job is being made"
        return _state(before, state, waits).model_copy(update={"job": job["metadata"]["name"]})
    now_known = attempted(before, view, gpu_resource=spec.gpu_resource_name, now=now)
    now_known = _progressed(now_known.model_copy(update={"job": view.name}), view.progress)
    if view.complete:
        outcome = outcome_of(view.pods, TRAINER)
        if outcome is not None and outcome.trained is not None:
            return succeeded(now_known, outcome.trained, now=now)
        if view.unsettled:
            todo.look_at_pods(view.name)
        if not view.deleting:
            todo.delete.append(view.name)
        return _state(now_known, "Pending", "what the trainer left was lost with its pod: it is asked once more")
    if view.failed:
        if view.unsettled:
            todo.look_at_pods(view.name)
        if view.log is None and todo.look_at_log(view.pods, TRAINER):
            return now_known
        return failed_for_good(now_known, job_failure(view.job, view.pods, TRAINER, view.log or ()), now=now)
    if view.deleting and spec.suspend:
        return _state(now_known, "Suspended", "suspended: it stops at a checkpoint")
    if view.deleting:
        return _state(now_known, "Pending", "its Job is being replaced; the run goes on from its last checkpoint")
    return _unfinished(spec, now_known, view, todo, now=now)


def succeeded(teacher: TeacherStatus, result: TeacherOutcome, *, now: float) -> TeacherStatus:
    """A teacher whose adapter is published."""
    done = None
    if teacher.progress is not None:
        done = teacher.progress.model_copy(update={"percent": 100, "seconds_left": None, "note": ""})
    return teacher.model_copy(
        update={
            "state": "Succeeded",
            "message": f"AP {result.ap_before:.3f} -> {result.ap_after:.3f}",
            "completion_time": timestamp(now),
            "progress": done,
            "ap_before": f"{result.ap_before:.3f}",
            "ap_after": f"{result.ap_after:.3f}",
            "adapter": AdapterStatus(**result.adapter.model_dump()),
            "failure": None,
        }
    )


def _unfinished(
    spec: TeacherFineTuneSpec, teacher: TeacherStatus, view: JobView, todo: Todo, *, now: float
) -> TeacherStatus:
    """A Job that is to go on: made anew, changed or left, as the object says now."""
    if spec.suspend and spec.queue_name:  # whether a queued Job runs is Kueue's to say, so it cannot be suspended
        todo.delete.append(view.name)
        return _state(teacher, "Suspended", "suspended: it stops at a checkpoint")
    annotations = view.job["metadata"].get("annotations") or {}
    if annotations.get(PLATFORM_HASH) != render.platform_hash(spec):
        todo.delete.append(view.name)
        return _state(teacher, "Pending", "its settings have changed: it stops at a checkpoint and goes on as they say")
    patch = render.job_patch(view.job, spec)
    if patch is not None:
        todo.patch.append((view.name, patch))
        view = view.patched(patch)
    if spec.suspend:
        return _state(teacher, "Suspended", "suspended: it stops at a checkpoint; set spec.suspend to false to go on")
    failed = [pod for pod in view.pods if pod["status"].get("phase") == "Failed"]
    if failed and (teacher.failure is None or teacher.failure.pod != failed[-1]["metadata"]["name"]):
        if view.log is None:
            todo.look_at_log(view.pods, TRAINER)
        teacher = teacher.model_copy(update={"failure": pod_failure(failed[-1], TRAINER, view.log or ())})
    stand = waiting(view, TRAINER, now=now)
    todo.look_at(stand.look)
    return _standing(spec, teacher, view, stand, todo, now=now)


def _standing(
    spec: TeacherFineTuneSpec, teacher: TeacherStatus, view: JobView, stand: Waiting, todo: Todo, *, now: float
) -> TeacherStatus:
    """Where a Job stands, unless it has waited for too long."""
    again = ""
    if teacher.failure is not None:
        again = f"attempt {teacher.attempt_count}, after {teacher.failure.reason}: {teacher.failure.message}"
    if stand.state == "Running":
        return _state(teacher, "Training", "; ".join(part for part in (_doing(teacher.progress), again) if part))
    deadline = spec.pending_deadline_seconds
    if stand.state in {"Pending", "Starting"}:
        if deadline is not None and stand.since is not None:
            since = max([stand.since, *(at for one in teacher.attempts if (at := seconds(one.end_time)) is not None)])
            if now >= since + deadline:
                todo.delete.append(view.name)
                message = clip(f"not running after pendingDeadlineSeconds = {deadline}: {stand.message}")
                return failed_for_good(teacher, FailureStatus(reason="NotStartedInTime", message=message), now=now)
            todo.again(since + deadline)
        todo.again(now + 60)
    return _state(teacher, stand.state, "; ".join(part for part in (stand.message, again) if part))


def _doing(progress: ProgressStatus | None) -> str:
    """What a running trainer is at."""
    if progress is None:
        return "fetching the data and the base model"
    at = f"epoch {progress.epoch} of {progress.epochs}" + (f", loss {progress.loss}" if progress.loss else "")
    return f"{at}, {progress.note}" if progress.note else at


def _refused(teacher: TeacherStatus, refused: FailureStatus, todo: Todo, *, now: float) -> TeacherStatus:
    if refused.reason == "ChildRefused":
        return failed_for_good(teacher, refused, now=now)
    todo.retry = True
    return _state(teacher, "Pending", refused.message)


def _state(teacher: TeacherStatus, state: str, message: str) -> TeacherStatus:
    return teacher.model_copy(update={"state": state, "message": clip(message)})


def failed_for_good(teacher: TeacherStatus, failure: FailureStatus, *, now: float) -> TeacherStatus:
    """A teacher that has failed for good."""
    return teacher.model_copy(
        update={
            "state": "Failed",
            "message": failure.message,
            "completion_time": timestamp(now),
            "failure": failure,
        }
    )


def _progressed(teacher: TeacherStatus, view: ProgressView | None) -> TeacherStatus:
    """A teacher with what its trainer says of late; what it has said before is kept."""
    if view is None:
        return teacher
    return teacher.model_copy(
        update={
            "progress": view.progress or teacher.progress,
            "ap_before": teacher.ap_before if view.ap_before is None else f"{view.ap_before:.3f}",
            "ap_after": teacher.ap_after if view.ap_after is None else f"{view.ap_after:.3f}",
        }
    )
