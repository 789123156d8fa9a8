"""One teacher of a run: what its Job is to be, and what is true of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from engine.errors import InterruptedTrainingError
from engine.registry import prompter
from engine.results.metrics import metric_text
from engine.results.outcome import TeacherOutcome
from engine.spec import TeacherName
from teacher_operator.api.names import TRAINER, trainer_job
from teacher_operator.api.pod_settings import StageName
from teacher_operator.api.settings import Settings
from teacher_operator.api.spec import TeacherFineTuneSpec
from teacher_operator.api.status import (
    AP,
    METRICS,
    AdapterStatus,
    FailureStatus,
    MetricStatus,
    ProgressStatus,
    TeacherStatus,
    clip,
)
from teacher_operator.api.timestamps import seconds, timestamp
from teacher_operator.decide import gang, jobs
from teacher_operator.decide.actions import Todo
from teacher_operator.decide.attempts import attempted
from teacher_operator.decide.deadlines import (
    WAITS,
    counted,
    ran_too_long,
    refused_too_long,
    remaining,
    used_up,
    waited_too_long,
)
from teacher_operator.decide.failed_pods import ends_run, telling_pod
from teacher_operator.decide.failures import (
    DISRUPTION,
    NOTHING_LEFT,
    failure_elsewhere,
    is_final,
    job_failure,
    outcome_of,
    pod_failure,
    unreadable,
)
from teacher_operator.decide.job_state import BEING_MADE, JobView, Waiting, live_orphan, next_look, waiting
from teacher_operator.decide.lost_jobs import REMADE, after, with_lost
from teacher_operator.decide.lost_nodes import being_stopped, deleted_by_force
from teacher_operator.decide.pod_state import is_over, node_of
from teacher_operator.decide.progress import ProgressView
from teacher_operator.decide.sidecars import afterwards, due, judged, told
from teacher_operator.decide.staleness import unresponsive

Body = Mapping[str, Any]

ENDED = frozenset({"Succeeded", "Failed"})
NOT_MEASURED = "not measured"

PASSING = frozenset({InterruptedTrainingError.reason, DISRUPTION})
"""Causes of an attempt's end that nobody has to hear of once the next one runs."""

EVICTIONS = 5
"""In a row, before a run is taken for the cause of them: of a disk that it fills, most likely."""


def decide_teacher(
    body: Body,
    spec: TeacherFineTuneSpec,
    settings: Settings,
    before: TeacherStatus,
    view: JobView | None,
    *,
    refused: FailureStatus | None,
    waits_for: str = "",
    orphans: Sequence[Body] = (),
    announced: bool = True,
    config_uri: str,
    todo: Todo,
    now: float,
) -> TeacherStatus:
    """What is true of a teacher; what is to be done is noted in ``todo``. A teacher that has ended stays as it is.

    While there is something that it ``waits_for``, no Job is made; an existing one continues. Nor is one made while a
    pod of an earlier one, one of the ``orphans``, has not ended, or before the written status names it: ``announced``
    says that what inspection found is in there.
    """
    if before.state in ENDED:
        if view is not None and view.unfinished:  # a sidecar keeps it from its end
            todo.delete.append(view.name)
        return before
    rendered = jobs.result if before.dispatched else jobs.training
    make = partial(rendered, body, spec, settings, teacher=before.name, config_uri=config_uri)
    view = view and judged(view, now=now)
    if refused is not None and view is None and not waits_for:
        return _refused(spec, before, refused, todo, now=now)
    before = before.model_copy(update={"refused_since": None, "unresponsive": None})
    known = attempted(counted(before, view, now=now), view, gpu_resource=spec.gpu_resource_name, now=now)
    if view is None:
        orphan = live_orphan(orphans, trainer_job(body["metadata"]["name"], before.name))
        return _without_job(
            body, spec, known, make, waits_for=waits_for, orphan=orphan, announced=announced, todo=todo, now=now
        )
    now_known = _progressed(known.model_copy(update={"job": view.name}), view.progress)
    if view.elsewhere and (view.complete or view.failed):
        return _ended_elsewhere(now_known, view, todo, now=now)
    if view.complete:
        return _complete(now_known, view, todo, now=now)
    if view.failed and not (view.deleting and view.job["metadata"]["uid"] in now_known.lost_jobs):
        return _failed(spec, now_known, view, todo, now=now)
    if view.deleting and spec.suspend:
        return _state(now_known, "Suspended", _suspended(view.pods, todo, holding=view.holds_pods, now=now))
    if view.deleting:
        stand = waiting(view, TRAINER, now=now)
        now_known = _heard_from(now_known, view, stand, todo, now=now)
        todo.again(next_look(stand.since, now=now))
        replaced = "its Job is being replaced; the run goes on from its last checkpoint"
        return _state(now_known, "Pending", f"{replaced}; {stand.message}" if stand.message else replaced)
    return _unfinished(spec, settings, now_known, view, todo, anew=make, refused=refused, now=now)


def _without_job(
    body: Body,
    spec: TeacherFineTuneSpec,
    teacher: TeacherStatus,
    make: Callable[..., dict[str, Any]],
    *,
    waits_for: str,
    orphan: Body | None,
    announced: bool,
    todo: Todo,
    now: float,
) -> TeacherStatus:
    """Return a teacher without a Job, which is made if nothing has to end before and the written status names it."""
    if spec.suspend:
        pods = [orphan] if orphan is not None else []
        return _state(teacher, "Suspended", _suspended(pods, todo, holding=orphan is not None, now=now))
    if waits_for:
        return _state(teacher, "Pending", f"waits for {waits_for}")
    over = used_up(spec, teacher)
    if over is not None:
        return failed_for_good(teacher, over, now=now)
    if orphan is not None:
        todo.again(next_look(None, now=now))
        return _state(teacher, "Pending", _waits_for_orphan(orphan, now=now))
    name = trainer_job(body["metadata"]["name"], teacher.name)
    state = "Queued" if spec.queue_name and not teacher.dispatched else "Pending"
    waits = f"queued by Kueue in {spec.queue_name}" if state == "Queued" else BEING_MADE
    if announced and teacher.job == name and teacher.state in {"Pending", "Queued"}:
        job = make(seconds_left=remaining(spec, teacher))
        meet = spec.nodes > 1 and not teacher.dispatched
        todo.apply += [jobs.rendezvous(body, teacher.name), job] if meet else [job]
    else:
        todo.announced = True
    return _state(teacher, state, waits).model_copy(update={"job": name})


def _complete(teacher: TeacherStatus, view: JobView, todo: Todo, *, now: float) -> TeacherStatus:
    """Return a teacher whose Job is complete: it has succeeded, unless its result cannot be read."""
    outcome = outcome_of(view.pods, TRAINER)
    if outcome is not None and outcome.trained is not None:
        done = succeeded(teacher, outcome.trained, now=now)
        return _state(done, done.state, done.message + afterwards(view))
    if view.unsettled:
        todo.look_at_pods(view.name)
    lost = unreadable(view.pods, TRAINER)
    if lost is not None and lost.reason == NOTHING_LEFT:
        return _made_anew(teacher, view, lost, todo, now=now)
    if lost is not None:
        return failed_for_good(teacher, lost, now=now)
    if not view.deleting:
        todo.delete.append(view.name)
    return _state(teacher, "Pending", "what the trainer left was lost with its pod: it is asked once more")


def _failed(
    spec: TeacherFineTuneSpec, teacher: TeacherStatus, view: JobView, todo: Todo, *, now: float
) -> TeacherStatus:
    """Return a teacher whose Job has failed: for good, or its Job is made again."""
    if view.unsettled:
        todo.look_at_pods(view.name)
    if view.log is None and todo.look_at_log(view.pods, TRAINER):
        return teacher
    failure = job_failure(view.job, view.pods, TRAINER, view.log or ())
    if failure.reason == "DeadlineExceeded" and spec.active_deadline_seconds:
        failure = ran_too_long(spec.active_deadline_seconds)
    failure = failure.model_copy(update={"message": clip(failure.message + afterwards(view))})
    if not is_final(view.job, view.pods):
        limit = spec.backoff_limit if view.sidecars else REMADE
        return _made_anew(teacher, view, failure, todo, limit=limit, now=now)
    outcome = outcome_of(view.pods, TRAINER)
    if outcome is not None and outcome.trained is not None:  # published, and not better than the base
        teacher = _published(teacher, outcome.trained)
    return failed_for_good(teacher, failure, now=now)


def _ended_elsewhere(teacher: TeacherStatus, view: JobView, todo: Todo, *, now: float) -> TeacherStatus:
    """A Job that ended in another cluster: only its status is here, and what it left has to be read from the store."""
    failure = failure_elsewhere(view.job) if view.failed else None
    if failure is not None:
        return failed_for_good(teacher, failure, now=now)
    if not teacher.dispatched:
        todo.announced = True  # the Job is kept until the status says that it must not be made again
    elif not view.deleting:
        todo.delete.append(view.name)
    said = "its Job is done in another cluster: what it published is read from the object store"
    return _state(teacher, "Pending", said).model_copy(update={"dispatched": True})


def _made_anew(
    teacher: TeacherStatus, view: JobView, failure: FailureStatus, todo: Todo, *, limit: int = REMADE, now: float
) -> TeacherStatus:
    """A teacher whose Job ended, and another Job may do better: it is deleted, or was the last of too many."""
    lost = with_lost(teacher.lost_jobs, view, limit=limit)
    if lost is None:
        return failed_for_good(teacher, after(failure, teacher.lost_jobs), now=now)
    if not view.deleting:
        todo.delete.append(view.name)
    message = f"its Job is made again, after {failure.reason}: {failure.message}"
    return _state(teacher, "Pending", message).model_copy(update={"lost_jobs": lost, "failure": failure})


def waits_for(teacher: TeacherName, before: Sequence[TeacherStatus]) -> str:
    """What has to end before a teacher begins; empty if nothing has. One that failed is not waited for."""
    detector = prompter(teacher)
    waits = any(one.name is detector and one.state not in ENDED for one in before)
    return f"{detector.traits.title}, whose boxes it is prompted by" if detector is not None and waits else ""


def _text(metric: float | None) -> str:
    """Return a metric as in the status: ``0.312``; empty where there was nothing to measure."""
    return metric_text(metric, missing="")


def _with_ap(metrics: Sequence[MetricStatus], known: MetricStatus, view: ProgressView) -> list[MetricStatus]:
    """Return the metrics with the AP that a running trainer has reported."""
    changes = {"before": view.ap_before, "after": view.ap_after}
    ap = known.model_copy(update={name: _text(value) for name, value in changes.items() if value is not None})
    others = [one for one in metrics if one.name != AP]
    return [ap, *others] if ap.before or ap.after else others


def succeeded(teacher: TeacherStatus, result: TeacherOutcome, *, now: float) -> TeacherStatus:
    """A teacher whose adapter is published."""
    done = None
    if teacher.progress is not None:
        done = teacher.progress.model_copy(update={"percent": 100, "seconds_left": None, "note": ""})
    published = _published(teacher, result)
    message = f"AP {published.ap.before or NOT_MEASURED} -> {published.ap.after or NOT_MEASURED}"
    if result.improved is False:
        message += ", not better than its base"
    return published.model_copy(
        update={
            "state": "Succeeded",
            "message": message,
            "completion_time": timestamp(now),
            "progress": done,
            "failure": None,
        }
    )


def _published(teacher: TeacherStatus, result: TeacherOutcome) -> TeacherStatus:
    """A teacher with what its trainer published, however that process ended."""
    return teacher.model_copy(
        update={
            "metrics": [
                MetricStatus(name=name, before=_text(change.before), after=_text(change.after))
                for name, change in list(result.metrics.items())[:METRICS]
            ],
            "improved": result.improved,
            "adapter": AdapterStatus(**result.adapter.model_dump()),
            "images_skipped": result.images_skipped,
            "objects_skipped": result.objects_skipped,
        }
    )


def _unfinished(
    spec: TeacherFineTuneSpec,
    settings: Settings,
    teacher: TeacherStatus,
    view: JobView,
    todo: Todo,
    *,
    anew: Callable[[], dict[str, Any]],
    refused: FailureStatus | None,
    now: float,
) -> TeacherStatus:
    """A Job that is to go on: made anew, changed or left, as the object says now."""
    ended_at = due(view)
    if ended_at is not None and now < ended_at:
        todo.again(ended_at)
        return _state(teacher, "Training", told(view))
    forced = [pod for pod in view.pods if deleted_by_force(pod, now=now)]
    if forced:
        todo.delete.append(view.name)
        said = f"pod {forced[-1]['metadata']['name']} was deleted by force: its Job is replaced, and the run resumes"
        return _state(teacher, "Suspended" if spec.suspend else "Pending", said)
    telling = telling_pod(view.pods)
    if telling is not None and ends_run(telling):
        todo.patch += jobs.last_try(view.job)
        return teacher  # until the Job has failed
    if spec.suspend and jobs.is_queued(
        view.job
    ):  # whether a queued Job runs is Kueue's to say, so it cannot be suspended
        todo.delete.append(view.name)
        return _state(teacher, "Suspended", _suspended(view.pods, todo, holding=view.holds_pods, now=now))
    changed = not jobs.is_made_from(view.job, spec, StageName(teacher.name.value))
    if changed and refused is None:
        todo.replace.append(anew())
        return _state(teacher, "Pending", "its settings have changed: it stops at a checkpoint and goes on as they say")
    pause = gang.paused_until(view)
    paused = pause is not None and now < pause
    over = None if spec.suspend else used_up(spec, teacher)
    if over is not None:
        todo.delete.append(view.name)
        return failed_for_good(teacher, over, now=now)
    patch = jobs.job_patch(view.job, spec, seconds_left=remaining(spec, teacher), paused=paused)
    if patch is not None:
        todo.patch.append((view.name, patch))
        view = view.patched(patch)
    if spec.suspend:
        forget = gang.suspended(view)
        if forget is not None:
            todo.patch.append((view.name, forget))
        return _state(teacher, "Suspended", _suspended(view.pods, todo, holding=view.holds_pods, now=now))
    if paused:
        return _paused(spec, teacher, view, todo, now=now)
    if telling is not None and (teacher.failure is None or teacher.failure.pod != telling["metadata"]["name"]):
        if view.log is None:
            todo.look_at_log(view.pods, TRAINER)
        teacher = teacher.model_copy(update={"failure": pod_failure(telling, TRAINER, view.log or ())})
    if _evicted_in_vain(teacher):
        todo.delete.append(view.name)
        message = f"{EVICTIONS} attempts in a row were evicted, so the next would be too: {_last_words(teacher)}"
        return failed_for_good(teacher, FailureStatus(reason="Evicted", message=clip(message)), now=now)
    stand = waiting(view, TRAINER, now=now)
    todo.look_at(stand.look)
    if stand.again is not None:
        todo.again(stand.again)
    if changed and refused is not None:
        said = f"its new settings are refused, and it goes on with the old ones: {refused.message}"
        stand = replace(stand, message="; ".join(part for part in (said, stand.message) if part))
    return _standing(spec, settings, teacher, view, stand, todo, now=now)


def _heard_from(teacher: TeacherStatus, view: JobView, stand: Waiting, todo: Todo, *, now: float) -> TeacherStatus:
    """A teacher with the reason why its trainer is not heard from, if it is not."""
    found = unresponsive(teacher.progress, view, todo, running=stand.state == "Running", now=now)
    if found is not None:
        todo.again(next_look(seconds(found.since), now=now))
    return teacher.model_copy(update={"unresponsive": found})


def _suspended(pods: Sequence[Body], todo: Todo, *, holding: bool, now: float) -> str:
    """Say that a teacher is suspended, with the pod that does not end; ``holding``: a pod still has its GPUs."""
    how = "it stops at a checkpoint" if holding else "no pod is left, and no GPU is held"
    going = [pod for pod in pods if pod["metadata"].get("deletionTimestamp") and not is_over(pod)]
    if going:
        todo.again(next_look(None, now=now))
    stuck = [being_stopped(pod, now=now) for pod in going[-1:]]
    return "; ".join([f"suspended: {how}", *stuck, "set spec.suspend to false to resume"])


def _waits_for_orphan(pod: Body, *, now: float) -> str:
    """Why no Job is made: two trainers would write to the same run."""
    name, node = pod["metadata"]["name"], node_of(pod)
    where = f" on node {node}" if node else ""
    if pod["metadata"].get("deletionTimestamp"):
        return f"its Job was deleted, and {being_stopped(pod, now=now)}; a new Job is made when it has ended"
    return (
        f"its Job was deleted, and pod {name}{where} has not ended: a new Job is made when it has; "
        f"kubectl delete pod {name} stops it at a checkpoint"
    )


def _evicted_in_vain(teacher: TeacherStatus) -> bool:
    """Evictions are tried again without being counted, which must end where the run itself is their cause."""
    last = [one for one in teacher.attempts if one.end_time][-EVICTIONS:]
    return len(last) == EVICTIONS and all(one.reason == "Evicted" for one in last)


def _last_words(teacher: TeacherStatus) -> str:
    return teacher.failure.message if teacher.failure is not None else "the node ran short of something"


def _standing(
    spec: TeacherFineTuneSpec,
    settings: Settings,
    teacher: TeacherStatus,
    view: JobView,
    stand: Waiting,
    todo: Todo,
    *,
    now: float,
) -> TeacherStatus:
    """Where a Job stands, unless it has waited for too long."""
    again = ""
    if teacher.failure is not None and teacher.failure.reason not in PASSING:
        again = f"attempt {teacher.attempt_count}, after {teacher.failure.reason}: {teacher.failure.message}"
    teacher = _heard_from(teacher, view, stand, todo, now=now)
    if teacher.state == "Training" and stand.state in WAITS:
        teacher = teacher.model_copy(update={"last_ran": timestamp(now)})
    if stand.state == "Running":
        forget = gang.started(view)
        if forget is not None:
            todo.patch.append((view.name, forget))
        silent = teacher.unresponsive.message if teacher.unresponsive is not None else ""
        begins = view.progress.note if view.progress is not None else ""
        doing = "" if view.elsewhere else _doing(teacher.progress, begins)
        parts = (silent, doing, _none_better(teacher, view.progress), stand.message, again)
        teacher = teacher.model_copy(update={"releases": 0})
        if view.progress is not None and view.progress.progress is not None:
            teacher = teacher.model_copy(update={"lost_jobs": []})  # this Job trains: those before it are not in a row
        return _state(teacher, "Training", "; ".join(part for part in parts if part))
    rounds = seconds(gang.Rounds.of(view.job).since)
    stops = [teacher.last_ran, *(one.end_time for one in teacher.attempts)]
    ends = [at for at in map(seconds, stops) if at is not None]
    if rounds is not None:  # it gave its GPUs back before: the wait is that of all rounds
        stand, ends = replace(stand, since=rounds), []
    failure = waited_too_long(spec, stand, todo, attempts_ended=ends, now=now)
    if failure is not None:
        todo.delete.append(view.name)
        return failed_for_good(teacher, failure, now=now)
    held = ""
    if stand.state in WAITS:
        todo.again(next_look(stand.since, now=now))
        part = gang.partial(view, TRAINER)
        if part is not None:
            timeout = spec.gang_timeout_seconds or settings.gang_timeout_seconds
            until = gang.due(part, view, timeout=timeout)
            if now >= until:
                since = max([stand.since or part.since, *ends])
                patch = gang.release(view, timeout=timeout, since=since, now=now)
                todo.patch.append((view.name, patch))
                return _paused(spec, teacher, view.patched(patch), todo, now=now)
            todo.again(until)
            held = part.message(spec.gpu_resource_name, until)
    return _state(teacher, stand.state, "; ".join(part for part in (held, stand.message, again) if part))


def _paused(
    spec: TeacherFineTuneSpec, teacher: TeacherStatus, view: JobView, todo: Todo, *, now: float
) -> TeacherStatus:
    """A Job over several nodes that gave its GPUs back, and is tried again later."""
    rounds = gang.Rounds.of(view.job)
    stand = Waiting("Pending", gang.paused_message(view), since=seconds(rounds.since))
    failure = waited_too_long(spec, stand, todo, now=now)
    if failure is not None:
        todo.delete.append(view.name)
        return failed_for_good(teacher, failure, now=now)
    todo.again(seconds(rounds.again) or now)
    return _state(teacher, stand.state, stand.message).model_copy(update={"releases": rounds.count})


def _doing(progress: ProgressStatus | None, begins: str) -> str:
    """What a running trainer is at; ``begins``: what this attempt does before its first step."""
    if progress is None:
        return begins or "fetching the data and the base model"
    at = f"epoch {progress.epoch} of {progress.epochs}" if progress.epoch else f"step {progress.step}"
    at += f", loss {progress.loss}" if progress.loss else ""
    note = begins or progress.note
    return f"{at}, {note}" if note else at


def _none_better(teacher: TeacherStatus, said: ProgressView | None) -> str:
    """That adapters were evaluated and the base is better than all of them so far; else empty."""
    if said is None or not said.evaluated or teacher.ap.after or not teacher.ap.before:
        return ""
    return f"no adapter is better than the base (AP {teacher.ap.before}) yet"


def _refused(
    spec: TeacherFineTuneSpec, teacher: TeacherStatus, refused: FailureStatus, todo: Todo, *, now: float
) -> TeacherStatus:
    """A teacher whose Job cannot be made: for good, or for now, unless that is for too long."""
    since = seconds(teacher.refused_since) or now
    failure = refused_too_long(spec, refused, todo, since=since, now=now)
    if failure is not None:
        return failed_for_good(teacher, failure, now=now)
    teacher = teacher.model_copy(update={"refused_since": teacher.refused_since or timestamp(now)})
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


def _longest_kept(progress: ProgressStatus | None, before: ProgressStatus | None) -> ProgressStatus | None:
    """Progress with the longest gap ever known: an operator that has just started has read the last lines alone."""
    if progress is None or before is None or before.longest_gap_seconds <= progress.longest_gap_seconds:
        return progress
    return progress.model_copy(update={"longest_gap_seconds": before.longest_gap_seconds})


def _progressed(teacher: TeacherStatus, view: ProgressView | None) -> TeacherStatus:
    """A teacher with what its trainer says of late; what it has said before is kept."""
    if view is None:
        return teacher
    return teacher.model_copy(
        update={
            "progress": _longest_kept(view.progress, teacher.progress) or teacher.progress,
            "metrics": _with_ap(teacher.metrics, teacher.ap, view),
        }
    )
