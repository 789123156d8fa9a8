"""The option ``--outcome``: a file with the outcome of a command for its parent process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.display import fail
from engine.cli.signals import sigterm_as_error
from engine.errors import StorageError
from engine.results.outcome import Outcome, TeacherOutcome, write_outcome
from engine.results.types import TeacherResult

OutcomeFile = Annotated[
    Path | None,
    typer.Option("--outcome", help="File for the outcome of this command: JSON of at most 4096 bytes."),
]


@contextmanager
def failures_in(
    file: Path | None, published: Sequence[TeacherResult] = (), *, finished: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Write a failure of the block to ``file``, if given, and raise it again.

    Args:
        file: Where the outcome goes.
        published: Filled in the block: a failure that comes after publishing tells what was published, too.
        finished: The same of the short results of a stage of another kind.

    Raises:
        InterruptedTrainingError: SIGTERM arrived within the block.
    """
    try:
        with sigterm_as_error():
            yield
    except Exception as error:
        if file is not None:
            try:
                trained = TeacherOutcome.of(published[-1]) if published else None
                write_outcome(file, Outcome.failure(error, trained=trained, finished=finished or None))
            except StorageError as unwritten:  # printed, but it must not hide the cause
                fail(unwritten)
        raise
