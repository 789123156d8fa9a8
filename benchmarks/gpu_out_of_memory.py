"""Fill the memory of a GPU, start a training, and check that it ends with the exit code of too little memory.

    python benchmarks/gpu_out_of_memory.py

The training is the command ``teacher run`` with the tiny Grounding DINO. Needs a GPU; without one it ends with an
error, since a CPU has no such limit.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from measurements import Measurement, report

from engine.errors import OutOfGpuMemoryError

ROOT = Path(__file__).resolve().parents[1]
LEFT = 600 << 20
"""Bytes that stay free: enough for the context of another process, too few for a training step."""
TIMEOUT = 120


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU, whose memory could run out")
    free, total = torch.cuda.mem_get_info()
    filled = torch.empty(max(0, free - LEFT), dtype=torch.uint8, device="cuda")
    with TemporaryDirectory() as temporary:
        data = Path(temporary, "data")
        subprocess.run(
            [sys.executable, str(ROOT / "examples" / "demo_data.py"), str(data), "--images", "12"], check=True
        )
        command = [sys.executable, "-m", "engine.cli", "run", "--data", f"{data}/annotations.json"]
        command += ["--images", f"{data}/images", "--output", f"{temporary}/out", "--teacher", "GroundingDino"]
        command += ["--base-model", str(ROOT / "examples" / "tiny_teachers" / "grounding_dino")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, cwd=temporary)
    del filled
    wanted = OutOfGpuMemoryError.exit_code
    note = (done.stderr.strip().splitlines() or [""])[-1][:200].replace("|", "/")
    figure = Measurement(
        f"teacher run with {LEFT >> 20} of {total >> 20} MiB free, exit code",
        "documented",
        done.returncode,
        wanted,
        "",
        float(done.returncode == wanted),
        "1",
        note,
    )
    report([figure])
    if done.returncode != wanted:
        raise SystemExit(f"the exit code was {done.returncode}, not {wanted}:\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
