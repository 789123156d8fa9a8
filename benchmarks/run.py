"""``make bench``: run all benchmarks in sequence, each with its baseline in the same run.

    python benchmarks/run.py              all that this machine supports
    python benchmarks/run.py --only memory.py data_parallel.py

Writes ``benchmarks/results/<date>-<hardware>.json`` and a table with the same name, ``.md``. Benchmarks that need the
Kubernetes binaries (``KUBEBUILDER_ASSETS``) are skipped if these are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from measurements import Measurement, table

HERE = Path(__file__).resolve().parent
ASSETS = Path(os.environ.get("KUBEBUILDER_ASSETS", "/usr/local/kubebuilder/bin"))

TIMED_OUT = 124
"""Exit code of a script that was stopped at its time limit, as that of ``timeout``."""

DATA = "annotations.json"
"""Placeholder for a small COCO file of drawn scenes, which is created first."""

PROGRAMS: tuple[tuple[str, ...], ...] = (
    ("inspect_speed.py", DATA, "--large"),
    ("sync_speed.py",),
    ("input_speed.py", "--images", "12"),
    ("frozen_features.py", "--images", "1"),
    ("step_speed.py", "--sizes", "400x667", "800x1333", "--repeats", "2"),
    ("memory.py",),
    ("data_parallel.py",),
    ("library_faults.py",),
    ("student_speed.py",),
)
"""Scripts and their arguments."""

ON_KUBERNETES: tuple[tuple[str, ...], ...] = (
    ("operator_scale.py", "--objects", "1000", "5000", "10000", "--arrivals", "300", "--rate", "5"),
)
"""Scripts that start an API server, and their arguments."""


def hardware() -> str:
    """Return a name of the hardware, such as ``2x-amd-epyc``."""
    if torch.cuda.is_available():
        name = f"{torch.cuda.device_count()}x {torch.cuda.get_device_name()}"
    else:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        name = f"{len(os.sched_getaffinity(0))}x {found[1] if found else platform.machine()}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def run(program: Sequence[str], figures: Path, *, timeout: float | None = None) -> dict[str, Any]:
    """Run one script, for at most ``timeout`` seconds; return its measurements, duration and exit code."""
    print("$ python", f"benchmarks/{program[0]}", *program[1:], flush=True)
    figures.unlink(missing_ok=True)
    begin = time.monotonic()
    environment = {**os.environ, "BENCH_FIGURES": str(figures)}
    command = [sys.executable, str(HERE / program[0]), *program[1:]]
    try:
        code = subprocess.run(command, env=environment, timeout=timeout).returncode
    except subprocess.TimeoutExpired:
        code = TIMED_OUT
    lines = figures.read_text().splitlines() if figures.exists() else []
    seconds = round(time.monotonic() - begin, 1)
    return {
        "program": " ".join(program),
        "exit_code": code,
        "seconds": seconds,
        "figures": list(map(json.loads, lines)),
    }


def write(done: Sequence[dict[str, Any]]) -> None:
    """Write the results as JSON and as a Markdown table; keep other results of the same day."""
    now = datetime.now(UTC)
    file = HERE / "results" / f"{now:%Y-%m-%d}-{hardware()}.json"
    earlier = json.loads(file.read_text())["runs"] if file.exists() else []
    names = [script for script, *_ in (*PROGRAMS, *ON_KUBERNETES)]
    scripts = ((one["program"].split()[0], one) for one in (*earlier, *done))
    runs = {script: one for script, one in scripts if script in names}
    done = sorted(runs.values(), key=lambda one: names.index(one["program"].split()[0]))
    packages = {name: version(name) for name in ("torch", "transformers", "peft", "boto3", "msgspec")}
    result = {
        "date": now.isoformat(timespec="seconds"),
        "hardware": hardware(),
        "packages": packages,
        "runs": list(done),
    }
    file.write_text(json.dumps(result, indent=1) + "\n")
    rows = table([Measurement(**figure) for program in done for figure in program["figures"]])
    caption = f"Measured on {hardware()} with torch {packages['torch']}, {now:%Y-%m-%d}, by `make bench`."
    file.with_suffix(".md").write_text(f"# Measurements\n\n{caption}\n\n{rows}\n")
    print(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="SCRIPT", help="run only these scripts")
    parser.add_argument("--annotations", help="small COCO file from which large ones are made; default: drawn scenes")
    arguments = parser.parse_args()
    programs = [*PROGRAMS, *(ON_KUBERNETES if (ASSETS / "kube-apiserver").exists() else ())]
    chosen = [program for program in programs if not arguments.only or program[0] in arguments.only]
    with TemporaryDirectory() as temporary:
        made = subprocess.run([sys.executable, str(HERE.parent / "examples" / "demo_data.py"), temporary + "/data"])
        made.check_returncode()
        data = arguments.annotations or f"{temporary}/data/{DATA}"
        done = []
        for program in chosen:
            done.append(run([data if word == DATA else word for word in program], Path(temporary, "figures")))
            done[-1]["program"] = " ".join(program)
    write([program for program in done if not program["exit_code"]])
    if failed := [program["program"] for program in done if program["exit_code"]]:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
