"""The inspection of a run's data: its Job, and what came of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.layout import RunLayout
from engine.results.outcome import Prepared
from teacher_operator.api.names import INSPECT, inspect_job, network_policy, request_config_map
from teacher_operator.api.pod_settings import StageName
from teacher_operator.api.settings import Settings
from teacher_operator.api.spec import TeacherFineTuneSpec
from teacher_operator.api.status import FailureStatus, TeacherFineTuneStatus, clip
from teacher_operator.api.timestamps import seconds, timestamp
from teacher_operator.decide import jobs
from teacher_operator.decide.actions import Todo
from teacher_operator.decide.conditions import Summary, published_teacher
from teacher_operator.decide.dataset_status import dataset_status
from teacher_operator.decide.deadlines import refused_too_long, waited_too_long
from teacher_operator.decide.failed_pods import ends_run, telling_pod
from teacher_operator.decide.failures import NOTHING_LEFT, is_final, job_failure, outcome_of, pod_failure, unreadable
from teacher_operator.decide.job_state import (
    JobView,
    attempt_ends,
    next_look,
    running_seconds,
    waiting,
)
from teacher_operator.decide.lost_jobs import REMADE, after, with_lost
from teacher_operator.decide.lost_nodes import deleted_by_force, not_ready
from teacher_operator.decide.sidecars import afterwards, due, judged, told

Body = Mapping[str, Any]

NAME_TAKEN = "NameTaken"
"""A child's name belongs to somebody else: it is waited for."""

RUN_LIMIT_SECONDS = 4 * 3600
"""Longest time for which containers of inspection may run, over all attempts: more than any COCO file takes. Time in
which none runs, as without a Secret, an image or a node, does not count."""

Inspected = tuple[TeacherFineTuneStatus, Summary | FailureStatus | None]
"""The status; and where inspection stands or why it failed, or None if it has ended well."""


def inspect(
    body: Body,
    spec: TeacherFineTuneSpec,
    status: TeacherFineTuneStatus,
    view: JobView | None,
    settings: Settings,
    *,
    refused: Mapping[str, FailureStatus],
    anew: bool = True,
    todo: Todo,
    now: float,
) -> Inspected:
    """Return the status with what inspection found, where it stands, or why it failed.

    Args:
        body: The object.
        spec: Of the object.
        status: What was known.
        view: The Job, if it exists.
        settings: Of the operator.
        refused: Children that the API server has refused, by name.
        anew: Whether a Job may be replaced by one with the current settings.
        todo: Collects actions.
        now: Seconds since the epoch.
    """
    name = body["metadata"]["name"]
    for child in (network_policy(name), request_config_map(name, body["metadata"]["uid"]), inspect_job(name)):
        if child in refused:
            return _refused(spec, status, refused[child], todo, now=now)
    status = status.model_copy(update={"refused_since": None})
    if view is None:
        if spec.suspend:
            return status, Summary.suspended("suspended before its data was inspected")
        todo.apply += [jobs.request(body), jobs.inspection(body, spec, settings)]
        return status, _active("the data is about to be inspected")
    view = judged(view, now=now)
    if view.complete and not view.deleting:
        return _complete(spec, status, view, todo, now=now)
    if view.deleting:
        stand = waiting(view, INSPECT, now=now)
        todo.again(next_look(stand.since, now=now))
        return status, _active("; ".join(filter(None, ("an earlier inspection is being removed", stand.message))))
    if view.failed:
        return _failed(status, view, todo)
    return status, _unfinished(spec, view, todo, anew=anew, now=now)


def _complete(
    spec: TeacherFineTuneSpec, status: TeacherFineTuneStatus, view: JobView, todo: Todo, *, now: float
) -> Inspected:
    outcome = outcome_of(view.pods, INSPECT)
    if outcome is not None and outcome.prepared is not None:
        return _planned(spec, status, outcome.prepared, now=now), None
    if view.unsettled:
        todo.look_at_pods(view.name)
    lost = unreadable(view.pods, INSPECT)
    if lost is not None and lost.reason == NOTHING_LEFT:
        return _made_anew(status, view, lost, todo)
    if lost is not None:
        return status, lost
    todo.delete.append(view.name)  # its pod went before anyone read what it left
    return status, _active("what inspection found was lost with its pod: it is done again")


def _failed(status: TeacherFineTuneStatus, view: JobView, todo: Todo) -> Inspected:
    if view.unsettled:
        todo.look_at_pods(view.name)
    if view.log is None and todo.look_at_log(view.pods, INSPECT):
        return status, _active("inspection has failed; its log is being read")
    failure = job_failure(view.job, view.pods, INSPECT, view.log or ())
    failure = failure.model_copy(update={"message": clip(failure.message + afterwards(view))})
    return (status, failure) if is_final(view.job, view.pods) else _made_anew(status, view, failure, todo)


def _made_anew(status: TeacherFineTuneStatus, view: JobView, failure: FailureStatus, todo: Todo) -> Inspected:
    """A Job that ended, and another one may do better: it is deleted, or was the last of too many."""
    lost = with_lost(status.lost_jobs, view, limit=jobs.INSPECT_RETRIES if view.sidecars else REMADE)
    if lost is None:
        return status, after(failure, status.lost_jobs)
    todo.delete.append(view.name)
    status = status.model_copy(update={"lost_jobs": lost})
    return status, _active(clip(f"its Job is made again, after {failure.reason}: {failure.message}"))


def _planned(
    spec: TeacherFineTuneSpec, status: TeacherFineTuneStatus, prepared: Prepared, *, now: float
) -> TeacherFineTuneStatus:
    """The status with what inspection found, and with the teachers; those of the same run stay as they are."""
    known = {one.name: one for one in status.teachers} if status.run_id in {"", prepared.run_id} else {}
    published = {result.teacher: result for result in prepared.published}
    return status.model_copy(
        update={
            "run_id": prepared.run_id,
            "uri": prepared.uri,
            "config_uri": prepared.config_uri,
            "dataset": dataset_status(prepared.info, uri=RunLayout(prepared.uri).dataset),
            "teachers": [
                known.get(one)
                or published_teacher(
                    one,
                    published.get(one),
                    needs=prepared.needs,
                    on_no_gain=spec.training.on_no_gain,
                    now=now,
                )
                for one in prepared.teachers
            ],
        }
    )


def _unfinished(
    spec: TeacherFineTuneSpec, view: JobView, todo: Todo, *, anew: bool, now: float
) -> Summary | FailureStatus:
    """Return the state of a Job that has not ended: replaced, changed, running or waiting."""
    ended_at = due(view)
    if ended_at is not None and now < ended_at:
        todo.again(ended_at)
        return _active(told(view))
    forced = [pod for pod in view.pods if deleted_by_force(pod, now=now)]
    if forced:
        todo.delete.append(view.name)
        return _active(f"pod {forced[-1]['metadata']['name']} was deleted by force: inspection starts again")
    telling = telling_pod(view.pods)
    if telling is not None and ends_run(telling):
        todo.patch += jobs.last_try(view.job)
        return _active("inspection has failed for a cause that the next attempt would meet too")
    if anew and not jobs.is_made_from(view.job, spec, StageName.INSPECTION):
        todo.delete.append(view.name)
        return _active("settings have changed: inspection starts again")
    patch = jobs.inspection_patch(view.job, suspend=spec.suspend)
    if patch is not None:
        todo.patch.append((view.name, patch))
        view = view.patched(patch)
    if spec.suspend:
        return Summary.suspended("suspended while its data was inspected")
    left = RUN_LIMIT_SECONDS - running_seconds(view.pods, INSPECT, now=now)
    if left <= 0:
        todo.delete.append(view.name)
        return _ran_too_long()
    stand = waiting(view, INSPECT, now=now)
    todo.look_at(stand.look)
    if stand.again is not None:
        todo.again(stand.again)
    if stand.state == "Running":
        todo.again(now + left)
        return _active("; ".join(filter(None, (f"the data is being inspected{_after(view)}", not_ready(view.pods)))))
    failure = waited_too_long(spec, stand, todo, attempts_ended=attempt_ends(view.pods, INSPECT), now=now)
    if failure is not None:
        todo.delete.append(view.name)
        return failure
    todo.again(next_look(stand.since, now=now))
    return _active(f"inspection has not begun: {stand.message}{_after(view)}")


def _active(message: str) -> Summary:
    return Summary.active("Inspecting", message)


def _ran_too_long() -> FailureStatus:
    message = (
        f"inspection has run for {RUN_LIMIT_SECONDS // 3600} hours and has not ended, time without a running container "
        "not counted: check that the object store answers and how large the annotations are, then make a new object"
    )
    return FailureStatus(reason="DeadlineExceeded", message=message)


def _after(view: JobView) -> str:
    """Why inspection is tried again, if it is."""
    failed = [pod for pod in view.pods if pod["status"].get("phase") == "Failed"]
    if not failed:
        return ""
    cause = pod_failure(failed[-1], INSPECT, ())
    return f"; attempt {len(failed) + 1}, after {cause.reason}: {cause.message}"


def _refused(
    spec: TeacherFineTuneSpec, status: TeacherFineTuneStatus, refused: FailureStatus, todo: Todo, *, now: float
) -> Inspected:
    """A child that was refused: for good, or for now, unless that is for longer than pendingDeadlineSeconds."""
    since = seconds(status.refused_since) or now
    failure = refused_too_long(spec, refused, todo, since=since, now=now)
    if failure is not None:
        return status, failure
    status = status.model_copy(update={"refused_since": status.refused_since or timestamp(now)})
    return status, Summary.active(NAME_TAKEN if refused.reason == NAME_TAKEN else "Pending", refused.message)
