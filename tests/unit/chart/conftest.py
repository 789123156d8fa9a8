"""The chart, rendered: every object as a dict."""

from __future__ import annotations

import copy
import functools
import re
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "helm" / "teacher-finetune"

Object = dict[str, Any]
Render = Callable[..., list[Object]]

RUN_PODS: Object = {
    "pods": {
        "labels": {"cost-center": "vision-7"},
        "annotations": {"sidecar.istio.io/inject": "false"},
        "volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "volumeMounts": [{"name": "ca", "mountPath": "/etc/ssl/more"}],
        "tolerations": [{"key": "team", "operator": "Exists", "tolerationSeconds": 2000000}],
        "topologySpreadConstraints": [{"topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 2}],
    },
    "allow": {"images": ["registry.example.com/*"], "volumes": [], "env": ["OTEL_*"], "secrets": ["team-*"]},
}
"""Values for the pods of runs, and for what their users may set."""


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The CRD is long, and read for nearly every test."""


def objects_of(text: str) -> list[Object]:
    """The objects of a file, comments and empty parts left out."""
    return copy.deepcopy(_parsed(text))


@functools.cache
def _parsed(text: str) -> list[Object]:
    return [one for one in yaml.load_all(text, LOADER) if one]


@pytest.fixture(scope="session")
def generate() -> dict[str, Any]:
    """The names of helm/generate.py."""
    return runpy.run_path(str(ROOT / "helm" / "generate.py"))


@pytest.fixture(scope="session")
def chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


@pytest.fixture(scope="session")
def templates(chart: helm_python.Chart) -> Callable[..., dict[str, str]]:
    """Renders to texts by template, NOTES.txt too."""

    def render(values: Mapping[str, Any] | None = None, *, name: str = "tft", namespace: str = "ops") -> dict[str, str]:
        rendered = chart.render(copy.deepcopy(dict(values or {})), name=name, namespace=namespace)
        return {path.removeprefix("teacher-finetune/templates/"): text for path, text in rendered.items()}

    return render


@pytest.fixture(scope="session")
def render(templates: Callable[..., dict[str, str]]) -> Render:
    """Renders to objects, the hooks of `helm test` too."""

    def objects(values: Mapping[str, Any] | None = None, **options: str) -> list[Object]:
        rendered = templates(values, **options)
        return [one for path, text in rendered.items() if path.endswith(".yaml") for one in objects_of(text)]

    return objects


def one(objects: list[Object], kind: str, name: str = "") -> Object:
    """The only object of a kind, or that of a name's ending."""
    found = [each for each in objects if each["kind"] == kind and re.search(f"{name}$", each["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def environment(objects: list[Object]) -> dict[str, str]:
    """What the operator's container gets, as the kubelet hands it on."""
    container = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    found: dict[str, str] = {}
    for variable in container["env"]:
        value = variable["value"] if "value" in variable else variable["valueFrom"]["fieldRef"]["fieldPath"]
        found[variable["name"]] = _expanded(value, found)
    return found


def _expanded(value: str, known: Mapping[str, str]) -> str:
    """As the kubelet does: $(NAME) is a reference, $$ is one $."""
    return re.sub(r"\$(?:\((\w+)\)|(\$))", lambda match: "$" if match[2] else known.get(match[1], match[0]), value)
