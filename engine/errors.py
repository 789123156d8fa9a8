"""All failures a user can act on, with the exit code for the scheduler.

The codes are a contract with the scheduler of the trainer: 40, 41, 45 and 48 would fail again and are never retried;
the others resume from the last checkpoint.

They are between 40 and 49, which no other program in a container uses for its own codes: 1 and 2 are used by
Python, shells, command lines and container runtimes, other single digits by almost every program, 64 to 78 by
sysexits.h, 124 to 127 by timeout, container engines and shells, 128 and above by signals and by runtimes that cannot
start a container. A code alone is no proof: the outcome that the process writes decides.
"""

from __future__ import annotations

from typing import ClassVar

from engine.text.safe_text import plain, shortened


class TeacherError(Exception):
    """A failure whose message says what was found, where, and what to do.

    Raise one of the subclasses: each carries the exit code of the process that it ends.
    """

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        """The sentence, at most :data:`engine.text.safe_text.LONGEST` characters of it, without control characters."""
        return shortened(plain(super().__str__()))

    @property
    def reason(self) -> str:
        """The kind of failure as one CamelCase word, such as ``NotFinite``."""
        if type(self) is TeacherError:
            return "Unexpected"
        return type(self).__name__.removesuffix("Error")


class ConfigError(TeacherError):
    """The manifest, a flag or ``teacher_config.yaml`` is wrong."""

    exit_code = 40


class DataError(TeacherError):
    """The dataset cannot be trained on: unreadable, empty, or without what a teacher needs."""

    exit_code = 41


class BaseModelError(TeacherError):
    """The base model, or an adapter for it, is not available or does not fit."""

    exit_code = 42


class StorageError(TeacherError):
    """Object storage refused a request, or was unreachable after all retries."""

    exit_code = 43


class OutOfMemoryError(TeacherError):
    """The GPU has too little memory for the requested settings."""

    exit_code = 44


class NotFiniteError(TeacherError):
    """The loss became NaN or infinite; the best adapter so far is kept."""

    exit_code = 45


class NoProgressError(TeacherError):
    """No progress for a long time; the stack of every thread is on standard error."""

    exit_code = 46


class MachineError(TeacherError):
    """The machine lacks a usable GPU, or space on a disk or in shared memory."""

    exit_code = 47


class NotBetterThanBaseError(TeacherError):
    """An adapter is published and not better than its base, and ``training.onNoGain`` is ``Fail``."""

    exit_code = 48


class InterruptedTrainingError(TeacherError):
    """SIGTERM arrived; the same command resumes from the last checkpoint, if one exists."""

    exit_code = 143


EXIT_ERRORS: dict[int, type[TeacherError]] = {error.exit_code: error for error in TeacherError.__subclasses__()}
"""Error class by exit code of the trainer."""

NEVER_RETRIED = frozenset(error.exit_code for error in (ConfigError, DataError, NotFiniteError, NotBetterThanBaseError))
"""Exit codes of failures that would occur again with the same command."""

FORMER_EXIT_CODES: dict[int, int] = {
    2: ConfigError.exit_code,
    3: DataError.exit_code,
    4: BaseModelError.exit_code,
    5: StorageError.exit_code,
    6: OutOfMemoryError.exit_code,
    7: NotFiniteError.exit_code,
    8: NoProgressError.exit_code,
    9: MachineError.exit_code,
    10: NotBetterThanBaseError.exit_code,
}
"""Today's exit codes by those of earlier versions, whose trainers may still run and leave outcomes."""
