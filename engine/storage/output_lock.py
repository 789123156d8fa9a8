"""Exclusive access of one process to an output: a lock for files, a lease for object stores.

The operating system releases a file lock when its process ends. An object store has no locks, so :func:`lock_output`
writes a *lease* next to the output and renews it. A process that finds a lease waits for a renewal. If the lease is
renewed, another process is at work; otherwise that process was killed, and the lease is taken over. This needs neither
synchronized clocks nor conditional writes, which some stores ignore. If two processes start in the same second, one of
them stops, at the latest at its next renewal.

Not supported: exclusion of a process that cannot reach its store for more than ``STALE`` seconds. It loses its lease,
and stops when it notices this.
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
"""Seconds without a renewal after which the owner of a lease counts as dead."""

SETTLE = 1.0
"""Seconds before a lease is read back: a process that started in the same moment has written its own by then."""

UNWRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG})
"""Errors left to the writer of the output, which reports them."""

_held: set[Path] = set()
_mutex = threading.Lock()


@contextmanager
def lock_output(
    uri: str, storage: Storage, *, note: Callable[[str], None] = lambda _: None
) -> Iterator[Callable[[], None]]:
    """Reserve an output for this process during the block.

    Args:
        uri: URI of the output; next to it, ``<uri>.lock`` or ``<uri>.lease`` exists during the block.
        storage: Access to the output.
        note: Receives a message if it has to wait.

    Yields:
        A function that raises StorageError if another process has taken over the output.

    Raises:
        StorageError: Another process is working on the output.
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
    """Hold a lock file during the block. The file is created, and removed at the end.

    The lock belongs to this process alone (POSIX record lock): forked processes do not hold it.

    Args:
        file: Path of the lock file.
        what: Name of what it protects, for the message.

    Raises:
        StorageError: Another process, or another thread of this one, holds it; or the file cannot be created.
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
                    file.unlink()  # before unlocking: the next process that opens it creates a new file
                os.close(number)
    finally:
        with _mutex:
            _held.discard(file)


def _lock(file: Path, what: str) -> int | None:
    """Return a descriptor that holds the lock; None if nothing can be written, so that no lock is needed."""
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
        os.close(number)  # its previous owner has removed it in the meantime


class _Lease:
    """The lease that this process writes."""

    def __init__(self, key: str, output: str, storage: Storage) -> None:
        self.key, self.output, self.storage = key, output, storage
        self.owner, self.beat = uuid.uuid4().hex, 0
        self.over, self.lost = threading.Event(), ""

    def take(self, note: Callable[[str], None]) -> None:
        """Acquire the lease.

        Raises:
            StorageError: Another process renews it.
        """
        found = self._read()
        if found is not None:
            note(f"another process was working on {self.output} ({_holder(found)}): waiting to see if it is alive")
            self._wait_for_renewal(found)
        try:
            self._write(only_if_absent=found is None)
        except ExistsError:
            pass  # written by a process that started at the same time; the check below detects it
        except StorageError:  # the store refuses conditions
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
        """Renew the lease every ``RENEW`` seconds, until the block ends or another process owns it."""
        while not self.over.wait(RENEW):
            with suppress(StorageError):  # the store is unreachable for a while: the work itself reports it
                found = self._read()
                if found is not None and _owner(found) != self.owner:
                    self.lost = _holder(found)
                    return
                self._write()

    def check(self) -> None:
        """Raise StorageError if another process owns the lease."""
        if self.lost:
            raise _at_work(self.output, self.lost)

    def give_back(self) -> None:
        """Delete the lease if this process still owns it."""
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
