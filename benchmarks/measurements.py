"""Report the measurements of a benchmark together with their baseline from the same run.

A benchmark prints its measurements as a table. If ``BENCH_FIGURES`` names a file, they are also appended to it as JSON
lines; ``benchmarks/run.py`` writes the files in ``benchmarks/results/`` from them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measurement:
    """One line of the table.

    Attributes:
        what: Name of the measurement, such as ``inspect, 260 MB``.
        against: Name of the baseline, such as ``json.load``.
        ours: Value of this package.
        theirs: Value of the baseline, in the same unit.
        unit: Unit, such as ``s``, ``MB``, ``MB/s``; empty for ratios.
        ratio: Ratio of both, in the direction of the aim.
        aim: Target of the ratio or the value, such as ``>= 8``; empty without a target.
        note: Conditions of the measurement.
    """

    what: str
    against: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    aim: str = ""
    note: str = ""


def report(figures: Sequence[Measurement]) -> None:
    """Print the measurements, and append them to the file in ``BENCH_FIGURES``, if set."""
    print(table(figures), flush=True)
    if file := os.environ.get("BENCH_FIGURES"):
        with Path(file).open("a") as lines:
            lines.writelines(json.dumps(asdict(figure)) + "\n" for figure in figures)


def table(figures: Sequence[Measurement]) -> str:
    """Format the measurements as a Markdown table."""
    rows = ["| what | against | ours | theirs | ratio | aim | |", "|---|---|---|---|---|---|---|"]
    rows += [
        f"| {f.what} | {f.against} | {_number(f.ours)} {f.unit} | {_number(f.theirs)} {f.unit} | {_number(f.ratio)} | "
        f"{f.aim} | {f.note} |"
        for f in figures
    ]
    return "\n".join(rows)


def _number(value: float) -> str:
    """Format with three significant digits.

    >>> _number(1234.5), _number(0.12345), _number(7.0)
    ('1,234', '0.123', '7')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
