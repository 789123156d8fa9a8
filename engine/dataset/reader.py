"""Reads a COCO file as a stream: memory does not grow with it.

The arrays are cut into blocks at what looks like the border between two elements, and a block is decoded at once. A
cut inside an element cannot go unnoticed: what is before it does not balance, and does not decode. Then the borders
are found by counting brackets, which is slower and never wrong.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec

from engine.dataset.records import DECODERS, lenient
from engine.errors import DataError

BLOCK = 4 << 20
"""Bytes that are read and decoded at once."""

LARGEST = 512 << 20
"""Bytes that one element may have; a larger one is no annotation."""

DEEPEST = 200
"""Brackets within brackets that an element may have."""

SPACE = b" \t\r\n"
END = re.compile(rb"\}\s*\]\s*[,}]")
BORDER = re.compile(rb"\}\s*,\s*\{")
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},:"]', re.DOTALL)
STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
SCALAR = re.compile(rb"""[^\s\[\]{},:"]+""")

FOREIGN = {
    b"\x1f\x8b": "is compressed by gzip: unpack it first",
    b"PK": "is a zip archive: unpack it first",
    b"\xff\xfe": "is UTF-16: save it as UTF-8",
    b"\xfe\xff": "is UTF-16: save it as UTF-8",
    b"<": "is XML or HTML, not JSON: export it as COCO",
}


class CocoReader:
    """One pass over a COCO file.

    Attributes:
        digest: sha256 of all bytes, once the pass is over.
        keys: The top-level keys and the first byte of their values, in file order.
    """

    def __init__(self, stream: BinaryIO, *, source: str, block: int = BLOCK) -> None:
        self.stream, self.source, self.block = stream, source, block
        self.keys: dict[str, str] = {}
        self._hash = hashlib.sha256()
        self._buffer, self._position, self._before = b"", 0, 0
        self._ended = False

    @property
    def digest(self) -> str:
        """sha256 of what was read, in hex."""
        return self._hash.hexdigest()

    def blocks(self) -> Iterator[tuple[str, list[Any]]]:
        """Elements of ``images``, ``annotations`` and ``categories``, in file order, some thousands at a time.

        Raises:
            DataError: The file is no JSON, ends too soon, or holds something other than a COCO object.
        """
        self._more()
        self._foreign()
        first = self._next()
        if first == b"[":
            raise DataError(
                f"{self.source} is a list, as detection results are, not a COCO dataset: give the annotations, an "
                "object with images, annotations and categories"
            )
        if first != b"{":
            raise DataError(f"{self.source} is not JSON: it begins with {self._peek(20)!r}. Export it as COCO JSON")
        self._position += 1
        while (mark := self._next()) != b"}":
            if mark == b"," and self.keys:
                self._position += 1
                mark = self._next()
            key = self._key(mark)
            opening = self._next() or b""
            self.keys[key] = opening.decode("latin-1")
            if key in DECODERS and opening == b"[":
                self._position += 1
                for elements in self._elements(key):
                    yield key, elements
            else:
                self._skip()
        self._position += 1
        if self._next() is not None:
            raise self._broken("something follows the end of the object")

    def _foreign(self) -> None:
        if not self._buffer:
            raise DataError(f"{self.source} is empty")
        for magic, sentence in FOREIGN.items():
            if self._buffer.startswith(magic):
                raise DataError(f"{self.source} {sentence}")
        if self._buffer.startswith(b"\xef\xbb\xbf"):
            self._position = 3

    def _more(self) -> bool:
        """Append a block to what is not used up; False at the end of the file."""
        data = self.stream.read(self.block)
        if not data:
            self._ended = True
            return False
        self._hash.update(data)
        self._before += self._position
        self._buffer = self._buffer[self._position :] + data
        self._position = 0
        return True

    def _next(self) -> bytes | None:
        """The next byte that is no space, not yet consumed; None at the end of the file."""
        while True:
            while self._position < len(self._buffer):
                byte = self._buffer[self._position : self._position + 1]
                if byte not in SPACE:
                    return byte
                self._position += 1
            if not self._more():
                return None

    def _peek(self, count: int) -> str:
        return self._buffer[self._position : self._position + count].decode("utf-8", errors="replace")

    def _key(self, mark: bytes | None) -> str:
        if mark is None:
            raise self._truncated("")
        while not (match := STRING.match(self._buffer, self._position)):
            if mark != b'"':
                raise self._broken("a name in quotes is expected")
            if len(self._buffer) - self._position > self.block or not self._more():
                raise self._truncated("")
        self._position = match.end()
        try:
            key = str(json.loads(match.group()))
        except ValueError:
            raise self._broken("a name is no text") from None
        if self._next() != b":":
            raise self._broken(f"a colon is expected after {key!r}")
        self._position += 1
        return key

    def _skip(self) -> None:
        """Pass over a value that is not needed."""
        depth = 0
        while True:
            mark = self._next()
            if mark is None:
                raise self._truncated("")
            match = TOKEN.match(self._buffer, self._position) or SCALAR.match(self._buffer, self._position)
            if match is None or match.group() == b'"' or match.end() == len(self._buffer):
                if not self._more():
                    if match is None or match.group() == b'"':
                        raise self._truncated("")
                else:
                    continue
            assert match is not None  # noqa: S101 - said above
            token = match.group()
            if depth == 0 and token in (b",", b"}", b"]"):
                raise self._broken("a value is expected")
            self._position = match.end()
            depth += (token in (b"[", b"{")) - (token in (b"]", b"}"))
            if depth == 0:
                return

    def _elements(self, section: str) -> Iterator[list[Any]]:
        """The elements of an array whose opening bracket is consumed."""
        if self._next() == b"]":
            self._position += 1
            return
        while True:
            cut = self._guess(section)
            if cut is None:
                cut = self._count(section)
            elements, ended = cut
            if elements:
                yield elements
            if ended:
                return

    def _guess(self, section: str) -> tuple[list[Any], bool] | None:
        """Decode up to the first likely end of the array, or else the last likely border; None if it was neither."""
        match = END.search(self._buffer, self._position)
        if match is not None:
            stop, after, ended = match.start() + 1, self._buffer.index(b"]", match.start()) + 1, True
        else:
            if len(self._buffer) - self._position < self.block and self._more():
                return [], False
            border = self._last_border()
            if border is None:
                return None
            stop, after, ended = border.start() + 1, border.end() - 1, False
        try:
            elements = DECODERS[section].decode(b"[" + self._buffer[self._position : stop] + b"]")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        self._position = after
        return elements, ended

    def _last_border(self) -> re.Match[bytes] | None:
        high = len(self._buffer)
        while (comma := self._buffer.rfind(b"{", self._position, high)) > self._position:
            brace = self._buffer.rfind(b"}", self._position, comma)
            if brace < 0:
                return None
            match = BORDER.match(self._buffer, brace)
            if match is not None:
                return match
            high = comma
        return None

    def _count(self, section: str) -> tuple[list[Any], bool]:
        """The same by counting brackets: as many whole elements as the buffer holds."""
        while True:
            stop, after, ended = self._borders()
            if stop is not None:
                break
            if len(self._buffer) - self._position > LARGEST:
                raise self._broken(f"one element of {section!r} has more than {LARGEST >> 20} MB")
            if not self._more():
                raise self._truncated(section)
        text = self._buffer[self._position : stop]
        try:
            plain = json.loads(b"[" + text + b"]")
        except (ValueError, RecursionError) as error:
            at = getattr(error, "pos", 1) - 1
            raise self._broken(f"{section!r} holds what is no JSON ({getattr(error, 'msg', error)})", at) from None
        self._position = after
        return [lenient(section, element) for element in plain], ended

    def _borders(self) -> tuple[int | None, int, bool]:
        """End of the last whole element, where to go on, and whether the array ends there."""
        depth, stop, after = 0, None, self._position
        for match in TOKEN.finditer(self._buffer, self._position):
            token = match.group()
            if token in (b"[", b"{"):
                depth += 1
                if depth > DEEPEST:
                    raise self._broken(f"brackets are nested more than {DEEPEST} deep", match.start() - self._position)
            elif token in (b"]", b"}"):
                if depth == 0:
                    return match.start(), match.end(), True
                depth -= 1
            elif token == b'"':
                break  # a string that is not all there yet
            elif token == b"," and depth == 0:
                stop, after = match.start(), match.end()
        return stop, after, False

    def _broken(self, what: str, at: int = 0) -> DataError:
        place = self._before + self._position + at
        near = self._buffer[self._position + at : self._position + at + 40].decode("utf-8", errors="replace")
        return DataError(f"{self.source} is no valid JSON at byte {place:,}: {what}, near {near!r}. Export it again")

    def _truncated(self, section: str) -> DataError:
        where = f" in the middle of {section!r}" if section else ""
        size = self._before + len(self._buffer)
        return DataError(f"{self.source} ends{where} after {size:,} bytes: it is cut off. Export or upload it again")
