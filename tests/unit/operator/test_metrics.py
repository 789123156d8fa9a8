"""The metrics of runs: by namespace and by one label, for chargeback, and bounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tft_objects import NOW, body_of

from engine.spec import TeacherName
from teacher_operator.api.status import TeacherFineTuneStatus, TeacherStatus
from teacher_operator.api.timestamps import timestamp
from teacher_operator.runtime import metric_labels
from teacher_operator.runtime.metric_labels import LABEL_VALUES, OTHER, metric_label
from teacher_operator.runtime.metrics import STATES, Metrics, standing_of
from teacher_operator.runtime.store import Store

LABEL = "example.com/cost-center"
BOXES = TeacherName.GROUNDING_DINO


class Told:
    """What one operator counts and Prometheus reads."""

    def __init__(self, label: str = LABEL) -> None:
        self.store = Store(standing_of(label))
        self.metrics = Metrics(self.store, label)

    def put(self, name: str, namespace: str, **labels: str) -> dict[str, Any]:
        body = body_of(name=name)
        body["metadata"] |= {"namespace": namespace, "labels": labels, "uid": f"uid-{namespace}-{name}"}
        self.store.put("TeacherFineTune", body)
        return body

    def series(self, metric: str, **chosen: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Values by labels, of the series of a metric that have the chosen labels."""
        families = text_string_to_metric_families(self.metrics.text().decode())
        samples = [one for family in families for one in family.samples if one.name == metric]
        return {
            tuple(sorted((name, value) for name, value in one.labels.items() if name not in chosen)): one.value
            for one in samples
            if chosen.items() <= one.labels.items()
        }

    def value(self, metric: str, **labels: str) -> float | None:
        found = self.series(metric, **labels)
        assert len(found) <= 1
        return next(iter(found.values()), None)


def status(gpu_seconds: int = 0, **teacher: Any) -> TeacherFineTuneStatus:
    one = TeacherStatus(name=BOXES, state="Training", gpu_seconds=gpu_seconds, **teacher)
    return TeacherFineTuneStatus(start_time=timestamp(NOW), teachers=[one])


def test_runs_are_counted_by_namespace_and_label() -> None:
    told = Told()
    told.put("a", "vision", **{LABEL: "7"})
    told.put("b", "vision", **{LABEL: "8"})
    told.put("c", "robots")
    label = metric_label(LABEL)
    assert label == "label_example_com_cost_center"
    assert told.value("teacher_runs", state="Pending", run_namespace="vision", **{label: "7"}) == 1
    assert told.value("teacher_runs", state="Pending", run_namespace="robots", **{label: ""}) == 1
    assert len(told.series("teacher_runs", run_namespace="vision", **{label: "8"})) == len(STATES)


def test_without_a_label_only_the_namespace_is_reported() -> None:
    told = Told("")
    told.put("a", "vision", **{LABEL: "7"})
    assert set(told.series("teacher_runs", state="Pending")) == {(("run_namespace", "vision"),)}


def test_gpu_time_is_counted_as_it_is_taken() -> None:
    told = Told()
    body = told.put("a", "vision", **{LABEL: "7"})
    mine: Mapping[str, str] = {"run_namespace": "vision", metric_label(LABEL): "7", "teacher": BOXES.slug}
    assert told.value("teacher_gpu_seconds_total", **mine) == 0, "else Prometheus does not see the first increase"
    told.metrics.transition(body, status(0), status(30))
    told.metrics.transition(body, status(30), status(90))
    assert told.value("teacher_gpu_seconds_total", **mine) == 90
    told.metrics.transition(body, TeacherFineTuneStatus(), status(90))  # the status was wiped and found again
    assert told.value("teacher_gpu_seconds_total", **mine) == 90


def test_times_of_runs_have_their_namespace() -> None:
    told = Told()
    body = told.put("a", "vision")
    told.metrics.transition(
        body, status(), status().model_copy(update={"completion_time": timestamp(NOW), "conditions": []})
    )
    assert told.value("teacher_run_seconds_count", run_namespace="vision") == 1
    assert told.value("teacher_queue_seconds_count", run_namespace="vision") == 0


def test_a_namespace_that_is_gone_is_removed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    clock = [1000.0]
    monkeypatch.setattr(metric_labels.time, "monotonic", lambda: clock[0])
    gone, kept = told.put("a", "gone", **{LABEL: "7"}), told.put("b", "kept")
    done = status(30).model_copy(update={"completion_time": timestamp(NOW)})
    for body in (gone, kept):
        told.metrics.transition(body, status(0), done)
    told.store.remove("TeacherFineTune", gone)
    assert told.series("teacher_runs", run_namespace="gone") == {}
    assert told.series("teacher_gpu_seconds_total", run_namespace="gone"), "until Prometheus has read it"
    clock[0] += metric_labels.KEEP_SECONDS + 1
    text = told.metrics.text().decode()
    assert 'run_namespace="gone"' not in text
    assert 'run_namespace="kept"' in text


def test_users_cannot_make_series_without_end() -> None:
    told = Told()
    for number in range(3 * LABEL_VALUES):
        told.put(f"run-{number}", "vision", **{LABEL: f"v{number}"})
    told.put("run", "robots", **{LABEL: "mine"})
    found = told.series("teacher_runs", state="Pending", run_namespace="vision")
    values = {dict(labels)[metric_label(LABEL)]: count for labels, count in found.items()}
    assert len(values) == LABEL_VALUES + 1
    assert sum(values.values()) == 3 * LABEL_VALUES
    assert values[OTHER] == 2 * LABEL_VALUES
    assert told.value("teacher_runs", state="Pending", run_namespace="robots", **{metric_label(LABEL): "mine"}) == 1
