"""Adapters are loaded from object storage with few requests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from faulty_s3 import FaultyS3
from tiny_run import save_run

from engine.layout import ADAPTER, ADAPTER_CARD
from engine.spec import TeacherName
from engine.storage import Storage, StorageOptions
from engine.teachers import find_adapters, load_adapted


@pytest.fixture
def adapter(tmp_path: Path, s3: str) -> str:
    """URI of one adapter, whose base is on the disk."""
    folder = save_run(tmp_path / "run", (TeacherName.SAM,)) / "teachers" / "sam_lora"
    for file in folder.iterdir():
        Storage().upload(file, f"{s3}/teachers/sam_lora/{file.name}")
    return f"{s3}/teachers/sam_lora"


def fetched(proxy: FaultyS3) -> Counter[str]:
    return Counter(path.partition("?")[0].rpartition("/")[2] for method, path in proxy.requests if method == "GET")


def test_its_teacher_is_found_without_fetching_the_adapter(adapter: str, proxy: FaultyS3) -> None:
    storage = Storage(StorageOptions(endpoint_url=proxy.url))
    assert find_adapters(adapter, storage=storage) == {TeacherName.SAM: adapter}
    assert fetched(proxy)[ADAPTER_CARD] == 1
    assert fetched(proxy)[ADAPTER] == 0


def test_an_adapter_is_fetched_once(adapter: str, proxy: FaultyS3, tmp_path: Path) -> None:
    storage = Storage(StorageOptions(endpoint_url=proxy.url))
    assert load_adapted(adapter, storage=storage, cache=tmp_path).name is TeacherName.SAM
    assert fetched(proxy)[ADAPTER] == 1
