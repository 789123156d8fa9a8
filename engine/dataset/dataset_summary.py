"""Shorten the result of inspection for the termination message of a pod, which is limited to 4 KiB."""

from __future__ import annotations

from collections.abc import Sequence

from engine.dataset.checks.problems import worst_first
from engine.dataset.types import ClassInfo, DatasetInfo, Problem

TEXTS = ((2000, 2000), (600, 400), (400, 200), (240, 120), (160, 60), (120, 0), (60, 0))
"""Maximum characters of a problem's message and advice, from long to short."""

NAME_LENGTH = 100
"""Maximum characters of a class name, if not all classes fit."""


def short_info(info: DatasetInfo, limit: int) -> DatasetInfo:
    """Shorten the result of inspection to at most ``limit`` bytes of JSON; counts are never dropped.

    Counts come first, then problems in order of severity, then the most frequent classes that fit. Long texts are cut.
    ``problems_left_out`` and ``classes_left_out`` count what did not fit; examples and file names are only in
    ``dataset.json``.
    """
    if size_of(info) <= limit:
        return info
    counts = info.model_copy(
        update={
            "files": {},
            "problems": (),
            "problems_left_out": info.problems_left_out + len(info.problems),
            "classes": (),
            "classes_left_out": info.classes_left_out + len(info.classes),
        }
    )
    problems = _problems(info.problems, limit - size_of(counts))
    shortened = counts.model_copy(
        update={"problems": problems, "problems_left_out": counts.problems_left_out - len(problems)}
    )
    classes = _classes(info.classes, limit - size_of(shortened))
    return shortened.model_copy(
        update={"classes": classes, "classes_left_out": shortened.classes_left_out - len(classes)}
    )


def size_of(value: DatasetInfo | Problem | ClassInfo) -> int:
    """Return the size of a value as JSON, in bytes."""
    return len(value.model_dump_json().encode())


def _problems(problems: Sequence[Problem], room: int) -> tuple[Problem, ...]:
    """Return all problems with as much text as fits; if even short texts do not fit, the most severe problems."""
    short: list[Problem] = []
    for message, advice in TEXTS:
        short = [_short_problem(problem, message, advice) for problem in worst_first(problems)]
        if sum(size_of(problem) + 1 for problem in short) <= room:
            break
    return tuple(short[: _fitting([size_of(problem) for problem in short], room)])


def _short_problem(problem: Problem, message: int, advice: int) -> Problem:
    texts = {"message": _cut(problem.message, message), "advice": _cut(problem.advice, advice)}
    return problem.model_copy(update={"examples": (), **texts})


def _classes(classes: Sequence[ClassInfo], room: int) -> tuple[ClassInfo, ...]:
    """Return the most frequent classes that fit, in their original order."""
    short = [one.model_copy(update={"name": _cut(one.name, NAME_LENGTH)}) for one in classes]
    order = sorted(range(len(short)), key=lambda index: -short[index].annotations)
    kept = order[: _fitting([size_of(short[index]) for index in order], room)]
    return tuple(short[index] for index in sorted(kept))


def _fitting(sizes: Sequence[int], room: int) -> int:
    """Return how many items of a list fit, each with its comma."""
    for number, size in enumerate(sizes):
        room -= size + 1
        if room < 0:
            return number
    return len(sizes)


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    return f"{text[: longest - 1]}…" if longest else ""
