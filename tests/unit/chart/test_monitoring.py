"""Rules and dashboard parse as Prometheus parses them, and ask only for what the operator tells."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from loops import nonempty

from teacher_operator.runtime.metrics import Metrics, standing_of
from teacher_operator.runtime.store import Store

from .conftest import CHART, Object, Render, one

MONITORING = {"enabled": True, "renderMode": "alwaysRender"}
ALERTS = [alert["alert"] for alert in yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())]


@pytest.fixture(scope="module")
def metrics() -> dict[str, set[str]]:
    """The labels of every series that the operator tells."""
    store = Store(standing_of("cost-center"))
    metadata = {"namespace": "vision", "name": "run", "labels": {"cost-center": "7"}}
    store.put("TeacherFineTune", {"metadata": metadata, "spec": {}})
    registry = Metrics(store, "cost-center").registry
    found: dict[str, set[str]] = {}
    for family in registry.collect():
        collector = registry._names_to_collectors.get(family.name)
        labels = set(getattr(collector, "_labelnames", ())) or {
            label for sample in family.samples for label in sample.labels
        }
        endings = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("_total",)}.get(family.type, ("",))
        for ending in endings:
            found[family.name + ending] = labels | ({"le"} if ending == "_bucket" else set())
    return found


def selectors(node: Any) -> list[tuple[str, set[str]]]:
    """Every series that an expression asks for, with the labels that it chooses by."""
    selector = getattr(node, "vector_selector", node)
    if isinstance(selector, promql_parser.VectorSelector):
        return [(str(selector.name), {matcher.name for matcher in selector.matchers.matchers})]
    inner = [getattr(node, name, None) for name in ("expr", "lhs", "rhs")] + list(getattr(node, "args", None) or ())
    return [found for each in inner if isinstance(each, promql_parser.Expr) for found in selectors(each)]


def grouped(text: str) -> set[str]:
    """The labels that an expression groups by."""
    lists = re.findall(r"\b(?:by|on|without) \(([^)]*)\)", text)
    return {label.strip() for each in lists for label in each.split(",") if label.strip()}


FROM_PROMETHEUS = {"namespace", "service", "pod", "instance"}


def check(text: str, metrics: dict[str, set[str]]) -> None:
    text = text.replace("$__rate_interval", "5m")
    asked = selectors(promql_parser.parse(text))
    assert asked
    for name, labels in asked:
        assert name in metrics, f"{name} is no metric of the operator"
        assert labels <= metrics[name] | FROM_PROMETHEUS
    known = set().union(*(metrics[name] for name, _ in asked)) | FROM_PROMETHEUS
    assert grouped(text) <= known


def rule(render: Render, **values: Any) -> Object:
    return one(render({"prometheusRule": {**MONITORING, **values}}), "PrometheusRule")


def rules(render: Render, **values: Any) -> list[Object]:
    groups = rule(render, **values)["spec"]["groups"]
    assert len(groups) == 1
    return list(groups[0]["rules"])


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_asks_for_what_there_is_of_its_own_release(
    render: Render, metrics: dict[str, set[str]], alert: str
) -> None:
    expression = next(each["expr"] for each in rules(render) if each["alert"] == alert)
    check(expression, metrics)
    for _, labels in nonempty(selectors(promql_parser.parse(expression))):
        assert {"namespace", "service"} <= labels
    assert 'namespace="ops", service="tft-teacher-finetune"' in expression


def test_an_alert_says_how_bad_it_is_what_happened_and_what_to_do(render: Render) -> None:
    for each in nonempty(rules(render)):
        assert set(each) <= {"alert", "expr", "for", "labels", "annotations"}
        assert each["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(each["annotations"]) == {"summary", "description"}
        assert "ops/tft-teacher-finetune" in each["annotations"]["summary"]
        text = json.dumps(each)
        assert not re.search(r"\b(SELECTOR|NAME|NAMESPACE)\b", text)
        named = set(re.findall(r"\$labels\.(\w+)", text))
        assert named <= grouped(each["expr"])


def test_alerts_can_be_left_out_labelled_and_added(render: Render) -> None:
    more = {"alert": "Mine", "expr": "teacher_queue_depth > 1"}
    made = rules(render, disabled=["TeacherRunsFail"], alertLabels={"team": "vision"}, additionalRules=[more])
    assert [each["alert"] for each in made] == [*(alert for alert in ALERTS if alert != "TeacherRunsFail"), "Mine"]
    assert all(each["labels"]["team"] == "vision" for each in made if each["alert"] != "Mine")
    assert all(each["labels"]["severity"] for each in made if each["alert"] != "Mine")


def test_monitoring_objects_stand_where_prometheus_looks(render: Render) -> None:
    values = {
        "serviceMonitor": {
            **MONITORING,
            "namespace": "monitoring",
            "labels": {"release": "prometheus"},
            "interval": "1m",
        },
        "prometheusRule": {**MONITORING, "namespace": "monitoring", "labels": {"release": "prometheus"}},
        "grafanaDashboard": {"enabled": True, "namespace": "grafana", "annotations": {"grafana_folder": "Vision"}},
    }
    objects = render(values)
    for kind in ("ServiceMonitor", "PrometheusRule"):
        assert one(objects, kind)["apiVersion"] == "monitoring.coreos.com/v1"
        assert one(objects, kind)["metadata"]["namespace"] == "monitoring"
        assert one(objects, kind)["metadata"]["labels"]["release"] == "prometheus"
    endpoint = one(objects, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint == [{"port": "http", "path": "/metrics", "interval": "1m", "scrapeTimeout": "10s"}]
    dashboard = one(objects, "ConfigMap")
    assert dashboard["metadata"]["namespace"] == "grafana"
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboard["metadata"]["annotations"] == {"grafana_folder": "Vision"}


def test_prometheus_shows_a_token_and_speaks_tls_where_the_operator_wants_it(render: Render) -> None:
    wanted = {"authentication": {"enabled": True}, "tls": {"secretName": "operator-tls"}}

    def endpoint(**monitor: Any) -> dict[str, Any]:
        objects = render({"metrics": wanted, "serviceMonitor": {**MONITORING, **monitor}})
        found: dict[str, Any] = one(objects, "ServiceMonitor")["spec"]["endpoints"][0]
        return found

    assert endpoint()["bearerTokenFile"] == "/var/run/secrets/kubernetes.io/serviceaccount/token"
    assert (endpoint()["scheme"], endpoint()["tlsConfig"]) == ("https", {"insecureSkipVerify": True})
    given = endpoint(
        authorization={"credentials": {"name": "token", "key": "token"}},
        tlsConfig={"insecureSkipVerify": False, "serverName": "operator"},
    )
    assert given["authorization"] == {"credentials": {"name": "token", "key": "token"}}
    assert "bearerTokenFile" not in given
    assert given["tlsConfig"]["serverName"] == "operator"


def test_probes_and_the_test_of_helm_speak_tls_where_the_operator_does(render: Render) -> None:
    objects = render({"metrics": {"tls": {"secretName": "operator-tls"}}})
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    probes = [pod["containers"][0][probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert {probe["scheme"] for probe in probes} == {"HTTPS"}
    assert {"name": "tls", "secret": {"secretName": "operator-tls"}} in pod["volumes"]
    test = next(thing for thing in objects if thing["kind"] == "Pod")
    assert test["spec"]["containers"][0]["args"][-1].startswith("https://")


@pytest.fixture(scope="module")
def dashboard(render: Render) -> dict[str, Any]:
    config = one(render({"grafanaDashboard": {"enabled": True}}), "ConfigMap")
    loaded: dict[str, Any] = json.loads(config["data"]["teacher-finetune.json"])
    return loaded


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def test_every_panel_asks_for_what_there_is(dashboard: dict[str, Any], metrics: dict[str, set[str]]) -> None:
    for panel in nonempty(panels(dashboard)):
        for target in nonempty(panel["targets"]):
            expression = target["expr"].replace("$namespace", "ops").replace("$run_namespace", "vision")
            check(expression, metrics)
            legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert legend <= grouped(expression), panel["title"]


def test_every_metric_of_the_operator_is_on_the_dashboard(
    dashboard: dict[str, Any], metrics: dict[str, set[str]]
) -> None:
    text = json.dumps(dashboard)
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in metrics}
    assert {family for family in families if family not in text} == set()


def test_no_panel_lies_on_another(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
