"""``make bench-gpu``: measure everything that needs a GPU, in at most ten minutes and without downloads.

    python benchmarks/gpu.py                     on a machine with a GPU
    python benchmarks/gpu.py --shrunk            the same scripts with small shapes, to test them on a CPU
    python benchmarks/gpu.py --only gpu_steps.py

Steps of all teachers in their published sizes with random weights, next to a plain loop and to the predicted memory;
data loading at that speed; bfloat16 against float32; the exit code at a real lack of memory; two processes with NCCL.
Each script is a process with a time limit, and one that fails does not end the others. Writes
``benchmarks/results/gpu-<device>-<date>.json`` and a table with the same name, ``.md``; both say what was skipped, and
why.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from measurements import Measurement, table
from run import HERE, hardware, run

BUDGET = 570.0
"""Seconds for all scripts."""
LIMITS = {"gpu_steps.py": 240, "input_speed.py": 60, "gpu_precision.py": 240, "data_parallel.py": 90}
"""Time limits of the scripts in seconds; 60 for others."""

STEPS = ("gpu_steps.py",)
INPUT = ("input_speed.py", "--images", "8", "--repeats", "2")
PRECISION = ("gpu_precision.py",)
MEMORY = ("gpu_out_of_memory.py",)
PROCESSES = ("data_parallel.py", "--processes", "2", "--repeats", "2")
SHRUNK = {
    STEPS: "--bases shipped-grounding-dino shipped-sam shipped-sam2 --size 64x96 --images 1 --objects 2 --repeats 1",
    INPUT: "--images 1 --repeats 1",
    PRECISION: "--batches 1 --images 8 --epochs 1",
    PROCESSES: "--steps 1 --images 2 --repeats 1",
}
"""Further arguments that make a script small."""


def reason_to_skip(program: Sequence[str], *, shrunk: bool) -> str:
    """Return why a script cannot run on this machine; empty if it can."""
    gpus = torch.cuda.device_count()
    if program == MEMORY and not gpus:
        return "no GPU, whose memory could run out"
    if program == PROCESSES and gpus < 2 and not shrunk:
        return f"two processes need two GPUs, and there is {gpus}"
    return ""


def training_speeds(done: Sequence[dict[str, Any]]) -> list[str]:
    """Return images per second of the first base with boxes and of the first with masks, as in the steps' notes."""
    speeds: dict[bool, str] = {}
    for figure in (figure for one in done if one["program"].startswith(STEPS[0]) for figure in one["figures"]):
        if found := re.fullmatch(r"([\d.]+) images/s", figure["note"]):
            speeds.setdefault("sam" in figure["what"], found[1])
    return [speeds[kind] for kind in (False, True)] if len(speeds) == 2 else []


def run_all(programs: Sequence[tuple[str, ...]], *, shrunk: bool) -> list[dict[str, Any]]:
    """Run the scripts one after the other until the time is up; one entry for each, also for those that did not run."""
    done: list[dict[str, Any]] = []
    deadline = time.monotonic() + BUDGET
    with TemporaryDirectory() as temporary:
        for program in programs:
            left = deadline - time.monotonic()
            why = reason_to_skip(program, shrunk=shrunk) or ("" if left > 10 else "the time was up")
            if why:
                print(f"{program[0]}: skipped: {why}", flush=True)
                done.append({"program": program[0], "skipped": why, "figures": []})
                continue
            arguments = [*program, *(SHRUNK.get(program, "").split() if shrunk else ())]
            if program == INPUT and (speeds := training_speeds(done)):
                arguments += ["--training-speed", *speeds]
            limit = min(left, LIMITS.get(program[0], 60))
            done.append(run(arguments, Path(temporary, "figures"), timeout=limit))
    return done


def write(done: Sequence[dict[str, Any]], folder: Path) -> Path:
    """Write the results as JSON and as a Markdown table; return the JSON file."""
    now = datetime.now(UTC)
    packages = {name: version(name) for name in ("torch", "transformers", "peft")}
    result = {
        "date": now.isoformat(timespec="seconds"),
        "hardware": hardware(),
        "cuda": torch.version.cuda,
        "packages": packages,
        "runs": list(done),
    }
    file = folder / f"gpu-{hardware()}-{now:%Y-%m-%d}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    rows = table([Measurement(**figure) for one in done for figure in one["figures"]])
    caption = f"Measured on {hardware()} with torch {packages['torch']}, {now:%Y-%m-%d}, by `make bench-gpu`."
    left_out = [f"- `{one['program']}`: {_left_out(one)}" for one in done if _left_out(one)]
    text = f"# Measurements on a GPU\n\n{caption}\n\n{rows}\n"
    if left_out:
        text += "\nNot measured:\n\n" + "\n".join(left_out) + "\n"
    file.with_suffix(".md").write_text(text)
    return file


def _left_out(one: dict[str, Any]) -> str:
    if "skipped" in one:
        return str(one["skipped"])
    return f"ended with exit code {one['exit_code']}" if one["exit_code"] else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="SCRIPT", help="run only these scripts")
    parser.add_argument("--shrunk", action="store_true", help="small shapes, also without a GPU: a test of the scripts")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.shrunk:
        raise SystemExit(
            "torch finds no GPU (see nvidia-smi, and `teacher doctor`): nothing was measured. "
            "--shrunk tests the scripts on a CPU"
        )
    programs = (STEPS, INPUT, PRECISION, MEMORY, PROCESSES)
    done = run_all([one for one in programs if not arguments.only or one[0] in arguments.only], shrunk=arguments.shrunk)
    print(write(done, arguments.output))
    if failed := [one["program"] for one in done if one.get("exit_code")]:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
