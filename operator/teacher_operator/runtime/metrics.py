"""Prometheus metrics: runs by state, durations, failures and GPU time."""

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
from teacher_operator.runtime.metric_labels import NAMESPACE, Group, Groups
from teacher_operator.runtime.store import Standing, Store

STATES = ("Pending", "Queued", "Inspecting", "Training", "Suspended", "Succeeded", "Failed")
SHORT = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LONG = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600)


def state_of(body: Mapping[str, Any]) -> str:
    """Return the state of an object: one of STATES."""
    summary = summary_condition(read_status(body))
    if summary is None:
        return "Pending"
    if summary.status is ConditionStatus.FALSE:
        return "Failed"
    if summary.status is ConditionStatus.TRUE:
        return SUCCEEDED
    return summary.reason if summary.reason in STATES else "Pending"


def standing_of(label: str) -> Callable[[Mapping[str, Any]], Standing]:
    """Return a function that gives the state of an object and the value of one of its labels."""
    groups = Groups(label)
    return lambda body: Standing(state_of(body), groups.value_of(body))


class Metrics:
    """Metrics of one operator, in their own registry.

    Args:
        store: Counts the runs; created with ``standing_of(label)``.
        label: Label of the objects that becomes a label of the metrics of runs; empty for none.
    """

    def __init__(self, store: Store, label: str = "") -> None:
        self._groups = groups = Groups(label)
        self.registry = CollectorRegistry()
        self.registry.register(_Runs(store, groups, self._settle))
        self.reconcile = Histogram(
            "teacher_reconcile_seconds",
            "Duration of one reconciliation of one object.",
            ("outcome",),
            buckets=SHORT,
            registry=self.registry,
        )
        self.inspect = Histogram(
            "teacher_inspect_seconds",
            "Time from the creation of an object to the result of inspection.",
            (NAMESPACE,),
            buckets=LONG,
            registry=self.registry,
        )
        self.queue = Histogram(
            "teacher_queue_seconds",
            "Time from the result of inspection to a running trainer.",
            (NAMESPACE,),
            buckets=LONG,
            registry=self.registry,
        )
        self.run = Histogram(
            "teacher_run_seconds",
            "Time from the creation of an object to its end.",
            (NAMESPACE,),
            buckets=LONG,
            registry=self.registry,
        )
        self.failures = Counter(
            "teacher_failures", "Runs that failed.", ("reason", *groups.names), registry=self.registry
        )
        self.gpu_seconds = Counter(
            "teacher_gpu_seconds",
            "GPU seconds in use, counted while trainers run.",
            ("teacher", *groups.names),
            registry=self.registry,
        )
        self.last_event = Gauge(
            "teacher_last_event_timestamp_seconds",
            "Unix time of the last event of a watch.",
            ("resource",),
            registry=self.registry,
        )
        self.queue_depth = Gauge("teacher_queue_depth", "Objects waiting for a worker.", registry=self.registry)
        self.requests = Counter(
            "teacher_api_requests", "Requests to the API server.", ("verb", "resource", "code"), registry=self.registry
        )
        self.leader = Gauge("teacher_leader", "1 while this replica is the leader.", registry=self.registry)
        self.missed = Counter(
            "teacher_missed_events",
            "Changes found by a resync that no watch had shown.",
            ("resource",),
            registry=self.registry,
        )

    def request(self, verb: str, resource: str, code: int) -> None:
        """Count an answered request."""
        self.requests.labels(verb, resource, str(code)).inc()

    def seen(self, resource: str) -> None:
        """Record the time of an event of a watch."""
        self.last_event.labels(resource).set(time.time())

    def transition(self, body: Mapping[str, Any], before: TeacherFineTuneStatus, after: TeacherFineTuneStatus) -> None:
        """Count what a written status reports for the first time."""
        group = self._groups.group(body["metadata"]["namespace"], self._groups.value_of(body))
        start, now = seconds(after.start_time), time.time()
        if after.dataset is not None and before.dataset is None and start is not None:
            self.inspect.labels(group.namespace).observe(now - start)
        teachers = {one.name: one for one in before.teachers}
        for teacher in after.teachers:
            old = teachers.get(teacher.name)
            if old is None:  # new, or found again after the status was lost: its time may already be counted
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
        """Start the series of live groups at 0, so that increases are visible; remove those of groups gone for long."""
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
        """Return the page for Prometheus."""
        before()
        page: bytes = generate_latest(self.registry)
        return page


def _inspected_at(status: TeacherFineTuneStatus) -> float | None:
    inspected = next((one for one in status.conditions if one.type == INSPECTED), None)
    return seconds(inspected.last_transition_time) if inspected is not None else None


class _Runs(Collector):
    """Collector that counts runs when scraped, so that the numbers cannot drift."""

    def __init__(self, store: Store, groups: Groups, settle: Callable[[Iterable[Group]], None]) -> None:
        self._store, self._groups, self._settle = store, groups, settle

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return the gauge of runs by state."""
        tally: Counts[tuple[Group, str]] = Counts()
        for (namespace, standing), count in self._store.standings().items():
            tally[self._groups.group(namespace, standing.label), standing.state] += count
        live = sorted({group for group, _ in tally})
        family = GaugeMetricFamily("teacher_runs", "Objects by state.", labels=("state", *self._groups.names))
        for group in live:
            for state in STATES:
                labels = self._groups.labels(group, state=state)
                family.add_metric(tuple(labels[name] for name in ("state", *self._groups.names)), tally[group, state])
        yield family
        self._settle(live)
