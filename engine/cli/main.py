"""The process of a command: failures and exit codes. It imports little, to handle SIGTERM early."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NoReturn

from engine.cli.signals import Sigterm, end_by_signal
from engine.cli.standard_streams import open_streams
from engine.errors import ConfigError, InterruptedTrainingError, MachineError, TeacherError
from engine.processes.child_process import end_with_parent, import_nothing_from_working_directory
from engine.processes.signals import KILLED_BY_CTRL_C, handle_stop


def main() -> NoReturn:
    """Run the command line; a failure is one sentence on standard error and the exit code it stands for.

    A request to stop ends it with 143 even as a container's first process, for which signals have no effect of
    their own.
    """
    handle_stop(end_by_signal)
    open_streams()
    import_nothing_from_working_directory()
    end_with_parent()
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    leave(_run())


def _run() -> int:
    """Run the command; return its exit code."""
    try:
        _refuse_empty(sys.argv[1:])
        from engine.cli.app import app

        app()
        sys.stdout.flush()  # a disk that is full is a failure too
    except Sigterm as stopped:
        sys.stderr.write(f"error: {stopped}\n")
        return InterruptedTrainingError.exit_code
    except TeacherError as error:
        return _failed(error)
    except OSError as error:
        if error.errno is None:
            return _unforeseen()
        where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "standard output or a file"
        return _failed(MachineError(f"{where} cannot be used: {os.strerror(error.errno)}"))
    except MemoryError as error:
        return _failed(MachineError(f"this machine has too little memory: {str(error) or 'none was left'}"))
    except KeyboardInterrupt:  # raised by a library
        return KILLED_BY_CTRL_C
    except SystemExit as ended:  # the command has reported its failure itself, or is done
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - an unexpected error ends the process with a traceback
        return _unforeseen()
    return 0


def _refuse_empty(words: list[str]) -> None:
    """See that no argument is empty: as a path it would mean the working directory, or the root of the disk.

    Raises:
        ConfigError: One is, most likely since a variable of the shell is.
    """
    for number, word in enumerate(words):
        if not word or (word.startswith("--") and word.endswith("=") and not word.startswith("--set=")):
            after = f" after {words[number - 1]}" if number and not word else f" of {word[:-1]}" if word else ""
            raise ConfigError(f"the value{after} is empty: is a variable of the shell not set?")


def _failed(error: TeacherError) -> int:
    from engine.cli.display import fail

    fail(error)
    return error.exit_code


def _unforeseen() -> int:
    sys.excepthook(*sys.exc_info())
    return 1


def leave(exit_code: int) -> NoReturn:
    """End the process immediately with this exit code, without waiting for threads, destructors and exit hooks.

    Python's own way (``sys.exit``) waits for threads, then runs the destructors of large libraries: on a busy machine
    that took so long that the process was killed with another exit code. All results are written before: blocks that
    write files have closed them and removed temporary folders. Only the streams are flushed here, and child processes
    ended that would keep the reader of our output waiting.
    """
    if "multiprocessing.process" in sys.modules:
        from multiprocessing import active_children

        for child in active_children():
            child.kill()
    if exit_code and "engine.cli.display" in sys.modules and sys.stderr.isatty():
        from engine.cli.display import console

        console.show_cursor()  # a bar that was ended has left it hidden
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            if exit_code == 0:
                exit_code = MachineError.exit_code
                with suppress(OSError, ValueError):
                    sys.stderr.write(f"error: standard output cannot be written: {error}\n")
    os._exit(exit_code)
