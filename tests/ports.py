"""Ports for servers of tests."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack, suppress

LISTENING = range(20_000, 32_000)
"""Below the range that the kernel takes for outgoing connections: no client of another test can get the port of a
server between two starts of it."""


def free_ports(count: int) -> list[int]:
    """Return ports on which nothing listens now, all different."""
    found: list[int] = []
    with ExitStack() as stack:
        for port in random.SystemRandom().sample(LISTENING, len(LISTENING)):
            if len(found) == count:
                break
            probe = stack.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("", port))
                found.append(port)
    assert len(found) == count, f"no free port in {LISTENING}"
    return found


def free_port() -> int:
    """Return a port on which nothing listens now."""
    return free_ports(1)[0]
