"""One process at a time works on an output: :func:`lock_output`, for files by a lock, for object stores by a lease.

A lock on a file goes with its process, however that ends. An object store knows no locks, so the process writes a
*lease* next to the output and renews it. A process that finds one waits to see whether it is renewed: then another
process is at work; else that one was killed, and the lease is taken over. Nothing rests on clocks, nor on conditional
writes, which some stores ignore. Of two processes that begin in the same second one stops, at the latest when it
renews.

Not supported: keeping apart two processes of which one could not reach its store for longer than ``STALE`` seconds; the
one that lost its lease stops when it notices.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.errors import StorageError
from engine.storage import ExistsError, NotFoundError, Storage

RENEW = 15.0
"""Seconds between two renewals of a lease."""

STALE = 60.0
"""Seconds without a renewal after which the process that held a lease is taken for dead."""

SETTLE = 1.0
"""Seconds after which a lease is read back: a process that began in the same moment has written its own by then."""

UNWRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG})
"""Errors that the writer of the output itself reports."""

_held: set[Path] = set()
_mutex = threading.Lock()


@contextmanager
def lock_output(
    uri: str, storage: Storage, *, note: Callable[[str], None] = lambda _: None
) -> Iterator[Callable[[], None]]:
    """Keep an output for this process, for the length of the block.

    Args:
        uri: The output's; next to it, ``<uri>.lock`` or ``<uri>.lease`` exists while the block lasts.
        storage: How the output is reached.
        note: Is given a sentence where it has to wait.

    Yields:
        What raises StorageError if another process has taken the output over.

    Raises:
        StorageError: Another process is working on it.
    """
    local = storage.local_path(uri)
    if local is not None:
        whole = local.resolve()
        with lock_file(whole.with_name(f"{whole.name}.lock"), what=uri):
            yield lambda: None
        return
    lease = _Lease(f"{uri}.lease", uri, storage)
    lease.take(note)
    renewing = threading.Thread(target=lease.renew_until_over, name="lease", daemon=True)
    renewing.start()
    try:
        yield lease.check
    finally:
        lease.over.set()
        renewing.join()
        lease.give_back()


@contextmanager
def lock_file(file: Path, *, what: str) -> Iterator[None]:
    """Hold the lock of a file, which is made, and removed in the end.

    The lock is the process's own (POSIX record lock): processes that it forks do not hold it.

    Args:
        file: The lock.
        what: It protects, for the message.

    Raises:
        StorageError: Another process, or another thread of this one, holds it; or the file cannot be made.
    """
    with _mutex:
        if file in _held:
            raise _at_work(what, "in this process")
        _held.add(file)
    try:
        number = _lock(file, what)
        try:
            yield
        finally:
            if number is not None:
                with suppress(OSError):
                    file.unlink()  # before it is unlocked: the next process to open it gets another file
                os.close(number)
    finally:
        with _mutex:
            _held.discard(file)


def _lock(file: Path, what: str) -> int | None:
    """A descriptor that holds the lock; None where nothing can be written, and so nothing has to be protected."""
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            number = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            if error.errno in UNWRITABLE:
                return None
            raise StorageError(f"{file} cannot be written: {error.strerror}") from None
        try:
            fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = os.read(number, 200).decode(errors="replace")
            os.close(number)
            raise _at_work(what, holder) from None
        except OSError:  # a file system without locks
            return number
        try:
            same = os.path.samestat(file.stat(), os.fstat(number))
        except FileNotFoundError:
            same = False
        if same:
            os.ftruncate(number, 0)
            os.write(number, _myself().encode())
            return number
        os.close(number)  # the process that held it has removed it meanwhile


class _Lease:
    """A lease of this process."""

    def __init__(self, key: str, output: str, storage: Storage) -> None:
        self.key, self.output, self.storage = key, output, storage
        self.owner, self.beat = uuid.uuid4().hex, 0
        self.over, self.lost = threading.Event(), ""

    def take(self, note: Callable[[str], None]) -> None:
        """Become the owner.

        Raises:
            StorageError: Another process renews it.
        """
        found = self._read()
        if found is not None:
            note(f"another process was at work on {self.output} ({_holder(found)}): waiting to see whether it still is")
            self._wait_for_renewal(found)
        try:
            self._write(only_if_absent=found is None)
        except ExistsError:
            pass  # by a process that began in this moment, which is seen next
        except StorageError:  # of a store that refuses conditions
            self._write()
        time.sleep(SETTLE)
        found = self._read()
        if _owner(found) != self.owner:
            raise _at_work(self.output, _holder(found))

    def _wait_for_renewal(self, found: bytes) -> None:
        deadline = time.monotonic() + STALE
        while time.monotonic() < deadline:
            time.sleep(min(RENEW, STALE) / 5)
            now = self._read()
            if now is None:
                return
            if now != found:
                raise _at_work(self.output, _holder(now))

    def renew_until_over(self) -> None:
        """Renew it now and then, unless another process has it."""
        while not self.over.wait(RENEW):
            with suppress(StorageError):  # a store that is gone for a while: the work itself will report it
                found = self._read()
                if found is not None and _owner(found) != self.owner:
                    self.lost = _holder(found)
                    return
                self._write()

    def check(self) -> None:
        """Raise StorageError if another process has it."""
        if self.lost:
            raise _at_work(self.output, self.lost)

    def give_back(self) -> None:
        """Remove it, if it is still this process's."""
        with suppress(StorageError):
            if _owner(self._read()) == self.owner:
                self.storage.delete(self.key)

    def _read(self) -> bytes | None:
        try:
            return self.storage.read_bytes(self.key)
        except NotFoundError:
            return None

    def _write(self, *, only_if_absent: bool = False) -> None:
        self.beat += 1
        content = json.dumps({"owner": self.owner, "holder": _myself(), "renewals": self.beat})
        self.storage.write_bytes(self.key, content.encode(), only_if_absent=only_if_absent)


def _field(content: bytes | None, name: str) -> str:
    try:
        return str(json.loads(content or b"{}").get(name, ""))
    except (ValueError, AttributeError):
        return ""


def _owner(content: bytes | None) -> str:
    return _field(content, "owner")


def _holder(content: bytes | None) -> str:
    return _field(content, "holder")[:200]


def _myself() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _at_work(what: str, holder: str) -> StorageError:
    by = f" ({holder})" if holder else ""
    return StorageError(f"another process{by} is working on {what}: wait until it has ended, or give another output")
