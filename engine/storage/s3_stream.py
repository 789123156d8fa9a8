"""The body of an object in S3: read on where a connection broke, and compared with what the store says of it."""

from __future__ import annotations

import hashlib
import io
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from engine.errors import StorageError
from engine.storage.base import BrokenError, ExistsError

READ_SIZE = 1 << 20
PIECE = 1 << 16
"""Bytes taken from a connection at a time: what is lost, and asked for again, when it stalls."""

READINGS = 6
"""Of one object that comes damaged."""

MD5 = re.compile(r'"?([0-9a-f]{32})"?')
"""An ETag that may be the MD5 of the content: those of objects in parts are longer."""

T = TypeVar("T")


class CorruptError(StorageError):
    """The content does not have the checksum that the store gave with it."""

    def __init__(self, uri: str, why: str, digest: str = "") -> None:
        self.what, self.digest = f"{uri} came damaged ({why})", digest
        super().__init__(f"{uri} cannot be read: it came damaged ({why}); try again")


class Digests:
    """What the ETags of a store are worth. Mostly they are MD5s, but a store may give others, and does not say so.

    Damage is never the same twice: where two readings of an object agree with each other and not with its ETag, the
    ETag is something else, and nothing follows from any of this store.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.are_md5: bool | None = None
        """None until it is known."""

    def check(self, uri: str, etag: str, found: Any, *, again: bool) -> None:
        """Compare the MD5 of what was read with an ETag that looks like one.

        Args:
            uri: Of the object.
            etag: 32 digits.
            found: The hash of all that was read.
            again: The object will be read anew if it must be, so that it counts as damaged as long as nothing is known.

        Raises:
            CorruptError: It came damaged.
        """
        if found.hexdigest() == etag:
            self.are_md5 = True
        elif self.are_md5 or (self.are_md5 is None and again):
            raise CorruptError(uri, "its MD5 is not its ETag", found.hexdigest())

    def until_whole(self, work: Callable[[], T]) -> T:
        """Do ``work`` again, a few times, while what it reads comes damaged or breaks off."""
        before = ""
        for reading in range(2, READINGS + 1):
            try:
                return work()
            except BrokenError as error:
                self.say(f"{error}: reading {reading} of {READINGS}")
            except CorruptError as error:
                if self.are_md5 is None and error.digest and error.digest == before:
                    self.are_md5 = False
                before = error.digest
                self.say(f"{error.what}: reading {reading} of {READINGS}")
        return work()


class Stream(io.RawIOBase):
    """The body of an object, read on from where a connection broke, if the object is still the same.

    Args:
        get: Asks for the object; takes what else ``get_object`` does.
        uri: Of the object.
        digests: Of the store.
        again: It is read within :meth:`Digests.until_whole`.
    """

    def __init__(self, get: Callable[..., Any], uri: str, digests: Digests, *, again: bool = False) -> None:
        self.get, self.uri, self.digests, self.again = get, uri, digests, again
        response = get()
        self.body, self.etag = response["Body"], response.get("ETag")
        self.size, self.modified_ns = int(response["ContentLength"]), modified_ns(response)
        self.position = self.broken = 0
        self.md5, self.digest = md5_of(response), md5()

    def readable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """End the connection."""
        if not self.closed:
            self.body.close()
        super().close()

    def readall(self) -> bytes:
        """What is left."""
        return b"".join(iter(lambda: self.read(PIECE) or b"", b""))

    def readinto(self, buffer: Any) -> int:
        """Fill a part of a buffer; how much was filled, 0 at the end."""
        from botocore.exceptions import FlexibleChecksumError, HTTPClientError, IncompleteReadError
        from urllib3.exceptions import HTTPError  # of TLS, which botocore lets through

        while True:
            try:
                # At the end an empty read makes botocore compare length and checksum.
                chunk: bytes = self.body.read(min(len(buffer), PIECE))
                if not chunk and self.position < self.size:
                    raise IncompleteReadError(actual_bytes=self.position, expected_bytes=self.size)
            except (IncompleteReadError, HTTPClientError, HTTPError) as error:
                self._reopen(error)
                continue
            except FlexibleChecksumError as error:
                raise CorruptError(self.uri, str(error)) from None
            buffer[: len(chunk)] = chunk
            self.position += len(chunk)
            self.broken = 0
            if self.md5 is not None:
                self.digest.update(chunk)
                if not chunk:
                    self.digests.check(self.uri, self.md5, self.digest, again=self.again)
            return len(chunk)

    def _reopen(self, error: Exception) -> None:
        from engine.storage.retries import ATTEMPTS, pause

        self.body.close()
        self.broken += 1
        where = f"{self.uri} broke off at byte {self.position} of {self.size}"
        if self.broken >= ATTEMPTS:
            message = f"{where} at each of {ATTEMPTS} attempts: {error}; check the network, then try again"
            raise StorageError(message) from None
        self.digests.say(f"{where}: attempt {self.broken + 1} of {ATTEMPTS}")
        time.sleep(pause(self.broken))
        try:
            same = {"IfMatch": self.etag} if self.etag else {}
            self.body = self.get(Range=f"bytes={self.position}-", **same)["Body"]
        except ExistsError:
            raise StorageError(f"{self.uri} was overwritten while it was read: try again") from None


def md5(content: bytes = b"") -> Any:
    """A hash for checksums, not for secrets."""
    return hashlib.md5(content, usedforsecurity=False)


def modified_ns(answer: Any) -> int:
    """When an object was written; listings of some stores are finer than the whole seconds of other answers."""
    return int(answer["LastModified"].timestamp()) * 10**9


def md5_of(answer: Any) -> str | None:
    """The MD5 that an object should have, if its ETag may be one: where a key of the user's encrypts it, it is not."""
    found = MD5.fullmatch(answer.get("ETag", ""))
    return None if found is None or answer.get("ServerSideEncryption", "AES256") != "AES256" else found[1]
