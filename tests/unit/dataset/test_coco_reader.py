"""Files come in any shape, and in blocks of any size."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tracemalloc
from typing import Any

import pytest
from coco_files import small_coco
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.dataset.coco_reader import CocoReader
from engine.errors import DataError

TEXT = st.text('ab"\\\\{}[],: \né漢\U0001f600\x00', max_size=8) | st.just('}, {"id"')
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.none() | st.booleans() | NUMBERS | TEXT
NESTED = PLAIN | st.lists(st.dictionaries(TEXT, PLAIN, min_size=1, max_size=2), max_size=3)
IDS = st.integers(-5, 2**40) | TEXT


def elements(**known: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Objects with some of the known keys, and some others."""
    others = {"extra": NESTED, "attributes": NESTED}
    return st.lists(st.fixed_dictionaries({}, optional=known | others), max_size=6)


FILES = st.fixed_dictionaries(
    {
        "images": elements(id=IDS, file_name=TEXT, width=st.integers(0, 10**5)),
        "annotations": elements(
            id=IDS,
            image_id=IDS,
            bbox=st.lists(st.floats(-99, 99), min_size=4, max_size=4),
            segmentation=st.lists(st.lists(st.floats(-9, 9), max_size=8), max_size=3)
            | st.fixed_dictionaries({"size": st.just([2, 2]), "counts": TEXT}),
        ),
        "categories": elements(id=IDS, name=TEXT),
    },
    optional={"info": NESTED, "images2": NESTED},
)


def shuffled(value: Any, rng: random.Random) -> Any:
    """The same with keys in another order."""
    if isinstance(value, list):
        return [shuffled(inner, rng) for inner in value]
    if not isinstance(value, dict):
        return value
    keys = list(value)
    rng.shuffle(keys)
    return {key: shuffled(value[key], rng) for key in keys}


def read(data: bytes, *, block: int = 4 << 20) -> tuple[dict[str, list[Any]], CocoReader]:
    reader = CocoReader(io.BytesIO(data), source="data.json", block=block)
    found: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    for section, elements in reader.blocks():
        found[section] += elements
    return found, reader


@settings(max_examples=150, deadline=None)
@given(
    FILES,
    st.integers(0, 99),
    st.integers(1, 300),
    st.sampled_from([None, 0, 1, "\t"]),
    st.booleans(),
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.sampled_from([b"", b" \r\n\n"]),
)
def test_reader_agrees_with_json_module(
    file: dict[str, Any], seed: int, block: int, indent: int | str | None, ascii_only: bool, mark: bytes, end: bytes
) -> None:
    file = shuffled(file, random.Random(seed))
    data = mark + json.dumps(file, indent=indent, ensure_ascii=ascii_only).encode() + end
    found, reader = read(data, block=block)
    assert reader.digest == hashlib.sha256(data).hexdigest()
    assert list(reader.keys) == list(file)
    for section, records in found.items():
        assert [r.id for r in records] == [e.get("id") for e in file[section]]
    for image, there in zip(found["images"], file["images"], strict=True):
        assert (image.file_name, image.width) == (there.get("file_name"), there.get("width"))
    for annotation, there in zip(found["annotations"], file["annotations"], strict=True):
        assert (annotation.image_id, annotation.bbox) == (there.get("image_id"), there.get("bbox"))
        assert json.loads(bytes(annotation.segmentation)) == there.get("segmentation")


def test_truncated_file_is_reported_as_cut_off() -> None:
    data = json.dumps(small_coco(2, 1), indent=1).encode()
    for length in range(len(data)):
        for block in (16, 4 << 20):
            with pytest.raises(DataError, match=r"data\.json"):
                read(data[:length], block=block)
    with pytest.raises(
        DataError, match=f"in the middle of 'annotations' after {len(data) - 200:,} bytes: it is cut off"
    ):
        read(data[:-200])


def test_damaged_file_is_read_or_refused_with_a_message() -> None:
    rng = random.Random(0)
    data = json.dumps(small_coco(3, 2, masks=True)).encode()
    refused = 0
    for _ in range(600):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(damaged))
            damaged[at : at + rng.randint(0, 3)] = bytes(rng.choice(b'[]{}",:0e-\x00\xff\\n') for _ in range(2))
        try:
            read(bytes(damaged), block=rng.choice((32, 4096)))
        except DataError:
            refused += 1
    assert refused > 200


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty"),
        (b" \n", "is not JSON"),
        (gzip.compress(b"{}", mtime=0), "gzip"),
        (b"PK\x03\x04....", "zip archive"),
        ('{"images": []}'.encode("utf-16"), "UTF-16"),
        (b"<annotation/>", "XML"),
        (b'[{"bbox": [1, 2, 3, 4], "score": 0.5}]', "detection results"),
        (b"id,label\n1,2\n", "is not JSON"),
        (b'{"images": [{"id": 1},, {"id": 2}]}', "byte 22"),
        (b'{"images": [{"id": 1} {"id": 2}]}', "byte 22"),
        (b'{"images": [{"id": 1},]}', "byte 22"),
        (b'{"images": [], "x": [1}}', "byte 22"),
        (b'{"images": []} {}', "text after the end"),
        (b'{"images": [] "x": 1}', "comma"),
        (b'{"images" []}', "colon"),
        (b"{1: 2}", "key in quotes"),
        (b'{"images": [{"file_name": "\xff\xfe"}]}', "not UTF-8"),
        (b'{"images": [{"a":' + b"[" * 100_000, "nested"),
        (b'{"annotations": [{"id": ' + b"9" * 5000 + b', "area": NaN}]}', "cannot be read"),
        (b'{"x": {"a": 1, "images": []}', "cut off"),
        (b'{"x": , "images": []}', "value is expected"),
    ],
)
def test_non_coco_file_is_refused_with_a_message(data: bytes, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence) as caught:
        read(data)
    assert str(caught.value).startswith("data.json ")


def test_error_position_is_in_bytes_from_the_start() -> None:
    data = '{"info": "日本語", "images": [{"id": 1, "file_name": "é"}, {"id": nonsense}]}'.encode()
    for block in (8, 4096):
        with pytest.raises(DataError, match=f"byte {data.index(b'nonsense')}: .* near 'nonsense"):
            read(data, block=block)


def test_nan_and_infinity_are_read() -> None:
    found, _ = read(b'{"annotations": [{"id": 1, "bbox": [1, NaN, Infinity, -2], "area": NaN}, {"id": 2}]}')
    first, second = found["annotations"]
    assert (first.id, second.id, first.bbox[0], first.bbox[3]) == (1, 2, 1, -2)
    assert str(first.bbox[1:3]) == "[nan, inf]"


def test_numbers_in_quotes_and_ids_that_are_floats_are_read() -> None:
    found, _ = read(
        b'{"annotations": [{"id": 1.0, "image_id": "7", "bbox": ["1", "2", "3.5", "4"], "area": "14",'
        b'"iscrowd": true}],'
        b'"images": [{"id": 7, "width": "640", "height": 480.0}, "no image"]}'
    )
    (one,) = found["annotations"]
    assert (one.id, one.image_id, one.bbox, one.area, bool(one.iscrowd)) == (1, "7", [1, 2, 3.5, 4], 14, True)
    assert [(image.id, image.width, image.height) for image in found["images"]] == [(7, 640, 480), (None, None, None)]


class Endless(io.RawIOBase):
    """A file that is made while it is read."""

    def __init__(self, elements: int) -> None:
        element = json.dumps({"id": 1, "segmentation": [[1.5] * 200], "tags": [{"a": 1}, {"b": 2}]}).encode()
        self.parts = iter([b'{"annotations": [', *[element + b","] * (elements - 1), element, b"]}"])
        self.rest = b""

    def read(self, size: int = -1) -> bytes:
        while len(self.rest) < size and (part := next(self.parts, b"")):
            self.rest += part
        data, self.rest = self.rest[:size], self.rest[size:]
        return data


def test_memory_does_not_grow_with_the_file() -> None:
    def peak(elements: int) -> tuple[int, int]:
        tracemalloc.start()
        try:
            reader = CocoReader(Endless(elements), source="data.json", block=1 << 16)
            count = sum(len(block) for _, block in reader.blocks())
            return count, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    (few, small), (many, large) = peak(500), peak(5000)
    assert (few, many) == (500, 5000)
    assert large < 1.2 * small
