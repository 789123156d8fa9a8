"""Whole runs on stores that are not the one of all other tests: SeaweedFS, rclone without conditions, Google, Azure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import TINY, manifest, started, teacher, until, write_parts
from s3_servers import ACCESS, SECRET, SERVERS, Server, client, missing

from engine.storage import Storage, join

pytestmark = pytest.mark.slow

SAM = {"name": "Sam", "baseModel": str(TINY / "sam"), "epochs": 3}
WRITERS = 8


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _started("rclone", tmp_path_factory)


@pytest.fixture(scope="module")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _started("seaweedfs", tmp_path_factory)


def _started(name: str, folders: pytest.TempPathFactory) -> Iterator[Server]:
    program = missing(name)
    if program is not None:
        pytest.skip(f"{program} is not installed: make install")
    with SERVERS[name](folders.mktemp(name)) as running:
        yield running


@pytest.fixture(params=[*SERVERS, "gs", "az"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh one in a server that the environment now points at."""
    found = request.getfixturevalue(request.param)
    if request.param not in SERVERS:
        return str(found)
    server: Server = found
    for variable in ("AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(variable, os.devnull)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    name = f"test-{uuid.uuid4().hex[:20]}"
    client(server.url).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture
def conditional(request: pytest.FixtureRequest, bucket: str) -> bool:
    """Whether the store honours conditional writes."""
    return bool(request.node.callspec.params["bucket"] != "rclone")


def test_a_run_is_killed_resumed_published_fetched_and_labels(bucket: str, conditional: bool, tmp_path: Path) -> None:
    storage = Storage()
    storage.upload_folder(write_parts(tmp_path / "data"), f"{bucket}/data")
    file = manifest(tmp_path, data=f"{bucket}/data", output=f"{bucket}/models", teachers=[SAM])
    prepared = teacher("prepare", "-f", str(file), cwd=tmp_path)
    assert ("does not honour conditional writes" in prepared.stderr) is not conditional
    root = prepared.stdout.strip()
    arguments = ("train", "--config", f"{root}/teacher_config.yaml", "--teacher", "Sam")
    with started(*arguments, cwd=tmp_path / "killed") as process:
        until(process, "checkpoint")
        deadline = time.monotonic() + 60
        while not storage.is_prefix(f"{root}/teachers/sam_lora/last"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    resumed = teacher(*arguments, "--progress", "json", cwd=tmp_path / "killed", check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after step" in resumed.stdout
    assert not [item.key for item in storage.list(root) if item.key.startswith(".teacher")]
    assert "published already" in teacher("run", "-f", str(file), cwd=tmp_path).stderr

    teacher("fetch", root, str(tmp_path / "fetched"), cwd=tmp_path)
    assert (tmp_path / "fetched" / "teachers" / "sam_lora" / "adapter_model.safetensors").is_file()

    image = next(iter(storage.list(f"{bucket}/data/images")))
    storage.write_bytes(image.uri, storage.read_bytes(image.uri) + b"\0")
    other = teacher("prepare", "-f", str(file), cwd=tmp_path)
    assert other.stdout.strip() != root, "another image is another run"
    assert "published already" not in other.stderr


def test_labels_are_written_and_resumed(bucket: str, tmp_path: Path) -> None:
    from labelling import Bright, labeller

    from engine.labelling import label_folder

    storage = Storage()
    storage.upload_folder(write_parts(tmp_path / "data"), f"{bucket}/data")
    ended = Bright()
    ended.fail_at = 7
    asked: dict[str, Any] = {"batch_size": 1, "chunk_size": 2}
    with pytest.raises(KeyboardInterrupt):
        label_folder(labeller(ended), f"{bucket}/data/images", f"{bucket}/labels.json", **asked)
    again = Bright()
    done = label_folder(labeller(again), f"{bucket}/data/images", f"{bucket}/labels.json", **asked)
    assert done is not None
    assert done.images == 12
    assert len(again.seen) == 12 - 6
    assert len(json.loads(storage.read_bytes(f"{bucket}/labels.json"))["images"]) == 12


PUBLISH = """
import sys
from pathlib import Path
from engine.storage import Storage
from engine.storage.publication import Publication

number, root, folder = sys.argv[1:]
files = {}
for path in ("sam/a.bin", "sam/deep/b.bin", f"logs/{number}", "sam/result.json"):
    files[path] = Path(folder, path)
    files[path].parent.mkdir(parents=True, exist_ok=True)
    files[path].write_text(f"{number} {path}")
publication = Publication(root, "sam", storage=Storage())
print("ready", flush=True)
sys.stdin.readline()
print(publication.publish(files), flush=True)
"""


def test_of_eight_processes_one_is_published_whole(bucket: str, conditional: bool, tmp_path: Path) -> None:
    storage = Storage()
    assert storage.honours_conditions(bucket) is conditional
    for round_ in range(2):
        root = f"{bucket}/{round_}"
        commands = [
            [sys.executable, "-c", PUBLISH, str(number), root, str(tmp_path / f"{round_}-{number}")]
            for number in range(WRITERS)
        ]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes = [subprocess.Popen(command, **pipes) for command in commands]
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * WRITERS
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        said = [process.communicate(timeout=120)[0].strip() for process in processes]
        won = [number for number, word in enumerate(said) if word == "True"]
        assert sorted(said) == ["False"] * (WRITERS - 1) + ["True"]
        found = {item.key: storage.read_bytes(item.uri).decode() for item in storage.list(root)}
        published = {path: text for path, text in found.items() if not path.startswith("attempts/")}
        (winner,) = won
        paths = ("sam/a.bin", "sam/deep/b.bin", f"logs/{winner}", "sam/result.json")
        assert published == {path: f"{winner} {path}" for path in paths}


def test_awkward_keys_and_large_objects_come_back(bucket: str, tmp_path: Path) -> None:
    storage = Storage()
    for key in ("plus+x", "plus x", "per%20cent%2Fx", "ä/日本", "q?r#s&t=u"):
        storage.write_bytes(join(bucket, "in", key), key.encode())
    for item in storage.list(f"{bucket}/in"):
        assert storage.read_bytes(item.uri) == item.key.encode()
        assert storage.download(item.uri, tmp_path / "x", etag=item.etag).read_bytes() == item.key.encode()
    content = os.urandom(20 << 20)
    (tmp_path / "big").write_bytes(content)
    storage.upload(tmp_path / "big", f"{bucket}/big")
    storage.copy(f"{bucket}/big", f"{bucket}/copy")
    assert storage.download(f"{bucket}/copy", tmp_path / "back").read_bytes() == content
