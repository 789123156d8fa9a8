"""One object in a small cluster: an API server, a Job controller, kubelets, Kueue, and an operator that decides.

Nothing moves by itself: tests say what happens next, so that it can happen in any order.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from job_rules import INDEX, JobRules, has_ended, is_indexed
from tft_objects import BOXES, MASKS, NAME, NOW, SETTINGS, body_of, failed_message, pod_of, prepared_of, trained_of
from tft_schema import spec_errors, status_errors

from engine.results.outcome import Outcome
from engine.spec import TeacherName
from engine.stages import of_run
from teacher_operator.api.names import (
    COMPONENT,
    INSPECT,
    KUEUE_QUEUE,
    SUSPENDED,
    TEACHER,
    inspect_job,
    owner_uid,
    stage_job,
    stage_of,
    trainer_job,
)
from teacher_operator.api.settings import Settings
from teacher_operator.api.spec import NAME_MAX
from teacher_operator.api.status import FailureStatus, TeacherFineTuneStatus, TeacherStatus
from teacher_operator.api.timestamps import timestamp
from teacher_operator.decide.actions import Lookup
from teacher_operator.decide.conditions import is_terminal, summary_condition
from teacher_operator.decide.failed_pods import root_cause_pod
from teacher_operator.decide.job_state import JOB_NAME, JobView
from teacher_operator.decide.pod_state import is_over
from teacher_operator.decide.progress import read_progress
from teacher_operator.decide.run import Decision, decide, read_status
from teacher_operator.decide.sidecars import job_view
from teacher_operator.decide.stage_context import Observed
from teacher_operator.runtime.store import Store

Body = dict[str, Any]
ROUNDS = 6
PROXY = "istio-proxy"
SLUGS = {teacher.slug: teacher for teacher in TeacherName}


class World:
    """An object and what becomes of it.

    Attributes:
        now: Seconds since the epoch.
        jobs: Jobs by name; so are the pods.
        made: Names of all Jobs that were ever made.
        refusals: Children that the API server refuses now, and how the operator takes it.
        events: Warnings that reading the events of a Job or Pod would show.
        logs: What the container of a pod has written.
    """

    def __init__(
        self,
        spec: Mapping[str, Any] | None = None,
        *,
        teachers: Sequence[TeacherName] = (BOXES, MASKS),
        published: bool = False,
        settings: Settings = SETTINGS,
        first_uid: int = 1000,
        **changes: Any,
    ) -> None:
        self.now = NOW
        self.teachers, self.published, self.settings = tuple(teachers), published, settings
        self.jobs: dict[str, Body] = {}
        self.pods: dict[str, Body] = {}
        self.made: list[str] = []
        self.refusals: dict[str, FailureStatus] = {}
        self.events: dict[tuple[str, str], list[str]] = {}
        self.logs: dict[str, list[str]] = {}
        self.lost: set[str] = set()
        """Pods on nodes that do not answer."""
        self._store, self._counter = Store(), first_uid
        self._logs_read: dict[str, Sequence[str]] = {}
        self._events_read: dict[tuple[str, str], Sequence[str]] = {}
        self._pods_read: dict[str, str] = {}
        self._rules = JobRules()
        self.body = body_of(spec, **changes)
        assert len(NAME) <= NAME_MAX
        assert spec_errors(self.body["spec"]) == []
        self._touch("TeacherFineTune", self.body)

    # What tests ask.

    @property
    def status(self) -> TeacherFineTuneStatus:
        """As it is written."""
        return read_status(self.body)

    @property
    def terminal(self) -> bool:
        """The run has ended."""
        return is_terminal(self.status)

    @property
    def summary(self) -> tuple[str, str, str]:
        """Status, reason and message of the condition that sums the run up."""
        condition = summary_condition(self.status)
        assert condition is not None
        return condition.status.value, condition.reason, condition.message

    @property
    def state(self) -> tuple[str, str]:
        """Status and reason of the condition that sums the run up."""
        return self.summary[:2]

    def teacher(self, name: TeacherName = MASKS) -> TeacherStatus:
        """The status of a teacher."""
        return next(one for one in self.status.teachers if one.name is name)

    def job(self, teacher: TeacherName | None = None) -> Body:
        """The Job of a teacher, or of inspection."""
        return self.jobs[inspect_job(NAME) if teacher is None else trainer_job(NAME, teacher)]

    def has_job(self, teacher: TeacherName | None = None) -> bool:
        """There is one."""
        return (inspect_job(NAME) if teacher is None else trainer_job(NAME, teacher)) in self.jobs

    def pods_of(self, job: Body) -> list[Body]:
        """The pods of a Job, oldest first."""
        return [pod for pod in self.pods.values() if owner_uid(pod) == job["metadata"]["uid"]]

    def _owner_of(self, pod: Body) -> Body | None:
        return next((job for job in self.jobs.values() if job["metadata"]["uid"] == owner_uid(pod)), None)

    def pod(self, teacher: TeacherName | None = None) -> Body:
        """The newest pod of a teacher, or of inspection."""
        return self.pods_of(self.job(teacher))[-1]

    # The operator.

    def observed(self, refused: Mapping[str, FailureStatus]) -> Observed:
        """What the operator sees."""
        children, jobs = self._store.jobs_of(self.body), {}
        for job in children:
            stage = stage_of(job["metadata"]["labels"])
            assert stage is not None
            assert stage.name not in jobs
            jobs[stage.name] = self._complete(job_view(job, self._store.pods_of(job)))
        orphans = self._store.orphans_of(self.body, children)
        return Observed(jobs=jobs, refused=refused, orphans=orphans)

    def decide(self, refused: Mapping[str, FailureStatus] | None = None) -> Decision:
        """What the operator would do now."""
        seen = copy.deepcopy(self.body)
        decision = decide(seen, self.observed(refused or {}), self.settings, now=self.now)
        assert seen == self.body, "deciding changes nothing"
        assert status_errors(decision.status) == []
        return decision

    def reconcile(self) -> Decision:
        """Reconcile as the operator does; a second time if the written status only names the Job to create."""
        decision = self.reconcile_once()
        return self.reconcile_once() if decision.actions.requeue_after_write else decision

    def reconcile_once(self) -> Decision:
        """Decide, execute the actions and write the status once, as an operator that is killed afterwards."""
        refused: dict[str, FailureStatus] = {}
        for _ in range(ROUNDS):
            decision = self.decide(refused)
            if self._read(decision.actions.lookups):
                continue
            before = len(refused)
            self._do(decision, refused)
            if len(refused) == before:
                break
        else:
            raise AssertionError("deciding does not come to an end")
        self._write(decision.status)
        return decision

    def _complete(self, view: JobView) -> JobView:
        names = [pod["metadata"]["name"] for pod in view.pods]
        root_cause = root_cause_pod(view.pods)
        progress = None
        for name in names:
            if self.pods[name]["status"]["phase"] == "Running" and name in self.logs:
                progress = read_progress(self.logs[name])
        known = [("Job", view.name), *(("Pod", name) for name in names)]
        read = [key for key in known if key in self._events_read]
        return replace(
            view,
            log=self._logs_read.get(root_cause["metadata"]["name"]) if root_cause is not None else None,
            progress=progress,
            warning_events=[message for key in read for message in self._events_read[key]] if read else None,
        )

    def _read(self, lookups: Sequence[Lookup]) -> bool:
        news = False
        for lookup in lookups:
            if lookup.kind == "log":
                if lookup.name not in self._logs_read:
                    self._logs_read[lookup.name] = self.logs.get(lookup.name, [])
                    news = True
            elif lookup.kind == "pods":
                version = self.jobs[lookup.name]["metadata"]["resourceVersion"]
                news |= self._pods_read.get(lookup.name) != version
                self._pods_read[lookup.name] = version
            elif (lookup.kind, lookup.name) not in self._events_read:
                self._events_read[lookup.kind, lookup.name] = self.events.get((lookup.kind, lookup.name), [])
                news = True
        return news

    def _do(self, decision: Decision, refused: dict[str, FailureStatus]) -> None:
        for name in decision.actions.delete:
            self.delete_job(name)
        for manifest in decision.actions.replace:
            name = manifest["metadata"]["name"]
            if name in self.refusals and self.refusals[name].reason == "ChildRefused":  # it is tried before
                refused[name] = self.refusals[name]
                return
            self.delete_job(name)
        for name, patch in decision.actions.patch:
            annotations = patch.get("metadata", {}).get("annotations", {})
            job_annotations = self.jobs[name]["metadata"].setdefault("annotations", {})
            for key, value in annotations.items():
                job_annotations[key] = value
                if value is None:
                    del job_annotations[key]
            for key, value in patch["spec"].items():
                self.jobs[name]["spec"][key] = value
            self.jobs[name]["spec"] = {k: v for k, v in self.jobs[name]["spec"].items() if v is not None}
            self._touch("Job", self.jobs[name])
        for manifest in decision.actions.apply:
            name = manifest["metadata"]["name"]
            if name in self.refusals:
                refused[name] = self.refusals[name]
                return
            if manifest["kind"] == "Job":
                self._make_job(manifest)

    def _make_job(self, manifest: Body) -> None:
        job = copy.deepcopy(manifest)
        name = job["metadata"]["name"]
        assert name not in self.jobs, f"there is a Job {name}: its name is not free"
        expected = [stage_job(NAME, stage) for stage in of_run(self.teachers)]
        assert name in expected, f"{name} is no Job of this run"
        assert not self.terminal, f"Job {name} is made for a run that has ended"
        self._counter += 1
        job["metadata"] |= {"uid": f"uid-{self._counter}", "creationTimestamp": timestamp(self.now)}
        job["spec"] = {"parallelism": 1, "completions": 1, "completionMode": "NonIndexed", **job["spec"]}
        job["status"] = {}
        self.jobs[name] = job
        self.made.append(name)
        self._touch("Job", job)

    def _write(self, status: TeacherFineTuneStatus) -> None:
        if status == self.status:
            return
        self.body["status"] = json.loads(status.model_dump_json(by_alias=True, exclude_none=True))
        assert self.status == status, "what is read is what was written"
        self._touch("TeacherFineTune", self.body)

    # The user.

    def edit(self, **changes: Any) -> None:
        """Change the spec; None takes a setting away."""
        spec = {**self.body["spec"], **changes}
        spec = {name: value for name, value in spec.items() if value is not None}
        if spec != self.body["spec"]:
            self.body["spec"] = spec
            self.body["metadata"]["generation"] += 1
            assert spec_errors(spec) == []
            self._touch("TeacherFineTune", self.body)

    def break_status(self, *parts: str) -> None:
        """Take parts of the status away, or all of it."""
        kept = {name: value for name, value in self.body.get("status", {}).items() if parts and name not in parts}
        self.body["status"] = kept
        self._touch("TeacherFineTune", self.body)

    def delete_job(self, name: str) -> None:
        """Foreground deletion: its pods go first."""
        job = self.jobs.get(name)
        if job is not None and not job["metadata"].get("deletionTimestamp"):
            job["metadata"] |= {"deletionTimestamp": timestamp(self.now), "finalizers": ["foregroundDeletion"]}
            self._touch("Job", job)

    def remove_job(self, name: str, *, orphan: bool = False) -> None:
        """Background deletion: the Job is gone at once, and its pods are stopped, or left alone as orphans."""
        job = self.jobs.pop(name)
        for pod in self.pods_of(job):
            if orphan:
                del pod["metadata"]["ownerReferences"]
                self._touch("Pod", pod)
            else:
                self.delete_pod(pod)
        self._store.remove("Job", job)

    def add_pod(self, pod: Body) -> None:
        """Somebody makes a pod."""
        self.pods[pod["metadata"]["name"]] = pod
        self._touch("Pod", pod)

    def delete_pod(self, pod: Body) -> None:
        """It has its grace period."""
        if not pod["metadata"].get("deletionTimestamp"):
            pod["metadata"]["deletionTimestamp"] = timestamp(self.now + 120)
            self._touch("Pod", pod)

    # The cluster.

    def advance(self, span: float) -> None:
        """Time goes by; what was read of events is no longer fresh."""
        self.now += span
        if span >= 60:
            self._events_read.clear()

    def controllers(self) -> None:
        """The Job controller and the garbage collector look at every Job once."""
        for job in list(self.jobs.values()):
            self._sync(job)

    def _sync(self, job: Body) -> None:
        pods = self.pods_of(job)
        if job["metadata"].get("deletionTimestamp"):
            for pod in pods:
                self.delete_pod(pod)
                if is_over(pod) or pod["metadata"].get("deletionGracePeriodSeconds") == 0:
                    self.remove_pod(pod)
            if not self.pods_of(job):
                del self.jobs[job["metadata"]["name"]]
                self._store.remove("Job", job)
            return
        plan = self._rules.plan(job, pods, self.now)
        if plan is None:
            return
        for pod in plan.delete:
            self.delete_pod(pod)
        for index in plan.create:
            self._make_pod(job, index)
        job["status"] = self._rules.status(job, self.pods_of(job), plan.end, self.now)
        self._touch("Job", job)

    def _make_pod(self, job: Body, index: int) -> None:
        template = job["spec"]["template"]
        (container,) = template["spec"]["containers"]
        others = [pod for pod in self.live_pods() if pod["metadata"]["labels"].get(JOB_NAME) == job["metadata"]["name"]]
        assert (
            all(owner_uid(pod) == job["metadata"]["uid"] for pod in others) or TEACHER not in job["metadata"]["labels"]
        ), "two trainers of one run"
        self._counter += 1
        name = f"{job['metadata']['name']}-{self._counter}"
        pod = pod_of(name, container=container["name"], node=None, created=self.now, conditions=[])
        pod["metadata"] |= {
            "uid": f"uid-{self._counter}",
            "labels": {
                **template["metadata"]["labels"],
                JOB_NAME: job["metadata"]["name"],
                **({INDEX: str(index)} if is_indexed(job) else {}),
            },
            "ownerReferences": [
                {"kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"], "controller": True}
            ],
        }
        pod["spec"]["containers"] = [{key: container.get(key) for key in ("name", "image", "resources")}]
        self.pods[name] = pod
        self._touch("Pod", pod)

    def live_pods(self) -> Iterator[Body]:
        """Pods that have not ended, whether they are being stopped or not."""
        return iter([pod for pod in self.pods.values() if not is_over(pod)])

    def run(self, pod: Body, *, node: str = "gpu-node-1") -> None:
        """The pod is placed and its container starts."""
        pod["spec"]["nodeName"] = node
        pod["status"] |= {"phase": "Running", "conditions": [{"type": "PodScheduled", "status": "True"}]}
        self._container(pod, {"running": {"startedAt": timestamp(self.now)}})

    def waits(self, pod: Body, *, conditions: Sequence[Body] = (), reason: str = "", message: str = "") -> None:
        """The pod cannot be placed, or its container cannot be made."""
        pod["status"]["conditions"] = list(conditions)
        if reason:
            self._container(pod, {"waiting": {"reason": reason, "message": message}})
        else:
            self._touch("Pod", pod)

    def end(
        self,
        pod: Body,
        exit_code: int,
        *,
        message: str = "",
        reason: str | None = None,
        conditions: Sequence[Body] = (),
    ) -> None:
        """The container ends."""
        states = [one["state"] for one in pod["status"].get("containerStatuses", ())]
        running = next((state["running"] for state in states if "running" in state), {})
        pod["status"]["phase"] = "Failed" if exit_code else "Succeeded"
        pod["status"]["conditions"] = [*pod["status"].get("conditions", ()), *conditions]
        ended = {
            "exitCode": exit_code,
            "reason": reason or ("Error" if exit_code else "Completed"),
            "startedAt": running.get("startedAt", timestamp(self.now)),
            "finishedAt": timestamp(self.now),
            **({"message": message} if message else {}),
        }
        self._container(pod, {"terminated": ended})

    def end_with_sidecar(self, pod: Body, exit_code: int, *, proxy: int | None = None, **how: Any) -> None:
        """End the main container; a sidecar still runs, or ends with the exit code ``proxy``."""
        self.end(pod, exit_code, **how)
        self.keep_sidecar(pod, proxy=proxy)

    def keep_sidecar(self, pod: Body, *, proxy: int | None = None) -> None:
        """Add a sidecar that still runs after the main container, or has ended with the exit code ``proxy``."""
        state = {"running": {}} if proxy is None else {"terminated": {"exitCode": proxy}}
        pod["status"]["containerStatuses"].append({"name": PROXY, "state": state})
        code = next(iter(pod["status"]["containerStatuses"]))["state"]["terminated"]["exitCode"]
        pod["status"]["phase"] = "Running" if proxy is None else "Failed" if code or proxy else "Succeeded"
        self._touch("Pod", pod)

    def succeed(self, pod: Body) -> None:
        """The container does what it is there for."""
        labels = pod["metadata"]["labels"]
        if labels[COMPONENT] == INSPECT:
            outcome = Outcome(prepared=prepared_of(*self.teachers, published=self.published))
        else:
            outcome = Outcome(trained=trained_of(SLUGS[labels[TEACHER]]))
        self.end(pod, 0, message=outcome.to_message())

    def stop(self, pod: Body) -> None:
        """A pod that is being deleted ends, and is gone when the Job controller has counted it."""
        if not is_over(pod):
            if pod["status"]["phase"] == "Running":
                said = failed_message(143, "Interrupted", "SIGTERM arrived: stopped after step 7 of 90")
                self.end(pod, 143, message=said)
            else:
                pod["status"]["phase"] = "Failed"
                self._touch("Pod", pod)
        owner = self._owner_of(pod)
        if owner is not None:
            self._sync(owner)
        self.remove_pod(pod)

    def reap(self) -> None:
        """Every pod that is being deleted ends, but for those on lost nodes."""
        for pod in list(self.pods.values()):
            name = pod["metadata"]["name"]
            if pod["metadata"].get("deletionTimestamp") and name not in self.lost and name in self.pods:
                self.stop(pod)

    def remove_pod(self, pod: Body) -> None:
        """The pod is gone."""
        name = pod["metadata"]["name"]
        if self.pods.pop(name, None) is not None:
            owner = self._owner_of(pod)
            if owner is not None:
                self._rules.judge(owner, pod)
            self._store.remove("Pod", pod)
            self._logs_read.pop(name, None)
            self.lost.discard(name)

    def lose_node(self, pod: Body) -> None:
        """The node of a pod stops reporting: the node controller marks the pod, and no kubelet ends it."""
        self.lost.add(pod["metadata"]["name"])
        pod["status"]["conditions"] = [
            {"type": "PodScheduled", "status": "True"},
            {"type": "ContainersReady", "status": "True", "lastTransitionTime": pod["metadata"]["creationTimestamp"]},
            {"type": "Ready", "status": "False", "lastTransitionTime": timestamp(self.now)},
        ]
        self._touch("Pod", pod)

    def find_node(self, pod: Body) -> None:
        """The node of a pod reports again."""
        self.lost.discard(pod["metadata"]["name"])
        pod["status"]["conditions"][-1] |= {"status": "True", "lastTransitionTime": timestamp(self.now)}
        self._touch("Pod", pod)

    def delete_by_force(self, pod: Body) -> None:
        """The API server keeps the pod while its Job holds it by a finalizer."""
        pod["metadata"] |= {"deletionTimestamp": timestamp(self.now), "deletionGracePeriodSeconds": 0}
        self._touch("Pod", pod)

    def remove_node(self, pod: Body) -> None:
        """The node of a pod is deleted: its pods are failed by the garbage collector."""
        if not is_over(pod):
            pod["status"]["phase"] = "Failed"
            pod["status"]["conditions"] = [
                {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": "node is gone"}
            ]
            self._touch("Pod", pod)
        self.delete_pod(pod)
        self.lost.discard(pod["metadata"]["name"])

    def kueue(self, *, admit: bool) -> None:
        """Kueue lets Jobs run, or takes their place away."""
        for job in self.jobs.values():
            queued = KUEUE_QUEUE in job["metadata"]["labels"] and not has_ended(job)
            if queued and bool(job["spec"].get("suspend")) == admit:
                job["spec"]["suspend"] = not admit
                self._touch("Job", job)

    def multikueue(self, teacher: TeacherName, **status: Any) -> None:
        """Set the status of a Job as MultiKueue copies it from another cluster."""
        job = self.job(teacher)
        job["status"] = status
        self._touch("Job", job)

    def suspend_by_others(self, *, suspend: bool) -> None:
        """Suspend or resume Jobs as another controller than Kueue and this operator does."""
        for job in self.jobs.values():
            ours = {KUEUE_QUEUE, SUSPENDED} & {*job["metadata"]["labels"], *job["metadata"].get("annotations", {})}
            if not ours and not has_ended(job) and bool(job["spec"].get("suspend")) != suspend:
                job["spec"]["suspend"] = suspend
                self._touch("Job", job)

    def step(self) -> None:
        """Advance all controllers and pods by one step without failures."""
        self.controllers()
        self.reap()
        self.controllers()
        self.kueue(admit=True)
        self.suspend_by_others(suspend=False)
        for pod in self.live_pods():
            if pod["metadata"].get("deletionTimestamp"):
                continue
            if pod["status"]["phase"] == "Running":
                self.succeed(pod)
            else:
                self.run(pod)
        self._run_elsewhere()
        self.advance(5)

    def _run_elsewhere(self) -> None:
        """Run the Jobs of other clusters; complete those that already run."""
        for job in self.jobs.values():
            if job["spec"].get("managedBy") and not job["spec"].get("suspend") and not has_ended(job):
                running = job["status"].get("ready")
                job["status"] = {"startTime": timestamp(self.now), "active": 1, "ready": 1}
                if running:
                    job["status"] = {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}
                self._touch("Job", job)

    def run_fairly(self, *, rounds: int = 60) -> None:
        """Let the cluster do its work until the run has ended."""
        self.refusals.clear()
        self.lost.clear()
        self.edit(suspend=None)
        for _ in range(rounds):
            self.reconcile()
            if self.terminal:
                return
            self.step()
        raise AssertionError(f"not ended after {rounds} rounds: {self.summary}")

    def inspected(self) -> None:
        """Up to where the data is known and the operator has looked."""
        self.reconcile()
        for _ in range(2):
            self.controllers()
            for pod in self.live_pods():
                if pod["status"]["phase"] == "Running":
                    self.succeed(pod)
                else:
                    self.run(pod)
        self.controllers()
        self.reconcile()

    def training(self) -> None:
        """Up to where every trainer runs."""
        self.inspected()
        self.kueue(admit=True)
        self.controllers()
        for pod in self.live_pods():
            self.run(pod)
        self.reconcile()

    def _container(self, pod: Body, state: Body) -> None:
        (container,) = pod["spec"]["containers"]
        told = {"name": container["name"], "image": container["image"], "restartCount": 0, "state": state}
        pod["status"]["containerStatuses"] = [told]
        self._touch("Pod", pod)

    def _touch(self, kind: str, body: Body) -> None:
        """A new version, which the watch shows at once."""
        self._counter += 1
        body["metadata"]["resourceVersion"] = str(self._counter)
        body["metadata"].setdefault("namespace", self.body["metadata"]["namespace"])
        assert self._store.put(kind, copy.deepcopy(body))


def world_with_pod_of(teacher: TeacherName | None, *, reconciled: bool = False, **spec: Any) -> World:
    """Return a run of SAM with a running pod of inspection (None) or of a teacher; ``reconciled``: also decided on."""
    world = World(teachers=[MASKS], **spec)
    world.reconcile()
    world.controllers()
    if teacher is not None:
        world.inspected()
        world.controllers()
    world.run(world.pod(teacher))
    if reconciled:
        world.reconcile()
    return world
