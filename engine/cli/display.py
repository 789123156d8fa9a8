"""Output for people: tables, bars and one-sentence errors, on standard error; results go to standard output."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engine.dataset.types import DatasetInfo, Severity
from engine.errors import TeacherError
from engine.evaluation.conclusion import Conclusion, conclude_result
from engine.results.artifacts import Artifacts
from engine.results.low_retention import warnings_of
from engine.results.metric_table import Change, ceiling_sentence, changes, metric_text, metric_values
from engine.results.metrics import ApMetrics
from engine.results.trials import selection_sentence, trial_sentence
from engine.results.types import TeacherResult
from engine.text.safe_text import plain, shortened


class PlainConsole(Console):
    """Prints what it is given as text: no control character in it reaches the terminal.

    Rich's own markup is heeded where ``markup=False`` is not given: it is, for what others have named.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich's, with control characters replaced."""
        super().print(*(plain(one) if isinstance(one, str) else one for one in objects), **options)


console = PlainConsole(stderr=True, highlight=False)
COLORS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}


def fail(error: TeacherError) -> None:
    """Print an error as a sentence."""
    console.print("[bold red]error:[/] ", end="")
    console.print(str(error), markup=False, soft_wrap=True)


def note(sentence: str) -> None:
    """Print a minor remark."""
    console.print(sentence, style="dim", markup=False, soft_wrap=True)


def warn(sentence: str) -> None:
    """Print what a user should know before they rely on a result."""
    console.print(sentence, style="yellow", markup=False, soft_wrap=True)


def show_info(info: DatasetInfo) -> None:
    """Print the result of inspection, problems last."""
    for split, files in info.files.items():
        which = f"from {info.source}" if split == "all" else f"as {split}, seen from {info.source}"
        note(f"read {which}: {files.annotations}, images in {files.images}")
    facts = Table.grid(padding=(0, 2))
    facts.add_row("images", f"{info.images:,} usable of {info.images_read:,}")
    facts.add_row("annotations", f"{info.annotations:,} usable of {info.annotations_read:,}")
    facts.add_row("boxes", _boxes(info))
    facts.add_row("masks", f"{info.masks:,}" if info.has_masks else "none")
    if info.sizes is not None:
        sizes = info.sizes
        facts.add_row("sizes", f"{sizes.small:,} small, {sizes.medium:,} medium, {sizes.large:,} large")
    if info.crowd_share:
        facts.add_row("crowds", f"{info.crowd_share:.1%} of the annotations; not used as training targets")
    console.print(facts)
    table = Table("class", "annotations", "images", box=None, header_style="dim")
    for one in info.classes[:30]:
        table.add_row(escape(shortened(plain(one.name), 60)), f"{one.annotations:,}", f"{one.images:,}")
    console.print(table)
    if len(info.classes) > 30:
        console.print(f"… and {len(info.classes) - 30} more classes")
    for problem in info.problems:
        console.print(
            f"[{COLORS[problem.severity]}]{problem.severity.value}[/] {problem.code}, {problem.count:,}x: ", end=""
        )
        console.print(f"{problem.message} {problem.advice}", markup=False, soft_wrap=True)
        if problem.examples:
            console.print("  e.g. " + ", ".join(problem.examples), style="dim", markup=False, soft_wrap=True)


def _boxes(info: DatasetInfo) -> str:
    if not info.has_boxes:
        return "none"
    return "yes" + (f", {info.boxes_derived:,} of them derived from masks" if info.boxes_derived else "")


def show_results(results: Sequence[TeacherResult]) -> None:
    """Print the headline metrics before and after, and the URI of each adapter."""
    measured = [dict(changes(result.before, result.after, headline=True)) for result in results]
    metrics = list(dict.fromkeys(metric for changed in measured for metric in changed))
    students = not any(result.teacher.traits.adapts_base for result in results)
    first, last = ("student", "weights") if students else ("teacher", "adapter")
    table = Table(first, *(metric.title for metric in metrics), last, header_style="bold")
    for result, changed in zip(results, measured, strict=True):
        size = f"{result.adapter.size_bytes / 1e6:.2f} MB"
        table.add_row(result.teacher.value, *(_change(changed.get(metric)) for metric in metrics), size)
    console.print(table)
    for result in results:
        concluded = conclude_result(result)
        console.print(f"{result.teacher.value}: {concluded.sentence}", markup=False, soft_wrap=True)
        for remark in filter(None, (concluded.remark, ceiling_sentence(result.test_after or result.after))):
            warn(f"{result.teacher.value}: {remark}")
    for result in results:
        for trial in result.trials or (result.cross_validation.folds if result.cross_validation else ()):
            note(f"{result.teacher.value}: {trial_sentence(trial)}")
        if selection := selection_sentence(result):
            console.print(f"{result.teacher.value}: {selection}", markup=False, soft_wrap=True)
    for result in results:
        if result.strength > 0 and result.retention is not None and result.retention.share >= 0:
            console.print(
                f"{result.teacher.value}: {result.retention.share:.0%} of the base's zero-shot AP is kept "
                f"(AP {result.retention.base.ap:.3f} -> {result.retention.adapted.ap:.3f})",
                soft_wrap=True,
            )
        if result.strength > 0 and result.strength_curve is not None:
            console.print(
                f"{result.teacher.value}: strength {result.strength:g}, {result.strength_curve.reason}", soft_wrap=True
            )
    for result in results:
        if (teacher := result.reference) is not None:
            console.print(
                f"{result.teacher.value}: its teacher {teacher.teacher} has AP {teacher.val.ap:.3f} on the validation "
                f"split and finds {teacher.found_by.teacher_only:,} objects that it misses",
                soft_wrap=True,
            )
    for result in results:
        for said in warnings_of(result):
            warn(said)
    for result in results:
        if result.images_skipped or result.objects_skipped:
            examples = f": {'; '.join(result.skipped_examples)}" if result.skipped_examples else ""
            console.print(
                f"{result.teacher.value}: {result.images_skipped:,} images and {result.objects_skipped:,} objects were "
                f"left out{examples}",
                markup=False,
                soft_wrap=True,
            )
    for result in results:
        console.print(f"{result.adapter.uri}  sha256 {result.adapter.sha256[:12]}…", markup=False, soft_wrap=True)


def show_artifacts(made: Artifacts) -> None:
    """Print one row for each artifact, and the precision that ran."""
    which = "the validation split" if made.split == "val" else "all images"
    note(f"{made.model}: AP {made.torch_ap:.3f} in torch on {which} ({made.images} images)")
    table = Table("format", "setting", "AP", "size", "p50 / p95", "end to end", "computed in", header_style="bold")
    for one in made.artifacts:
        speed = one.benchmark
        if speed is None:
            table.add_row(one.format.value, one.setting, "–" if one.ap is None else f"{one.ap:.3f}", "refused")
            continue
        parts = [f"{latency.p50:.1f} / {latency.p95:.1f} ms" for latency in speed.engine.values()]
        table.add_row(
            one.format.value,
            one.setting,
            f"{one.ap:.3f}",
            f"{one.size_bytes / 1e6:.2f} MB",
            " + ".join(parts),
            f"{speed.end_to_end.p50:.1f} / {speed.end_to_end.p95:.1f} ms",
            speed.precisions,
        )
    console.print(table)
    if speeds := [one.benchmark for one in made.artifacts if one.benchmark is not None]:
        note(f"batch 1, threads: {speeds[0].threads}, {speeds[0].cpu}")


def show_conclusion(concluded: Conclusion) -> None:
    """Print the conclusion of an evaluation."""
    console.print(concluded.sentence, markup=False, soft_wrap=True)
    if concluded.remark:
        warn(concluded.remark)


def show_metrics(columns: Sequence[tuple[str, ApMetrics]]) -> None:
    """Print COCO's twelve metrics and AP per class, side by side."""
    table = Table("", *(title for title, _ in columns), header_style="bold")
    table.add_row("images", *("–" if metrics.images is None else f"{metrics.images:,}" for _, metrics in columns))
    for name, measured in metric_values([metrics for _, metrics in columns]):
        table.add_row(name, *map(_number, measured))
    if any(metrics.ap_ceiling is not None for _, metrics in columns):
        table.add_row("ap_ceiling", *(_number(metrics.ap_ceiling) for _, metrics in columns))
    table.add_section()
    for label in columns[0][1].per_class:
        values = [_number(metrics.per_class.get(label)) for _, metrics in columns]
        table.add_row(escape(shortened(plain(f"ap of {label}"), 60)), *values)
    console.print(table)
    for sentence in dict.fromkeys(filter(None, (ceiling_sentence(metrics) for _, metrics in columns))):
        warn(sentence)


def _change(change: Change | None) -> str:
    return "–" if change is None else f"{metric_text(change.before)} -> {metric_text(change.after)}"


def _number(value: float | None) -> str:
    return "–" if value is None or value < 0 else f"{value:.3f}"


def is_terminal() -> bool:
    """Return True if standard error is a terminal."""
    return sys.stderr.isatty()
