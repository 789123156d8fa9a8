"""Containers that a cluster adds to our pods and that outlive ours: a service mesh's proxy, a log shipper. Pure.

A pod ends when all of its containers have; until then its Job does not end either, and the GPU stays taken. So a pod
counts as ended when our container has, and the operator deletes the Job when its result is in the status. Native
sidecars (init containers with ``restartPolicy: Always``) are ended by the node itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from engine.results.outcome import parse_outcome
from teacher_operator.api.names import COMPONENT, container_of, stage_of
from teacher_operator.api.timestamps import seconds
from teacher_operator.decide.job_state import JobView
from teacher_operator.decide.pod_state import is_over, terminated

Body = Mapping[str, Any]

SIDECAR_SECONDS = 30
"""How long other containers may take to end by themselves, as those do that watch ours."""

RUNS_ON = "SidecarRunsOn"
"""Reason of a failed Job that only a sidecar keeps from failing."""


def job_view(job: Body, pods: Sequence[Body]) -> JobView:
    """Return the view of a Job in which each pod stands as our container in it does: others do not count."""
    container = str((job["metadata"].get("labels") or {}).get(COMPONENT) or "")
    others = {pod["metadata"]["name"]: found for pod in pods if (found := _others(pod, container))}
    ours = [_as_ours(pod, container) if pod["metadata"]["name"] in others else pod for pod in pods]
    return JobView(job, ours, sidecars=others)


def with_final_condition(view: JobView, *, now: float) -> JobView:
    """Return the view with the end of its Job, if only other containers keep the Job from it, or have failed it."""
    if not view.sidecars or view.complete or (view.failed and not _all_done(view)):
        return view
    if now < (sidecar_deadline(view) or 0.0):
        return view
    if _all_done(view):
        return _ended(view, "Complete")
    return _ended(view, "Failed") if _failed(view) else view


def sidecar_deadline(view: JobView) -> float | None:
    """Return when the Job is ended in spite of containers that run on, in seconds since the epoch; None without any."""
    names = {pod["metadata"]["name"] for pod in _failed(view)} or set(view.sidecars)
    ends = [_end(pod, view) for pod in view.pods if pod["metadata"]["name"] in names]
    return max(ends) + SIDECAR_SECONDS if ends else None


def sidecar_message(view: JobView) -> str:
    """Return a sentence: our container has ended, others run on, and the Job will be deleted."""
    pod, names = next(iter(view.sidecars.items()))
    stage = stage_of(view.job["metadata"].get("labels") or {})
    ours = "the trainer" if stage is None or stage.teacher is not None else stage.title
    return (
        f"{ours} has ended, {', '.join(names)} runs on in pod {pod}: its result is taken, and the Job is "
        f"deleted if that lasts for {SIDECAR_SECONDS} s; a native sidecar would end by itself"
    )


def sidecar_suffix(view: JobView) -> str:
    """Return the words to add to the message of a Job that was ended in spite of sidecars; empty without any."""
    names = sorted({name for found in view.sidecars.values() for name in found})
    return f"; {', '.join(names)} ran on after it, so that its Job was deleted" if names else ""


def _others(pod: Body, container: str) -> tuple[str, ...]:
    """Names of the containers that run on in a pod after ours, or that failed it after ours left its result."""
    ended = terminated(pod, container)
    if ended is None or pod["status"].get("phase") == "Succeeded":
        return ()
    states = {
        one["name"]: (one.get("state") or {}).get("terminated")
        for one in pod["status"].get("containerStatuses") or []
        if one["name"] != container
    }
    if not is_over(pod):
        going = pod["metadata"].get("deletionTimestamp")  # the node ends all of its containers
        return () if going else tuple(name for name, end in states.items() if end is None)
    outcome = parse_outcome(ended.get("message") or "") if ended.get("exitCode") == 0 else None
    if outcome is None or not outcome.has_result:
        return ()
    return tuple(name for name, end in states.items() if end is None or end.get("exitCode"))


def _as_ours(pod: Body, container: str) -> Body:
    code = (terminated(pod, container) or {}).get("exitCode")
    return {**pod, "status": {**pod["status"], "phase": "Failed" if code else "Succeeded"}}


def _all_done(view: JobView) -> bool:
    done: int = sum(pod["status"].get("phase") == "Succeeded" for pod in view.pods)
    wanted = int(view.job["spec"].get("completions") or 1)
    return done >= wanted


def _failed(view: JobView) -> list[Body]:
    return [pod for pod in view.pods if pod["metadata"]["name"] in view.sidecars and pod["status"]["phase"] == "Failed"]


def _end(pod: Body, view: JobView) -> float:
    """When our container ended; long ago where the others have ended too."""
    states = ((one.get("state") or {}).get("terminated") for one in pod["status"].get("containerStatuses") or [])
    if all(states):
        return 0.0
    return seconds((terminated(pod, _container(view)) or {}).get("finishedAt")) or 0.0


def _container(view: JobView) -> str:
    return container_of(view.job)


def _ended(view: JobView, kind: str) -> JobView:
    status = view.job.get("status") or {}
    others = [one for one in status.get("conditions") or [] if one["type"] not in {"Complete", "Failed"}]
    end = {"type": kind, "status": "True", "reason": RUNS_ON, "message": sidecar_message(view)}
    return replace(view, job={**view.job, "status": {**status, "conditions": [*others, end]}})
