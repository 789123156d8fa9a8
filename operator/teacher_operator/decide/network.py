"""The NetworkPolicy of a run: its pods are reached by pods of the same run alone. Pure.

One policy cannot say "the same run" for all runs, so each run has its own, which selects by its label. It is made
before each Job. Pods of a run may talk on every port: next to the rendezvous, whose messages are pickles, NCCL and Gloo
choose ports of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from teacher_operator.api.names import FIELD_MANAGER, MANAGED_BY, NETWORK, RUN, labels, network_policy, owner_reference
from teacher_operator.api.settings import Settings

NAMES = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]


def run_network(body: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the NetworkPolicy of a run.

    Args:
        body: The object.
        settings: Of the operator; without ``run_egress`` the pods may reach everything.
    """
    name = body["metadata"]["name"]
    mine = {"podSelector": {"matchLabels": {MANAGED_BY: FIELD_MANAGER, RUN: name}}}
    spec: dict[str, Any] = {**mine, "policyTypes": ["Ingress"], "ingress": [{"from": [mine]}]}
    if settings.run_egress:
        spec["policyTypes"] = ["Ingress", "Egress"]
        spec["egress"] = [{"ports": NAMES}, {"to": [mine]}, *settings.run_egress]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": network_policy(name),
            "namespace": body["metadata"]["namespace"],
            "labels": labels(name, NETWORK),
            "ownerReferences": [owner_reference(body)],
        },
        "spec": spec,
    }
