"""A store behind a proxy that injects faults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cloud_stores import ACCOUNT, KEY, GoogleHandler, azurite, azurite_at, make_container, unsigned_key
from faulty_s3 import FaultyS3, faulty_s3

from engine.storage.gs_azure_stores import AZURE, AZURE_MORE, GOOGLE, METADATA


@pytest.fixture
def proxy(s3_server: str) -> Iterator[FaultyS3]:
    with faulty_s3(s3_server) as server:
        yield server


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between attempts."""
    monkeypatch.setattr("engine.storage.retries.PAUSE", 0.02)
    monkeypatch.setattr("engine.storage.retries.THROTTLED_PAUSE", 0.05)


@pytest.fixture(autouse=True)
def _no_metadata_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks a real one for an identity: a port that nobody serves takes its place."""
    for scheme in METADATA:
        monkeypatch.setitem(METADATA, scheme, ("127.0.0.1", 9))


@pytest.fixture
def google(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """A store that speaks as Google's does, and that faults are injected into; the environment points at it."""
    with faulty_s3(s3_server, GoogleHandler) as server:
        for variable in GOOGLE:
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", unsigned_key(server.url))
        yield server


@pytest.fixture
def gs(s3: str, google: FaultyS3) -> str:
    """A fresh bucket, ``gs://…``."""
    return s3.replace("s3://", "gs://")


@pytest.fixture(scope="session")
def azurite_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if azurite() is None:
        pytest.skip("Azurite is not installed: npm install azurite, and set TEST_AZURITE to its azurite-blob")
    with azurite_at(tmp_path_factory.mktemp("azurite")) as url:
        yield url


@pytest.fixture
def az(azurite_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh container, ``az://…``, in an emulator that the environment points at."""
    for variable in (*AZURE, *AZURE_MORE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", azurite_url)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    return f"az://{make_container(azurite_url)}"
