"""kstatus reads every state of an object right, by the rules of cli-utils.

The expected answers of ``RULES`` are those of the real package (``status.Compute``, commit 5895ad6c of cli-utils).
"""

from __future__ import annotations

from typing import Any

import pytest
from health import UnreadableError, argo_cd, kstatus
from tft_objects import NOW, SETTINGS, body_of
from tft_world import World

from teacher_operator.api.crd import crd
from teacher_operator.api.status import TeacherFineTuneStatus
from teacher_operator.decide.conditions import Summary, with_conditions
from teacher_operator.decide.run import decide, read_status
from teacher_operator.decide.stage_context import Observed


def seen(*conditions: Any, generation: Any = 1, observed: Any = 1, **status: Any) -> dict[str, Any]:
    """An object whose conditions are those given, as types that are true or as whole conditions."""
    whole = [{"type": one, "status": "True"} if isinstance(one, str) else one for one in conditions]
    return {
        "kind": "TeacherFineTune",
        "metadata": {"name": "x", "generation": generation},
        "status": {"observedGeneration": observed, "conditions": whole, **status},
    }


def bare(**parts: Any) -> dict[str, Any]:
    return {"kind": "TeacherFineTune", "metadata": {"name": "x", "generation": 1}, **parts}


def value(kind: str, status: str) -> dict[str, str]:
    return {"type": kind, "status": status}


ERROR = "error"
RULES: dict[str, tuple[dict[str, Any], str]] = {
    "no status": (bare(), "Current"),
    "null status": (bare(status=None), "Current"),
    "empty status": (bare(status={}), "Current"),
    "status of another kind": (bare(status={"phase": "Running"}), "Current"),
    "never observed": (bare(status={"observedGeneration": 0}), "InProgress"),
    "observed at minus one": (bare(status={"observedGeneration": -1}), "InProgress"),
    "observed": (bare(status={"observedGeneration": 1}), "Current"),
    "behind": (seen("Stalled", generation=3, observed=2), "InProgress"),
    "ahead": (seen("Stalled", generation=2, observed=3), "InProgress"),
    "no generation": (seen() | {"metadata": {}}, "Current"),
    "no metadata": ({"status": {"observedGeneration": 3}}, "Current"),
    "being deleted": (seen("Reconciling") | {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, "Terminating"),
    "deletion time empty": (seen("Reconciling") | {"metadata": {"deletionTimestamp": ""}}, "InProgress"),
    "deleted and broken": ({"metadata": {"deletionTimestamp": "now"}, "status": "x"}, "Terminating"),
    "reconciling": (seen("Reconciling"), "InProgress"),
    "stalled": (seen("Stalled"), "Failed"),
    "reconciling before stalled": (seen("Reconciling", "Stalled"), "InProgress"),
    "stalled before reconciling": (seen("Stalled", "Reconciling"), "Failed"),
    "neither": (seen(value("Reconciling", "False"), value("Stalled", "False")), "Current"),
    "unknown is not true": (seen(value("Reconciling", "Unknown"), value("Stalled", "Unknown")), "Current"),
    "true in another spelling": (seen(value("Stalled", "true")), "Current"),
    "twice, the second true": (seen(value("Stalled", "False"), "Stalled"), "Failed"),
    "succeeded false alone": (seen(value("Succeeded", "False")), "Current"),
    "ready": (seen("Ready"), "Current"),
    "not ready": (seen(value("Ready", "False")), "InProgress"),
    "ready unknown": (seen(value("Ready", "Unknown")), "InProgress"),
    "ready otherwise": (seen(value("Ready", "Perhaps"), value("Ready", "False")), "InProgress"),
    "stalled and not ready": (seen(value("Ready", "False"), "Stalled"), "Failed"),
    "null conditions": (bare(status={"observedGeneration": 1, "conditions": None}), "Current"),
    "a null condition": (bare(status={"observedGeneration": 1, "conditions": [None]}), "Current"),
    "a condition without anything": (seen({}), "Current"),
    "a condition with a null reason": (seen(value("Stalled", "True") | {"reason": None}), "Failed"),
    "status is text": (bare(status="x"), ERROR),
    "status is a list": (bare(status=[]), ERROR),
    "observed is text": (bare(status={"observedGeneration": "1"}), ERROR),
    "observed is null": (bare(status={"observedGeneration": None}), ERROR),
    "observed is a fraction": (bare(status={"observedGeneration": 1.5}), ERROR),
    "observed is a boolean": (bare(status={"observedGeneration": True}), ERROR),
    "generation is text": (bare() | {"metadata": {"generation": "1"}}, ERROR),
    "deletion time is a number": (bare() | {"metadata": {"deletionTimestamp": 5}}, ERROR),
    "conditions are an object": (bare(status={"observedGeneration": 1, "conditions": {}}), ERROR),
    "conditions are text": (bare(status={"observedGeneration": 1, "conditions": "x"}), ERROR),
    "a condition is text": (seen() | {"status": {"conditions": ["x"]}}, ERROR),
    "a type is a number": (seen({"type": 5, "status": "True"}), ERROR),
    "a message is an object": (seen(value("Stalled", "True") | {"message": {}}), ERROR),
    "a field that is not read may be anything": (seen(value("Stalled", "True") | {"lastUpdateTime": 5}), "Failed"),
    "behind, with broken conditions": (bare(status={"observedGeneration": 0, "conditions": "x"}), "InProgress"),
}


def answer(body: dict[str, Any]) -> str:
    try:
        return kstatus(body)
    except UnreadableError:
        return ERROR


@pytest.mark.parametrize("name", RULES)
def test_the_rules_are_those_of_cli_utils(name: str) -> None:
    body, expected = RULES[name]
    assert answer(body) == expected


SCHEMA = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
SUMMARIES = {
    "Pending": (Summary.active("Pending", "m"), "InProgress"),
    "Inspecting": (Summary.active("Inspecting", "m"), "InProgress"),
    "Queued": (Summary.active("Queued", "m"), "InProgress"),
    "Starting": (Summary.active("Starting", "m"), "InProgress"),
    "Training": (Summary.active("Training", "m"), "InProgress"),
    "NameTaken": (Summary.active("NameTaken", "m"), "InProgress"),
    "Suspended": (Summary.suspended("m"), "Current"),
    "stuck": (Summary.stuck("ConfigurationInvalid", "m"), "Failed"),
    "failed": (Summary.failed("DataInvalid", "m"), "Failed"),
    "succeeded": (Summary.succeeded("m"), "Current"),
}


def written(summary: Summary, *, generation: int = 1, observed: int | None = None) -> dict[str, Any]:
    body = body_of()
    body["metadata"]["generation"] = generation
    status = with_conditions(TeacherFineTuneStatus(), summary, generation=observed or generation, now=NOW)
    return body | {"status": status.model_dump(mode="json", by_alias=True, exclude_none=True)}


@pytest.mark.parametrize("name", SUMMARIES)
def test_every_state_is_read_right(name: str) -> None:
    summary, expected = SUMMARIES[name]
    assert answer(written(summary)) == expected
    assert answer(written(summary, generation=2, observed=1)) == "InProgress"
    deleted = written(summary)
    deleted["metadata"]["deletionTimestamp"] = "2026-03-01T12:00:00Z"
    assert answer(deleted) == "Terminating"


def test_an_object_that_no_operator_has_seen_is_in_progress() -> None:
    """Its status is the default of the schema; without one, it would pass for done."""
    default = SCHEMA["properties"]["status"]["default"]
    assert answer(body_of()) == "Current"
    assert answer(body_of() | {"status": default}) == "InProgress"
    assert argo_cd(body_of() | {"status": default}) == "Progressing"
    assert read_status({"status": default}) == TeacherFineTuneStatus()


BROKEN: dict[str, Any] = {
    "conditions": {"observedGeneration": 1, "conditions": "x"},
    "generation": {"observedGeneration": "1"},
    "teachers": {"observedGeneration": 1, "teachers": [{"name": "Nobody"}]},
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_invalid_status_is_in_progress_after_the_next_reconciliation(name: str) -> None:
    body = body_of() | {"status": BROKEN[name]}
    status = decide(body, Observed(), SETTINGS, now=NOW).status
    repaired = body | {"status": status.model_dump(mode="json", by_alias=True, exclude_none=True)}
    assert answer(repaired) == "InProgress"


def test_a_run_is_current_only_at_its_end() -> None:
    world = World()
    for advance in (world.reconcile, world.inspected, world.training):
        advance()
        assert answer(world.body) == "InProgress"
    world.run_fairly()
    assert world.terminal
    assert answer(world.body) == "Current"
