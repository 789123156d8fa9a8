"""The process of a command: how SIGTERM and failures end it. It imports little, so that it heeds SIGTERM early."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from engine.errors import InterruptedTrainingError, MachineError, TeacherError

PATIENCE = 10
"""Seconds that are left at the end for threads that wait for the network; who sent SIGTERM may wait for 30."""


class Sigterm(BaseException):
    """SIGTERM arrived. No Exception, as KeyboardInterrupt is none: libraries take those for failures of their own."""


def main() -> None:
    """Run the command line; a failure is one sentence on standard error and the exit code it stands for.

    SIGTERM ends it with 143 even as a container's first process, for which no signal has an effect of its own.
    """
    signal.signal(signal.SIGTERM, end_by_sigterm)
    # Threads that spin while they wait make a small step ten times slower where others use the machine too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        from engine.cli.app import app

        app()
    except Sigterm as stopped:
        sys.stderr.write(f"error: {stopped}\n")
        _leave(InterruptedTrainingError.exit_code)
    except TeacherError as error:
        _fail(error)
    except OSError as error:
        if error.errno is None or isinstance(error, BrokenPipeError):
            raise
        where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "a file"
        _fail(MachineError(f"{where} cannot be used: {os.strerror(error.errno)}"))
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit as ended:  # of a command that has told its failure itself
        if isinstance(ended.code, int) and ended.code:
            _leave(ended.code)
        raise


def _fail(error: TeacherError) -> None:
    from engine.cli.display import fail

    fail(error)
    _leave(error.exit_code)


def _leave(exit_code: int) -> None:
    """End the process, whatever its threads wait for. One of several goes without its destructors: those of its
    connections abort it where another process is gone already, and the exit code would not be what happened.
    """
    from engine.launch import Place

    with suppress(OSError):  # nobody may read them any more
        sys.stdout.flush()
        sys.stderr.flush()
    if Place.of(os.environ).size > 1:
        os._exit(exit_code)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(exit_code))
    signal.alarm(signal.alarm(0) or PATIENCE)  # after SIGTERM, what is left of its time
    sys.exit(exit_code)


@contextmanager
def sigterm_as_error() -> Iterator[None]:
    """Where failures are told, SIGTERM is one of them.

    Raises:
        InterruptedTrainingError: SIGTERM arrived within the block.
    """
    try:
        yield
    except Sigterm as stopped:
        raise InterruptedTrainingError(str(stopped)) from None


def end_by_sigterm(number: int, frame: object) -> None:
    """Unwind the main thread; what does not end in time is ended."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: nothing that is tidied up is interrupted
    signal.signal(signal.SIGALRM, lambda *_: os._exit(InterruptedTrainingError.exit_code))
    signal.alarm(PATIENCE)
    words = ["teacher", *(word for word in sys.argv[1:] if not word.startswith("-"))]
    raise Sigterm(f"SIGTERM arrived while {' '.join(words[:2])} was at work: the same command does what is left")
