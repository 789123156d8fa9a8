"""Measure time, CPU and peak memory of inspecting, validating and splitting COCO files of any size.

python benchmarks/inspect_speed.py ../shared/data/dsb2018/annotations.json
python benchmarks/inspect_speed.py ../shared/data/dsb2018/annotations.json --large

Each program runs in its own process; the baselines are json.load, pycocotools.COCO and a plain file copy. Files of 26
and 260 MB are made by repeating the small file, with --large also one of 2,600 MB. For that one only the file copy is
the baseline: json.load and pycocotools.COCO would need about 16 GB. The images do not exist, so validate opens none.
The best of the repeats is reported. Speeds are megabytes per second of CPU time over all threads, that is, per core.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from measurements import Measurement, report

PROGRAMS = {
    "json.load": "import json\nwith open(path) as file:\n    json.load(file)",
    "pycocotools.COCO": "import contextlib, io\nfrom pycocotools.coco import COCO\n"
    "with contextlib.redirect_stdout(io.StringIO()):\n    COCO(path)",
    "copy": "with open(path, 'rb') as file, open(f'{output}/copy.json', 'wb') as target:\n"
    "    while data := file.read(1 << 20):\n        target.write(data)",
    "inspect": "from engine.dataset import inspect_dataset\ninspect_dataset(path)",
    "validate": "from engine.dataset import validate_dataset\nvalidate_dataset(path)",
    "split": "from pathlib import Path\nfrom engine.dataset import split_file\n"
    "split_file(path, Path(output), {'train': 0.8, 'val': 0.2}, seed=0)",
}
OURS = ("inspect", "validate", "split")
WHOLE = ("json.load", "pycocotools.COCO")
"""Programs that load the whole file into memory."""

MOST_WHOLE = 1000
"""Maximum file size in megabytes for these programs."""

Result = dict[str, float]


def measure(program: str, path: Path) -> Result:
    """Measure wall-clock and CPU seconds, without imports, and peak resident megabytes, with imports."""
    imports = "\n".join(line for line in program.splitlines() if line.startswith(("from", "import")))
    rest = "\n".join(line for line in program.splitlines() if not line.startswith(("from", "import")))
    with TemporaryDirectory(dir=path.parent.parent) as output:
        text = (
            f"import json as _json, resource, time\npath, output = {str(path)!r}, {output!r}\n{imports}\n"
            f"start, cpu = time.perf_counter(), time.process_time()\n{rest}\n"
            "seconds, cpu = time.perf_counter() - start, time.process_time() - cpu\n"
            "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6\n"
            "print(_json.dumps({'seconds': seconds, 'cpu': cpu, 'peak': peak}))\n"
        )
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    result: Result = json.loads(done.stdout)
    return result


def measure_all(path: Path, *, repeats: int) -> dict[str, Result]:
    """Return the best of ``repeats`` runs of each program; the programs alternate."""
    small = path.stat().st_size < MOST_WHOLE * 1e6
    names = [name for name in PROGRAMS if small or name not in WHOLE]
    runs: dict[str, list[Result]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            runs[name].append(measure(PROGRAMS[name], path))
    return {name: {key: min(run[key] for run in done) for key in done[0]} for name, done in runs.items()}


def repeat(source: Path, destination: Path, *, megabytes: float) -> int:
    """Write copies of a small COCO file with new ids until the file has about that size.

    Returns:
        Number of annotations written.
    """
    data = json.loads(source.read_bytes())
    images, annotations = data["images"], data["annotations"]
    once = sum(len(json.dumps(element)) + 2 for element in images + annotations)
    copies = max(1, round(megabytes * 1e6 / once))
    image_step = 1 + max(image["id"] for image in images)
    annotation_step = 1 + max(annotation["id"] for annotation in annotations)
    rest = {key: value for key, value in data.items() if key not in ("images", "annotations")}
    with destination.open("w", encoding="utf-8") as file:
        file.write(json.dumps(rest)[:-1] + (", " if rest else "") + '"images": [')
        for copy in range(copies):
            for i, image in enumerate(images):
                changed = {**image, "id": image["id"] + copy * image_step, "file_name": f"{copy}/{image['file_name']}"}
                file.write((", " if copy or i else "") + json.dumps(changed))
        file.write('], "annotations": [')
        for copy in range(copies):
            for i, annotation in enumerate(annotations):
                changed = {
                    **annotation,
                    "id": annotation["id"] + copy * annotation_step,
                    "image_id": annotation["image_id"] + copy * image_step,
                }
                file.write((", " if copy or i else "") + json.dumps(changed))
        file.write("]}")
    return copies * len(annotations)


def figures(path: Path, best: dict[str, Result], *, first: dict[str, Result]) -> Iterator[Measurement]:
    """Yield the measurements with one file, and comparisons with the first file."""
    megabytes = path.stat().st_size / 1e6
    for ours in OURS:
        what, mine = f"{ours}, {megabytes:,.0f} MB", best[ours]
        for other in (*WHOLE, "copy"):
            if other in best:
                theirs = best[other]
                aim = ">= 8" if (ours, other) == ("inspect", "json.load") and megabytes > 100 else ""
                ratio = theirs["seconds"] / mine["seconds"]
                yield Measurement(what, other, mine["seconds"], theirs["seconds"], "s", ratio, aim, "times as fast")
        speed, copied = megabytes / mine["cpu"], megabytes / best["copy"]["cpu"]
        aim = ">= 100 MB/s a core" if ours == "inspect" else ""
        yield Measurement(what, "copy", speed, copied, "MB/s a core", speed / copied, aim, "of the copy's speed")
        against = "json.load" if "json.load" in best else "copy"
        if against in WHOLE:  # CPU time hardly depends on other programs on the machine
            theirs = best[against]
            by_cpu = theirs["cpu"] / mine["cpu"]
            yield Measurement(
                what, against, mine["cpu"], theirs["cpu"], "s CPU", by_cpu, "", "times as fast, by CPU time"
            )
        held = best[against]["peak"]
        aim = "< 200 MB" if ours == "inspect" else ""
        yield Measurement(what, against, mine["peak"], held, "MB", held / mine["peak"], aim, "peak memory")
        if best is not first:
            before = first[ours]["peak"]
            note = "peak memory next to that of the smallest file"
            yield Measurement(what, f"{ours}, smallest", mine["peak"], before, "MB", mine["peak"] / before, "", note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a small COCO file")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[26, 260])
    parser.add_argument("--large", action="store_true", help="also 2,600 MB: needs 6 GB of disk and some minutes")
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    first: dict[str, Result] = {}
    for megabytes in [*arguments.megabytes, *([2600] if arguments.large else [])]:
        with TemporaryDirectory() as temporary:
            path = Path(temporary, "data", "annotations.json")
            path.parent.mkdir()
            count = repeat(arguments.source, path, megabytes=megabytes)
            print(f"{path.stat().st_size / 1e6:,.1f} MB, {count:,} annotations", flush=True)
            best = measure_all(path, repeats=arguments.repeats)
            first = first or best
            report(list(figures(path, best, first=first)))


if __name__ == "__main__":
    main()
