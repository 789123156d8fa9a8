"""All failures a user can act on, with the exit code for the scheduler.

The exit codes are a contract with the scheduler of the trainer: those of errors that are not retryable are never
retried; the others resume from the last checkpoint. The reasons are those of the conditions of a cluster's objects.
The operator's causes and retry policy, and the tables of the documentation, follow from the classes.

They are between 40 and 49, which no other program in a container uses for its own codes: 1 and 2 are used by
Python, shells, command lines and container runtimes, other single digits by almost every program, 64 to 78 by
sysexits.h, 124 to 127 by timeout, container engines and shells, 128 and above by signals and by runtimes that cannot
start a container. A code alone is no proof: the outcome that the process writes decides.
"""

from __future__ import annotations

from typing import ClassVar

from engine.text.safe_text import plain, shortened


class TeacherError(Exception):
    """Any other failure.

    Raise one of the subclasses, with a message that says what was found, where, and what to do. The first line of the
    docstring of each is its row in the documentation, with the attributes below.
    """

    exit_code: ClassVar[int] = 1
    """Exit code of the process that the error ends."""

    reason: ClassVar[str] = "Unexpected"
    """The kind of failure as one CamelCase word, as in the reason of a Kubernetes condition."""

    retryable: ClassVar[bool] = True
    """The same command may succeed at the next attempt; False: it fails again."""

    advice: ClassVar[str] = "read the end of the log"
    """What to do about it, where the message is lost."""

    def __str__(self) -> str:
        """The sentence, at most :data:`engine.text.safe_text.LONGEST` characters of it, without control characters."""
        return shortened(plain(super().__str__()))


class ConfigError(TeacherError):
    """The manifest, a flag or `teacher_config.yaml` is wrong."""

    exit_code = 40
    reason = "ConfigurationInvalid"
    retryable = False
    advice = "the message names the setting; correct it, on a cluster in a new object"


class DataError(TeacherError):
    """The dataset cannot be trained on: unreadable, empty, or without what a teacher needs."""

    exit_code = 41
    reason = "DataInvalid"
    retryable = False
    advice = "the message names the problem of the annotations or images; correct them"


class BaseModelError(TeacherError):
    """The base model, or an adapter for it, is unavailable or does not fit."""

    exit_code = 42
    reason = "BaseModelUnavailable"
    advice = "check its name, its revision, `HF_TOKEN` and the proxy"


class StorageError(TeacherError):
    """Object storage refused a request, or stayed unavailable after all retries."""

    exit_code = 43
    reason = "StorageUnavailable"
    advice = "check bucket, keys, endpoint, and permissions of the service account"


class OutOfGpuMemoryError(TeacherError):
    """The GPU has too little memory for the requested settings."""

    exit_code = 44
    reason = "OutOfGpuMemory"
    advice = "use a smaller batch, the preset `decoder`, or a larger GPU"


class LossNotFiniteError(TeacherError):
    """The loss became NaN or infinite; the best adapter so far is kept, and the message gives its location."""

    exit_code = 45
    reason = "LossNotFinite"
    retryable = False
    advice = "use a lower learning rate, or `training.precision: float32`"


class NoProgressError(TeacherError):
    """No progress for a long time; the log has the stack of every thread."""

    exit_code = 46
    reason = "NoProgress"
    advice = "raise `training.hang_seconds` if one step may take that long"


class MachineError(TeacherError):
    """The machine lacks a usable GPU, or space on a disk or in shared memory."""

    exit_code = 47
    reason = "MachineUnfit"
    advice = "the message names what is missing: a GPU that torch can use, space on a disk or in `/dev/shm`"


class NotBetterThanBaseError(TeacherError):
    """An adapter is published and not better than its base, and `training.onNoGain` is `Fail`."""

    exit_code = 48
    reason = "NotBetterThanBase"
    retryable = False
    advice = "use the base, or train longer or on more images"


class ArtifactRefusedError(TeacherError):
    """An exported artifact loses more AP than allowed in its own runtime, so it is not published; others are."""

    exit_code = 49
    reason = "ArtifactRefused"
    retryable = False
    advice = "use another format, or allow a higher `maxApDrop`"


class InterruptedTrainingError(TeacherError):
    """SIGTERM, SIGHUP or Ctrl-C stopped the process, after a checkpoint if it was training."""

    exit_code = 143
    reason = "Interrupted"
    advice = "repeat the same command: it resumes from the last checkpoint, if one exists"


EXIT_ERRORS: dict[int, type[TeacherError]] = {error.exit_code: error for error in TeacherError.__subclasses__()}
"""Error class by exit code of the trainer."""

NEVER_RETRIED = frozenset(code for code, error in EXIT_ERRORS.items() if not error.retryable)
"""Exit codes of failures that would occur again with the same command."""
