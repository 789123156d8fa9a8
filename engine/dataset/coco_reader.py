"""Read a COCO file as a stream, in constant memory.

An array is cut into blocks at a likely border between two elements, and each block is decoded in one call. A cut inside
an element is always detected: the text before it has unbalanced brackets and fails to decode. Only if all likely
borders are wrong, or the block contains NaN, brackets are counted, which is slower and always correct.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec

from engine.dataset.coco_records import RECORDS, decode, lenient, raw_elements
from engine.dataset.json_stream import DEEPEST, LARGEST, STRING, TOKEN, JsonStream
from engine.errors import DataError
from engine.storage.git_lfs import ADVICE, POINTER

BLOCK = 4 << 20
"""Bytes that are read and decoded at a time."""

TRIES = 4
"""Number of likely borders to try before brackets are counted."""

BORDER = re.compile(rb"\}\s*(,)\s*\{\s*\Z")
TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")

FOREIGN = {
    b"\x1f\x8b": "is compressed by gzip: unpack it first",
    b"PK": "is a zip archive: give it as the annotations of the dataset, or unpack it",
    b"\xff\xfe": "is UTF-16: save it as UTF-8",
    b"\xfe\xff": "is UTF-16: save it as UTF-8",
    POINTER: ADVICE,
    b"<": "is XML or HTML, not JSON: for Pascal VOC give the folder of the files; in CVAT export as COCO",
}
MANIFEST = re.compile(rb"^kind:\s*[\"']?TeacherFineTune\b", re.MULTILINE)


def manifest_given(source: str) -> DataError:
    """Return the error for a TeacherFineTune manifest given instead of a COCO file."""
    return DataError(
        f"{source} is a TeacherFineTune manifest, not a dataset: type `teacher inspect -f {source}`, or give the "
        "annotations that its spec.dataset names"
    )


class CocoReader(JsonStream):
    """One pass over a COCO file.

    Args:
        stream: The file's bytes.
        source: Name of the file in messages.
        block: Bytes that are read and decoded at a time.
        raw: Return elements as raw JSON (:class:`msgspec.Raw`) instead of records.
        others: Receives the raw top-level values other than the lists of images and annotations.

    Attributes:
        digest: sha256 of all bytes, after the pass.
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
        super().__init__(stream, source=source, block=block)
        self.raw, self.others = raw, others
        self.keys: dict[str, str] = {}

    def blocks(self) -> Iterator[tuple[str, list[Any]]]:
        """Yield elements of ``images``, ``annotations`` and ``categories``, in file order, some thousands at a time.

        Raises:
            DataError: The file is not JSON, is truncated, or is not a COCO object.
        """
        with self._reading_ahead():
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
                    del elements  # free the memory before the next block is decoded
            elif self.others is None:
                self._skip()
            else:
                self.others[key] = self._value()
        self._position += 1
        if self._next() is not None:
            raise self._broken("there is text after the end of the object")

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

    def _elements(self, section: str) -> Iterator[list[Any]]:
        """Yield the elements of an array whose opening bracket was consumed."""
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
        """Return the first key of the first element: a bracket before the same key most likely starts an element."""
        while len(self._buffer) - self._position < self.block and self._more():
            pass
        match = STRING.search(self._buffer, self._position, self._position + 1000)
        return match.group() if match else b"{"

    def _guess(self, section: str, first_key: bytes) -> tuple[list[Any], bool] | None:
        """Decode the text before the last likely border, or before the end of the array; None if neither is found."""
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
        """Yield positions of commas, the last one first; then the end of the buffer, where the array may have ended."""
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
        """Decode all complete elements in the buffer, found by counting brackets."""
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
            raise self._broken(f"{section!r} contains text that is not UTF-8", error.start - 1) from None
        except json.JSONDecodeError as error:
            at = len(error.doc[: error.pos].encode(errors="surrogatepass")) - 1
            raise self._broken(f"{section!r} contains invalid JSON ({error.msg})", at) from None
        except (ValueError, RecursionError) as error:
            raise self._broken(f"{section!r} cannot be read ({error})") from None
        self._position = after
        if self.raw:
            begins = [start, *(stop + 1 for stop in stops[:-1])]
            return [
                msgspec.Raw(memoryview(text)[begin - start : stop - start].tobytes().strip())
                for begin, stop in zip(begins, stops, strict=True)
            ], ended
        return [lenient(section, element) for element in plain], ended

    def _borders(self) -> tuple[list[int], int, bool]:
        """Return the ends of the complete elements, where to continue, and whether the array ends there."""
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
                break  # an incomplete string
            elif token == b"," and depth == 0:
                stops.append(match.start())
                after = match.end()
        return stops, after, False
