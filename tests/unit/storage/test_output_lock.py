"""One process at a time works on an output."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from engine.errors import StorageError
from engine.storage import Storage
from engine.storage.output_lock import lock_file, lock_output

HOLDS = """
import sys, time
from engine.storage import Storage
from engine.storage.output_lock import lock_output
with lock_output(sys.argv[1], Storage()):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(output: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(output)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_until_the_first_has_ended_however_it_did(tmp_path: Path) -> None:
    output = tmp_path / "new" / "labels.json"
    with holder(output) as first:
        with pytest.raises(
            StorageError, match=rf"another process \(process {first.pid} on .*\) is working on"
        ) as error:
            lock_output(str(output), Storage()).__enter__()
        assert error.value.exit_code == 43
        first.kill()
    with lock_output(str(output), Storage()):
        pass
    assert list(output.parent.iterdir()) == []


def test_other_names_of_the_same_file_are_the_same_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "labels.json"
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "link.json").symlink_to(output)
    monkeypatch.chdir(tmp_path)
    with holder(output) as first:
        for same in ("labels.json", output.as_uri(), str(tmp_path / "link" / "labels.json"), "link.json"):
            with pytest.raises(StorageError, match="is working on"):
                lock_output(same, Storage()).__enter__()
        with lock_output("other.json", Storage()):
            pass
        first.kill()


def test_another_thread_is_refused_and_a_process_that_was_forked_holds_nothing(tmp_path: Path) -> None:
    file, refused = tmp_path / "lock", []

    def second() -> None:
        try:
            with lock_file(file, what="it"):
                pass
        except StorageError as error:
            refused.append(str(error))

    with lock_file(file, what="it"):
        child = get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(refused) == 1
    with lock_file(file, what="it"):
        pass
    child.kill()
    child.join()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_where_nothing_can_be_written_nothing_is_locked(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with lock_file(tmp_path / "lock", what="it"):
        pass
