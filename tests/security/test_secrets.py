"""Secrets that are planted in the environment of whole runs are found nowhere that anything is written to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import manifest, write_parts

from engine.storage import Storage

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "wJalrPLANTEDsecretKEY0000000000000000000",
    "AWS_SESSION_TOKEN": "FwoGPLANTEDsessionTOKEN000000000000000000",
    "HF_TOKEN": "hf_PLANTEDhubTOKEN00000000000000000",
    "HUGGING_FACE_HUB_TOKEN": "hf_PLANTEDoldTOKEN00000000000000000",
}
PASSWORD = "PLANTEDpassword0000"
PLANTED = [*SECRETS.values(), PASSWORD]


def leaks(*places: bytes | str | Path) -> list[str]:
    """Where a planted secret stands: in texts, and in every file below folders."""
    found = []
    for place in places:
        files = [path for path in place.rglob("*") if path.is_file()] if isinstance(place, Path) else []
        texts = {str(path): path.read_bytes() for path in files}
        if not isinstance(place, Path):
            texts = {"output": place.encode() if isinstance(place, str) else place}
        found += [name for name, text in texts.items() if any(secret.encode() in text for secret in PLANTED)]
    return found


def test_a_leak_is_found(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "log").write_text(f"key {PASSWORD}")
    assert leaks(tmp_path, f"{PASSWORD}", "fine") == [str(tmp_path / "deep" / "log"), "output"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parts(tmp_path_factory.mktemp("parts"))


def teacher(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line with secrets in its environment, and with every library told to talk."""
    talk = {"AWS_LOG_LEVEL": "debug", "TRANSFORMERS_VERBOSITY": "debug", "HF_DEBUG": "1", "OMP_NUM_THREADS": "1"}
    given = os.environ | SECRETS | talk | {"TEACHER_CACHE": str(cwd / "cache"), "TMPDIR": str(cwd)} | environment
    command = [sys.executable, "-m", "engine.cli", *arguments]
    return subprocess.run(command, cwd=cwd, env=given, capture_output=True, text=True, check=False)


def everything_in(uri: str) -> Iterator[bytes]:
    storage = Storage()
    for item in storage.list(uri):
        yield storage.read_bytes(item.uri)


@pytest.mark.slow
def test_a_run_that_goes_well_writes_no_secret(parts: Path, s3: str, tmp_path: Path) -> None:
    Storage().upload_folder(parts, f"{s3}/data")
    file = manifest(tmp_path, data=f"{s3}/data", output=f"{s3}/models")
    done = teacher("run", "-f", str(file), "--progress", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = list(everything_in(f"{s3}/models"))
    assert len(written) > 20
    assert leaks(done.stdout, done.stderr, tmp_path, *written) == []


FAULTS = {
    "an endpoint that is not there": ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, 43),
    "an endpoint with a password": ({"AWS_ENDPOINT_URL": f"http://user:{PASSWORD}@127.0.0.1:9"}, 40),
    "a metadata service": ({"AWS_ENDPOINT_URL": "http://169.254.169.254"}, 40),
    "a profile that is not there": ({"AWS_PROFILE": "nobody"}, 43),
    "a bucket that is not there": ({}, 43),
}


@pytest.mark.parametrize(("environment", "code"), FAULTS.values(), ids=FAULTS)
def test_a_run_that_fails_tells_no_secret(s3: str, tmp_path: Path, environment: dict[str, str], code: int) -> None:
    file = manifest(tmp_path, data="s3://nobodys-bucket/data", output="s3://nobodys-bucket/models")
    once = {"AWS_MAX_ATTEMPTS": "1"}
    left = ("--outcome", str(tmp_path / "outcome.json"))
    done = teacher("prepare", "-f", str(file), *left, cwd=tmp_path, **once | environment)
    assert done.returncode == code, done.stderr
    assert json.loads((tmp_path / "outcome.json").read_text())["message"]
    assert leaks(done.stdout, done.stderr, tmp_path) == []


def test_a_manifest_with_a_password_is_refused_without_repeating_it(tmp_path: Path) -> None:
    storage = {"endpointUrl": f"https://user:{PASSWORD}@minio.example.com"}
    file = manifest(tmp_path, data="s3://a/b", output="s3://a/c", storage=storage)
    done = teacher("prepare", "-f", str(file), cwd=tmp_path)
    assert done.returncode == 40
    assert leaks(done.stdout, done.stderr) == []


def test_a_key_that_the_store_refuses_is_not_told(s3_server: str, tmp_path: Path) -> None:
    """Even to whoever asks what is wrong with it."""
    done = teacher("doctor", cwd=tmp_path, AWS_ENDPOINT_URL=s3_server, AWS_ACCESS_KEY_ID="AKIAPLANTED")
    assert leaks(done.stdout, done.stderr) == []
    assert "credentials from" in done.stderr
