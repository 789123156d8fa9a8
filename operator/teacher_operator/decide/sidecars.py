"""Sidecars that a cluster adds to pods and that outlive the main container, such as a service mesh's proxy. Pure.

A pod ends when all of its containers have ended; until then its Job does not end, and its GPUs are held. So a pod
counts as ended when its main container has ended, and the operator deletes the Job once its result is in the status.
The node ends native sidecars (init containers with ``restartPolicy: Always``) itself.
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
"""Seconds in which sidecars may end by themselves, since some of them watch the main container."""

RUNS_ON = "SidecarRunsOn"
"""Reason of a condition that the operator derives for a Job which only a sidecar keeps from ending."""


def job_view(job: Body, pods: Sequence[Body]) -> JobView:
    """Return the view of a Job in which the phase of each pod is that of its main container, without sidecars."""
    container = str((job["metadata"].get("labels") or {}).get(COMPONENT) or "")
    others = {pod["metadata"]["name"]: found for pod in pods if (found := _others(pod, container))}
    ours = [_as_ours(pod, container) if pod["metadata"]["name"] in others else pod for pod in pods]
    return JobView(job, ours, sidecars=others)


def with_final_condition(view: JobView, *, now: float) -> JobView:
    """Return the view with a final condition of its Job, if only sidecars keep the Job from it, or made it fail."""
    if not view.sidecars or view.complete or (view.failed and not _all_done(view)):
        return view
    if now < (sidecar_deadline(view) or 0.0):
        return view
    if _all_done(view):
        return _ended(view, "Complete")
    return _ended(view, "Failed") if _failed(view) else view


def sidecar_deadline(view: JobView) -> float | None:
    """Return the time at which a Job is ended despite its sidecars, in seconds since the epoch; None without any."""
    names = {pod["metadata"]["name"] for pod in _failed(view)} or set(view.sidecars)
    ends = [_end(pod, view) for pod in view.pods if pod["metadata"]["name"] in names]
    return max(ends) + SIDECAR_SECONDS if ends else None


def sidecar_message(view: JobView) -> str:
    """Return a sentence: the main container has ended, sidecars still run, and the Job will be deleted."""
    pod, names = next(iter(view.sidecars.items()))
    stage = stage_of(view.job["metadata"].get("labels") or {})
    ours = "the trainer" if stage is None or stage.teacher is not None else stage.title
    return (
        f"{ours} has ended, but {', '.join(names)} still runs in pod {pod}: its result is kept, and the Job is "
        f"deleted if that lasts for {SIDECAR_SECONDS} s; a native sidecar would end by itself"
    )


def sidecar_suffix(view: JobView) -> str:
    """Return the text to add to the message of a Job that was ended while sidecars still ran; empty without any."""
    names = sorted({name for found in view.sidecars.values() for name in found})
    return f"; {', '.join(names)} still ran after its end, so its Job was deleted" if names else ""


def _others(pod: Body, container: str) -> tuple[str, ...]:
    """Return the names of sidecars that still run after the main container, or that failed after it left its result."""
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
    """Return the end of the main container, in seconds since the epoch; 0 if all sidecars have ended too."""
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
