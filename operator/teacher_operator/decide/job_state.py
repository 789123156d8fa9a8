"""What Jobs and Pods say of themselves: are they queued, waiting for a GPU, pulling, running, done? Pure."""

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
JOB_CONTROLLER = "kubernetes.io/job-controller"
BEING_MADE = "its pod is being made"
EVENTS_AFTER_SECONDS = 15
"""A Job without pods, or a pod that is being made, for longer than this: its events say why."""


@dataclass(frozen=True)
class JobView:
    """A Job with all that is known of it.

    Attributes:
        job: The Job.
        pods: Its pods, oldest first.
        progress: What its running pod says of training.
        log: The last lines of the log of its last failed pod.
        warning_events: Warnings in the events of the Job or of its pod.
        sidecars: By pods whose own container has ended, the names of the containers that run on in them.
    """

    job: Body
    pods: Sequence[Body] = ()
    progress: ProgressView | None = None
    log: Sequence[str] | None = None
    warning_events: Sequence[str] | None = None
    sidecars: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the Job."""
        return str(self.job["metadata"]["name"])

    @property
    def suspended(self) -> bool:
        """The Job is not to run."""
        return bool(self.job["spec"].get("suspend"))

    @property
    def deleting(self) -> bool:
        """The Job is going."""
        return bool(self.job["metadata"].get("deletionTimestamp"))

    @property
    def elsewhere(self) -> bool:
        """The Job is run by another controller than that of this cluster: its pods are not here."""
        return (self.job["spec"].get("managedBy") or JOB_CONTROLLER) != JOB_CONTROLLER

    @property
    def complete(self) -> bool:
        """All pods of the Job have succeeded."""
        return self._condition("Complete")

    @property
    def failed(self) -> bool:
        """The Job has failed for good."""
        return self._condition("Failed")

    @property
    def unfinished(self) -> bool:
        """The Job may still run, and is not going."""
        return not (self.complete or self.failed or self.deleting)

    @property
    def unsettled(self) -> bool:
        """The Job has ended, and of its pods it is not known how: watches of the two go their own pace."""
        counted = self.job.get("status") or {}
        ended = int(counted.get("succeeded") or 0) + int(counted.get("failed") or 0)
        return len(self.pods) < max(1, ended) or not all(is_over(pod) for pod in self.pods)

    @property
    def holds_pods(self) -> bool:
        """A pod of the Job has not ended, and so holds its GPUs."""
        return bool(self.sidecars) or not all(is_over(pod) for pod in self.pods)

    @property
    def started(self) -> float | None:
        """When the Job was last let run: of a queued one, when the queue let it."""
        return seconds((self.job.get("status") or {}).get("startTime"))

    def patched(self, patch: Body) -> JobView:
        """The view as it will be when its Job's spec and annotations are patched."""
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
    """When to look again at a wait whose end a watch will show: the longer it has lasted, the later.

    >>> [next_check(since, now=3600) - 3600 for since in (None, 3590, 2400, 0)]
    [60, 60, 300.0, 600]
    """
    waited = now - since if since is not None else 0
    return now + min(PATIENCE_MAX_SECONDS, max(PATIENCE_SECONDS, waited / 4))


ONE_NODE = (
    "A ReadWriteOnce claim is mounted by one node at a time: with several nodes give a ReadWriteMany one (to read "
    "from, ReadOnlyMany is enough); else wait until the other pod has ended"
)
"""What to do about a disk that is attached to another node."""


def unfinished_state(view: JobView, container: str, *, now: float) -> JobState:
    """Where a Job that has not ended stands."""
    if view.elsewhere and not view.suspended:
        return _elsewhere(view)
    live = [pod for pod in view.pods if is_live(pod)]
    running = [pod for pod in live if pod["status"].get("phase") == "Running"]
    done = sum(pod["status"].get("phase") == "Succeeded" for pod in view.pods)
    wanted = int(view.job["spec"].get("parallelism") or 1) - done
    if len(running) == len(live) >= wanted:
        return JobState("Running")
    if len(running) == len(live):  # of several nodes, some have no pod
        return _without_pods(view, container, now=now)
    return _with_pods(view, next(pod for pod in live if pod not in running), container, now=now)


def _elsewhere(view: JobView) -> JobState:
    """Return the state of a Job whose pods run in another cluster: its manager copies only the Job's status."""
    if (view.job.get("status") or {}).get("ready"):
        return JobState("Running", "runs in another cluster: its log there says how far it is")
    return JobState("Pending", "admitted to another cluster, where no pod of it is ready yet", since=view.started)


def _without_pods(view: JobView, container: str, *, now: float) -> JobState:
    queue = (view.job["metadata"].get("labels") or {}).get(KUEUE_QUEUE)
    if view.suspended:
        if queue:
            return JobState("Queued", f"queued by Kueue in {queue}")
        return JobState(
            "Queued", "its Job is suspended, and not by this operator: a queue will let it run, or a person"
        )
    going = [pod for pod in view.pods if pod["metadata"].get("deletionTimestamp") and not is_over(pod)]
    if going:
        since = seconds(going[-1]["metadata"]["deletionTimestamp"])
        return JobState("Pending", being_stopped(going[-1], now=now), since=since)
    if view.warning_events:
        return JobState("Pending", f"its pod cannot be made: {view.warning_events[-1]}", since=view.started)
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
        return JobState("Pending", f"the container cannot be made: {text or reason}", since=since)
    if view.warning_events:
        return JobState("Pending", f"pod {name} cannot start: {_advised(view.warning_events[-1])}", since=since)
    where = f" on node {node_of(pod)}" if node_of(pod) else ""
    state = JobState("Starting", f"pod {name} is starting{where}", since=since)
    return _with_events(view, state, name, seconds(pod["metadata"].get("creationTimestamp")) or now, now=now)


def _advised(complaint: str) -> str:
    """A warning of the cluster, with what to do where it does not say so itself."""
    return f"{complaint}. {ONE_NODE}" if "Multi-Attach" in complaint else complaint


def _with_events(view: JobView, state: JobState, pod: str, begun: float, *, now: float) -> JobState:
    """A wait that says nothing, with when events are to be read: those of the pod, or of the Job without one."""
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
    return f"no node fits; unschedulable for {wait}: {text or 'the scheduler has not said why'}{advice}"


def running_seconds(pods: Sequence[Body], container: str, *, now: float) -> float:
    """Seconds for which a container has run, summed over these pods; one that is stopped or lost counts no more."""
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
    """A pod that has not ended, of a Job of this name that no longer exists, as after a deletion by hand."""
    for pod in pods:
        metadata = pod["metadata"]
        owners = {one["name"] for one in metadata.get("ownerReferences") or [] if one.get("kind") == "Job"}
        named = (metadata.get("labels") or {}).get(JOB_NAME)
        if job in owners | {named} and not is_over(pod):
            return pod
    return None
