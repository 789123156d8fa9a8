"""Advice on the setting to change after the kubelet has evicted a pod. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from teacher_operator.api.names import INSPECT

ADVICE: Mapping[str, str | tuple[str, str]] = {
    r'Usage of EmptyDir volume "scratch" exceeds': "raise spec.scratch.size (default: scratchSize of the installation)",
    r'Usage of EmptyDir volume "shm" exceeds': ("raise spec.sharedMemory", ""),
    r"Usage of EmptyDir volume ": "raise the sizeLimit of that volume",
    r"exceeded its local ephemeral storage limit|ephemeral local storage usage exceeds the total limit": (
        "raise ephemeral-storage in spec.resources.limits, which must hold spec.scratch too",
        "raise ephemeral-storage in inspectResources of the installation",
    ),
    r"low on resource: (ephemeral-storage|inodes)|DiskPressure": (
        "set ephemeral-storage in spec.resources.requests to what the run needs, so that a node with that much free is "
        "chosen, or use a claim (spec.scratch.claimName)",
        "set ephemeral-storage in requests of inspectResources of the installation",
    ),
    r"low on resource: memory|MemoryPressure": (
        "raise memory in spec.resources.requests to what the run uses",
        "raise memory in requests of inspectResources of the installation",
    ),
}
"""Advice by pattern of the kubelet's message; the first match applies. A pair has the advice for a trainer and for
inspection."""


def eviction_advice(message: str, container: str) -> str:
    """Return the setting to change, as part of a sentence; empty if no pattern matches the message of the kubelet."""
    for pattern, advice in ADVICE.items():
        if re.search(pattern, message):
            return advice if isinstance(advice, str) else advice[container == INSPECT]
    return ""
