"""A store behind a proxy that injects faults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from faulty_s3 import FaultyS3, faulty_s3


@pytest.fixture
def proxy(s3_server: str) -> Iterator[FaultyS3]:
    with faulty_s3(s3_server) as server:
        yield server


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between attempts."""
    monkeypatch.setattr("engine.storage.retries.PAUSE", 0.02)
    monkeypatch.setattr("engine.storage.retries.THROTTLED_PAUSE", 0.05)
