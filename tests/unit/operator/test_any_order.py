"""Whatever happens, in whatever order: deciding is idempotent, never makes two of a Job, and always comes to an end."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tft_objects import BOXES, GPU, MASKS, NAME, NOW, disrupted, failed_message, unschedulable
from tft_world import World

from engine.results.events import Event
from teacher_operator.api.names import trainer_job
from teacher_operator.api.settings import Allowed
from teacher_operator.api.status import FailureStatus
from teacher_operator.api.timestamps import timestamp
from teacher_operator.decide.conditions import is_terminal
from teacher_operator.decide.stage_status import ENDED

NUMBER = st.integers(0, 7)
"""Picks one of what is there."""

MULTIKUEUE = "kueue.x-k8s.io/multikueue"
SPECS: list[dict[str, Any]] = [
    {},
    {"suspend": True},
    {"queueName": "team-a"},
    {"nodes": 2, "gpus": 2},
    {"gpus": 0, "backoffLimit": 0},
    {"pendingDeadlineSeconds": 600, "activeDeadlineSeconds": 4000, "ttlSecondsAfterFinished": 1000},
    {"nodes": 2, "gpus": 1, "gangTimeoutSeconds": 30, "pendingDeadlineSeconds": 6000, "activeDeadlineSeconds": 900},
    {"queueName": "team-a", "managedBy": MULTIKUEUE, "activeDeadlineSeconds": 900, "pendingDeadlineSeconds": 600},
    {"stages": [{"name": "Inspection", "tolerations": []}, {"name": "Sam", "image": "registry.test/sam:2"}]},
]
EDITS: list[dict[str, Any]] = [
    {"gpus": 4},
    {"gpus": None},
    {"nodes": 3, "gpus": 1},
    {"nodes": None},
    {"nodeSelector": {"zone": "b"}},
    {"nodeSelector": None},
    {"queueName": "team-b"},
    {"queueName": None},
    {"backoffLimit": 1},
    {"activeDeadlineSeconds": 90},
    {"activeDeadlineSeconds": None},
    {"pendingDeadlineSeconds": 60},
    {"ttlSecondsAfterFinished": 0},
    {"gangTimeoutSeconds": 1800},
    {"stages": [{"name": "Sam", "labels": {"cost-center": "b"}}]},
    {"stages": None},
    {"serviceAccountName": "robot"},
    {"serviceAccountName": None},
]
ELSEWHERE: list[dict[str, Any]] = [
    {"active": 1, "ready": 1},
    {"active": 1, "ready": 0},
    {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]},
    {"failed": 1, "conditions": [{"type": "Failed", "status": "True", "message": "failed with exit code 48"}]},
    {"failed": 1, "conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]},
]
REFUSALS = [
    FailureStatus(reason="NameTaken", message="Job of another owner"),
    FailureStatus(reason="Forbidden", message="exceeded quota"),
    FailureStatus(reason="ApiError", message="the API server cannot be reached"),
    FailureStatus(reason="ChildRefused", message="spec is invalid"),
]
CHILDREN = [f"{NAME}-{suffix}" for suffix in ("request", "inspect", "grounding-dino", "sam")]
ENDS: list[dict[str, Any]] = [
    {"exit_code": 1},
    {"exit_code": 2},
    {"exit_code": 40, "message": failed_message(40, "ConfigurationInvalid", "The setting is wrong.")},
    {"exit_code": 41, "message": failed_message(41, "DataInvalid", "The data is wrong.")},
    {"exit_code": 43, "message": failed_message(43, "StorageUnavailable", "The store is gone.")},
    {"exit_code": 45},
    {"exit_code": 137, "reason": "OOMKilled"},
    {"exit_code": 137, "conditions": disrupted("PreemptionByScheduler", "preempted")},
    {"exit_code": 143, "message": failed_message(143, "Interrupted", "SIGTERM arrived")},
    {"exit_code": 0, "message": "no outcome at all"},
    {"exit_code": 0},
    {"exit_code": 255},
]
WAITS: list[dict[str, Any]] = [
    {"conditions": unschedulable(f"0/3 nodes are available: 3 Insufficient {GPU}.")},
    {"reason": "ImagePullBackOff", "message": "401 Unauthorized"},
    {"reason": "ContainerCreating"},
]
PARTS = [(), ("teachers",), ("runId",), ("conditions",), ("dataset", "uri"), ("startTime", "completionTime")]


class AnyOrder(RuleBasedStateMachine):
    """A cluster, its users and the operator move as they like; in the end all goes well."""

    @initialize(
        spec=st.sampled_from(SPECS),
        teachers=st.sampled_from([(BOXES,), (MASKS,), (BOXES, MASKS)]),
        published=st.booleans(),
    )
    def begin(self, spec: dict[str, Any], teachers: tuple[Any, ...], published: bool) -> None:
        self.world = World(spec=None, teachers=teachers, published=published, **spec)

    # The operator.

    @rule()
    def reconciles(self) -> None:
        world = self.world
        was_terminal, attempts = world.terminal, self._attempts()
        first = world.reconcile()
        if is_terminal(first.status):
            assert first.actions.apply == [], "a run that has ended needs no Job"
        if was_terminal:
            assert world.terminal, "what has ended stays so"
        if world.body["spec"].get("suspend"):
            assert first.actions.apply == [], "nothing is made while it is suspended"
        assert self._attempts() >= attempts
        second = world.reconcile()
        assert second.actions.patch == []
        done = {teacher.job for teacher in world.status.teachers if teacher.state in ENDED} | {f"{NAME}-inspect"}
        assert set(second.actions.delete) <= done or (world.terminal and not was_terminal), (
            "an end may be followed by its removal"
        )
        asked = {child["metadata"]["name"] for child in second.actions.apply}
        assert not asked or asked & set(world.refusals), f"asked for again: {asked}"
        before = world.status
        third = world.reconcile()
        assert world.status == before, "nothing more is to be said"
        assert not third.actions.requeue_after_write
        assert third.actions.requeue_at is None or third.actions.requeue_at > world.now, (
            "it would look again without end"
        )
        assert world.state == (("True", "Succeeded") if world.state[0] == "True" else world.state)
        if world.state[0] == "True":
            assert all(teacher.adapter is not None for teacher in world.status.teachers)

    @rule()
    def is_killed_while_reconciling(self) -> None:
        self.world.reconcile_once()

    def _attempts(self) -> int:
        return sum(teacher.attempt_count for teacher in self.world.status.teachers)

    # Users.

    @rule(value=st.sampled_from([True, None]))
    def suspends(self, value: bool | None) -> None:
        self.world.edit(suspend=value)

    @rule(change=st.sampled_from(EDITS))
    def edits(self, change: dict[str, Any]) -> None:
        if "queueName" in change or "nodes" in change:  # MultiKueue needs a queue and one node
            change = {**change, "managedBy": None}
        self.world.edit(**change)

    @rule(number=NUMBER)
    def deletes_a_job(self, number: int) -> None:
        if self.world.jobs:
            self.world.delete_job(list(self.world.jobs)[number % len(self.world.jobs)])

    @rule(number=NUMBER, orphan=st.booleans())
    def deletes_a_job_before_its_pods(self, number: int, orphan: bool) -> None:
        if self.world.jobs:
            self.world.remove_job(list(self.world.jobs)[number % len(self.world.jobs)], orphan=orphan)

    @rule(number=NUMBER)
    def deletes_a_pod(self, number: int) -> None:
        if self.world.pods:
            self.world.delete_pod(self._pod(number))

    @rule(parts=st.sampled_from(PARTS))
    def loses_the_status(self, parts: tuple[str, ...]) -> None:
        self.world.break_status(*parts)

    # The cluster.

    @rule(span=st.sampled_from([1, 20, 70, 700, 5000]))
    def time_goes_by(self, span: int) -> None:
        self.world.advance(span)

    @rule()
    def controllers_work(self) -> None:
        self.world.controllers()

    @rule()
    def pods_end_that_are_being_stopped(self) -> None:
        self.world.reap()

    @rule(admit=st.booleans())
    def kueue_decides(self, admit: bool) -> None:
        self.world.kueue(admit=admit)

    @rule(suspend=st.booleans())
    def somebody_else_suspends(self, suspend: bool) -> None:
        self.world.suspend_by_others(suspend=suspend)

    @rule()
    def all_goes_well_for_a_moment(self) -> None:
        self.world.step()

    @rule(number=NUMBER)
    def a_pod_runs(self, number: int) -> None:
        for pod in self._live(number):
            if pod["status"]["phase"] == "Pending":
                self.world.run(pod, node=f"node-{number}")

    @rule(number=NUMBER)
    def a_pod_succeeds(self, number: int) -> None:
        for pod in self._live(number):
            if pod["status"]["phase"] == "Running":
                self.world.succeed(pod)

    @rule(number=NUMBER, end=st.sampled_from(ENDS))
    def a_pod_ends(self, number: int, end: dict[str, Any]) -> None:
        for pod in self._live(number):
            if pod["status"]["phase"] == "Running":
                self.world.end(pod, **end)

    @rule(number=NUMBER, end=st.sampled_from(ENDS))
    def a_container_ends_beside_a_proxy(self, number: int, end: dict[str, Any]) -> None:
        for pod in self._live(number):
            if pod["status"]["phase"] == "Running":
                self.world.end_with_sidecar(pod, **end)

    @rule(number=NUMBER)
    def a_container_succeeds_beside_a_proxy(self, number: int) -> None:
        for pod in self._live(number):
            if pod["status"]["phase"] == "Running":
                self.world.succeed(pod)
                self.world.keep_sidecar(pod)

    @rule(number=NUMBER, how=st.sampled_from(WAITS))
    def a_pod_waits(self, number: int, how: dict[str, Any]) -> None:
        for pod in self._live(number):
            if pod["status"]["phase"] == "Pending":
                self.world.waits(pod, **how)

    @rule(number=NUMBER, text=st.sampled_from(["", "Traceback", Event(event="step", time=NOW, step=3, steps=9).line()]))
    def a_pod_writes(self, number: int, text: str) -> None:
        for pod in self._live(number):
            self.world.logs.setdefault(pod["metadata"]["name"], []).append(text)

    @rule(number=NUMBER)
    def a_node_is_lost(self, number: int) -> None:
        for pod in self._live(number):
            self.world.lost.add(pod["metadata"]["name"])
            self.world.delete_pod(pod)

    @rule(number=NUMBER)
    def a_node_is_silent(self, number: int) -> None:
        for pod in self._live(number):
            if pod["status"]["phase"] == "Running":
                self.world.lose_node(pod)

    @rule(number=NUMBER)
    def a_pod_is_deleted_by_force(self, number: int) -> None:
        for pod in self._live(number):
            self.world.delete_by_force(pod)

    @rule(status=st.sampled_from(ELSEWHERE))
    def another_cluster_tells(self, status: dict[str, Any]) -> None:
        for teacher in self.world.teachers:
            job = self.world.jobs.get(trainer_job(NAME, teacher))
            if job is not None and job["spec"].get("managedBy") and not job["spec"].get("suspend"):
                start = job["status"].get("startTime") or timestamp(self.world.now)
                self.world.multikueue(teacher, startTime=start, **status)

    @rule(accounts=st.sampled_from([("*",), ("robot",), ()]))
    def the_installation_allows(self, accounts: tuple[str, ...]) -> None:
        allowed = Allowed(service_accounts=accounts)
        self.world.settings = self.world.settings.model_copy(update={"allowed": allowed})

    @rule(number=NUMBER)
    def a_node_is_removed(self, number: int) -> None:
        for pod in self._live(number):
            self.world.remove_node(pod)

    @rule(number=NUMBER)
    def an_ended_pod_is_collected(self, number: int) -> None:
        over = [pod for pod in self.world.pods.values() if pod["status"]["phase"] in {"Succeeded", "Failed"}]
        if over:
            self.world.remove_pod(over[number % len(over)])

    @rule(number=NUMBER)
    def events_are_told(self, number: int) -> None:
        for name in list(self.world.jobs)[number:]:
            self.world.events["Job", name] = ["FailedCreate: exceeded quota"]

    @rule(child=st.sampled_from(CHILDREN), failure=st.sampled_from(REFUSALS))
    def a_child_is_refused(self, child: str, failure: FailureStatus) -> None:
        self.world.refusals[child] = failure

    @precondition(lambda self: self.world.refusals)
    @rule()
    def nothing_is_refused_any_more(self) -> None:
        self.world.refusals.clear()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.the_installation_allows(("*",))
            self.world.run_fairly()
            self.reconciles()

    def _pod(self, number: int) -> Any:
        return list(self.world.pods.values())[number % len(self.world.pods)]

    def _live(self, number: int) -> list[Any]:
        live = list(self.world.live_pods())
        return [live[number % len(live)]] if live else []


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
