"""Process and hardware of a training run: device, precision, seeds, memory, disk, stop signals."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import re
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryFile
from types import FrameType, TracebackType
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError

from engine.config import ModelSettings
from engine.errors import ConfigError, InterruptedTrainingError, MachineError, OutOfGpuMemoryError
from engine.models.model import Model
from engine.processes.signals import forget_requests, handle_stop, is_second_ctrl_c, restore_handlers, signal_name
from engine.spec import Precision
from engine.storage.files import reason

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Constants of ``malloc.h``."""


def choose_device() -> torch.device:
    """Return the GPU of this process if there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def keep_memory() -> None:
    """Make this process keep freed memory for later allocations (glibc; no effect elsewhere).

    By default the memory of a large tensor returns to the system immediately, and each page of the next tensor is
    cleared again: nearly half of the time of SAM's decoder on a CPU. Not for tensors of many different sizes: the kept
    memory would be fragmented.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)


def give_back_memory(*, above: int) -> None:
    """Return kept memory to the system if this process holds more than ``above`` bytes (glibc).

    Kept memory grows with every new tensor size, without bound.
    """
    if resident_bytes() > above:
        library = ctypes.CDLL(None)
        if hasattr(library, "malloc_trim"):
            library.malloc_trim(0)


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 where the system does not report it."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Return the autocast context of the forward pass.

    ``auto`` is bfloat16 on a GPU that supports it, else float32: on a CPU bfloat16 is rarely faster.

    Raises:
        ConfigError: The configuration requests bfloat16, and the GPU does not support it.
    """
    has_bfloat16 = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
    if precision is Precision.BFLOAT16 and not has_bfloat16:
        raise ConfigError(
            f"training.precision is bfloat16, which {torch.cuda.get_device_name(device)} does not have: "
            "set it to auto or float32"
        )
    wanted = precision is Precision.BFLOAT16 or (precision is Precision.AUTO and device.type == "cuda" and has_bfloat16)
    return torch.autocast(device.type, dtype=torch.bfloat16) if wanted else nullcontext()


def seed_all(*key: int) -> None:
    """Seed every global generator by a key such as (seed, step)."""
    state = np.random.SeedSequence(key).generate_state(2, np.uint32)
    random.seed(int(state[0]))
    np.random.seed(int(state[0]))
    torch.manual_seed((int(state[1]) << 32) | int(state[0]))


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory so far: of the GPU, or else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_error(teacher: Model, settings: ModelSettings, *, fits: int | None = None) -> OutOfGpuMemoryError:
    """Return an error that says what to do about too little GPU memory.

    Args:
        teacher: The teacher that does not fit.
        settings: Its section of the configuration.
        fits: Largest micro-batch that was tried and fits; 0: not even one image fits; None: nothing was tried.
    """
    device, path = teacher.device, teacher.name.path
    where = "this machine"
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        where = f"{torch.cuda.get_device_name(device)} with {total / 2**30:.0f} GiB"
    advice = {
        None: f"set {path}.micro_batch_size to 1",
        0: "not even one image fits",
    }.get(fits, f"{fits} at a time fit: set {path}.micro_batch_size to {fits}")
    return OutOfGpuMemoryError(
        f"{where} has too little memory for {teacher.name} with a batch size of {settings.batch_size}: {advice}, or "
        f"take {'the preset decoder, or ' if teacher.name.traits.adapts_base else ''}a GPU with more memory"
    )


@contextmanager
def memory_errors(teacher: Model, settings: ModelSettings) -> Iterator[None]:
    """Convert an out-of-memory error of torch into one that says what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise memory_error(teacher, settings) from error


class Stop:
    """Inside its block SIGTERM or Ctrl-C only sets ``requested``: the running work stops where nothing is lost.

    A second Ctrl-C interrupts as usual.

    Args:
        alive: Called regularly by the running work.

    Attributes:
        number: The first signal that arrived.
    """

    requested = False
    number = signal.SIGTERM

    def __init__(self, alive: Callable[[], None] = lambda: None) -> None:
        self.alive = alive

    @property
    def name(self) -> str:
        """Name of the signal, such as SIGTERM or Ctrl-C."""
        return signal_name(self.number)

    def __enter__(self) -> Self:
        self._installed = threading.current_thread() is threading.main_thread()
        if self._installed:  # Python allows handlers in the main thread alone
            if not isinstance(getattr(signal.getsignal(signal.SIGTERM), "__self__", None), Stop):
                forget_requests()
            self._previous = handle_stop(self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._installed:
            restore_handlers(self._previous)

    def check(self) -> None:
        """Raise InterruptedTrainingError if SIGTERM or Ctrl-C has arrived."""
        self.alive()
        if self.requested:
            raise InterruptedTrainingError(f"{self.name} arrived: the same command resumes from the last checkpoint")

    def _request(self, number: int, frame: FrameType | None) -> None:
        previous = self._previous.get(signal.SIGINT)
        if is_second_ctrl_c(number) and callable(previous):
            previous(number, frame)
        if not self.requested:
            self.requested, self.number = True, signal.Signals(number)


GPUS = "TEACHER_GPUS"
"""Environment variable: number of GPUs the Job requested. Without them, training would take days on the CPU."""

OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM})
SHARED_MEMORY = (
    "/dev/shm is too small for the batches of the data workers: raise spec.sharedMemory (of a container, its shm "  # noqa: S108
    "size), or set training.workers to 0"
)


def check_gpus(wanted: int) -> None:
    """Check that torch can use the requested number of GPUs.

    Raises:
        MachineError: It cannot.
    """
    if wanted < 1 or torch.cuda.device_count() >= wanted:
        return
    if torch.version.cuda is None and torch.version.hip is None:
        why = "this torch is built without GPUs: install the wheel of your driver's CUDA"
    else:
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
            why = f"it has {torch.cuda.device_count()}"
        except (RuntimeError, AssertionError) as error:
            why = str(error).strip().splitlines()[0]
    raise MachineError(
        f"this machine was asked for {wanted} GPU{'s' if wanted > 1 else ''}, and torch cannot use them: {why}. Check "
        "nvidia-smi on the node, its device plugin, and that its driver is new enough for CUDA "
        f"{torch.version.cuda or 'at all'}; to train without, set gpus to 0"
    )


def check_disk(folder: Path) -> None:
    """Create a folder if necessary and check that it is writable.

    Raises:
        MachineError: It cannot.
    """
    with machine_errors():
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass


@contextmanager
def machine_errors() -> Iterator[None]:
    """Convert errors of a full or read-only disk, of shared memory and of lost workers into sentences.

    Raises:
        MachineError: One of these is the cause.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in OF_THE_DISK:
            raise
        raise _of_the_disk(error.errno, error.filename) from error
    except SafetensorError as error:
        code = re.search(r"code: (\d+)", str(error))
        if code is None or int(code[1]) not in OF_THE_DISK:
            raise
        raise _of_the_disk(int(code[1]), None) from error
    except RuntimeError as error:
        message = str(error)
        if re.search(r"DataLoader worker .* (is killed by signal|exited unexpectedly)", message):
            raise MachineError(
                f"a data worker was lost ({message.splitlines()[0].rstrip('. ')}): most likely the machine ran out of "
                "memory; lower training.workers, or give it more"
            ) from error
        raise


def _of_the_disk(code: int, file: str | bytes | int | None) -> MachineError:
    where = os.fsdecode(file) if isinstance(file, str | bytes) else "a file of the run"
    verb = "opened" if code in (errno.EACCES, errno.EPERM) else "written"
    return MachineError(f"{where} cannot be {verb}: {reason(OSError(code, os.strerror(code)), where)}")
