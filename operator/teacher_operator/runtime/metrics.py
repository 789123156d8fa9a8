"""What Prometheus is told: how many runs stand where, how long things take, what fails and what it costs."""

from __future__ import annotations

import time
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from engine.spec import TeacherName
from teacher_operator.api.status import ConditionStatus, TeacherFineTuneStatus
from teacher_operator.api.timestamps import seconds
from teacher_operator.decide.conditions import INSPECTED, SUCCEEDED, summary_condition
from teacher_operator.decide.run import read_status
from teacher_operator.runtime.metric_groups import NAMESPACE, Group, Groups
from teacher_operator.runtime.store import Standing, Store

STATES = ("Pending", "Queued", "Inspecting", "Training", "Suspended", "Succeeded", "Failed")
SHORT = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LONG = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600)


def state_of(body: Mapping[str, Any]) -> str:
    """How an object stands: one of STATES."""
    summary = summary_condition(read_status(body))
    if summary is None:
        return "Pending"
    if summary.status is ConditionStatus.FALSE:
        return "Failed"
    if summary.status is ConditionStatus.TRUE:
        return SUCCEEDED
    return summary.reason if summary.reason in STATES else "Pending"


def standing_of(label: str) -> Callable[[Mapping[str, Any]], Standing]:
    """Return the function that tells how an object stands, with the value of a label of it."""
    groups = Groups(label)
    return lambda body: Standing(state_of(body), groups.value_of(body))


class Metrics:
    """All metrics of one operator, in a registry of their own.

    Args:
        store: Counts the runs; it is to keep them with ``standing_of(label)``.
        label: Label of the objects that is a label of the metrics of runs too; empty: none.
    """

    def __init__(self, store: Store, label: str = "") -> None:
        self._groups = groups = Groups(label)
        self.registry = CollectorRegistry()
        self.registry.register(_Runs(store, groups, self._settle))
        self.reconcile = Histogram(
            "teacher_reconcile_seconds",
            "Time of one look at one object.",
            ("outcome",),
            buckets=SHORT,
            registry=self.registry,
        )
        self.inspect = Histogram(
            "teacher_inspect_seconds",
            "From the object to what its data is.",
            (NAMESPACE,),
            buckets=LONG,
            registry=self.registry,
        )
        self.queue = Histogram(
            "teacher_queue_seconds",
            "From what the data is to a trainer that runs.",
            (NAMESPACE,),
            buckets=LONG,
            registry=self.registry,
        )
        self.run = Histogram(
            "teacher_run_seconds", "From the object to its end.", (NAMESPACE,), buckets=LONG, registry=self.registry
        )
        self.failures = Counter(
            "teacher_failures", "Runs that failed.", ("reason", *groups.names), registry=self.registry
        )
        self.gpu_seconds = Counter(
            "teacher_gpu_seconds",
            "GPUs times seconds, as they are taken.",
            ("teacher", *groups.names),
            registry=self.registry,
        )
        self.last_event = Gauge(
            "teacher_last_event_timestamp_seconds",
            "When a watch last showed something.",
            ("resource",),
            registry=self.registry,
        )
        self.queue_depth = Gauge("teacher_queue_depth", "Objects that wait for a worker.", registry=self.registry)
        self.requests = Counter(
            "teacher_api_requests", "Requests to the API server.", ("verb", "resource", "code"), registry=self.registry
        )
        self.leader = Gauge("teacher_leader", "1 while this replica works.", registry=self.registry)
        self.missed = Counter(
            "teacher_missed_events", "Changes that no watch had shown.", ("resource",), registry=self.registry
        )

    def request(self, verb: str, resource: str, code: int) -> None:
        """A request was answered."""
        self.requests.labels(verb, resource, str(code)).inc()

    def seen(self, resource: str) -> None:
        """A watch has shown something."""
        self.last_event.labels(resource).set(time.time())

    def transition(self, body: Mapping[str, Any], before: TeacherFineTuneStatus, after: TeacherFineTuneStatus) -> None:
        """A status was written: count what it says for the first time."""
        group = self._groups.group(body["metadata"]["namespace"], self._groups.value_of(body))
        start, now = seconds(after.start_time), time.time()
        if after.dataset is not None and before.dataset is None and start is not None:
            self.inspect.labels(group.namespace).observe(now - start)
        teachers = {one.name: one for one in before.teachers}
        for teacher in after.teachers:
            old = teachers.get(teacher.name)
            if old is None:  # new, or found again after the status was lost: its time may be counted already
                continue
            spent = self.gpu_seconds.labels(**self._groups.labels(group, teacher=teacher.name.slug))
            spent.inc(max(0, teacher.gpu_seconds - old.gpu_seconds))
            begun, ready = seconds(teacher.start_time), _inspected_at(after)
            if begun is not None and old.start_time is None and ready is not None:
                self.queue.labels(group.namespace).observe(max(0.0, begun - ready))
        if after.completion_time and not before.completion_time and start is not None:
            self.run.labels(group.namespace).observe(now - start)
            summary = summary_condition(after)
            if summary is not None and summary.status is ConditionStatus.FALSE:
                self.failures.labels(**self._groups.labels(group, reason=summary.reason)).inc()

    def _settle(self, live: Iterable[Group]) -> None:
        """Begin the series of live groups at 0, so that increases are seen; remove those of groups long gone."""
        for group in live:
            self.queue.labels(group.namespace)
            for teacher in TeacherName:
                self.gpu_seconds.labels(**self._groups.labels(group, teacher=teacher.slug))
        for group in self._groups.gone():
            for family in (self.failures, self.gpu_seconds):
                family.remove_by_labels(self._groups.labels(group))
            if not self._groups.has(group.namespace):
                for histogram in (self.inspect, self.queue, self.run):
                    histogram.remove_by_labels({NAMESPACE: group.namespace})

    def text(self, before: Callable[[], None] = lambda: None) -> bytes:
        """The page that Prometheus reads."""
        before()
        page: bytes = generate_latest(self.registry)
        return page


def _inspected_at(status: TeacherFineTuneStatus) -> float | None:
    inspected = next((one for one in status.conditions if one.type == INSPECTED), None)
    return seconds(inspected.last_transition_time) if inspected is not None else None


class _Runs(Collector):
    """Counts the runs when it is asked, so that the numbers cannot drift."""

    def __init__(self, store: Store, groups: Groups, settle: Callable[[Iterable[Group]], None]) -> None:
        self._store, self._groups, self._settle = store, groups, settle

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauge of runs by state."""
        tally: Counts[tuple[Group, str]] = Counts()
        for (namespace, standing), count in self._store.standings().items():
            tally[self._groups.group(namespace, standing.label), standing.state] += count
        live = sorted({group for group, _ in tally})
        family = GaugeMetricFamily("teacher_runs", "Objects by how they stand.", labels=("state", *self._groups.names))
        for group in live:
            for state in STATES:
                labels = self._groups.labels(group, state=state)
                family.add_metric(tuple(labels[name] for name in ("state", *self._groups.names)), tally[group, state])
        yield family
        self._settle(live)
