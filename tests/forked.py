"""Python in processes forked from one that has imported torch and the engine: without the six seconds of imports.

A process here is as fresh as one that was started anew: own working directory, environment, standard streams, signals
and exit code. Tests of the start of a process itself, of its imports or of its surroundings start a real one.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "boto3",
        "albumentations",
        "engine.training.trainer",
        "engine.teachers.grounding_dino.model",
        "engine.teachers.sam.model",
    ]
)
TIMEOUT = 300.0


def run_module(
    module: str, *arguments: object, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m module arguments``; return its exit code and what it wrote."""
    return _run(["-m", module, *map(str, arguments)], cwd, environment)


def run_code(
    code: str, *, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``python -c code``; return its exit code and what it wrote."""
    return _run(["-c", code], cwd, environment)


def _run(
    command: Sequence[str], cwd: Path | None, environment: Mapping[str, str] | None
) -> subprocess.CompletedProcess[str]:
    with TemporaryDirectory() as folder:
        files = [Path(folder) / "stdout", Path(folder) / "stderr"]
        where = (os.fspath(cwd or Path.cwd()), dict(os.environ if environment is None else environment))
        process = CONTEXT.Process(target=_main, args=(list(command), *where, *map(str, files)))
        process.start()
        process.join(TIMEOUT)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(command), TIMEOUT)
        out, err = (file.read_text(encoding="utf-8") for file in files)
        return subprocess.CompletedProcess(list(command), process.exitcode, out, err)


def _main(command: list[str], cwd: str, environment: dict[str, str], out: str, err: str) -> None:
    """Become a Python that was started with this command line."""
    for number, name in ((0, os.devnull), (1, out), (2, err)):
        file = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1, closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path[:0] = [""]
    option, program, *sys.argv[1:] = command
    if option == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
