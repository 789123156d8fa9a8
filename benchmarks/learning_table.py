"""Print the results of ``learning.py`` as Markdown tables.

    python benchmarks/learning_table.py learning.jsonl

The first table has one row for each set. The next ones compare the methods: mean and standard deviation of AP on the
test split over seeds. Of the methods that were tuned they show the rate with the best AP on the validation split with
seed 0. The lines below count where the product is ahead and where it is not; σ is the standard deviation of the
difference of two runs with the same seed, which have the same images. The last table shows the product by number of
images, of sets that were measured with several.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

Line = dict[str, Any]

ORDER = ("base", "ours", "plain", "full", "package")


def spread(values: Sequence[float]) -> str:
    """Format mean and standard deviation.

    >>> spread([0.2, 0.3, 0.4])
    '0.300 ± 0.100'
    """
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def ahead(mine: Sequence[float], others: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation of the difference over the seeds that both have; no deviation with one seed.

    >>> ahead([0.3, 0.32], [0.2, 0.22])[0]
    0.1
    """
    differences = [a - b for a, b in zip(mine, others, strict=False)]
    mean = round(statistics.mean(differences), 6)
    return mean, statistics.stdev(differences) if len(differences) > 1 else None


def grouped(lines: Sequence[Line], *keys: str) -> dict[tuple[Any, ...], list[Line]]:
    """Group lines by their values of ``keys``, in order of first occurrence."""
    groups: dict[tuple[Any, ...], list[Line]] = defaultdict(list)
    for line in lines:
        groups[tuple(line[key] for key in keys)].append(line)
    return dict(groups)


def chosen(lines: Sequence[Line]) -> tuple[list[Line], str]:
    """Return the lines of a method with its best rate on the validation split with seed 0, and a text for the rate."""
    by_rate = grouped(sorted(lines, key=lambda line: (line["rate"] or 0, line["seed"])), "rate")
    first = {rate: next((r["val_ap"] for r in runs if r["seed"] == 0), -1.0) for (rate,), runs in by_rate.items()}
    best = max(first, key=lambda rate: first[rate])
    if best is None:
        return by_rate[(best,)], "default"
    edge = " (the last one tried)" if len(first) > 1 and best in (min(first), max(first)) else ""
    return by_rate[(best,)], f"{best:g}, best of {len(first)}{edge}"


def cells(method: str, runs: Sequence[Line], rate: str, mine: Sequence[float]) -> list[str]:
    """Return the cells of one method's row; ``mine`` are the product's APs on this set."""
    aps = [run["ap"] for run in runs]
    minutes = statistics.mean(run["seconds"] for run in runs) / 60
    against = ""
    if mine and method not in ("ours", "base"):
        difference, sigma = ahead(mine, aps)
        against = f"{difference:+.3f}" + (f" ({abs(difference) / sigma:.1f} σ)" if sigma else "")
    elif mine and method == "base":
        against = f"{ahead(mine, aps)[0]:+.3f}"
    trained = runs[0]["parameters"]
    return [
        method,
        rate if method != "base" else "",
        f"{trained / 1e3:,.0f} k" if trained else "",
        f"{runs[0]['images']:,}",
        f"{runs[0]['seen']:,}" if runs[0]["seen"] else "",
        f"{minutes:.1f} min" if method != "base" else "",
        str(len(runs)),
        spread(aps),
        spread([run["ap50"] for run in runs]),
        against,
    ]


def print_methods(lines: Sequence[Line]) -> None:
    """Print the comparison of methods, and the counts of wins and losses of the product."""
    columns = [
        "data, teacher",
        "method",
        "learning rate",
        "trained",
        "images",
        "seen",
        "time",
        "seeds",
        "AP",
        "AP50",
        "ours ahead by",
    ]
    print("| " + " | ".join(columns) + " |")
    print("|" + " --- |" * len(columns))
    results: dict[tuple[str, str], dict[str, list[float]]] = {}
    for (data, teacher), some in grouped(lines, "data", "teacher").items():
        methods = {m: chosen(runs) for (m,), runs in grouped(some, "method").items()}
        aps = {method: [run["ap"] for run in runs] for method, (runs, _) in methods.items()}
        results[data, teacher] = aps
        for method in sorted(methods, key=ORDER.index):
            runs, rate = methods[method]
            row = [f"{data}, {teacher}", *cells(method, runs, rate, aps.get("ours", []))]
            print("| " + " | ".join(row) + " |")
    print()
    for teacher in sorted({teacher for _, teacher in results}):
        print_verdict(teacher, {data: aps for (data, of), aps in results.items() if of == teacher and "ours" in aps})


def print_verdict(teacher: str, sets: dict[str, dict[str, list[float]]]) -> None:
    """Print where the product is ahead of each method, beyond one standard deviation or not, and where it is behind."""
    for method in ORDER:
        compared = {data: ahead(aps["ours"], aps[method]) for data, aps in sets.items() if method in aps}
        if method == "ours" or not compared:
            continue
        won = [data for data, (difference, _) in compared.items() if difference > 0]
        behind = [data for data, (difference, _) in compared.items() if difference < 0]
        clear = [data for data, (difference, sigma) in compared.items() if sigma is not None and difference > sigma]
        text = f"- {teacher}: ahead of {method} on {len(won)} of {len(compared)} sets"
        text += f", beyond one σ on {len(clear)}" if method != "base" else ""
        text += f"; behind on {', '.join(behind)}" if behind else ""
        if method == "full":
            shares = [statistics.mean(sets[d]["ours"]) / max(statistics.mean(sets[d]["full"]), 1e-9) for d in compared]
            listed = ", ".join(f"{data} {share:.0%}" for data, share in zip(compared, shares, strict=True))
            text += f"; share of its AP: {listed}"
        print(text)


def print_summary(lines: Sequence[Line]) -> None:
    """Print one row for each set: AP of the methods side by side."""
    methods = [method for method in ORDER if any(line["method"] == method for line in lines)]
    print(f"| teacher | data | images | {' | '.join(methods)} |")
    print("| --- | --- | --- |" + " --- |" * len(methods))
    for (teacher, data, images), some in grouped(lines, "teacher", "data", "images").items():
        runs = {method: chosen(of)[0] for (method,), of in grouped(some, "method").items()}
        aps = [spread([run["ap"] for run in runs[method]]) if method in runs else "" for method in methods]
        print(f"| {teacher} | {data} | {images} | {' | '.join(aps)} |")


def print_curve(lines: Sequence[Line]) -> None:
    """Print AP by number of training images, of the sets that were measured with several."""
    few = [some for some in grouped(lines, "data", "teacher").values() if len({one["images"] for one in some}) > 1]
    if not few:
        return
    print("\n| data, teacher | images | images seen | seeds | AP | AP50 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for some in few:
        for (data, teacher, images, seen), all_rates in grouped(some, "data", "teacher", "images", "seen").items():
            runs, _ = chosen(all_rates)
            seeds = ", ".join(str(run["seed"]) for run in runs)
            aps = (spread([run["ap"] for run in runs]), spread([run["ap50"] for run in runs]))
            print("| " + " | ".join(map(str, (f"{data}, {teacher}", images, seen, seeds, *aps))) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=argparse.FileType(encoding="utf-8"), metavar="FILE", help="JSON lines")
    measured = [json.loads(line) for file in parser.parse_args().files for line in file]
    print_summary(measured)
    for some in grouped(measured, "images_asked").values():
        print()
        print_methods(some)
    print_curve([line for line in measured if line["method"] == "ours"])
