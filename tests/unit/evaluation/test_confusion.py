"""Every detection and every object is counted under the right kind of mistake."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.dataset.types import CocoAnnotation, CocoDataset
from engine.evaluation.confusion import KINDS, MATRIX_CLASSES, confusion
from engine.evaluation.ground_truth import GroundTruth
from engine.evaluation.matching import match_all
from engine.results.metrics import Confusion

from .conftest import an_object, seen

BOX, OTHER = (10, 10, 30, 30), (70, 10, 90, 30)
NEAR = (10, 20, 30, 40)  # IoU 1/3 with BOX
TOUCHING = (28, 28, 48, 48)  # IoU below 0.1 with BOX
AWAY = (40, 50, 60, 70)


def confused(
    dataset: CocoDataset, objects: tuple[CocoAnnotation, ...], *boxes, limit: float = 0.1, **more
) -> Confusion:
    more.setdefault("scores", [0.9 - 0.1 * i for i in range(len(boxes))])
    one = replace(dataset, images=dataset.images[:1], annotations=(objects,))
    matches = match_all(GroundTruth.of(one, "bbox"), [seen(*boxes, **more)])
    return confusion(matches, one.classes, dict.fromkeys(one.classes, limit), with_matrix=True)


@pytest.mark.parametrize(
    ("boxes", "classes", "expected"),
    [
        ((BOX,), [0], {"found": 1}),
        ((), [], {"missed": 1}),
        ((BOX, BOX), [0, 0], {"found": 1, "duplicates": 1}),
        ((BOX, AWAY), [0, 0], {"found": 1, "false": 1}),
        ((BOX, TOUCHING), [0, 0], {"found": 1, "false": 1}),
        ((BOX,), [1], {"wrong_class": 1}),  # covered, so not missed
        ((BOX, BOX), [0, 1], {"found": 1, "wrong_class": 1}),
        ((NEAR,), [0], {"badly_localised": 1}),
        ((NEAR,), [1], {"false": 1, "missed": 1}),  # neither place nor class
    ],
)
def test_each_kind(
    dataset: CocoDataset, boxes: tuple[tuple[int, ...], ...], classes: list[int], expected: dict[str, int]
) -> None:
    counted = confused(dataset, (an_object(BOX, 0),), *boxes, classes=classes)
    assert {kind: getattr(counted, kind) for kind in KINDS} == dict.fromkeys(KINDS, 0) | expected
    assert counted.objects == 1


def test_only_detections_from_the_threshold_on_count(dataset: CocoDataset) -> None:
    counted = confused(dataset, (an_object(BOX),), BOX, AWAY, scores=[0.4, 0.3], limit=0.35)
    assert (counted.found, counted.false) == (1, 0)
    assert confused(dataset, (an_object(BOX),), BOX, scores=[0.4], limit=0.5).missed == 1


def test_an_image_without_objects_has_false_detections_only(dataset: CocoDataset) -> None:
    counted = confused(dataset, (), BOX, AWAY)
    assert (counted.objects, counted.false, counted.missed) == (0, 2, 0)


def test_the_matrix_says_what_is_seen_for_what(dataset: CocoDataset) -> None:
    objects = (an_object(BOX, 0), an_object(OTHER, 0))
    counted = confused(dataset, objects, BOX, OTHER, AWAY, classes=[0, 1, 1])
    assert counted.matrix is not None
    assert counted.matrix.classes == ("bolt", "nut")
    # true bolt: one bolt, one nut; true nut: none; nothing: a nut
    assert counted.matrix.counts == ((1, 1, 0), (0, 0, 0), (0, 1, 0))


def test_what_is_missed_is_seen_as_nothing(dataset: CocoDataset) -> None:
    counted = confused(dataset, (an_object(BOX, 1),))
    assert counted.matrix is not None
    assert counted.matrix.counts[counted.matrix.classes.index("nut")][-1] == 1


def test_of_many_classes_the_matrix_has_the_most_frequent(dataset: CocoDataset) -> None:
    names = tuple(f"class {i}" for i in range(30))
    dataset = replace(dataset, classes=names, category_ids=tuple(range(30)))
    counted = confused(dataset, (an_object(BOX, 29), an_object(OTHER, 29), an_object(AWAY, 7)), BOX, classes=[29])
    assert counted.matrix is not None
    assert counted.matrix.classes[:2] == ("class 29", "class 7")
    assert len(counted.matrix.classes) == MATRIX_CLASSES
    assert counted.matrix.counts[0][0] == 1


def test_one_class_has_no_matrix(dataset: CocoDataset) -> None:
    alone = replace(dataset, classes=("bolt",), category_ids=(1,))
    assert confused(alone, (an_object(BOX),), BOX).matrix is None
