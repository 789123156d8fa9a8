"""Panels of the Grafana dashboard with their queries. ``make chart`` writes it into the chart."""

from __future__ import annotations

from typing import Any

Panel = dict[str, Any]

SELECTOR = 'namespace=~"$namespace"'
"""Selector of the operator's metrics, by the labels that Prometheus adds."""

RUN = f'{SELECTOR}, run_namespace=~"$run_namespace"'
"""Selector of the metrics of runs."""

RATE = "[$__rate_interval]"
WIDTH = 24


def _quantiles(metric: str, selector: str = RUN) -> list[tuple[str, str]]:
    return [
        (f"histogram_quantile({q}, sum by (le) (rate({metric}_bucket{{{selector}}}{RATE})))", f"p{int(q * 100)}")
        for q in (0.5, 0.95, 0.99)
    ]


def _runs(state: str) -> str:
    """Return the query for runs of some states; replicas on standby report them too."""
    return f'sum(max without (pod, instance) (teacher_runs{{{RUN}, state=~"{state}"}})) or vector(0)'


ROWS: list[tuple[str, list[Panel]]] = [
    (
        "Runs",
        [
            {"type": "stat", "title": "Training", "queries": [(_runs("Training"), "")], "width": 4, "height": 4},
            {
                "type": "stat",
                "title": "Waiting for a GPU",
                "queries": [(_runs("Queued|Pending"), "")],
                "width": 4,
                "height": 4,
            },
            {
                "type": "stat",
                "title": "Failures in 24 h",
                "queries": [(f"sum(increase(teacher_failures_total{{{RUN}}}[24h])) or vector(0)", "")],
                "width": 4,
                "height": 4,
            },
            {
                "type": "stat",
                "title": "GPU time in 24 h",
                "unit": "s",
                "queries": [(f"sum(increase(teacher_gpu_seconds_total{{{RUN}}}[24h])) or vector(0)", "")],
                "width": 4,
                "height": 4,
            },
            {
                "type": "stat",
                "title": "Leaders",
                "help": "One per release; none: nothing starts, and no status changes.",
                "queries": [(f"sum(teacher_leader{{{SELECTOR}}})", "")],
                "width": 4,
                "height": 4,
            },
            {
                "type": "stat",
                "title": "Waiting objects",
                "help": "Objects that wait for the operator, not for a GPU.",
                "queries": [(f"sum(teacher_queue_depth{{{SELECTOR}}})", "")],
                "width": 4,
                "height": 4,
            },
            {
                "title": "Runs by state",
                "stack": True,
                "queries": [
                    (f"sum by (state) (max without (pod, instance) (teacher_runs{{{RUN}}}))", "{{state}}"),
                ],
            },
            {
                "title": "GPU time in 24 h by namespace",
                "help": "GPUs times seconds, as they are taken. For a bill, sum by the label of metrics.label too.",
                "unit": "s",
                "queries": [
                    (
                        f"sum by (run_namespace) (increase(teacher_gpu_seconds_total{{{RUN}}}[24h]))",
                        "{{run_namespace}}",
                    )
                ],
            },
            {
                "title": "GPU time in 24 h by teacher",
                "unit": "s",
                "queries": [(f"sum by (teacher) (increase(teacher_gpu_seconds_total{{{RUN}}}[24h]))", "{{teacher}}")],
            },
            {
                "title": "Failures by namespace and reason",
                "queries": [
                    (
                        f"sum by (run_namespace, reason) (increase(teacher_failures_total{{{RUN}}}[1h]))",
                        "{{run_namespace}} {{reason}}",
                    )
                ],
            },
            {
                "title": "Wait for a GPU",
                "help": "From the end of inspection until a trainer runs.",
                "unit": "s",
                "queries": _quantiles("teacher_queue_seconds"),
            },
            {
                "title": "Duration of a run",
                "help": "From the creation of the object to the end of its run.",
                "unit": "s",
                "queries": _quantiles("teacher_run_seconds"),
            },
            {"title": "Duration of inspection", "unit": "s", "queries": _quantiles("teacher_inspect_seconds")},
        ],
    ),
    (
        "Operator",
        [
            {
                "title": "Duration of a reconciliation",
                "unit": "s",
                "queries": _quantiles("teacher_reconcile_seconds", SELECTOR),
            },
            {
                "title": "Reconciliations by outcome",
                "unit": "ops",
                "queries": [
                    (f"sum by (outcome) (rate(teacher_reconcile_seconds_count{{{SELECTOR}}}{RATE}))", "{{outcome}}")
                ],
            },
            {
                "title": "Objects waiting for the operator",
                "queries": [(f"sum by (pod) (teacher_queue_depth{{{SELECTOR}}})", "{{pod}}")],
            },
            {
                "title": "Time since the last event",
                "help": "Time since the last event of each watched kind. Without changes there are no events.",
                "unit": "s",
                "queries": [
                    (
                        f"time() - max by (resource) (teacher_last_event_timestamp_seconds{{{SELECTOR}}})",
                        "{{resource}}",
                    )
                ],
            },
            {
                "title": "Changes that no watch delivered",
                "help": "Changes that were found by full listings of the cluster.",
                "queries": [
                    (
                        f"sum by (resource) (increase(teacher_missed_events_total{{{SELECTOR}}}[1h]))",
                        "{{resource}}",
                    )
                ],
            },
            {
                "title": "Requests to the API server",
                "unit": "reqps",
                "queries": [
                    (
                        f"sum by (verb, resource) (rate(teacher_api_requests_total{{{SELECTOR}}}{RATE}))",
                        "{{verb}} {{resource}}",
                    )
                ],
            },
            {
                "title": "Failed requests",
                "help": "0: not answered. Missing objects and conflicts do not count as failures.",
                "unit": "reqps",
                "queries": [
                    (
                        "sum by (verb, resource, code) "
                        f'(rate(teacher_api_requests_total{{{SELECTOR}, code!~"2..|404|409"}}{RATE}))',
                        "{{verb}} {{resource}} {{code}}",
                    )
                ],
            },
            {
                "title": "Leader",
                "queries": [(f"max by (namespace, pod) (teacher_leader{{{SELECTOR}}})", "{{namespace}}/{{pod}}")],
                "width": 16,
            },
        ],
    ),
]


def dashboard() -> dict[str, Any]:
    """Return the dashboard that Grafana imports."""
    panels: list[Panel] = []
    top = 0
    for title, row in ROWS:
        panels.append(_row(title, top))
        top += 1
        left = line = 0
        for panel in row:
            width, height = panel.get("width", 8), panel.get("height", 8)
            if left + width > WIDTH:
                left, top, line = 0, top + line, 0
            panels.append(_panel(panel, {"x": left, "y": top, "w": width, "h": height}))
            left, line = left + width, max(line, height)
        top += line
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    return {
        "uid": "teacher-finetune",
        "title": "Teacher fine-tune",
        "description": "Runs of TeacherFineTune objects, and the operator that handles them.",
        "tags": ["teacher-finetune"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                {
                    "name": "namespace",
                    "label": "Namespace of the operator",
                    "type": "query",
                    "datasource": _source(),
                    "query": "label_values(teacher_leader, namespace)",
                    "refresh": 2,
                    "multi": True,
                    "includeAll": True,
                    "allValue": ".+",
                    "current": {"text": "All", "value": "$__all"},
                },
                {
                    "name": "run_namespace",
                    "label": "Namespace of the runs",
                    "type": "query",
                    "datasource": _source(),
                    "query": f"label_values(teacher_runs{{{SELECTOR}}}, run_namespace)",
                    "refresh": 2,
                    "multi": True,
                    "includeAll": True,
                    "allValue": ".+",
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": panels,
    }


def _source() -> dict[str, str]:
    return {"type": "prometheus", "uid": "${datasource}"}


def _row(title: str, top: int) -> Panel:
    return {
        "type": "row",
        "title": title,
        "collapsed": False,
        "panels": [],
        "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
    }


def _panel(panel: Panel, place: dict[str, int]) -> Panel:
    kind = panel.get("type", "timeseries")
    custom: dict[str, Any] = {}
    if kind == "timeseries":
        custom = {"fillOpacity": 20 if panel.get("stack") else 0, "showPoints": "never"}
        if panel.get("stack"):
            custom["stacking"] = {"mode": "normal"}
    result: Panel = {
        "type": kind,
        "title": panel["title"],
        "datasource": _source(),
        "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": panel.get("unit", "short"), "min": 0, "custom": custom},
            "overrides": [],
        },
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": _source(), "expr": query, "legendFormat": legend}
            for number, (query, legend) in enumerate(panel["queries"])
        ],
    }
    if panel.get("help"):
        result["description"] = panel["help"]
    if kind == "stat":
        result["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none"}
    return result
