"""Status of the dataset, and its sentence, from the result of inspection. Pure."""

from __future__ import annotations

from engine.dataset.checks.problems import worst_first
from engine.dataset.types import DatasetInfo, Problem
from teacher_operator.api.status import CLASSES, PROBLEMS, DatasetStatus, ProblemStatus, clip


def dataset_status(info: DatasetInfo, *, uri: str = "") -> DatasetStatus:
    """Return the result of inspection within the bounds of the status.

    Args:
        info: Result of inspection, as much of it as fits into a termination message.
        uri: URI of the complete result.
    """
    once: dict[str, Problem] = {}
    for problem in info.problems:  # the list in the status has one item per code
        once.setdefault(problem.code, problem)
    problems = worst_first(once.values())
    class_count, classes = len(info.classes) + info.classes_left_out, info.classes[:CLASSES]
    return DatasetStatus(
        digest=info.digest,
        images=info.images,
        images_read=info.images_read,
        annotations=info.annotations,
        annotations_read=info.annotations_read,
        masks=info.masks,
        has_boxes=info.has_boxes,
        has_masks=info.has_masks,
        class_count=class_count,
        classes=[clip(one.name, 512) for one in classes],
        classes_left_out=class_count - len(classes),
        problems=[
            ProblemStatus(
                code=one.code,
                severity=one.severity.value,
                count=one.count,
                message=clip(one.message),
                advice=clip(one.advice),
            )
            for one in problems[:PROBLEMS]
        ],
        problems_left_out=len(problems[PROBLEMS:]) + info.problems_left_out,
        uri=uri,
    )


def dataset_sentence(data: DatasetStatus) -> str:
    """Return a sentence on the usable content of a dataset, its problems, and where the rest of both is listed."""
    counts = ", ".join(
        f"{count:,} {word}" if count >= read else f"{count:,} of {read:,} {word}"
        for count, read, word in (
            (data.images, data.images_read, "images"),
            (data.annotations, data.annotations_read, "objects"),
            (data.masks, 0, "masks"),
            (data.class_count, 0, "classes"),
        )
    )
    problems = "; ".join(f"{one.severity} {one.code} {one.count:,}x" for one in data.problems)
    elsewhere = [
        f"{count:,} {word}"
        for count, word in ((data.problems_left_out, "more problems"), (data.classes_left_out, "classes"))
        if count and data.uri
    ]
    parts = [counts, problems, f"{' and '.join(elsewhere)} only in {data.uri}" if elsewhere else ""]
    return "; ".join(filter(None, parts))
