"""What training needs of its machine, and sentences for where it is not there."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

import torch
from safetensors import SafetensorError

from engine.errors import MachineError
from engine.storage.files import reason

GPUS = "TEACHER_GPUS"
"""Environment variable: how many GPUs this machine was asked for. Without them, training would take days on its CPU."""

OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM})
SHARED_MEMORY = (
    "/dev/shm has too little room for what data workers hand over: raise spec.sharedMemory (of a container, its shm "  # noqa: S108
    "size), or set training.workers to 0"
)


def check_gpus(wanted: int) -> None:
    """See that torch can use as many GPUs as this machine was asked for.

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
    """See that a folder can be written to; it is made.

    Raises:
        MachineError: It cannot.
    """
    with machine_errors():
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass


@contextmanager
def machine_errors() -> Iterator[None]:
    """What a full or read-only disk, shared memory and lost workers make libraries raise, as sentences.

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
        told = str(error)
        if re.search(r"DataLoader worker .* (is killed by signal|exited unexpectedly)", told):
            raise MachineError(
                f"a data worker was lost ({told.splitlines()[0].rstrip('. ')}): most likely the machine ran out of "
                "memory; lower training.workers, or give it more"
            ) from error
        raise


def _of_the_disk(code: int, file: str | bytes | int | None) -> MachineError:
    where = os.fsdecode(file) if isinstance(file, str | bytes) else "a file of the run"
    verb = "opened" if code in (errno.EACCES, errno.EPERM) else "written"
    return MachineError(f"{where} cannot be {verb}: {reason(OSError(code, os.strerror(code)), where)}")
