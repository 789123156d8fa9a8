"""The NetworkPolicy of a run as a child: made and owned, never taken over."""

from __future__ import annotations

import json

import pytest
from places import NewWorld

pytestmark = pytest.mark.asyncio

RULES = [{"ports": [{"port": 443, "protocol": "TCP"}]}]


async def test_a_run_has_a_policy_of_its_own(new_world: NewWorld) -> None:
    world = await new_world(run_network_policy=True, run_egress=json.dumps(RULES))
    await world.create("fenced")
    pod = await world.pod("fenced", "inspect")
    policy = await world.find("networkpolicies", "fenced-network")
    assert policy is not None
    run = await world.run("fenced")
    assert policy["metadata"]["ownerReferences"][0]["uid"] == run["metadata"]["uid"]
    chosen = policy["spec"]["podSelector"]["matchLabels"]
    assert chosen.items() <= pod["metadata"]["labels"].items()
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert [rule.get("ports") for rule in policy["spec"]["egress"]][-1] == RULES[0]["ports"]


async def test_a_policy_of_somebody_else_is_waited_for(new_world: NewWorld) -> None:
    world = await new_world(run_network_policy=True)
    body = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "taken-network"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }
    made = await world.api.call("POST", world.path("networkpolicies"), body)
    await world.create("taken")
    await world.reaches("taken", "NameTaken", saying="NetworkPolicy taken-network of another owner")
    assert await world.jobs("taken") == []
    there = await world.find("networkpolicies", "taken-network")
    assert there is not None
    assert there["spec"] == made["spec"]
    await world.delete("networkpolicies", "taken-network")
    await world.job("taken", "inspect")
    owned = await world.find("networkpolicies", "taken-network")
    assert owned is not None
    assert owned["metadata"]["uid"] != made["metadata"]["uid"]
