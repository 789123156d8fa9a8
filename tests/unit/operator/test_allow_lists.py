"""What an installation allows is checked before anything is made; what runs goes on."""

from __future__ import annotations

from typing import Any

import pytest
from policy_cases import CASES
from tft_objects import MASKS, SETTINGS, body_of
from tft_world import World

from teacher_operator.api.settings import Allowed, Settings
from teacher_operator.api.spec import parse_spec
from teacher_operator.decide.allow_lists import NOT_ALLOWED, refusal


def fault(allowed: dict[str, Any], namespace: str = "vision", **spec: Any) -> str:
    """What is said against a spec where only some things are allowed."""
    settings = SETTINGS.model_copy(update={"allowed": Allowed.model_validate(allowed)})
    found = refusal(parse_spec(body_of(**spec)), settings, namespace=namespace)
    return found.message if found is not None else ""


@pytest.mark.parametrize(("allowed", "spec", "said"), CASES)
def test_allowed_specs(allowed: dict[str, Any], spec: dict[str, Any], said: str) -> None:
    found = fault(allowed, **spec)
    assert said in found
    assert bool(found) == bool(said)


def installation(*accounts: str) -> Settings:
    return SETTINGS.model_copy(update={"allowed": Allowed(service_accounts=accounts)})


def test_no_job_is_created_for_a_service_account_that_is_not_allowed() -> None:
    world = World(teachers=[MASKS], settings=installation("trainer"), serviceAccountName="admin")
    for _ in range(3):
        world.reconcile()
        world.advance(600)
    assert world.made == []
    status, reason, message = world.summary
    assert (status, reason) == ("Unknown", NOT_ALLOWED)
    assert "it allows trainer (serviceAccounts)" in message
    stalled = next(one for one in world.status.conditions if one.type == "Stalled")
    assert stalled.status.value == "True"
    world.edit(serviceAccountName="trainer")
    world.training()
    assert world.state == ("Unknown", "Training")


def test_a_longer_list_lets_a_run_begin() -> None:
    world = World(teachers=[MASKS], settings=installation("trainer"), serviceAccountName="other")
    world.reconcile()
    world.settings = installation("trainer", "other")
    world.inspected()
    assert world.made


def test_a_shorter_allow_list_stops_no_running_job() -> None:
    world = World(teachers=[MASKS], settings=installation("*"), serviceAccountName="admin")
    world.training()
    made = list(world.made)
    world.settings = installation("trainer")
    world.reconcile()
    assert world.state == ("Unknown", "Training")
    assert NOT_ALLOWED not in world.summary[2]
    assert "not allowed" not in world.summary[2]
    assert world.made == made


def test_a_shorter_list_holds_for_the_next_job_of_a_run() -> None:
    world = World(teachers=[MASKS], settings=installation("*"), serviceAccountName="admin")
    world.training()
    world.settings = installation("trainer")
    made = list(world.made)
    pods = world.pods_of(world.job(MASKS))
    world.remove_job(world.job(MASKS)["metadata"]["name"])
    for pod in pods:
        world.remove_pod(pod)
    world.reconcile()
    assert world.made == made
    assert world.state == ("Unknown", NOT_ALLOWED)
    world.edit(suspend=True)
    world.reconcile()
    assert world.state == ("Unknown", "Suspended")


def test_an_edit_that_is_not_allowed_keeps_the_running_job() -> None:
    world = World(teachers=[MASKS], settings=installation("trainer"), serviceAccountName="trainer")
    world.training()
    made = list(world.made)
    world.edit(serviceAccountName="admin")
    world.reconcile()
    assert world.state == ("Unknown", "Training")
    assert "its new settings are refused" in world.summary[2]
    assert "it allows trainer (serviceAccounts)" in world.summary[2]
    assert world.made == made


def test_an_edit_during_inspection_keeps_the_running_job() -> None:
    world = World(teachers=[MASKS], settings=installation("trainer"), serviceAccountName="trainer")
    world.reconcile()
    made = list(world.made)
    world.edit(serviceAccountName="admin")
    world.reconcile()
    world.controllers()
    world.reconcile()
    assert world.made == made
    assert not world.job()["metadata"].get("deletionTimestamp")


def test_a_run_that_stays_not_allowed_ends_after_its_pending_deadline() -> None:
    world = World(
        teachers=[MASKS], settings=installation("trainer"), serviceAccountName="admin", pendingDeadlineSeconds=600
    )
    world.reconcile()
    assert world.summary[:2] == ("Unknown", NOT_ALLOWED)
    world.advance(700)
    world.reconcile()
    status, reason, message = world.summary
    assert (status, reason, world.made) == ("False", "NotStartedInTime", [])
    assert "not running after pendingDeadlineSeconds = 600" in message
    assert "it allows trainer (serviceAccounts)" in message
