"""Whole runs, as processes, on a store that does to them what `faulty_s3` can."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from faulty_s3 import MIXED, Fault, FaultyS3, Request, says
from runs import TINY, manifest, started, teacher, until, write_parts

from engine.layout import RunLayout
from engine.results.events import Event, parse_line
from engine.results.run_files import read_metadata
from engine.storage import Storage

SAM = {"name": "Sam", "baseModel": str(TINY / "sam"), "epochs": 1}


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parts(tmp_path_factory.mktemp("parts"))


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
        said += sum(bool(re.search(r"s3://\S+ .*(attempt 2 of 8|reading 2 of 8)", note)) for note in notes)
    assert said > 0
    assert set(proxy.injected) == set(MIXED)
    print(f"{seeds} runs, {len(proxy.requests)} requests, faults: {dict(proxy.injected)}")


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (404, "NoSuchKey", "does not exist: check bucket and key"),
        pytest.param(403, "AccessDenied", "cannot be read: access is denied", marks=pytest.mark.slow),
        pytest.param(
            503, "SlowDown", "cannot be read: .* answered SlowDown; .* try again later", marks=pytest.mark.slow
        ),
    ],
)
def test_an_image_that_is_unavailable_during_a_run_ends_it_with_its_name(
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
    *_, image = storage.list(f"{s3}/data/images")
    path = f"/{s3.removeprefix('s3://')}/data/images/"
    busy = [says(503, "SlowDown")]

    def choose(request: Request) -> Fault | None:
        if request.method != "GET" or not request.path.startswith(path):
            return None
        if request.path == path + image.key:
            return says(status, code)
        return busy.pop() if busy else None

    proxy.before = choose
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    file = manifest(tmp_path, data=f"{s3}/data", output=f"{s3}/models", teachers=[SAM])
    done = teacher("run", "-f", str(file), "--progress", "json", cwd=tmp_path, check=False)
    assert done.returncode == 43, done.stderr
    notes = [event.message for line in done.stdout.splitlines() if (event := parse_line(line)) is not None]
    assert any(re.fullmatch(r"s3://\S+/images/\S+ answered SlowDown: attempt 2 of 2", note or "") for note in notes)
    assert re.search(rf"error: {image.uri} {sentence}", done.stderr.replace("\n", " "))
    assert "Traceback" not in done.stderr
    assert not any("metadata.json" in item.key for item in storage.list(f"{s3}/models"))


def rest_of(process: subprocess.Popen[str]) -> list[Event]:
    out, _ = process.communicate(timeout=300)
    return [event for line in out.splitlines() if (event := parse_line(line)) is not None]


@pytest.mark.slow
def test_a_place_that_may_not_be_written_to_ends_a_run_with_its_name(
    s3: str, proxy: FaultyS3, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.before = lambda request: (
        says(403, "AccessDenied") if request.method == "PUT" and "/attempts/sam/" in request.path else None
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    file = manifest(tmp_path, data=str(parts), output=f"{s3}/models", teachers=[SAM])
    done = teacher("run", "-f", str(file), cwd=tmp_path, check=False)
    assert done.returncode == 43, done.stderr
    assert re.search(rf"error: {s3}/models/\S+/attempts/sam/\S+ cannot be written: access is denied", done.stderr)
    proxy.before = lambda _: None
    assert "resuming after step" in teacher("run", "-f", str(file), "--progress", "json", cwd=tmp_path).stdout


@pytest.mark.slow
def test_an_attempt_that_was_taken_for_lost_ends_well_with_what_another_has_published(
    s3: str, parts: Path, tmp_path: Path
) -> None:
    file = manifest(tmp_path, data=str(parts), output=f"{s3}/models", teachers=[SAM])
    root = teacher("prepare", "-f", str(file), cwd=tmp_path).stdout.strip()
    arguments = ("train", "--config", f"{root}/teacher_config.yaml", "--teacher", "Sam")
    with started(*arguments, cwd=tmp_path / "lost") as lost:
        until(lost, "start")
        lost.send_signal(signal.SIGSTOP)
        try:
            with started(*arguments, cwd=tmp_path / "next") as following:
                *_, done = rest_of(following)
            assert (following.returncode, done.event) == (0, "done")
            storage = Storage()
            published = {item.key: item.etag for item in storage.list(root) if "/last/" not in item.key}
        finally:
            lost.send_signal(signal.SIGCONT)
        *_, done = rest_of(lost)
    assert lost.returncode == 0
    assert done.message == f"another attempt has already published {root}/teachers/sam_lora: its result is kept"
    assert {item.key: item.etag for item in storage.list(root) if "/last/" not in item.key} == published


@pytest.mark.slow
def test_keys_that_rotate_during_a_run_do_not_end_it(
    s3: str, proxy: FaultyS3, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Storage().upload_folder(parts, f"{s3}/data")
    file = manifest(tmp_path, data=f"{s3}/data", output=f"{s3}/models", teachers=[SAM])
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    keys = tmp_path / "credentials"

    def rotate(key: str) -> None:
        keys.write_text(f"[default]\naws_access_key_id={key}\naws_secret_access_key=secret\n")
        proxy.accepted = {key}

    rotate("FIRST")
    environment = {"AWS_SHARED_CREDENTIALS_FILE": str(keys), "AWS_ENDPOINT_URL": proxy.url}
    with started("run", "-f", str(file), cwd=tmp_path / "run", **environment) as process:
        until(process, "start")
        rotate("SECOND")
        events = rest_of(process)
    assert process.returncode == 0
    assert any("answered ExpiredToken: attempt 2 of 8" in (event.message or "") for event in events)
