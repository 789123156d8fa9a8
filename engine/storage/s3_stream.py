"""The body of an S3 object: continued after a broken connection, and compared with its checksum."""

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
"""Bytes read from a connection at a time; read again after a stall."""

READINGS = 6
"""Maximum readings of one object that arrives corrupted."""

MD5 = re.compile(r'"?([0-9a-f]{32})"?')
"""An ETag that may be the MD5 of the content: ETags of multipart uploads are longer."""

T = TypeVar("T")


class CorruptError(StorageError):
    """The content does not match its checksum."""

    def __init__(self, uri: str, why: str, digest: str = "") -> None:
        self.what, self.digest = f"{uri} came damaged ({why})", digest
        super().__init__(f"{uri} cannot be read: it came damaged ({why}); try again")


class Digests:
    """Detects whether the ETags of a store are MD5 digests. Most stores use MD5; others do not announce it.

    Corruption is random: if two readings of an object agree with each other but not with its ETag, the ETag is not an
    MD5, and the ETags of this store are ignored.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.are_md5: bool | None = None
        """None if not known yet."""

    def check(self, uri: str, etag: str, found: Any, *, again: bool) -> None:
        """Compare the MD5 of the content with an ETag that looks like an MD5.

        Args:
            uri: URI of the object.
            etag: 32 hex digits.
            found: Hash of the content.
            again: The caller can read the object again, so a mismatch is an error also while ``are_md5`` is None.

        Raises:
            CorruptError: The content does not match.
        """
        if found.hexdigest() == etag:
            self.are_md5 = True
        elif self.are_md5 or (self.are_md5 is None and again):
            raise CorruptError(uri, "its MD5 is not its ETag", found.hexdigest())

    def until_whole(self, work: Callable[[], T]) -> T:
        """Retry ``work`` a few times while its content is corrupted or the connection breaks."""
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
    """The body of an object; after a broken connection it continues at the same byte if the object is unchanged.

    Args:
        get: Requests the object; takes further arguments of ``get_object``.
        uri: URI of the object.
        digests: Digests of the store.
        again: The stream is read within :meth:`Digests.until_whole`.
    """

    def __init__(self, get: Callable[..., Any], uri: str, digests: Digests, *, again: bool = False) -> None:
        self.get, self.uri, self.digests, self.again = get, uri, digests, again
        response = get()
        self.body, self.etag = response["Body"], response.get("ETag")
        self.size, self.modified_ns = int(response["ContentLength"]), modified_ns(response)
        self.position = self.broken = 0
        self.md5, self.digest = md5_of(response), md5()

    def readable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Close the connection."""
        if not self.closed:
            self.body.close()
        super().close()

    def readall(self) -> bytes:
        """Return the remaining content."""
        return b"".join(iter(lambda: self.read(PIECE) or b"", b""))

    def readinto(self, buffer: Any) -> int:
        """Fill a part of a buffer; return the number of bytes, 0 at the end."""
        from botocore.exceptions import FlexibleChecksumError, HTTPClientError, IncompleteReadError
        from urllib3.exceptions import HTTPError  # TLS errors, which botocore does not wrap

        while True:
            try:
                # An empty read at the end makes botocore verify length and checksum.
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
    """Return an MD5 hash for checksums, not for security."""
    return hashlib.md5(content, usedforsecurity=False)


def modified_ns(answer: Any) -> int:
    """Return the modification time in nanoseconds, cut to seconds: only listings of some stores are finer."""
    return int(answer["LastModified"].timestamp()) * 10**9


def md5_of(answer: Any) -> str | None:
    """Return the expected MD5 of an object, or None: with encryption by a user's key, the ETag is not an MD5."""
    found = MD5.fullmatch(answer.get("ETag", ""))
    return None if found is None or answer.get("ServerSideEncryption", "AES256") != "AES256" else found[1]
