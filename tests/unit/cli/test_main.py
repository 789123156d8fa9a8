"""How SIGTERM and failures end a process, with real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.cli.outcome_file import failures_in
from engine.errors import DataError
from engine.results.outcome import parse_outcome

TEACHER = [sys.executable, "-m", "engine.cli"]
FIRST = ["unshare", "--pid", "--fork", "--kill-child"]
"""Runs a command as process 1 of a namespace of its own, as a container does."""


def can(command: list[str]) -> bool:
    try:
        return subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def pid_of(process: subprocess.Popen[str], *, first: bool) -> int:
    """The pid of the command itself, as seen from here."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return int(children.read_text().split()[0]) if first else process.pid


@pytest.mark.parametrize("first", [False, True])
def test_sigterm_ends_a_command_that_waits_and_is_its_outcome(tmp_path: Path, first: bool) -> None:
    prefix = []
    if first:
        prefix = next((command for command in (FIRST, [FIRST[0], "-r", *FIRST[1:]]) if can(command)), [])
        if not prefix:
            pytest.skip("no process of another namespace can be started here")
    manifest, outcome = tmp_path / "manifest.yaml", tmp_path / "outcome.json"
    os.mkfifo(manifest)
    command = [*prefix, *TEACHER, "prepare", "-f", str(manifest), "--outcome", str(outcome)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process, manifest.open("w"):
        # The manifest is open on both sides: it is being read, and nothing comes.
        os.kill(pid_of(process, first=first), signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 143
    assert told == "error: SIGTERM arrived while teacher prepare was at work: the same command does what is left\n"
    left = parse_outcome(outcome.read_text())
    assert left is not None
    assert (left.exit_code, left.reason) == (143, "Interrupted")


def test_sigterm_is_no_failure_of_the_storage_that_is_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = os.environ | {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        command = [*TEACHER, "prepare", "-f", "s3://bucket/manifest.yaml"]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            connection, _ = silent.accept()
            connection.recv(4096)  # it has asked, and waits for an answer
            process.terminate()
            _, told = process.communicate(timeout=60)
            connection.close()
    assert process.returncode == 143
    assert "SIGTERM arrived while teacher prepare" in told


def test_what_does_not_heed_sigterm_in_time_is_ended() -> None:
    program = """if True:
        import sys
        import time
        from engine.cli import app, main
        def deaf():
            told = False
            while True:
                try:
                    if not told:
                        told = True
                        print("ready", flush=True)
                    time.sleep(60)
                except BaseException:
                    pass
        sys.modules["engine.cli.signals"].SHUTDOWN_TIMEOUT, app.app = 1, deaf
        main()
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        begin = time.monotonic()
        process.terminate()
        _, told = process.communicate(timeout=60)
    assert process.returncode == 143
    assert told.startswith("error: SIGTERM arrived while teacher was at work")
    assert time.monotonic() - begin > 0.9


@pytest.mark.parametrize(
    ("failure", "exit_code", "told"), [('DataError("no objects")', 41, "error: no objects\n"), ("SystemExit(3)", 3, "")]
)
def test_a_failure_ends_it_though_a_thread_still_waits(failure: str, exit_code: int, told: str) -> None:
    program = f"""if True:
        import sys
        from concurrent.futures import ThreadPoolExecutor
        from threading import Event
        from engine.cli import app, main
        from engine.errors import DataError
        def fails():
            ThreadPoolExecutor().submit(Event().wait)
            raise {failure}
        sys.modules["engine.cli.signals"].SHUTDOWN_TIMEOUT, app.app = 1, fails
        main()
    """
    ended = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (exit_code, told)


def test_a_failure_is_written_to_the_outcome_file_and_raised(tmp_path: Path) -> None:
    file = tmp_path / "outcome.json"
    for error, exit_code, reason in (
        (DataError("no objects"), 41, "DataInvalid"),
        (ValueError("odd"), 1, "Unexpected"),
    ):
        with pytest.raises(type(error)), failures_in(file):
            raise error
        left = parse_outcome(file.read_text())
        assert left is not None
        assert (left.exit_code, left.reason) == (exit_code, reason)
    with pytest.raises(DataError), failures_in(None):
        raise DataError("no objects")


def test_that_the_file_cannot_be_written_does_not_hide_the_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match="no objects"), failures_in(tmp_path):
        raise DataError("no objects")
    assert "the outcome cannot be written" in capsys.readouterr().err


def test_what_ends_well_leaves_the_file_alone(tmp_path: Path) -> None:
    with failures_in(tmp_path / "outcome.json"):
        pass
    assert not list(tmp_path.iterdir())
