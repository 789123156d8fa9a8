"""Machines that are not fit: real disks that are full or read-only, shared memory that is too small, no GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import manifest, teacher, write_parts

from engine.errors import MachineError
from engine.results.outcome import parse_outcome

pytestmark = pytest.mark.slow
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts disks")


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``teacher_config.yaml`` in the folder of its run."""
    folder = tmp_path_factory.mktemp("planned")
    file = manifest(folder, data=str(write_parts(folder / "parts")), output=str(folder / "output"))
    return Path(teacher("prepare", "-f", str(file), cwd=folder).stdout.strip())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def train(planned: Path, *arguments: str, cwd: Path, **environment: str) -> tuple[int, str]:
    """Exit code and sentence of a trainer, which says the same on standard error."""
    outcome = cwd / "outcome.json"
    words = ("train", "--config", str(planned / "teacher_config.yaml"), "--teacher", "GroundingDino")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        done = teacher(*words, "--outcome", str(outcome), *arguments, cwd=cwd, check=False)
    left = parse_outcome(outcome.read_text())
    assert left is not None
    assert left.exit_code == done.returncode
    assert "Traceback" not in done.stderr
    return done.returncode, left.message


@as_root
def test_a_full_disk_is_reported(planned: Path, tmp_path: Path, disk: Path) -> None:
    code, said = train(planned, "--work-dir", str(disk / "work"), cwd=tmp_path)
    assert code == MachineError.exit_code
    assert re.search(r"cannot be written: the disk is full: free some space", said)


@as_root
def test_a_read_only_disk_is_reported(planned: Path, tmp_path: Path, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    code, said = train(planned, "--work-dir", str(disk / "work"), cwd=tmp_path)
    assert code == MachineError.exit_code
    assert re.search(r"disk/work.* cannot be written: the disk is read-only: choose another folder", said)


@as_root
def test_shared_memory_that_is_too_small_is_reported(planned: Path, tmp_path: Path) -> None:
    words = ["train", "--config", str(planned / "teacher_config.yaml"), "--teacher", "GroundingDino"]
    config = (planned / "teacher_config.yaml").read_text().replace("workers: null", "workers: 2")
    (tmp_path / "teacher_config.yaml").write_text(config)
    small = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", small, "sh", sys.executable, "-m", "engine.cli", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == MachineError.exit_code, done.stderr
    assert "/dev/shm is too small" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_gpu_that_was_asked_for_and_is_not_there_is_reported(planned: Path, tmp_path: Path) -> None:
    code, said = train(planned, cwd=tmp_path, TEACHER_GPUS="2", CUDA_VISIBLE_DEVICES="")
    assert code == MachineError.exit_code
    assert "this machine was asked for 2 GPUs, and torch cannot use them" in said
