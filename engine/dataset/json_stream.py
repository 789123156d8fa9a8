"""Read the values of a JSON file as a stream: buffer, background reads, tokens, and errors with their place."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO

from engine.errors import DataError

LARGEST = 512 << 20
"""Maximum bytes of one element; a larger one cannot be an annotation."""

LONGEST_KEY = 1 << 20
"""Maximum bytes of a top-level key."""

DEEPEST = 200
"""Maximum nesting of brackets in an element."""

CLOSING = {b"[": b"]", b"{": b"}"}
SPACE = re.compile(rb"[ \t\r\n]*")
# Possessive (`++`, `*+`): backtracking positions would take a hundred times the memory of the string.
TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{},:"]', re.DOTALL)
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
SCALAR = re.compile(rb"""[^\s\[\]{},:"]+""")
NO_BRACKETS = re.compile(rb"""[^\[\]{}"]*""")


class JsonStream:
    """Read position in a JSON file, with a buffer of the next bytes.

    Args:
        stream: The file's bytes.
        source: Name of the file in messages.
        block: Bytes that are read at a time.
    """

    def __init__(self, stream: BinaryIO, *, source: str, block: int) -> None:
        self.stream, self.source, self.block = stream, source, block
        self._kept: list[bytes] | None = None
        self._hash = hashlib.sha256()
        self._buffer, self._position, self._before = b"", 0, 0
        self._pool: ThreadPoolExecutor
        self._ahead: Future[bytes]

    @property
    def digest(self) -> str:
        """Return the sha256 of the bytes read so far, in hex."""
        return self._hash.hexdigest()

    @contextmanager
    def _reading_ahead(self) -> Iterator[None]:
        with ThreadPoolExecutor(1) as self._pool:
            self._ahead = self._pool.submit(self._read)
            self._more()
            yield

    def _more(self) -> bool:
        """Append at least as many bytes as remain in the buffer; return False at the end of the file."""
        pieces: list[bytes | memoryview] = [memoryview(self._buffer)[self._position :]]
        wanted, found = max(1, len(pieces[0])), 0
        while found < wanted and (data := self._ahead.result()):
            pieces.append(data)
            found += len(data)
            self._ahead = self._pool.submit(self._read)
        if self._kept is not None:
            self._kept.append(self._buffer[: self._position])
        self._before += self._position
        self._buffer, self._position = b"".join(pieces), 0
        return found > 0

    def _read(self) -> bytes:
        """Return the next block, read and hashed in a background thread while the previous one is decoded."""
        data = self.stream.read(self.block)
        self._hash.update(data)
        return data

    def _next(self) -> bytes | None:
        """Return the next byte that is not white space, without consuming it; None at the end of the file."""
        while True:
            space = SPACE.match(self._buffer, self._position)
            self._position = space.end() if space else self._position
            if self._position < len(self._buffer):
                return self._buffer[self._position : self._position + 1]
            if not self._more():
                return None

    def _peek(self, count: int) -> str:
        return self._buffer[self._position : self._position + count].decode("utf-8", errors="replace")

    def _key(self, mark: bytes | None) -> str:
        if mark is None:
            raise self._truncated("")
        while not (match := STRING.match(self._buffer, self._position)):
            if mark != b'"':
                raise self._broken("a key in quotes is expected")
            if len(self._buffer) - self._position > LONGEST_KEY or not self._more():
                raise self._truncated("")
        self._position = match.end()
        try:
            key = str(json.loads(match.group()))
        except ValueError:
            raise self._broken("a key is not valid text") from None
        if self._next() != b":":
            raise self._broken(f"a colon is expected after {key!r}")
        self._position += 1
        return key

    def _value(self) -> bytes:
        """Read a raw JSON value."""
        start, self._kept = self._position, []
        self._skip()
        value = b"".join((*self._kept, self._buffer[: self._position]))[start:]
        self._kept = None
        try:
            json.loads(value)
        except (ValueError, RecursionError):
            raise self._broken("a value is expected", -len(value)) from None
        return value

    def _skip(self) -> None:
        """Skip a value that is not needed."""
        closing: list[bytes] = []
        while True:
            if closing:
                rest = NO_BRACKETS.match(self._buffer, self._position)
                self._position = rest.end() if rest else self._position
            if self._next() is None:
                raise self._truncated("")
            match = TOKEN.match(self._buffer, self._position) or SCALAR.match(self._buffer, self._position)
            if match is None or match.group() == b'"' or match.end() == len(self._buffer):
                if len(self._buffer) - self._position > LARGEST:
                    raise self._broken(f"one value has more than {LARGEST >> 20} MB")
                if self._more():
                    continue
                if match is None or match.group() == b'"':
                    raise self._truncated("")
            token = match.group()
            if token in CLOSING:
                closing.append(CLOSING[token])
                if len(closing) > DEEPEST:
                    raise self._broken(f"brackets are nested more than {DEEPEST} deep")
            elif closing and token == closing[-1]:
                closing.pop()
            elif token in (b"]", b"}") or (not closing and token in (b",", b":")):
                raise self._broken("a value is expected")
            self._position = match.end()
            if not closing:
                return

    def _broken(self, what: str, at: int = 0) -> DataError:
        place = self._before + self._position + at
        near = self._buffer[self._position + at : self._position + at + 40].decode("utf-8", errors="replace")
        return DataError(f"{self.source} is not valid JSON at byte {place:,}: {what}, near {near!r}. Export it again")

    def _truncated(self, section: str) -> DataError:
        where = f" in the middle of {section!r}" if section else ""
        size = self._before + len(self._buffer)
        return DataError(f"{self.source} ends{where} after {size:,} bytes: it is cut off. Export or upload it again")
