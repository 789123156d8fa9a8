"""Time and peak memory of inspecting a COCO file, beside json.load and reading the bytes, each in a process of its own.

python benchmarks/make_big_coco.py ../shared/data/dsb2018/annotations.json /tmp/big.json --megabytes 260
python benchmarks/inspect_speed.py /tmp/big.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

PROGRAMS = {
    "read": "with open(path, 'rb') as file:\n    while file.read(4 << 20):\n        pass",
    "json.load": "import json\nwith open(path) as file:\n    json.load(file)",
    "inspect": "from engine.dataset import inspect_dataset\ninspect_dataset(path)",
    "pycocotools": "import contextlib, io\nfrom pycocotools.coco import COCO\n"
    "with contextlib.redirect_stdout(io.StringIO()):\n    COCO(path)",
}


def measure(program: str, path: Path) -> dict[str, float]:
    """Seconds of wall clock and of CPU, imports aside, and peak resident megabytes, imports included."""
    imports = "\n".join(line for line in program.splitlines() if line.startswith(("from", "import")))
    rest = "\n".join(line for line in program.splitlines() if not line.startswith(("from", "import")))
    text = (
        f"import json as _json, resource, time\npath = {str(path)!r}\n{imports}\n"
        f"start, cpu = time.perf_counter(), time.process_time()\n{rest}\n"
        "seconds, cpu = time.perf_counter() - start, time.process_time() - cpu\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "print(_json.dumps({'seconds': seconds, 'cpu_seconds': cpu, 'peak_mb': peak}))\n"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--with", dest="programs", nargs="+", choices=list(PROGRAMS), default=list(PROGRAMS)[:3])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    size = arguments.file.stat().st_size / 1e6
    print(f"{arguments.file}: {size:.1f} MB; best of {arguments.repeats}")
    best: dict[str, dict[str, float]] = {}
    for _ in range(arguments.repeats):
        for name in arguments.programs:
            result = measure(PROGRAMS[name], arguments.file)
            if name not in best or result["seconds"] < best[name]["seconds"]:
                best[name] = result
    for name, result in best.items():
        print(
            f"{name:12} {result['seconds']:8.2f} s  {result['cpu_seconds']:8.2f} s CPU  "
            f"{size / result['cpu_seconds']:8.0f} MB/s of CPU  {result['peak_mb']:8.0f} MB peak"
        )
    if {"json.load", "inspect"} <= best.keys():
        ratio = best["json.load"]["seconds"] / best["inspect"]["seconds"]
        cpu = best["json.load"]["cpu_seconds"] / best["inspect"]["cpu_seconds"]
        print(f"inspect is {ratio:.1f} times as fast as json.load ({cpu:.1f} times by CPU)")


if __name__ == "__main__":
    main()
