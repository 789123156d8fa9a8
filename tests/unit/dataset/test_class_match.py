from __future__ import annotations

from dataclasses import replace

import pytest

from engine.dataset.class_match import match_classes
from engine.dataset.types import CocoAnnotation, CocoDataset, CocoImage
from engine.errors import DataError


def dataset(*classes: str) -> CocoDataset:
    """One image with two objects of each class."""
    objects = [CocoAnnotation(k, k // 2, (1, 1, 5, 5), 25, False) for k in range(2 * len(classes))]
    return CocoDataset((CocoImage(1, "a.jpg", 9, 9),), (tuple(objects),), classes, tuple(range(len(classes))))


def test_classes_of_one_side_are_named_with_their_objects() -> None:
    match = match_classes(dataset("BOLT", "nut"), ("bolt", "nut", "washer"), side="the adapter")
    assert match.unknown == {"BOLT": 2}
    assert match.absent == ("bolt", "washer")
    left_out, absent = match.sentences()
    assert left_out.startswith("2 of 4 objects are of classes that the adapter does not have")
    assert "BOLT (2)" in left_out
    assert "bolt, washer" in absent


def test_equal_classes_are_not_reported() -> None:
    assert not list(match_classes(dataset("bolt", "nut"), ("nut", "bolt"), side="the adapter").sentences())


def test_no_class_in_common_is_refused_and_letter_case_is_named() -> None:
    with pytest.raises(DataError, match=r"no class has the same name \(BOLT and bolt differ in upper and lower case"):
        match_classes(dataset("BOLT"), ("bolt", "nut"), side="the adapter")


def test_data_without_objects_is_measured_as_before() -> None:
    empty = replace(dataset("cat"), annotations=((),))
    assert match_classes(empty, ("bolt",), side="the adapter").unknown == {}
