"""Argo CD reads the health of a run right: the shipped script runs in the Lua that Argo CD runs it in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from lupa.lua51 import LuaRuntime

from .conftest import ROOT

Health = Callable[[dict[str, Any]], dict[str, str]]


@pytest.fixture(scope="module")
def health() -> Health:
    """As Argo CD does it: `obj` is the object, and of Lua's libraries there are base and table."""
    script = (ROOT / "config" / "argocd" / "health.lua").read_text()

    def run(obj: dict[str, Any]) -> dict[str, str]:
        lua = LuaRuntime(unpack_returned_tuples=True)
        for library in ("string", "math", "io", "os", "debug", "package", "require", "coroutine"):
            lua.globals()[library] = None
        lua.execute("getmetatable('').__index = nil") if lua.eval("getmetatable('') ~= nil") else None
        lua.globals().obj = lua.table_from(obj, recursive=True)
        answer = dict(lua.execute(script))
        assert set(answer) <= {"status", "message"}
        return answer

    return run


def run(
    *,
    status: str | None = "Unknown",
    reason: str = "Training",
    message: str = "It trains.",
    generation: int = 1,
    seen: int = 1,
    suspend: bool = False,
    stalled: bool = False,
) -> dict[str, Any]:
    body: dict[str, Any] = {"metadata": {"name": "forklifts", "generation": generation}, "spec": {"suspend": suspend}}
    if status is not None:
        body["status"] = {
            "observedGeneration": seen,
            "conditions": [
                {"type": "DatasetInspected", "status": "True", "reason": "Inspected", "message": ""},
                {"type": "Reconciling", "status": "True", "reason": reason, "message": ""},
                {"type": "Stalled", "status": str(stalled), "reason": reason, "message": "It cannot go on."},
                {"type": "Succeeded", "status": status, "reason": reason, "message": message},
            ],
        }
    return body


@pytest.mark.parametrize("reason", ["Pending", "Inspecting", "Queued", "Training"])
def test_a_run_that_continues_is_progressing(health: Health, reason: str) -> None:
    assert health(run(reason=reason, message="So it is.")) == {"status": "Progressing", "message": "So it is."}


def test_a_new_object_is_progressing(health: Health) -> None:
    assert health(run(status=None))["status"] == "Progressing"
    assert health(run(status=None) | {"status": {}})["status"] == "Progressing"
    assert health(run(status=None) | {"status": {"observedGeneration": 1}})["status"] == "Progressing"


def test_a_run_that_succeeded_is_healthy(health: Health) -> None:
    done = run(status="True", reason="Succeeded", message="Two adapters are published.")
    assert health(done) == {"status": "Healthy", "message": "Two adapters are published."}


def test_a_run_that_failed_is_degraded_and_says_why(health: Health) -> None:
    failed = run(status="False", reason="DataInvalid", message="The dataset holds no box.", stalled=True)
    assert health(failed) == {"status": "Degraded", "message": "The dataset holds no box."}


def test_a_run_that_cannot_continue_is_degraded(health: Health) -> None:
    assert health(run(stalled=True)) == {"status": "Degraded", "message": "It cannot go on."}


def test_a_suspended_run_is_suspended(health: Health) -> None:
    assert health(run(suspend=True))["status"] == "Suspended"
    assert health(run(reason="Suspended"))["status"] == "Suspended"


def test_a_run_that_ended_before_it_was_suspended_has_ended(health: Health) -> None:
    assert health(run(status="True", suspend=True))["status"] == "Healthy"
    assert health(run(status="False", suspend=True))["status"] == "Degraded"


@pytest.mark.parametrize("status", ["True", "False", "Unknown"])
def test_what_is_reported_of_an_older_version_of_the_object_does_not_count(health: Health, status: str) -> None:
    answer = health(run(status=status, generation=3, seen=2))
    assert answer == {
        "status": "Progressing",
        "message": "The operator has not seen this version of the object yet.",
    }


def test_the_part_of_the_config_map_holds_the_script() -> None:
    part = yaml.safe_load((ROOT / "config" / "argocd" / "argocd-cm.yaml").read_text())
    assert part == {
        "data": {
            "resource.customizations.health.finetune.dev_TeacherFineTune": (
                ROOT / "config" / "argocd" / "health.lua"
            ).read_text()
        }
    }
