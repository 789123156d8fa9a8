"""What people see: tables, bars and one-sentence errors, on standard error; results go to standard output."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engine.dataset.types import DatasetInfo, Severity
from engine.errors import TeacherError
from engine.results import ApMetrics, TeacherResult

CONTROL = {code: "\ufffd" for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}
"""Characters that tell a terminal to do something, from names that others have chosen."""


class PlainConsole(Console):
    """Prints what it is given as text: no control character in it reaches the terminal.

    Rich's own markup is heeded where ``markup=False`` is not given: it is, for what others have named.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich's, with control characters replaced."""
        super().print(*(plain(one) if isinstance(one, str) else one for one in objects), **options)


def plain(text: str) -> str:
    r"""Text without control characters, but for line breaks and tabs.

    >>> plain("bolt\x1b[2J")
    'bolt\ufffd[2J'
    """
    return text.translate(CONTROL)


console = PlainConsole(stderr=True, highlight=False)
COLORS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}


def fail(error: TeacherError) -> None:
    """Print an error as a sentence."""
    console.print("[bold red]error:[/] ", end="")
    console.print(str(error), markup=False, soft_wrap=True)


def note(sentence: str) -> None:
    """Print a remark in passing."""
    console.print(sentence, style="dim", markup=False, soft_wrap=True)


def show_info(info: DatasetInfo) -> None:
    """What inspection found, problems last."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("images", f"{info.images:,} usable of {info.images_read:,}")
    facts.add_row("annotations", f"{info.annotations:,} usable of {info.annotations_read:,}")
    facts.add_row("boxes", _boxes(info))
    facts.add_row("masks", f"{info.masks:,}" if info.has_masks else "none")
    if info.sizes is not None:
        sizes = info.sizes
        facts.add_row("sizes", f"{sizes.small:,} small, {sizes.medium:,} medium, {sizes.large:,} large")
    if info.crowd_share:
        facts.add_row("crowds", f"{info.crowd_share:.1%} of the annotations; they are no training targets")
    console.print(facts)
    table = Table("class", "annotations", "images", box=None, header_style="dim")
    for one in info.classes[:30]:
        table.add_row(escape(plain(one.name)), f"{one.annotations:,}", f"{one.images:,}")
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
    """AP before and after, and where each adapter lies."""
    table = Table("teacher", "AP before", "AP after", "AP50 before", "AP50 after", "adapter", header_style="bold")
    for result in results:
        table.add_row(
            result.teacher.value,
            *(f"{value:.3f}" for value in (result.before.ap, result.after.ap, result.before.ap50, result.after.ap50)),
            f"{result.adapter.size_bytes / 1e6:.2f} MB",
        )
    console.print(table)
    for result in results:
        if result.retention is not None and result.retention.share >= 0:
            console.print(
                f"{result.teacher.value}: {result.retention.share:.0%} of the base's skill on other things is left "
                f"(AP {result.retention.base.ap:.3f} -> {result.retention.adapted.ap:.3f})",
                soft_wrap=True,
            )
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


def show_metrics(columns: Sequence[tuple[str, ApMetrics]]) -> None:
    """The twelve numbers and AP per class, side by side."""
    table = Table("", *(title for title, _ in columns), header_style="bold")
    names = [name for name in ApMetrics.model_fields if name != "per_class"]
    for name in names:
        values = [getattr(metrics, name) for _, metrics in columns]
        if any(value is not None for value in values):
            table.add_row(name, *(_number(value) for value in values))
    table.add_section()
    for label in columns[0][1].per_class:
        values = [_number(metrics.per_class.get(label)) for _, metrics in columns]
        table.add_row(escape(plain(f"ap of {label}")), *values)
    console.print(table)


def _number(value: float | None) -> str:
    return "–" if value is None or value < 0 else f"{value:.3f}"


def is_terminal() -> bool:
    """Whether somebody watches."""
    return sys.stderr.isatty()
