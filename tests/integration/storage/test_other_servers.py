"""Whole runs on real S3 servers that are not the one of all other tests: SeaweedFS, and rclone without conditions."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
import uuid
from collections.abc import Iterator
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from runs import TINY, manifest, started, teacher, until, write_parts
from s3_servers import ACCESS, SECRET, SERVERS, Server, client, missing

from engine.storage import Storage, join
from engine.storage.publication import Publication

pytestmark = pytest.mark.slow

SAM = {"name": "Sam", "baseModel": str(TINY / "sam"), "epochs": 3}
WRITERS = 8


@pytest.fixture(scope="module", params=list(SERVERS))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    program = missing(request.param)
    if program is not None:
        pytest.skip(f"{program} is not installed: make install")
    with SERVERS[request.param](tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture
def bucket(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh one in the server that the environment now points at."""
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


def test_a_run_is_killed_resumed_published_fetched_and_labels(bucket: str, server: Server, tmp_path: Path) -> None:
    storage = Storage()
    storage.upload_folder(write_parts(tmp_path / "data"), f"{bucket}/data")
    file = manifest(tmp_path, data=f"{bucket}/data", output=f"{bucket}/models", teachers=[SAM])
    prepared = teacher("prepare", "-f", str(file), cwd=tmp_path)
    assert ("does not honour conditional writes" in prepared.stderr) is not server.conditional
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


def _publish(number: int, root: str, folder: Path, barrier: Barrier, said: Queue[tuple[int, bool]]) -> None:
    files = {}
    for path in ("sam/a.bin", "sam/deep/b.bin", f"logs/{number}", "sam/result.json"):
        files[path] = folder / str(number) / path
        files[path].parent.mkdir(parents=True, exist_ok=True)
        files[path].write_text(f"{number} {path}")
    publication = Publication(root, "sam", storage=Storage())
    barrier.wait(60)
    said.put((number, publication.publish(files)))


def test_of_eight_processes_one_is_published_whole(bucket: str, server: Server, tmp_path: Path) -> None:
    storage, context = Storage(), multiprocessing.get_context("fork")
    assert storage.honours_conditions(bucket) is server.conditional
    for round_ in range(2):
        root, barrier, said = f"{bucket}/{round_}", context.Barrier(WRITERS), context.Queue()
        arguments = (root, tmp_path / str(round_), barrier, said)
        processes = [context.Process(target=_publish, args=(number, *arguments)) for number in range(WRITERS)]
        for process in processes:
            process.start()
        won = [number for number, is_winner in (said.get(timeout=120) for _ in processes) if is_winner]
        for process in processes:
            process.join(60)
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
