"""How a command leaves its outcome for whoever started the process: ``--outcome``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.display import fail
from engine.cli.process import sigterm_as_error
from engine.errors import StorageError
from engine.outcome import Outcome, write_outcome

OutcomeFile = Annotated[
    Path | None,
    typer.Option("--outcome", help="File to write in which way this ends: JSON of at most 4096 bytes."),
]


@contextmanager
def failures_in(file: Path | None) -> Iterator[None]:
    """Leave a failure in ``file``, if there is one, and let it go on to end the process.

    Raises:
        InterruptedTrainingError: SIGTERM arrived within the block.
    """
    try:
        with sigterm_as_error():
            yield
    except Exception as error:
        if file is not None:
            try:
                write_outcome(file, Outcome.failure(error))
            except StorageError as unwritten:  # said, but it must not hide the cause
                fail(unwritten)
        raise
