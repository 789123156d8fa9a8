"""Reads a COCO file as a stream: memory does not grow with it.

An array is cut into blocks at what looks like a border between two of its elements, and each block is decoded at once.
A cut inside an element cannot go unnoticed: what is before it does not balance, and so does not decode. Only if all
likely borders turn out to be none, or the block holds NaN, brackets are counted, which is slower and never wrong.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO

import msgspec

from engine.dataset.coco_records import RECORDS, decode, lenient, raw_elements
from engine.errors import DataError
from engine.storage.git_lfs import ADVICE, POINTER

BLOCK = 4 << 20
"""Bytes that are read and decoded at once."""

LARGEST = 512 << 20
"""Bytes that one element may have; a larger one is no annotation."""

LONGEST_KEY = 1 << 20
"""Bytes of a name at the top level."""

DEEPEST = 200
"""Brackets within brackets that an element may have."""

TRIES = 4
"""Likely borders that are tried before brackets are counted."""

CLOSING = {b"[": b"]", b"{": b"}"}
SPACE = re.compile(rb"[ \t\r\n]*")
BORDER = re.compile(rb"\}\s*(,)\s*\{\s*\Z")
# Possessive (`++`, `*+`): what may be given back is remembered for each byte, a hundred times the string.
TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{},:"]', re.DOTALL)
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
SCALAR = re.compile(rb"""[^\s\[\]{},:"]+""")
NO_BRACKETS = re.compile(rb"""[^\[\]{}"]*""")
TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")

FOREIGN = {
    b"\x1f\x8b": "is compressed by gzip: unpack it first",
    b"PK": "is a zip archive: give it as the annotations of the dataset, or unpack it",
    b"\xff\xfe": "is UTF-16: save it as UTF-8",
    b"\xfe\xff": "is UTF-16: save it as UTF-8",
    POINTER: ADVICE,
    b"<": "is XML or HTML, not JSON: of Pascal VOC give the folder of the files, of CVAT export COCO",
}
MANIFEST = re.compile(rb"^kind:\s*[\"']?TeacherFineTune\b", re.MULTILINE)


def manifest_given(source: str) -> DataError:
    """What is said of a TeacherFineTune where a COCO file is expected."""
    return DataError(
        f"{source} is a TeacherFineTune manifest, not a dataset: type `teacher inspect -f {source}`, or give the "
        "annotations that its spec.dataset names"
    )


class CocoReader:
    """One pass over a COCO file.

    Args:
        stream: Its bytes.
        source: What it is called in messages.
        block: Bytes that are read and decoded at once.
        raw: Give elements as they stand in the file, as :class:`msgspec.Raw`, not as records.
        others: Takes the values at the top level that are no lists of images or annotations, as they stand.

    Attributes:
        digest: sha256 of all bytes, once the pass is over.
        keys: The top-level keys and the first byte of their values, in file order.
    """

    def __init__(
        self,
        stream: BinaryIO,
        *,
        source: str,
        block: int = BLOCK,
        raw: bool = False,
        others: dict[str, bytes] | None = None,
    ) -> None:
        self.stream, self.source, self.block = stream, source, block
        self.raw, self.others = raw, others
        self._kept: list[bytes] | None = None
        self.keys: dict[str, str] = {}
        self._hash = hashlib.sha256()
        self._buffer, self._position, self._before = b"", 0, 0
        self._pool: ThreadPoolExecutor
        self._ahead: Future[bytes]

    @property
    def digest(self) -> str:
        """sha256 of what was read, in hex."""
        return self._hash.hexdigest()

    def blocks(self) -> Iterator[tuple[str, list[Any]]]:
        """Elements of ``images``, ``annotations`` and ``categories``, in file order, some thousands at a time.

        Raises:
            DataError: The file is no JSON, ends too soon, or holds something other than a COCO object.
        """
        with ThreadPoolExecutor(1) as self._pool:
            self._ahead = self._pool.submit(self._read)
            self._more()
            yield from self._top_level()

    def _top_level(self) -> Iterator[tuple[str, list[Any]]]:
        self._foreign()
        first = self._next()
        if first == b"[":
            raise DataError(
                f"{self.source} is a list, as detection results are, not a COCO dataset: give the annotations, an "
                "object with images, annotations and categories"
            )
        if first != b"{":
            if MANIFEST.search(self._buffer):
                raise manifest_given(self.source)
            raise DataError(f"{self.source} is not JSON: it begins with {self._peek(20)!r}. Export it as COCO JSON")
        self._position += 1
        while (mark := self._next()) != b"}":
            if self.keys:
                if mark != b",":
                    raise self._broken("a comma or the end of the object is expected") if mark else self._truncated("")
                self._position += 1
                mark = self._next()
            key = self._key(mark)
            opening = self._next() or b""
            self.keys[key] = opening.decode("latin-1")
            if key in RECORDS and opening == b"[" and (key != "categories" or self.others is None):
                self._position += 1
                for elements in self._elements(key):
                    yield key, elements
                    del elements  # or it would stay while the next are decoded
            elif self.others is None:
                self._skip()
            else:
                self.others[key] = self._value()
        self._position += 1
        if self._next() is not None:
            raise self._broken("something follows the end of the object")

    def _foreign(self) -> None:
        while len(self._buffer) < 4 and self._more():
            pass
        if not self._buffer:
            raise DataError(f"{self.source} is empty")
        for magic, sentence in FOREIGN.items():
            if self._buffer.startswith(magic):
                raise DataError(f"{self.source} {sentence}")
        if self._buffer.startswith(b"\xef\xbb\xbf"):
            self._position = 3

    def _more(self) -> bool:
        """Append to what is not used up yet, at least as much again; False at the end of the file."""
        parts: list[bytes | memoryview] = [memoryview(self._buffer)[self._position :]]
        wanted, found = max(1, len(parts[0])), 0
        while found < wanted and (data := self._ahead.result()):
            parts.append(data)
            found += len(data)
            self._ahead = self._pool.submit(self._read)
        if self._kept is not None:
            self._kept.append(self._buffer[: self._position])
        self._before += self._position
        self._buffer, self._position = b"".join(parts), 0
        return found > 0

    def _read(self) -> bytes:
        """The next block, read and hashed in a thread of its own while the one before is decoded."""
        data = self.stream.read(self.block)
        self._hash.update(data)
        return data

    def _next(self) -> bytes | None:
        """The next byte that is no space, not yet consumed; None at the end of the file."""
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
                raise self._broken("a name in quotes is expected")
            if len(self._buffer) - self._position > LONGEST_KEY or not self._more():
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

    def _value(self) -> bytes:
        """A value as it stands."""
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
        """Pass over a value that is not needed."""
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

    def _elements(self, section: str) -> Iterator[list[Any]]:
        """The elements of an array whose opening bracket is consumed."""
        if self._next() == b"]":
            self._position += 1
            return
        first_key = self._first_key()
        ended = False
        while not ended:
            while len(self._buffer) - self._position < self.block and self._more():
                pass
            elements, ended = self._guess(section, first_key) or self._count(section)
            if elements:
                yield elements
            del elements

    def _first_key(self) -> bytes:
        """What the first element begins with: a bracket followed by it is most likely another element."""
        while len(self._buffer) - self._position < self.block and self._more():
            pass
        match = STRING.search(self._buffer, self._position, self._position + 1000)
        return match.group() if match else b"{"

    def _guess(self, section: str, first_key: bytes) -> tuple[list[Any], bool] | None:
        """Decode what is before the last likely border, or before the end of the array; None if there is neither."""
        for border in self._likely_borders(first_key):
            ended = border == len(self._buffer)
            text = b"".join((b"[", memoryview(self._buffer)[self._position : border], b"" if ended else b"]"))
            try:
                elements = self._decode(section, text)
            except msgspec.DecodeError as error:
                trailing = TRAILING.search(str(error))
                if trailing is not None:  # the array ends before the border
                    text, ended = text[: int(trailing.group(1)) - 1], True
                    elements = self._decode(section, text)
                elif "truncated" in str(error):
                    continue
                else:
                    return None
            except (UnicodeDecodeError, RecursionError):
                return None
            self._position = self._position + len(text) - 1 if ended else border + 1
            return elements, ended
        return None

    def _decode(self, section: str, text: bytes) -> list[Any]:
        return raw_elements(text) if self.raw else decode(section, text)

    def _likely_borders(self, first_key: bytes) -> Iterator[int]:
        """Positions of commas, from the last on; then the end of the buffer, where the array may have ended."""
        for key in dict.fromkeys((first_key, b"{")):
            high = len(self._buffer)
            for _ in range(TRIES):
                high = self._buffer.rfind(key, self._position, high)
                if high < 0:
                    break
                start = max(self._position, high - 1000)
                match = BORDER.search(self._buffer[start : high + (key == b"{")])
                if match:
                    yield start + match.start(1)
        yield len(self._buffer)

    def _count(self, section: str) -> tuple[list[Any], bool]:
        """The same by counting brackets: as many whole elements as the buffer holds."""
        while True:
            stops, after, ended = self._borders()
            if stops:
                break
            if len(self._buffer) - self._position > LARGEST:
                raise self._broken(f"one element of {section!r} has more than {LARGEST >> 20} MB")
            if not self._more():
                raise self._truncated(section)
        start = self._position
        text = self._buffer[start : stops[-1]]
        try:
            plain = json.loads(b"[" + text + b"]")
        except UnicodeDecodeError as error:
            raise self._broken(f"{section!r} holds text that is not UTF-8", error.start - 1) from None
        except json.JSONDecodeError as error:
            at = len(error.doc[: error.pos].encode(errors="surrogatepass")) - 1
            raise self._broken(f"{section!r} holds what is no JSON ({error.msg})", at) from None
        except (ValueError, RecursionError) as error:
            raise self._broken(f"{section!r} holds what cannot be read ({error})") from None
        self._position = after
        if self.raw:
            begins = [start, *(stop + 1 for stop in stops[:-1])]
            return [
                msgspec.Raw(memoryview(text)[begin - start : stop - start].tobytes().strip())
                for begin, stop in zip(begins, stops, strict=True)
            ], ended
        return [lenient(section, element) for element in plain], ended

    def _borders(self) -> tuple[list[int], int, bool]:
        """Ends of the whole elements, where to go on, and whether the array ends there."""
        depth, after = 0, self._position
        stops: list[int] = []
        for match in TOKEN.finditer(self._buffer, self._position):
            token = match.group()
            if token in (b"[", b"{"):
                depth += 1
                if depth > DEEPEST:
                    raise self._broken(f"brackets are nested more than {DEEPEST} deep", match.start() - self._position)
            elif token in (b"]", b"}"):
                if depth == 0:
                    return [*stops, match.start()], match.end(), True
                depth -= 1
            elif token == b'"':
                break  # a string that is not all there yet
            elif token == b"," and depth == 0:
                stops.append(match.start())
                after = match.end()
        return stops, after, False

    def _broken(self, what: str, at: int = 0) -> DataError:
        place = self._before + self._position + at
        near = self._buffer[self._position + at : self._position + at + 40].decode("utf-8", errors="replace")
        return DataError(f"{self.source} is no valid JSON at byte {place:,}: {what}, near {near!r}. Export it again")

    def _truncated(self, section: str) -> DataError:
        where = f" in the middle of {section!r}" if section else ""
        size = self._before + len(self._buffer)
        return DataError(f"{self.source} ends{where} after {size:,} bytes: it is cut off. Export or upload it again")
