"""Ids are found and told apart as in a dict, in a fraction of its memory."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.dataset.id_index import SMALL, UNKNOWN, Distinct, IdIndex, Repeats, as_numbers
from engine.dataset.images.table import ImageTable
from engine.dataset.types import CocoImage

IDS = st.integers(-3, 9) | st.integers(-(2**70), 2**70) | st.sampled_from(["", "1", "a", "\ud800"])
NUMBERS = st.integers(-3, 20) | st.integers(SMALL - 2, SMALL + 2) | st.integers(-(2**63), 2**63 - 1)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(IDS | st.none(), max_size=6), max_size=4), st.lists(IDS | st.none(), max_size=12))
def test_ids_map_to_their_values(blocks: list[list[int | str | None]], asked: list[int | str]) -> None:
    index, expected = IdIndex(), dict[int | str | None, int]()
    for block in blocks:
        new = [one for one in dict.fromkeys(block) if one not in expected]
        numbers = range(len(expected), len(expected) + len(new))
        index.add(new, numbers)
        expected |= dict(zip(new, numbers, strict=True))
    for ids in (asked, [*expected], [one for one in asked if isinstance(one, int)]):
        assert index.find(ids).tolist() == [expected.get(one, UNKNOWN) for one in ids]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(NUMBERS, max_size=12), max_size=5))
def test_numbers_that_occur_again_are_counted(blocks: list[list[int]]) -> None:
    repeats, distinct = Repeats(), Distinct()
    for block in blocks:
        repeats.add(np.array(block, np.int64))
        distinct.add(np.array(block, np.int64))
    repeats.finish()
    counts = Counter(number for block in blocks for number in block)
    again = sorted((counts - Counter(counts.keys())).elements())
    assert (repeats.count, repeats.examples.tolist()) == (len(again), again[:5])
    assert distinct.numbers().tolist() == sorted(counts)


@given(st.lists(IDS))
def test_each_id_gets_a_number_of_its_own_and_numbers_stay(ids: list[int | str]) -> None:
    numbers = as_numbers(ids)
    assert len(set(numbers)) == len(ids)
    assert set(numbers) >= {one for one in ids if isinstance(one, int)}


def test_ids_are_matched_with_their_other_spelling_only_where_they_are_not_there_themselves() -> None:
    index = IdIndex()
    index.add([1, "1", 2, "3", "x", 2**70], range(6))
    assert index.match([1, "1", "2", 3, "x", "02", "y", None]).tolist() == [0, 1, 2, 3, 4, UNKNOWN, UNKNOWN, UNKNOWN]
    assert index.find(["2", 3]).tolist() == [UNKNOWN, UNKNOWN]


@given(
    st.lists(st.tuples(IDS, st.text() | st.just("\ud800"), st.integers(0, 10**6), st.integers(0, 10**6)), max_size=9)
)
def test_a_table_gives_back_its_images(rows: list[tuple[int | str, str, int, int]]) -> None:
    images, table = [CocoImage(*row) for row in rows], ImageTable()
    table.extend(images[:2])
    table.extend(images[2:])
    assert list(table) == table[:] == images
    assert list(table.names) == [image.file_name for image in images]
