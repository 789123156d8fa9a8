"""Standard streams that cannot change how a command ends: closed ones, pipes that nobody reads, lost terminals.

What a command does is in its output file, its exit code and, with ``--outcome``, its outcome. Lines for people
are dropped where nobody reads them any more; only a disk that is full fails a command, and only for standard output.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from errno import EIO, EPIPE

STDIN, STDOUT, STDERR = range(3)


def open_streams() -> None:
    """Open what the caller has closed (``2>&-``), and make writing survive a reader that goes.

    A closed descriptor would be given to the next file that is opened, and error messages would be written into it.
    """
    for number in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    sys.stdout, sys.stderr = _text(STDOUT, sys.stdout), _text(STDERR, sys.stderr)
    if sys.stdin is None:
        sys.stdin = os.fdopen(STDIN, encoding="utf-8", closefd=False)


def _text(number: int, before: object) -> io.TextIOWrapper:
    if isinstance(before, io.TextIOWrapper):
        with suppress(OSError):
            before.flush()
        encoding, line_by_line = before.encoding, before.line_buffering or before.write_through
    else:
        encoding, line_by_line = "utf-8", number == STDERR
    return _Stream(number, encoding=encoding, line_by_line=line_by_line)


class _Stream(io.TextIOWrapper):
    """A standard stream. Output is discarded once nobody reads the stream any more.

    Not by a class of raw streams: a signal's handler that raises while it returns would have a text written twice.
    """

    def __init__(self, number: int, *, encoding: str, line_by_line: bool) -> None:
        self._number, self._terminal = number, os.isatty(number)
        file = io.BufferedWriter(io.FileIO(number, "wb", closefd=False))
        # File names may contain invalid Unicode.
        super().__init__(file, encoding=encoding, errors="backslashreplace", line_buffering=line_by_line)

    def write(self, text: str, /) -> int:
        """Write text, or drop it."""
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
        return len(text)

    def flush(self) -> None:
        """Write what is kept back, or drop it."""
        try:
            super().flush()
        except OSError as error:
            self._drop(error)
            super().flush()

    def _drop(self, error: OSError) -> None:
        """Discard all further output; raise ``error`` if that would hide a failure."""
        unread = error.errno == EPIPE or (error.errno == EIO and self._terminal)
        if not unread and self._number != STDERR:
            raise error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._number)
        os.close(null)
