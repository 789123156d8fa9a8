"""The examples for Argo Workflows, Flux and Argo CD wait for each stage of a pipeline."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import argo_workflows
import pytest
import yaml
from health import kstatus
from test_kstatus_rules import SCHEMA, SUMMARIES, written
from tft_objects import body_of
from tft_schema import spec_errors

from teacher_operator.api.spec import parse_spec

ROOT = Path(__file__).resolve().parents[3]
WORKFLOW = yaml.safe_load((ROOT / "examples" / "argo-workflows" / "workflow.yaml").read_text())
TEMPLATES = {one["name"]: one for one in WORKFLOW["spec"]["templates"]}
TRAIN = TEMPLATES["train"]
STAGES = list(yaml.safe_load_all((ROOT / "examples" / "gitops" / "flux" / "stages.yaml").read_text()))
RESOURCE = TRAIN["resource"]
UNSEEN = body_of() | {"status": SCHEMA["properties"]["status"]["default"]}


def state(body: dict[str, Any]) -> str:
    return argo_workflows.state(body, success=RESOURCE["successCondition"], failure=RESOURCE["failureCondition"])


@pytest.mark.parametrize("name", SUMMARIES)
def test_the_workflow_waits_for_the_end_of_a_run(name: str) -> None:
    summary, health = SUMMARIES[name]
    expected = {"Failed": "Failed", "Current": "Succeeded"}.get(health, "Running")
    assert state(written(summary)) == ("Running" if name == "Suspended" else expected)


def test_the_workflow_waits_for_a_run_that_no_operator_has_seen() -> None:
    assert state(UNSEEN) == state(body_of()) == state(UNSEEN | {"status": {"conditions": []}}) == "Running"


def test_conditions_that_are_read_by_their_place_keep_it() -> None:
    for summary, _ in SUMMARIES.values():
        types = [one["type"] for one in written(summary)["status"]["conditions"]]
        assert (types[2], types[3]) == ("Stalled", "Succeeded")


@pytest.mark.parametrize(
    ("selector", "holds"),
    [
        ("status.phase", True),
        ("!status.phase", False),
        ("status.none", False),
        ("!status.none", True),
        ("status.phase == Running", True),
        ("status.phase=Running", True),
        ("status.phase != Running", False),
        ("status.none != Running", True),
        ("status.none == Running", False),
        ("status.items.1.name == b", True),
        ("status.items.2.name == b", False),
        ("status.done == true", True),
        ("status.count > 2, status.count < 4", True),
        ("status.phase > 2", False),
        ("status.count > 3", False),
        ("status.empty ==", True),
    ],
)
def test_selectors_are_evaluated_as_argo_workflows_does(selector: str, holds: bool) -> None:
    """The expected values are those of the real label selectors over the real gjson."""
    status = {"phase": "Running", "items": [{"name": "a"}, {"name": "b"}], "done": True, "count": 3, "empty": ""}
    found = argo_workflows.state({"status": status}, success=selector, failure="metadata.never")
    assert found == ("Succeeded" if holds else "Running")


@pytest.mark.parametrize(
    "selector",
    ['status.conditions.#(type=="Succeeded").status == True', "status.count > many", "a b", "status.x == a:b", "-a"],
)
def test_what_argo_workflows_refuses_is_refused(selector: str) -> None:
    with pytest.raises(ValueError, match=r"label selector may|no integer"):
        argo_workflows.requirements(selector)


def filled(text: str) -> str:
    return text.replace("{{workflow.parameters.version}}", WORKFLOW["spec"]["arguments"]["parameters"][0]["value"])


def test_the_workflow_makes_an_object_that_the_api_server_takes() -> None:
    body = yaml.safe_load(filled(RESOURCE["manifest"]))
    assert spec_errors(body["spec"]) == []
    parse_spec(body)
    assert "{{" not in yaml.safe_dump(body)


def test_every_path_that_the_workflow_reads_is_in_the_schema() -> None:
    paths = [one["valueFrom"]["jsonPath"].strip("{}") for one in TRAIN["outputs"]["parameters"]]
    for condition in (RESOURCE["successCondition"], RESOURCE["failureCondition"]):
        paths += [f".{key}" for key, _, _ in argo_workflows.requirements(condition)]
    assert len(paths) == 5
    for path in paths:
        place = SCHEMA
        for name in re.sub(r"\[[^]]*\]|\.\d+(?=\.)", ".[]", path).split(".")[1:]:
            place = place["items"] if name == "[]" else place["properties"][name]
        assert place["type"] == "string", path


def test_each_step_of_the_workflow_depends_on_the_one_before() -> None:
    tasks = TEMPLATES["pipeline"]["dag"]["tasks"]
    assert [(one["name"], one.get("depends")) for one in tasks] == [
        ("data", None),
        ("train", "data.Succeeded"),
        ("label", "train.Succeeded"),
    ]
    assert {one["template"] for one in tasks} <= set(TEMPLATES)
    outputs = {one["name"] for one in TRAIN["outputs"]["parameters"]}
    assert set(re.findall(r"tasks\.train\.outputs\.parameters\.([\w-]+)", yaml.safe_dump(tasks))) <= outputs


def test_each_stage_of_flux_depends_on_the_one_before_and_waits() -> None:
    names = [stage["metadata"]["name"] for stage in STAGES]
    assert [[one["name"] for one in stage["spec"].get("dependsOn", ())] for stage in STAGES] == [
        [],
        *([n] for n in names[:-1]),
    ]
    for stage in STAGES:
        assert stage["spec"]["wait"] is True
        assert (ROOT / stage["spec"]["path"] / "kustomization.yaml").exists()


def test_the_expressions_of_flux_name_conditions_and_fields_that_there_are() -> None:
    """cel-go gave the answers for every state of a run: only one that has succeeded is current."""
    (expressions,) = STAGES[1]["spec"]["healthCheckExprs"]
    assert (expressions["apiVersion"], expressions["kind"]) == (body_of()["apiVersion"], body_of()["kind"])
    text = " ".join(expressions[name] for name in ("inProgress", "failed", "current"))
    types = {one["type"] for one in written(SUMMARIES["failed"][0])["status"]["conditions"]}
    assert set(re.findall(r"c\.type == '(\w+)'", text)) == {"Stalled", "Succeeded"} <= types
    for field in re.findall(r"\bstatus\.(\w+)", text.replace("c.status", "")):
        assert field in SCHEMA["properties"]["status"]["properties"]


def test_stages_of_gitops_are_waves_in_order() -> None:
    waves = []
    for stage in ("data", "train", "label"):
        (file,) = yaml.safe_load((ROOT / "examples" / "gitops" / "stages" / stage / "kustomization.yaml").read_text())[
            "resources"
        ]
        first = next(yaml.safe_load_all((ROOT / "examples" / "gitops" / "stages" / stage / file).read_text()))
        waves.append(first["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"])
        if first["kind"] == "TeacherFineTune":
            assert spec_errors(first["spec"]) == []
            parse_spec(first)
    assert waves == ["0", "1", "2"]


def test_flux_without_expressions_takes_a_suspended_run_for_done() -> None:
    """Hence the expressions of the stages; a folder of runs that wait for nothing does without."""
    runs = yaml.safe_load((ROOT / "examples" / "gitops" / "flux" / "runs.yaml").read_text())["spec"]
    assert runs["wait"] is True
    assert "healthCheckExprs" not in runs
    assert kstatus(written(SUMMARIES["Suspended"][0])) == "Current"
