"""NetworkPolicy of a run: only pods of the same run can reach its pods. Pure.

One policy cannot express "the same run" for all runs, so each run has its own, which selects by the run's label. It is
created before each Job. All ports are open between the pods of a run: besides the rendezvous, whose messages are
pickles, NCCL and Gloo choose ports of their own.
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
        settings: Settings of the installation; without ``run_egress`` all egress is allowed.
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
