"""State of a Job from its own status and that of its pods: queued, unschedulable, pulling, running, ended. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from teacher_operator.api.names import INSPECT, KUEUE_QUEUE
from teacher_operator.api.timestamps import duration, seconds
from teacher_operator.decide.lost_nodes import being_stopped, not_ready_since
from teacher_operator.decide.pod_state import container_status, is_live, is_over, node_of, terminated
from teacher_operator.decide.progress import ProgressView

Body = Mapping[str, Any]

PULL_ERRORS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
)
START_ERRORS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
DISRUPTED = "DisruptionTarget"
JOB_NAME = "batch.kubernetes.io/job-name"

PATIENCE_SECONDS, PATIENCE_MAX_SECONDS = 60, 600
"""Shortest and longest time between two checks of a wait, in seconds."""

JOB_CONTROLLER = "kubernetes.io/job-controller"
BEING_MADE = "its pod is being created"
EVENTS_AFTER_SECONDS = 15
"""Seconds for which a Job may have no pod, or a pod may be starting, before its events are read."""


@dataclass(frozen=True)
class JobView:
    """Job with its pods and the data read for them.

    Attributes:
        job: The Job.
        pods: Its pods, oldest first.
        progress: Progress reported by its running pod.
        log: The last lines of the log of its last failed pod.
        warning_events: Messages of warning events of the Job or its pods; None if they were not read.
        sidecars: Names of the containers that still run after the main container has ended, by name of the pod.
    """

    job: Body
    pods: Sequence[Body] = ()
    progress: ProgressView | None = None
    log: Sequence[str] | None = None
    warning_events: Sequence[str] | None = None
    sidecars: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the Job."""
        return str(self.job["metadata"]["name"])

    @property
    def suspended(self) -> bool:
        """True if the Job is suspended."""
        return bool(self.job["spec"].get("suspend"))

    @property
    def deleting(self) -> bool:
        """True if the Job is being deleted."""
        return bool(self.job["metadata"].get("deletionTimestamp"))

    @property
    def elsewhere(self) -> bool:
        """True if the Job is managed by a controller other than this cluster's: its pods are in another cluster."""
        return (self.job["spec"].get("managedBy") or JOB_CONTROLLER) != JOB_CONTROLLER

    @property
    def complete(self) -> bool:
        """True if the Job has the condition Complete."""
        return self._condition("Complete")

    @property
    def failed(self) -> bool:
        """True if the Job has the condition Failed."""
        return self._condition("Failed")

    @property
    def unfinished(self) -> bool:
        """True if the Job has not ended and is not being deleted."""
        return not (self.complete or self.failed or self.deleting)

    @property
    def unsettled(self) -> bool:
        """True if the ends of some pods of an ended Job are unknown: watches of Jobs and pods are not in step."""
        counted = self.job.get("status") or {}
        ended = int(counted.get("succeeded") or 0) + int(counted.get("failed") or 0)
        return len(self.pods) < max(1, ended) or not all(is_over(pod) for pod in self.pods)

    @property
    def holds_pods(self) -> bool:
        """True if a pod of the Job has not ended and so holds its GPUs."""
        return bool(self.sidecars) or not all(is_over(pod) for pod in self.pods)

    @property
    def started(self) -> float | None:
        """Time at which the Job was last started, in seconds since the epoch; for a queued Job, its admission."""
        return seconds((self.job.get("status") or {}).get("startTime"))

    def patched(self, patch: Body) -> JobView:
        """Return the view with a merge patch applied to the spec and annotations of its Job."""
        metadata = self.job["metadata"]
        annotations = (metadata.get("annotations") or {}) | ((patch.get("metadata") or {}).get("annotations") or {})
        metadata = {**metadata, "annotations": {name: text for name, text in annotations.items() if text is not None}}
        return replace(self, job={**self.job, "metadata": metadata, "spec": {**self.job["spec"], **patch["spec"]}})

    def _condition(self, kind: str) -> bool:
        conditions = (self.job.get("status") or {}).get("conditions") or []
        return any(c["type"] == kind and c["status"] == "True" for c in conditions)


@dataclass(frozen=True)
class JobState:
    """State of a Job that has not ended.

    Attributes:
        phase: Queued, Suspended, Pending, Starting or Running.
        message: Reason, in a sentence.
        since: Start of the wait, in seconds since the epoch, if it counts towards a deadline.
        events_of: Kind and name of the Job or Pod whose events must be read to explain the wait.
        events_due_at: Time at which they must be read if the wait continues, in seconds since the epoch.
    """

    phase: str
    message: str = ""
    since: float | None = None
    events_of: tuple[str, str] | None = None
    events_due_at: float | None = None


def next_check(since: float | None, *, now: float) -> float:
    """Return the time of the next check of a wait, in seconds since the epoch: the longer it has lasted, the later.

    A watch reports the end of the wait in any case; the check updates the message.

    >>> [next_check(since, now=3600) - 3600 for since in (None, 3590, 2400, 0)]
    [60, 60, 300.0, 600]
    """
    waited = now - since if since is not None else 0
    return now + min(PATIENCE_MAX_SECONDS, max(PATIENCE_SECONDS, waited / 4))


ONE_NODE = (
    "A ReadWriteOnce claim is mounted by one node at a time: with several nodes use a ReadWriteMany claim (to read "
    "from, ReadOnlyMany is enough); else wait until the other pod has ended"
)
"""Advice for a volume that is attached to another node."""


def unfinished_state(view: JobView, container: str, *, now: float) -> JobState:
    """Return the state of a Job that has not ended."""
    if view.elsewhere and not view.suspended:
        return _elsewhere(view)
    live = [pod for pod in view.pods if is_live(pod)]
    running = [pod for pod in live if pod["status"].get("phase") == "Running"]
    done = sum(pod["status"].get("phase") == "Succeeded" for pod in view.pods)
    wanted = int(view.job["spec"].get("parallelism") or 1) - done
    if len(running) == len(live) >= wanted:
        return JobState("Running")
    if len(running) == len(live):  # no pod waits, but some nodes have no pod yet
        return _without_pods(view, container, now=now)
    return _with_pods(view, next(pod for pod in live if pod not in running), container, now=now)


def _elsewhere(view: JobView) -> JobState:
    """Return the state of a Job whose pods run in another cluster: its manager copies only the Job's status."""
    if (view.job.get("status") or {}).get("ready"):
        return JobState("Running", "runs in another cluster: its log there shows the progress")
    return JobState("Pending", "admitted to another cluster, where no pod of it is ready yet", since=view.started)


def _without_pods(view: JobView, container: str, *, now: float) -> JobState:
    queue = (view.job["metadata"].get("labels") or {}).get(KUEUE_QUEUE)
    if view.suspended:
        if queue:
            return JobState("Queued", f"queued by Kueue in {queue}")
        return JobState(
            "Queued", "its Job is suspended, but not by this operator: a queue or a person has to resume it"
        )
    going = [pod for pod in view.pods if pod["metadata"].get("deletionTimestamp") and not is_over(pod)]
    if going:
        since = seconds(going[-1]["metadata"]["deletionTimestamp"])
        return JobState("Pending", being_stopped(going[-1], now=now), since=since)
    if view.warning_events:
        return JobState("Pending", f"its pod cannot be created: {view.warning_events[-1]}", since=view.started)
    begun = view.started or seconds(view.job["metadata"].get("creationTimestamp")) or now
    return _with_events(view, JobState("Pending", BEING_MADE, since=view.started), "", begun, now=now)


def _with_pods(view: JobView, pod: Body, container: str, *, now: float) -> JobState:
    since = view.started or seconds(pod["metadata"].get("creationTimestamp"))
    scheduled = next((c for c in pod["status"].get("conditions") or [] if c["type"] == "PodScheduled"), None)
    if scheduled is not None and scheduled["status"] == "False":
        wait = duration(now - (seconds(scheduled.get("lastTransitionTime")) or now))
        return JobState("Pending", _unschedulable(pod, container, scheduled, wait), since=since)
    name = pod["metadata"]["name"]
    state = (container_status(pod, container) or {}).get("state", {}).get("waiting") or {}
    reason, text = state.get("reason") or "", " ".join(str(state.get("message") or "").split())
    if reason in PULL_ERRORS:
        image = next((one["image"] for one in pod["spec"]["containers"] if one["name"] == container), "")
        detail = f": {text}" if text else ""
        return JobState("Pending", f"image cannot be pulled: {image}{detail}", since=since)
    if reason in START_ERRORS:
        return JobState("Pending", f"the container cannot be created: {text or reason}", since=since)
    if view.warning_events:
        return JobState("Pending", f"pod {name} cannot start: {_advised(view.warning_events[-1])}", since=since)
    where = f" on node {node_of(pod)}" if node_of(pod) else ""
    state = JobState("Starting", f"pod {name} is starting{where}", since=since)
    return _with_events(view, state, name, seconds(pod["metadata"].get("creationTimestamp")) or now, now=now)


def _advised(warning: str) -> str:
    """Return the message of a warning event, with advice if it is a volume attached to another node."""
    return f"{warning}. {ONE_NODE}" if "Multi-Attach" in warning else warning


def _with_events(view: JobView, state: JobState, pod: str, begun: float, *, now: float) -> JobState:
    """Return a state without a known reason, with the events to read, or the time when they must be read.

    They are the events of the pod; without a pod, those of the Job.
    """
    if view.warning_events is not None:
        return state
    due = begun + EVENTS_AFTER_SECONDS
    if now <= due:
        return replace(state, events_due_at=due + 1)
    return replace(state, events_of=("Pod", pod) if pod else ("Job", view.name))


def _unschedulable(pod: Body, container: str, scheduled: Body, wait: str) -> str:
    text = str(scheduled.get("message") or "")
    limits: Mapping[str, str] = next(
        (
            (one.get("resources") or {}).get("limits") or {}
            for one in pod["spec"]["containers"]
            if one["name"] == container
        ),
        {},
    )
    short = next((name for name in limits if f"Insufficient {name}" in text), None)
    if short is not None and "/" in short:
        amount = "a" if limits[short] == "1" else limits[short]
        return f"no node has {amount} free {short}; unschedulable for {wait}: {text}"
    advice = ""
    if "untolerated taint" in text:
        stage = " or those of the stage Inspection in spec.stages" if container == INSPECT else ""
        advice = f" Tolerate the taints with spec.tolerations{stage}"
    return f"no node fits; unschedulable for {wait}: {text or 'the scheduler has given no reason'}{advice}"


def running_seconds(pods: Sequence[Body], container: str, *, now: float) -> float:
    """Return the seconds for which a container has run, summed over pods; deleted pods and lost nodes stop counting."""
    return sum(_ran(pod, container, now=now) for pod in pods)


def _ran(pod: Body, container: str, *, now: float) -> float:
    ended = terminated(pod, container)
    if ended is not None:
        start, end = seconds(ended.get("startedAt")), seconds(ended.get("finishedAt"))
        return max(0.0, end - start) if start is not None and end is not None else 0.0
    running = ((container_status(pod, container) or {}).get("state") or {}).get("running") or {}
    start = seconds(running.get("startedAt"))
    if start is None or is_over(pod):
        return 0.0
    ends = (seconds(pod["metadata"].get("deletionTimestamp")), not_ready_since(pod))
    return max(0.0, min(now, *(end for end in ends if end is not None), now) - start)


def live_orphan(pods: Sequence[Body], job: str) -> Body | None:
    """Return a pod that has not ended although its Job of this name was deleted, as by hand; None without any."""
    for pod in pods:
        metadata = pod["metadata"]
        owners = {one["name"] for one in metadata.get("ownerReferences") or [] if one.get("kind") == "Job"}
        named = (metadata.get("labels") or {}).get(JOB_NAME)
        if job in owners | {named} and not is_over(pod):
            return pod
    return None
