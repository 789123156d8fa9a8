"""Real S3 servers for tests, each a process of this machine: SeaweedFS and rclone, which come as wheels."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from ports import free_port, free_ports

ACCESS, SECRET = "test", "test-secret-key"
STARTED = 90.0
"""Seconds that a server may take on a busy machine."""


@dataclass(frozen=True)
class Server:
    """A server that listens.

    Attributes:
        url: Its endpoint.
        conditional: Whether it honours conditional writes.
    """

    url: str
    conditional: bool


def client(url: str) -> object:
    """boto3's, for what tests do themselves."""
    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=ACCESS,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )


@contextmanager
def listening(command: Sequence[str], url: str, folder: Path) -> Iterator[None]:
    """A process, until the end of the block; it answers when the block begins."""
    log = folder / "server.log"
    with log.open("wb") as out, subprocess.Popen(command, cwd=folder, stdout=out, stderr=out) as process:
        try:
            deadline = time.monotonic() + STARTED
            while True:
                try:
                    client(url).create_bucket(Bucket="ready")  # type: ignore[attr-defined]
                    break
                except (BotoCoreError, ClientError):
                    assert process.poll() is None, log.read_text(errors="replace")[-2000:]
                    assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
                    time.sleep(0.2)
            yield
        finally:
            process.kill()  # nothing of it is kept


def _script(name: str) -> str:
    return str(Path(sys.executable).parent / name)


@contextmanager
def rclone(folder: Path) -> Iterator[Server]:
    """``rclone serve s3``: a folder on disk, which knows no conditions."""
    port = free_port()
    (folder / "data").mkdir()
    url = f"http://127.0.0.1:{port}"
    address = ["--addr", f"127.0.0.1:{port}", "--auth-key", f"{ACCESS},{SECRET}", "--config", str(folder / "none")]
    with listening([_script("rclone"), "serve", "s3", *address, str(folder / "data")], url, folder):
        yield Server(url, conditional=False)


@contextmanager
def seaweedfs(folder: Path) -> Iterator[Server]:
    """SeaweedFS: master, volume, filer and gateway in one process."""
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    names = (*names, "s3.port", "s3.port.grpc")
    chosen = dict(zip(names, free_ports(len(names)), strict=True))
    keys = {"credentials": [{"accessKey": ACCESS, "secretKey": SECRET}], "name": "test", "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [keys]}))
    (folder / "data").mkdir()
    url = f"http://127.0.0.1:{chosen['s3.port']}"
    command = [
        _script("weed"),
        "server",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-filer",
        "-s3",
    ]
    command += [f"-{name}={port}" for name, port in chosen.items()]
    command += [f"-s3.config={folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    command += ["-volume.max=0", "-master.volumeSizeLimitMB=64", "-master.volumePreallocate=false"]
    with listening(command, url, folder):
        yield Server(url, conditional=True)


SERVERS: dict[str, Callable[[Path], object]] = {"rclone": rclone, "seaweedfs": seaweedfs}


def missing(name: str) -> str | None:
    """Which program of a server is not installed here; None if it is."""
    program = {"rclone": "rclone", "seaweedfs": "weed"}[name]
    return None if shutil.which(_script(program)) else program
