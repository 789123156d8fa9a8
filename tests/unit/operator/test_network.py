"""The NetworkPolicy of a run: who reaches its pods, and what they reach, by a small evaluator of policies."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

import pytest
from tft_objects import MASKS, NAME, SETTINGS, body_of
from tft_world import World

from teacher_operator.api.names import INSPECT, TRAINER, labels
from teacher_operator.api.settings import Settings
from teacher_operator.api.status import FailureStatus
from teacher_operator.decide.network_policy import run_network

HTTPS = (
    {
        "ports": [{"port": 443, "protocol": "TCP"}],
        "to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}],
    },
)
FENCED = SETTINGS.model_copy(update={"run_network_policy": True})
RESTRICTED = FENCED.model_copy(update={"run_egress": HTTPS})


def _selected(selector: Mapping[str, Any], pod: Mapping[str, str]) -> bool:
    return selector["matchLabels"].items() <= pod.items()


def _peer(peer: Mapping[str, Any], other: Mapping[str, str] | str) -> bool:
    """A pod of the same namespace by its labels, or an address."""
    if "podSelector" in peer:
        return not isinstance(other, str) and _selected(peer["podSelector"], other)
    if not isinstance(other, str):
        return False
    address, block = ipaddress.ip_address(other), peer["ipBlock"]
    inside = address in ipaddress.ip_network(block["cidr"])
    return inside and not any(address in ipaddress.ip_network(one) for one in block.get("except", ()))


def _passes(rules: list[dict[str, Any]], side: str, other: Mapping[str, str] | str, port: int) -> bool:
    return any(
        (side not in rule or any(_peer(peer, other) for peer in rule[side]))
        and ("ports" not in rule or any(one["port"] == port for one in rule["ports"]))
        for rule in rules
    )


def reached(settings: Settings, pod: Mapping[str, str], other: Mapping[str, str] | str, port: int) -> bool:
    """Whether a pod is reached on a port, in a namespace with the policy of one run."""
    spec = run_network(body_of(), settings)["spec"]
    return not _selected(spec["podSelector"], pod) or _passes(spec["ingress"], "from", other, port)


def reaches(settings: Settings, pod: Mapping[str, str], other: Mapping[str, str] | str, port: int) -> bool:
    """Whether a pod may reach another one, or an address."""
    spec = run_network(body_of(), settings)["spec"]
    if not _selected(spec["podSelector"], pod) or "Egress" not in spec["policyTypes"]:
        return True
    return _passes(spec["egress"], "to", other, port)


MINE, OTHERS = labels(NAME, TRAINER, MASKS), labels("another", TRAINER, MASKS)
STRANGER = {"app": "web"}


@pytest.mark.parametrize("port", [29500, 40123])
def test_only_pods_of_the_same_run_reach_its_pods(port: int) -> None:
    for pod in (MINE, labels(NAME, INSPECT)):
        assert reached(FENCED, pod, MINE, port), "NCCL and Gloo choose ports of their own"
        assert not reached(FENCED, pod, OTHERS, port)
        assert not reached(FENCED, pod, STRANGER, port)
        assert not reached(FENCED, pod, "10.0.0.7", port)
    assert reached(FENCED, OTHERS, STRANGER, port), "pods of others are none of its business"


def test_egress_is_open_unless_it_is_restricted() -> None:
    assert run_network(body_of(), FENCED)["spec"]["policyTypes"] == ["Ingress"]
    assert reaches(FENCED, MINE, "169.254.169.254", 80)
    assert reaches(RESTRICTED, MINE, "10.96.0.10", 53)
    assert reaches(RESTRICTED, MINE, MINE, 29500)
    assert reaches(RESTRICTED, MINE, "52.1.2.3", 443)
    for address, port in (("52.1.2.3", 22), ("169.254.169.254", 443), ("169.254.169.254", 80)):
        assert not reaches(RESTRICTED, MINE, address, port)
    assert not reaches(RESTRICTED, MINE, STRANGER, 8080)
    assert reaches(RESTRICTED, STRANGER, "52.1.2.3", 22)


def test_it_is_made_before_every_job_and_only_where_it_is_wanted() -> None:
    for settings, wanted in ((SETTINGS, False), (FENCED, True)):
        world = World(teachers=[MASKS], settings=settings)
        made = [child["kind"] for child in world.reconcile().actions.apply]
        assert made == ["NetworkPolicy"] * wanted + ["ConfigMap", "Job"]
    world.inspected()
    world.reconcile_once()
    decision = world.decide()
    kinds = [child["kind"] for child in decision.actions.apply]
    assert not kinds or kinds[0] == "NetworkPolicy"


def test_no_job_is_created_without_the_required_network_policy() -> None:
    world = World(teachers=[MASKS], settings=FENCED)
    said = f"NetworkPolicy {NAME}-network may not be created: forbidden"
    world.refusals[f"{NAME}-network"] = FailureStatus(reason="Forbidden", message=said)
    world.reconcile()
    assert world.made == []
    assert said in world.summary[2]
    world.refusals.clear()
    world.training()
    world.refusals[f"{NAME}-network"] = FailureStatus(reason="Forbidden", message=said)
    world.reconcile()
    assert world.state == ("Unknown", "Training")
