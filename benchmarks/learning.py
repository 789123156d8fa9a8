"""Compare training quality: the product and other methods on the same base, data, splits, augmentation and schedule.

    python benchmarks/learning.py --data sets/raccoon --teacher GroundingDino --method ours
    python benchmarks/learning.py --data sets/books --teacher Sam --method plain --rate 1e-3 --seed 1
    python benchmarks/learning.py --all --sets sets --budget 7200 --jobs 2

The first two train once and append one line of JSON to ``--results``; ``learning_table.py`` prints tables of these
lines. The last one runs what the table needs, most telling runs first, skips runs that the file has, and starts no run
that would end after ``--budget`` seconds: start it again to continue. ``datasets.py`` makes the sets.

A set is divided 60/20/20 with seed 0, or has ``annotations_train.json``, ``_val`` and ``_test``. All methods get the
same epochs, images per step and views of images. The methods:

    ours     same as ``teacher train``, with its defaults apart from what is given here; the best of its evaluations on
             the validation split is used
    plain    LoRA by PEFT in a plain loop, with the loss of transformers and its auxiliary terms (its SAM has no loss:
             binary cross entropy + dice of a mask per box, as in tutorials)
    full     our loop and loss, all parameters trained
    package  finetuning-grounding-dino-sam 0.1.2 from PyPI, defaults except epochs, image size and learning rate
    base     no training

Methods other than base are trained at three learning rates with seed 0; of the product's, the middle one is its
default. The one with the best AP on the validation split is used for the other seeds. Every method is reported on the
test split.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engine.spec import TeacherName

SETS = {
    "GroundingDino": ("bccd", "raccoon", "chess", "cards", "plates"),
    "Sam": ("dsb2018", "books", "facades", "bugs"),
    "MMGroundingDino": ("bccd",),
    "Sam2": ("dsb2018",),
}
"""Sets of each teacher, the most telling first."""

_DETECTORS: dict[str, tuple[float, ...]] = {
    "ours": (3e-4, 1e-3, 3e-3),
    "plain": (3e-4, 1e-3, 3e-3),
    "full": (3e-4, 1e-3, 3e-3),
}
_SEGMENTERS: dict[str, tuple[float, ...]] = {
    "ours": (1e-3, 2e-3, 4e-3),
    "plain": (3e-4, 1e-3, 3e-3),
    "full": (1e-4, 3e-4, 1e-3),
}
_PACKAGE: dict[str, tuple[float, ...]] = {"package": (1e-5, 1e-4, 1e-3)}
RATES: dict[str, dict[str, tuple[float, ...]]] = {
    "GroundingDino": _DETECTORS | _PACKAGE,
    "MMGroundingDino": _DETECTORS,
    "Sam": _SEGMENTERS | _PACKAGE,
    "Sam2": _SEGMENTERS,
}
"""Learning rates that are tried, a factor of two to ten apart. The package has two of the teachers."""

SEEDS = (0, 1, 2)

Line = dict[str, Any]
Run = tuple[str, str, str, int, float | None]
"""Data, teacher, method, seed and learning rate; None: the default."""


def key_of(line: Line) -> Run:
    """Return the run of a line."""
    return line["data"], line["teacher"], line["method"], line["seed"], line["rate"]


def chosen_rate(lines: list[Line], data: str, teacher: str, method: str) -> float | None:
    """Return the rate with the best AP on the validation split with seed 0; None if not all were tried."""
    tried = {line["rate"]: line["val_ap"] for line in lines if key_of(line)[:4] == (data, teacher, method, 0)}
    rates = RATES[teacher].get(method, ())
    return max(rates, key=lambda rate: tried[rate]) if rates and all(rate in tried for rate in rates) else None


def wanted(lines: list[Line], sets: dict[str, tuple[str, ...]], methods: list[str]) -> Iterator[Run]:
    """Yield all runs, the most telling first: one seed of each comparison, then more seeds; the package last."""
    pairs = [
        (data, teacher)
        for i in range(max(map(len, sets.values())))
        for teacher, of in sets.items()
        for data in of[i : i + 1]
    ]

    def first(method: str) -> Iterator[Run]:
        for data, teacher in pairs:
            for rate in (None,) if method == "base" else RATES[teacher].get(method, ()):
                yield data, teacher, method, 0, rate

    def more(method: str) -> Iterator[Run]:
        for data, teacher in pairs:
            rate = chosen_rate(lines, data, teacher, method)
            if rate is not None:
                for seed in SEEDS[1:]:
                    yield data, teacher, method, seed, rate

    order = [(first, "base"), (first, "ours"), (first, "plain"), (more, "ours"), (more, "plain"), (first, "full")]
    order += [(more, "full"), (first, "package"), (more, "package")]
    for runs, method in order:
        if method in methods:
            yield from runs(method)


def expected(lines: list[Line], run: Run) -> float:
    """Return the seconds of the slowest run with the same data, teacher and method; else of one like it; else 60."""
    mine = dict(zip(("data", "teacher", "method"), run, strict=False))
    for keys in (("data", "teacher", "method"), ("data", "teacher"), ("teacher",)):
        alike = [line for line in lines if line["method"] != "base" and all(line[key] == mine[key] for key in keys)]
        if alike:
            return max(float(line["seconds"]) for line in alike)
    return 60.0


def read(results: Path) -> list[Line]:
    """Read the lines of a results file."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []


def run_all(options: argparse.Namespace) -> None:
    """Run what is missing until the budget is spent."""
    folders = {data: _folder(data, options.sets) for of in SETS.values() for data in of}
    sets = {t: tuple(d for d in of if folders[d] is not None) for t, of in SETS.items() if t in options.teachers}
    if not any(sets.values()):
        raise SystemExit(f"no set in {', '.join(map(str, options.sets))}: datasets.py --out makes them")
    end = time.monotonic() + options.budget
    running: dict[Run, subprocess.Popen[bytes]] = {}
    failed: set[Run] = set()
    while True:
        for run, process in list(running.items()):
            if process.poll() is not None:
                del running[run]
                failed |= {run} if process.returncode else set()
        asked = {"epochs_asked": options.epochs, "images_asked": options.images, "set": options.set}
        lines = [one for one in read(options.results) if asked.items() <= one.items()]
        done = {key_of(line) for line in lines} | set(running) | failed
        left = end - time.monotonic()
        todo = (r for r in wanted(lines, sets, options.methods) if r not in done and expected(lines, r) < left)
        chosen = next(todo, None) if len(running) < options.jobs else None
        if chosen is not None:
            print(f"{left:.0f} s left:", *chosen, flush=True)
            folder = folders[chosen[0]]
            assert folder is not None
            running[chosen] = subprocess.Popen(command(chosen, folder, options))
        elif not running:
            break
        else:
            time.sleep(1)
    for run in sorted(failed, key=str):
        print("failed:", *run)


def command(run: Run, folder: Path, options: argparse.Namespace) -> list[str]:
    """Return the command line of one run."""
    _, teacher, method, seed, rate = run
    words = [sys.executable, __file__, "--data", str(folder), "--teacher", teacher, "--method", method]
    words += ["--seed", str(seed), "--results", str(options.results)]
    words += ["--rate", str(rate)] if rate is not None else []
    words += ["--epochs", str(options.epochs)] if options.epochs else []
    words += ["--images", str(options.images)] if options.images else []
    return [*words, *(part for one in options.set for part in ("--set", one))]


def _folder(data: str, roots: list[Path]) -> Path | None:
    return next((root / data for root in roots if (root / data / "images").is_dir()), None)


def train_once(options: argparse.Namespace) -> None:
    """Train once and append the line."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch
    from learning_methods import METHODS, Outcome
    from learning_task import prepare

    from engine.errors import LossNotFiniteError

    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        task = prepare(options, Path(folder))
        begin = time.monotonic()
        try:
            outcome = METHODS[options.method](task)
        except LossNotFiniteError:  # a rate that is too high has no AP
            outcome = Outcome.nothing()
        seconds = time.monotonic() - begin
    images = len(task.splits.train.dataset)
    line = {
        "data": Path(options.data).name,
        "teacher": options.teacher,
        "method": options.method,
        "seed": options.seed,
        "rate": options.rate,
        "epochs_asked": options.epochs,
        "images_asked": options.images,
        "images": images,
        "seen": 0 if options.method == "base" else images * task.settings.epochs,
        "set": options.set,
        "parameters": outcome.parameters,
        "val_ap": round(outcome.val_ap, 4),
        "ap": round(outcome.ap, 4),
        "ap50": round(outcome.ap50, 4),
        "seconds": round(seconds, 1),
    }
    with options.results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def main() -> None:
    class Format(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
        """Text as it stands, and the default of every option."""

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Format)
    names = ["ours", "plain", "full", "package", "base"]
    parser.add_argument("--all", action="store_true", help="all runs of the table")
    parser.add_argument("--sets", type=Path, nargs="+", default=[Path("sets")], help="folders that contain the sets")
    parser.add_argument("--budget", type=float, default=3600, help="seconds after which no run may end")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, with one thread each")
    parser.add_argument("--methods", nargs="+", default=names, choices=names)
    parser.add_argument("--teachers", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--data", help="folder of one set")
    parser.add_argument("--teacher", choices=[str(name) for name in TeacherName], help="name of the teacher")
    parser.add_argument("--method", choices=names)
    parser.add_argument("--rate", type=float, help="learning rate; default: that of the product")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training and of the selected images")
    parser.add_argument("--images", type=int, help="number of training images, selected by the seed; default: all")
    parser.add_argument("--epochs", type=int, help="default: chosen by the size of the data")
    parser.add_argument("--base", type=Path, help="folder of the base; default: the included tiny one")
    parser.add_argument("--prompts", type=json.loads, default={}, help="classPrompts as JSON")
    parser.add_argument("--set", action="append", default=[], help="a setting of teacher_config.yaml, PATH=VALUE")
    parser.add_argument("--results", type=Path, default=Path("learning.jsonl"), help="file that gets a line per run")
    options = parser.parse_args()
    if options.all:
        return run_all(options)
    if not (options.data and options.teacher and options.method):
        parser.error("give --all, or --data, --teacher and --method")
    if not (Path(options.data) / "images").is_dir():
        parser.error(f"{options.data} is not a set: it has no folder images")
    return train_once(options)


if __name__ == "__main__":
    main()
