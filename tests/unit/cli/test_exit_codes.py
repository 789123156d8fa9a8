"""Exit codes are a contract with schedulers: nothing that happens while a process ends may change them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine import __version__
from engine.errors import ConfigError, InterruptedTrainingError

TEACHER = [sys.executable, "-P", "-m", "engine.cli"]
HANGS_AT_THE_END = """
import atexit, threading, time
from engine.cli import app, main
from engine import errors
class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(120)
slow = Slow()
atexit.register(time.sleep, 120)
def fails():
    threading.Thread(target=time.sleep, args=(120,)).start()
    print("told")
    {failure}
app.app = fails
main()
"""


@pytest.mark.parametrize(
    ("failure", "exit_code"),
    [(f"raise errors.{kind.__name__}('why')", kind.exit_code) for kind in (ConfigError, InterruptedTrainingError)]
    + [
        ("raise SystemExit(3)", 3),
        ("raise ValueError", 1),
        ("raise MemoryError", 47),
        ("raise OSError(28, 'No space left', 'out/x')", 47),
        ("pass", 0),
    ],
)
def test_what_hangs_while_the_process_ends_does_not_change_its_exit_code(failure: str, exit_code: int) -> None:
    begin = time.monotonic()
    program = HANGS_AT_THE_END.format(failure=failure)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (exit_code, "told\n")
    assert time.monotonic() - begin < 60


STREAMS = [
    "2>&-",
    ">&-",
    "<&- >&- 2>&-",
    "2>/dev/full",
    "2>&1 | true",
    "| true",
    "2>&1 >/dev/null | head -c1 >/dev/null",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 64} for i in range(40)]
    boxes = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [8, 8, 20, 20], "area": 400, "iscrowd": 0} for i in range(40)
    ]
    coco = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "bolt"}]}
    (folder / "good.json").write_text(json.dumps(coco))
    (folder / "images").mkdir()
    for image in images:
        (folder / "images" / str(image["file_name"])).write_bytes(b"")
    (folder / "broken.json").write_text('{"images": [')
    return folder


@pytest.mark.parametrize(
    ("file", "exit_code", "streams"),
    [
        *(("good.json", 0, streams) for streams in STREAMS),
        *(("broken.json", 41, streams) for streams in ("2>&-", "2>/dev/full", "2>&1 | true")),
    ],
)
def test_streams_that_nobody_reads_do_not_change_the_exit_code(
    data: Path, file: str, exit_code: int, streams: str
) -> None:
    redirected, _, _ = streams.partition("|")
    rest = streams[len(redirected) :]
    script = f'"$@" {redirected} {rest}\nexit ${{PIPESTATUS[0]}}'
    words = ["inspect", str(data / file), "--images", str(data / "images"), "--json"]
    done = subprocess.run(["bash", "-c", script, "-", *TEACHER, *words], capture_output=True, text=True, check=False)
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_for_standard_output_is_a_failure(data: Path) -> None:
    words = ["inspect", str(data / "good.json"), "--images", str(data / "images"), "--json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*TEACHER, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 47
    assert "standard output" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_stream_is_not_given_to_the_next_file() -> None:
    program = (
        "from engine.cli.standard_streams import open_streams; open_streams(); print(open('/dev/null').fileno() > 2)"
    )
    done = subprocess.run(
        ["bash", "-c", '"$@" 2>&- <&-', "-", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "True\n"


CTRL_C = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
from engine.cli import app, main
def works():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("tidying up", flush=True)
        time.sleep({tidies_up})
        print("tidied up", flush=True)
app.app, sys.argv = works, ["teacher", "label"]
main()
"""


def start(program: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")]
)
def test_a_request_to_stop_unwinds_and_the_same_key_press_twice_is_one(number: int, name: str) -> None:
    with start(CTRL_C.format(tidies_up=0.3)) as process:
        for _ in range(3):
            process.send_signal(number)
            time.sleep(0.05)
        out, told = process.communicate(timeout=60)
    assert process.returncode == 143
    assert out == "tidying up\ntidied up\n"
    assert told == f"error: {name} arrived while teacher label was at work: the same command does what is left\n"


def test_a_second_ctrl_c_ends_at_once() -> None:
    with start(CTRL_C.format(tidies_up=60)) as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "tidying up\n"
        time.sleep(1.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=5) == 130


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    program = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)" + CTRL_C.format(tidies_up=0).replace(
        "time.sleep(60)", "time.sleep(1)"
    )
    with start(program) as process:
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=60)
    assert process.returncode == 0


PARENT = """
import subprocess, sys, time
from engine.processes import child_process
from pathlib import Path
subprocess.Popen([sys.executable, "-c", {child!r}], env=child_process.environment())
time.sleep(60)
"""
CHILD = """
import os, sys, time
from pathlib import Path
from engine.processes import child_process
from engine.cli import app, main
def works():
    Path({started!r}).write_text(str(os.getpid()))
    try:
        time.sleep(60)
    finally:
        Path({ended!r}).touch()
app.app, child_process.POLL_SECONDS = works, 0.1
main()
"""


def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    started, ended = tmp_path / "started", tmp_path / "ended"
    child = CHILD.format(started=str(started), ended=str(ended))
    with subprocess.Popen([sys.executable, "-c", PARENT.format(child=child)]) as parent:
        wait_for(started)
        parent.kill()
    wait_for(ended)


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not (file.exists() and (file.stat().st_size or file.name == "ended")):
        assert time.monotonic() < deadline, f"there is no {file.name}"
        time.sleep(0.05)


PLANTED = [
    "yaml",
    "torch",
    "numpy",
    "json",
    "signal",
    "logging",
    "sitecustomize",
    "usercustomize",
    "engine",
    "pydantic",
]


@pytest.mark.parametrize("path", [None, "", ":", ":/nowhere", "/nowhere::/elsewhere"])
def test_nothing_is_imported_from_the_working_directory(tmp_path: Path, path: str | None) -> None:
    plant(tmp_path)
    program = (
        "import os, subprocess, sys; sys.path[:] = [entry for entry in sys.path if entry not in ('', os.getcwd())]\n"
        "from engine.processes import child_process\n"
        "done = subprocess.run(child_process.command('split', '--help'), env=child_process.environment("
        f"{{**os.environ, **({{'PYTHONPATH': {path!r}}} if {path!r} is not None else {{}})}}))\n"
        "sys.exit(done.returncode)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], cwd=tmp_path, capture_output=True, check=False)
    assert not (tmp_path / "imported").exists(), (tmp_path / "imported").read_text()
    assert done.returncode == 0, done.stderr


def test_what_a_process_starts_imports_nothing_from_the_working_directory(tmp_path: Path) -> None:
    plant(tmp_path)
    program = "from multiprocessing import get_context as c; p = c('spawn').Process(target=print); p.start(); p.join()"
    program = f"from engine.cli import app, main\ndef works():\n    {program}\napp.app = works\nmain()"
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": ""}, capture_output=True, check=False)
    assert not (tmp_path / "imported").exists(), (tmp_path / "imported").read_text()
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [name for name in PLANTED if name != "engine"])
def test_the_module_as_a_program_does_not_either(tmp_path: Path, name: str) -> None:
    plant(tmp_path, [name])
    done = subprocess.run(
        [sys.executable, "-m", "engine.cli", "split", "--help"], cwd=tmp_path, capture_output=True, check=False
    )
    assert not (tmp_path / "imported").exists()
    assert done.returncode == 0, done.stderr


def plant(folder: Path, names: list[str] = PLANTED) -> None:
    for name in names:
        (folder / name).mkdir()
        mark = f"open({str(folder / 'imported')!r}, 'a').write({name!r} + chr(10))\n"
        (folder / name / "__init__.py").write_text(mark)
        (folder / f"{name}.py").write_text(mark)


@pytest.mark.parametrize("words", [["split", "a.json", "--output", ""], ["split", "a.json", "--output="], ["run", ""]])
def test_an_empty_value_is_refused_since_it_would_mean_another_folder(words: list[str]) -> None:
    done = subprocess.run([*TEACHER, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 40
    assert "is empty" in done.stderr


def test_the_version_is_printed() -> None:
    done = subprocess.run([*TEACHER, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"teacher-finetune {__version__}\n")


def test_too_many_processes_are_refused_before_one_is_started() -> None:
    words = ["launch", "--processes", "99999999", "train", "--config", "x"]
    done = subprocess.run([*TEACHER, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2  # of the command line itself
