"""Every failure a user can act on, and the exit code that tells a scheduler what to do about it.

The codes are a contract with whatever runs the trainer: 2, 3, 7 and 10 would fail again and are never retried;
the others resume from the last checkpoint.
"""

from __future__ import annotations

from typing import ClassVar

from engine.text import plain, shortened


class TeacherError(Exception):
    """A failure whose message says what was found, where, and what to do.

    Raise one of the subclasses: each carries the exit code of the process that it ends.
    """

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        """The sentence, at most :data:`engine.text.LONGEST` characters of it, without control characters."""
        return shortened(plain(super().__str__()))

    @property
    def reason(self) -> str:
        """The kind of failure as one CamelCase word, such as ``NotFinite``."""
        if type(self) is TeacherError:
            return "Unexpected"
        return type(self).__name__.removesuffix("Error")


class ConfigError(TeacherError):
    """The manifest, a flag or ``teacher_config.yaml`` is wrong."""

    exit_code = 2


class DataError(TeacherError):
    """The dataset cannot be trained on: unreadable, empty, or without what a teacher needs."""

    exit_code = 3


class BaseModelError(TeacherError):
    """The base model, or an adapter for it, cannot be had or does not fit."""

    exit_code = 4


class StorageError(TeacherError):
    """Object storage refused, or was gone after all retries."""

    exit_code = 5


class OutOfMemoryError(TeacherError):
    """The GPU has too little memory for what was asked of it."""

    exit_code = 6


class NotFiniteError(TeacherError):
    """The loss became NaN or infinite; the best adapter so far is kept."""

    exit_code = 7


class NoProgressError(TeacherError):
    """Nothing has happened for long; where every thread of the process was is on standard error."""

    exit_code = 8


class MachineError(TeacherError):
    """The machine lacks what training needs of it: a GPU that can be used, or room on a disk or in shared memory."""

    exit_code = 9


class NotBetterThanBaseError(TeacherError):
    """An adapter is published and not better than its base, and ``training.onNoGain`` is ``Fail``."""

    exit_code = 10


class InterruptedTrainingError(TeacherError):
    """SIGTERM arrived; the same command goes on from the last checkpoint, if there is one."""

    exit_code = 143


EXIT_ERRORS: dict[int, type[TeacherError]] = {error.exit_code: error for error in TeacherError.__subclasses__()}
"""What an exit code of the trainer stands for."""
