"""What a benchmark measured, beside what it is measured against, in one run.

A benchmark prints its figures as a table. Where ``BENCH_FIGURES`` names a file, they are appended to it, a JSON object
a line; ``benchmarks/run.py`` makes the results and ``docs/performance.md`` of these.
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
        what: What was measured, such as ``inspect, 260 MB``.
        against: What beside it, such as ``json.load``.
        ours: The figure of this package.
        theirs: The figure of the other, in the same unit.
        unit: Such as ``s``, ``MB``, ``MB/s``; empty for shares.
        ratio: How they compare, as the aim has it.
        aim: The ratio, or the figure, to reach, in words such as ``>= 8``; empty where there is none.
        note: What a reader must know of the circumstances.
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
    """Print the figures, and leave them where ``BENCH_FIGURES`` says."""
    print(table(figures), flush=True)
    if file := os.environ.get("BENCH_FIGURES"):
        with Path(file).open("a") as lines:
            lines.writelines(json.dumps(asdict(figure)) + "\n" for figure in figures)


def table(figures: Sequence[Measurement]) -> str:
    """A Markdown table."""
    rows = ["| what | against | ours | theirs | ratio | aim | |", "|---|---|---|---|---|---|---|"]
    rows += [
        f"| {f.what} | {f.against} | {_number(f.ours)} {f.unit} | {_number(f.theirs)} {f.unit} | {_number(f.ratio)} | "
        f"{f.aim} | {f.note} |"
        for f in figures
    ]
    return "\n".join(rows)


def _number(value: float) -> str:
    """Three digits that count.

    >>> _number(1234.5), _number(0.12345), _number(7.0)
    ('1,234', '0.123', '7')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
