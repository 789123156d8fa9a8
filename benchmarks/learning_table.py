"""Print the results of ``learning.py`` as Markdown tables.

    python benchmarks/learning_table.py learning.jsonl

The first table compares the methods on all images, the second shows our runs on fewer images: mean and standard
deviation over seeds.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def spread(values: Sequence[float]) -> str:
    """Format mean and standard deviation.

    >>> spread([0.2, 0.3, 0.4])
    '0.300 ± 0.100'
    """
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def grouped(lines: Sequence[Line], *keys: str) -> dict[tuple[Any, ...], list[Line]]:
    """Group lines by their values of ``keys``, in order of first occurrence."""
    groups: dict[tuple[Any, ...], list[Line]] = defaultdict(list)
    for line in lines:
        groups[tuple(line[key] for key in keys)].append(line)
    return dict(groups)


def print_methods(lines: Sequence[Line]) -> None:
    """Print the comparison of methods trained on the same images."""
    print("| data, teacher | method | learning rate | images seen | seeds | AP | AP50 | of full |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for (data, teacher), runs in grouped(lines, "data", "teacher").items():
        best = max(
            (statistics.mean(r["ap"] for r in some) for (m, _), some in grouped(runs, "method", "learning_rate").items()
             if m == "full"),
            default=0.0,
        )  # fmt: skip
        for (method, rate, seen), some in grouped(runs, "method", "learning_rate", "seen").items():
            ap, ap50 = [run["ap"] for run in some], [run["ap50"] for run in some]
            seeds = ", ".join(str(run["seed"]) for run in some)
            share = f"{statistics.mean(ap) / best:.0%}" if best else ""
            cells = (f"{data}, {teacher}", method, f"{rate:g}", seen, seeds, spread(ap), spread(ap50), share)
            print("| " + " | ".join(str(cell) for cell in cells) + " |")


def print_curve(lines: Sequence[Line]) -> None:
    """Print AP by number of training images."""
    print("| data, teacher | images | images seen | seeds | AP | AP50 |")
    print("| --- | --- | --- | --- | --- | --- |")
    runs = grouped(lines, "data", "teacher", "images", "seen")
    for (data, teacher, images, seen), some in sorted(runs.items()):
        seeds = ", ".join(str(run["seed"]) for run in some)
        cells = (f"{data}, {teacher}", images, seen, seeds)
        aps = (spread([run["ap"] for run in some]), spread([run["ap50"] for run in some]))
        print("| " + " | ".join(str(cell) for cell in (*cells, *aps)) + " |")


if __name__ == "__main__":
    measured = [json.loads(line) for file in sys.argv[1:] for line in Path(file).read_text().splitlines()]
    print_methods([line for line in measured if line["all"]])
    print()
    print_curve([line for line in measured if line["method"] == "ours"])
