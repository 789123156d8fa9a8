"""Whole runs, as processes, on a store that does to them what `faulty_s3` can."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_s3 import MIXED, FaultyS3, faulty_s3, says
from runs import TINY, manifest, teacher, write_parts

from engine.artifacts import RunLayout, read_metadata
from engine.progress import parse_line
from engine.storage import Storage

SAM = {"name": "Sam", "baseModel": str(TINY / "sam"), "epochs": 1}


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def proxy(s3_server: str) -> Iterator[FaultyS3]:
    with faulty_s3(s3_server) as server:
        yield server


def trained(folder: Path, *, data: str, output: str, **spec: object) -> tuple[dict[str, bytes], list[str]]:
    """The adapters of a run from storage to storage by the environment's endpoint, and what its notes said."""
    folder.mkdir()
    file = manifest(folder, data=data, output=output, **spec)
    lines = teacher("run", "-f", str(file), "--progress", "json", cwd=folder).stdout.splitlines()
    events = [event for line in lines if (event := parse_line(line)) is not None]
    storage, layout = Storage(), RunLayout(lines[-1])
    metadata = read_metadata(layout, storage)
    contents = {entry.path: storage.read_bytes(f"{layout.root}/{entry.path}") for entry in metadata.files}
    for entry in metadata.files:
        assert hashlib.sha256(contents[entry.path]).hexdigest() == entry.sha256, entry.path
    adapters = {path: content for path, content in contents.items() if path.endswith("adapter_model.safetensors")}
    return adapters, [event.message or "" for event in events if event.event == "note"]


@pytest.mark.slow
def test_a_run_among_faults_ends_with_the_same_adapters(
    s3: str, s3_server: str, proxy: FaultyS3, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Storage().upload_folder(parts, f"{s3}/data")
    expected, _ = trained(tmp_path / "without", data=f"{s3}/data", output=f"{s3}/without")
    assert len(expected) == 2
    seeds = int(os.environ.get("FAULT_SEEDS", "2"))
    said = 0
    for seed in range(seeds):
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        proxy.at_random(0.05, MIXED, seed=seed)
        adapters, notes = trained(tmp_path / f"with-{seed}", data=f"{s3}/data", output=f"{s3}/with-{seed}")
        assert adapters == expected
        said += sum(bool(re.search(r"s3://\S+ .*(attempt 2 of 6|reading 2 of 6)", note)) for note in notes)
    assert said > 0
    assert set(proxy.injected) == set(MIXED)
    print(f"{seeds} runs, {len(proxy.requests)} requests, faults: {dict(proxy.injected)}")


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (404, "NoSuchKey", "is not there: check bucket and key"),
        pytest.param(403, "AccessDenied", "cannot be read: access is denied", marks=pytest.mark.slow),
        pytest.param(
            503, "SlowDown", "cannot be read: .* answered SlowDown; .* try again later", marks=pytest.mark.slow
        ),
    ],
)
def test_an_image_that_cannot_be_had_during_a_run_ends_it_with_its_name(
    s3: str,
    proxy: FaultyS3,
    parts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    code: str,
    sentence: str,
) -> None:
    storage = Storage()
    storage.upload_folder(parts, f"{s3}/data")
    image = next(storage.list(f"{s3}/data/images"))
    gone = f"{s3.removeprefix('s3:/')}/data/images/{image.key}"
    proxy.before = lambda request: says(status, code) if request.path == gone and request.method == "GET" else None
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    file = manifest(tmp_path, data=f"{s3}/data", output=f"{s3}/models", teachers=[SAM])
    done = teacher("run", "-f", str(file), cwd=tmp_path, check=False)
    assert done.returncode == 5, done.stderr
    assert re.search(rf"error: {image.uri} {sentence}", done.stderr.replace("\n", " "))
    assert "Traceback" not in done.stderr
    assert not any("metadata.json" in item.key for item in storage.list(f"{s3}/models"))
