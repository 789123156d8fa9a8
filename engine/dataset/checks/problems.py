"""Log that counts the problems of a dataset, and the decision to refuse it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from engine.dataset.checks.problem_catalogue import CATALOGUE, COPIES, IMAGES_LEFT_OUT, OBJECTS_LEFT_OUT, REPAIRED
from engine.dataset.types import DatasetInfo, Problem, Severity
from engine.spec import OnProblem

MAX_LEAKED = 5
"""Default for the percentage of the images of val, and of test, that may be in another split too."""

EXAMPLES = 5
LONGEST_EXAMPLE = 120


class ProblemLog:
    """Counts problems by kind and keeps the first few places of each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, code: str, examples: Iterable[object] = (), *, count: int = 1) -> None:
        """Note ``count`` occurrences of a kind, with some of their places."""
        if count < 1:
            return
        self._counts[code] += count
        kept = self._examples.setdefault(code, [])
        for example in examples:
            if len(kept) >= EXAMPLES:
                break
            kept.append(str(example)[:LONGEST_EXAMPLE])

    def count(self, code: str) -> int:
        """Return how often a kind was noted."""
        return self._counts[code]

    def merge(self, other: ProblemLog) -> None:
        """Add the contents of another log."""
        for code, count in other._counts.items():
            self.add(code, other._examples[code], count=count)

    def problems(self) -> tuple[Problem, ...]:
        """Return all noted problems, most severe first."""
        return worst_first(
            Problem(
                code=code,
                severity=CATALOGUE[code][0],
                count=count,
                message=CATALOGUE[code][1],
                advice=CATALOGUE[code][2],
                examples=tuple(self._examples[code]),
            )
            for code, count in self._counts.items()
        )


def worst_first(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return the problems in the order of reports: most severe, then most frequent."""
    order = list(Severity)
    return tuple(sorted(problems, key=lambda problem: (order.index(problem.severity), -problem.count)))


def refused(
    info: DatasetInfo, *, on_problem: OnProblem, max_skipped_percent: int, max_leaked_percent: int = MAX_LEAKED
) -> str:
    """Return the reasons to refuse a dataset, in sentences; empty if it is accepted.

    Args:
        info: Result of the inspection.
        on_problem: Policy for data that must be repaired or left out.
        max_skipped_percent: Limit of left-out images, and annotations, in total and of val or test.
        max_leaked_percent: Limit of the images of val, and of test, that are in another split too.
    """
    faults = [f"{p.message} {p.advice}" for p in info.errors]
    touched = IMAGES_LEFT_OUT | OBJECTS_LEFT_OUT | REPAIRED
    if on_problem is OnProblem.FAIL:
        repaired = [_sentence(p) for p in info.problems if p.code in touched]
        faults += ["dataset.onProblem is Fail, and the dataset has:", *repaired] if repaired else []
    copies = sum(p.count for p in info.problems if p.code == COPIES)
    found = {
        "images": (info.images_read - info.images, info.images_read),
        "annotations": (info.annotations_read - copies - info.annotations, info.annotations_read - copies),
    }
    for split in ("val", "test"):  # metrics on half of a split are not those of the split
        if (lost := info.left_out.get(split)) is not None:
            found[f"images of {split}"] = lost.images, lost.images_read
            found[f"annotations of {split}"] = lost.annotations, lost.annotations_read
    for what, (skipped, read) in found.items():
        if too_many(skipped, read, max_skipped_percent):
            codes = IMAGES_LEFT_OUT if what.startswith("images") else OBJECTS_LEFT_OUT
            why = " ".join(_sentence(p) for p in info.problems if p.code in codes)
            faults.append(
                f"{skipped:,} of {read:,} {what} would be left out, more than the {max_skipped_percent} % of "
                f"dataset.maxSkippedPercent. {why}"
            )
            break
    for code, split in (("val_leaked", "val"), ("test_leaked", "test")):
        for problem in (p for p in info.problems if p.code == code):
            if too_many(problem.count, info.splits.get(split, 0), max_leaked_percent):
                faults.append(
                    f"{problem.count:,} of {info.splits.get(split, 0):,} images of {split} are in another split too, "
                    f"more than the {max_leaked_percent} % of dataset.maxLeakedPercent. {_sentence(problem)}"
                )
    return " ".join(faults)


def too_many(skipped: int, of: int, max_percent: int) -> bool:
    """Return True if more are left out than allowed.

    >>> too_many(20, 100, 20), too_many(21, 100, 20), too_many(0, 0, 0)
    (False, True, False)
    """
    return skipped * 100 > of * max_percent


def _sentence(problem: Problem) -> str:
    examples = f" (such as {', '.join(problem.examples[:2])})" if problem.examples else ""
    return f"{problem.code}, {problem.count:,}x{examples}: {problem.message} {problem.advice}"
