"""Crowds that are objects, rotated rectangles, duplicates, shifted category ids and images that are too full."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import Coco, changed, compressed, small_coco, triangle, write
from loops import nonempty

from engine.dataset import DatasetInfo, Severity, inspect_dataset, load_dataset
from engine.dataset.checks.problems import refused
from engine.errors import DataError
from engine.spec import Crowds, OnProblem


def inspected(folder: Path, coco: Coco, *, crowds: Crowds = Crowds.IGNORE) -> DatasetInfo:
    path = write(folder / "annotations.json", coco)
    info = inspect_dataset(path, crowds=crowds)
    if not info.errors:
        assert sum(map(len, load_dataset(path, crowds=crowds).annotations)) == info.annotations
    return info


def found(info: DatasetInfo) -> dict[str, int]:
    return {p.code: p.count for p in info.problems}


def blob(x: int, y: int, width: int, height: int) -> Coco:
    mask = np.zeros((48, 64), bool)
    mask[y : y + height, x : x + width] = True
    mask[y, x] = False
    return compressed(mask)


def with_crowds(*, every: int = 3, masks: Any = blob) -> Coco:
    """Single objects that are marked as crowds, one in so many."""
    coco = small_coco(12, 3, masks=True)
    for annotation in coco["annotations"][::every]:
        annotation.update(iscrowd=1, segmentation=masks(*annotation["bbox"]) if masks else [])
    return coco


@pytest.mark.parametrize("masks", [blob, triangle, None])
@pytest.mark.parametrize("every", [1, 3])
def test_single_objects_that_are_marked_as_crowds_are_named_with_the_setting(
    every: int, masks: Any, tmp_path: Path
) -> None:
    info = inspected(tmp_path, with_crowds(every=every, masks=masks))
    (problem,) = [p for p in info.problems if p.code == "objects_as_crowds"]
    assert problem.severity == "warning"
    assert problem.count == 36 // every
    assert "dataset.crowds: Objects" in problem.advice


def test_crowds_are_taken_as_objects_where_that_is_requested(tmp_path: Path) -> None:
    info = inspected(tmp_path, with_crowds(), crowds=Crowds.OBJECTS)
    assert (info.crowd_share, info.masks) == (0, 36)
    assert found(info) == {}
    dataset = load_dataset(tmp_path / "annotations.json", crowds=Crowds.OBJECTS)
    assert not any(one.iscrowd for objects in dataset.annotations for one in objects)


def test_true_crowds_are_not_reported(tmp_path: Path) -> None:
    crowd = np.zeros((48, 64), bool)
    for x in range(2, 60, 6):
        crowd[4:44:4, x : x + 4] = True
    coco = small_coco(60, 3, masks=True)
    for image in range(1, 60, 12):
        annotation = {"id": 900 + image, "image_id": image, "category_id": 1, "iscrowd": 1, "bbox": [2, 4, 58, 37]}
        coco["annotations"].append({**annotation, "area": int(crowd.sum()), "segmentation": compressed(crowd)})
    assert found(inspected(tmp_path, coco)) == {"crowds": 5}


@pytest.mark.parametrize(
    "where",
    [
        {"attributes": {"occluded": False, "rotation": 30.0}},
        {"attributes": {"rotation": "30"}},
        {"attributes": {"rotation": 390}},
        {"attributes": [{"name": "rotation", "value": 30}]},
    ],
)
def test_the_upright_box_around_a_rotated_rectangle_is_used(where: Coco, tmp_path: Path) -> None:
    coco = changed(small_coco(12, 3), lambda c: c["annotations"][1].update(where))
    info = inspected(tmp_path, coco)
    assert found(info) == {"rotated_box": 1}
    x1, y1, x2, y2 = load_dataset(tmp_path / "annotations.json").annotations[0][1].box_xyxy
    cosine, sine = math.cos(math.radians(30)), math.sin(math.radians(30))
    assert (x2 - x1, y2 - y1) == pytest.approx((12 * cosine + 21 * sine, 12 * sine + 21 * cosine))
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx((19 + 6, 5 + 10.5))


@pytest.mark.parametrize("attributes", [{"rotation": 0.0}, {"rotation": 360}, {"rotation": "left"}, {"rotation": None}])
def test_unrotated_boxes_are_not_reported(attributes: Coco, tmp_path: Path) -> None:
    coco = changed(small_coco(12, 3), lambda c: [a.update(attributes=attributes) for a in c["annotations"]])
    assert found(inspected(tmp_path, coco)) == {}


def test_a_mask_shows_what_is_rotated(tmp_path: Path) -> None:
    def rotate(c: Coco) -> None:
        c["annotations"][1].update(area=55, attributes={"rotation": 45}, segmentation=triangle(20, 6, 10, 11))
        c["annotations"][4].update(area=55, rotation=45, segmentation=triangle(20, 6, 10, 11))

    info = inspected(tmp_path, changed(small_coco(12, 3), rotate))
    assert found(info) == {"rotated_box": 2, "partly_masked": 1}
    for objects in nonempty(load_dataset(tmp_path / "annotations.json").annotations[:2]):
        assert objects[1].box_xyxy == (20, 6, 30, 17)


@pytest.mark.parametrize("name", ["rotation", "angle", "theta"])
def test_a_rotation_that_may_be_of_either_box_is_left_out_and_counted(name: str, tmp_path: Path) -> None:
    info = inspected(tmp_path, changed(small_coco(12, 3), lambda c: c["annotations"][1].update({name: 0.5})))
    assert found(info) == {"unclear_rotation": 1}
    assert info.annotations == 35


def copies(coco: Coco, *, moved: float = 0.0, other_class: bool = False, count: int = 36) -> None:
    for annotation in coco["annotations"][:count]:
        category = 4 - annotation["category_id"] if other_class else annotation["category_id"]
        box = [v + moved for v in annotation["bbox"]]
        coco["annotations"].append({**annotation, "id": 1000 + annotation["id"], "bbox": box, "category_id": category})


@pytest.mark.parametrize("moved", [0.0, 0.4])
def test_duplicate_objects_are_used_once(moved: float, tmp_path: Path) -> None:
    coco = changed(small_coco(12, 3), lambda c: copies(c, moved=moved))
    info = inspected(tmp_path, coco)
    assert (found(info), info.annotations) == ({"duplicate_object": 36}, 36)
    assert not refused(info, on_problem=OnProblem.SKIP, max_skipped_percent=20)
    assert "duplicate_object" in refused(info, on_problem=OnProblem.FAIL, max_skipped_percent=20)
    ids = [one.id for objects in load_dataset(tmp_path / "annotations.json").annotations for one in objects]
    assert sorted(map(int, ids)) == list(range(1, 37))


def test_one_copy_among_many_is_found(tmp_path: Path) -> None:
    info = inspected(tmp_path, changed(small_coco(60, 3), lambda c: copies(c, count=1)))
    assert found(info) == {"duplicate_object": 1}


def test_a_box_with_two_classes_is_reported(tmp_path: Path) -> None:
    info = inspected(tmp_path, changed(small_coco(12, 3), lambda c: copies(c, other_class=True, count=4)))
    assert (found(info), info.annotations) == ({"box_with_two_classes": 4}, 40)
    (problem,) = (p for p in info.problems if p.code == "box_with_two_classes")
    assert (problem.severity, problem.examples[0]) == (Severity.INFO, "annotation 37 of the file")  # COCO has such too


def test_boxes_that_are_nearly_the_same_are_reported(tmp_path: Path) -> None:
    info = inspected(tmp_path, changed(small_coco(12, 3), lambda c: copies(c, moved=1.0, count=9)))
    assert (found(info), info.annotations) == ({"near_duplicate": 9}, 45)


def numbered(count: int, shift: int) -> Coco:
    coco = small_coco(40, 3)
    coco["categories"] = [{"id": k, "name": f"class {k}"} for k in range(1, count + 1)]
    for k, annotation in enumerate(coco["annotations"]):
        annotation["category_id"] = 1 + k % count + shift
    return coco


@pytest.mark.parametrize("shift", [-1, 1])
def test_category_ids_that_are_off_by_one_are_recognised(shift: int, tmp_path: Path) -> None:
    info = inspected(tmp_path, numbered(10, shift))
    assert [p.code for p in info.errors] == ["shifted_category_ids"]
    with pytest.raises(DataError, match="shifted by one"):
        load_dataset(tmp_path / "annotations.json")


def test_single_missing_class_is_not_a_shift(tmp_path: Path) -> None:
    coco = changed(numbered(10, 0), lambda c: c["annotations"][0].update(category_id=0))
    assert found(inspected(tmp_path, coco)) == {"dangling_category": 1}


def test_full_images_are_reported_with_the_ceiling_of_ap(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "1.png", "width": 4000, "height": 4000}]
    boxes = [[90 * (k % 20), 90 * (k // 20), 50, 40 + k % 7] for k in range(350)]
    annotations = [{"id": k, "image_id": 1, "category_id": 1 + (k >= 200), "bbox": box} for k, box in enumerate(boxes)]
    categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "dot"}]
    info = inspected(tmp_path, {"images": images, "annotations": annotations, "categories": categories})
    (over_100,) = [p for p in info.problems if p.code == "over_100_objects"]
    assert over_100.examples[0] == f"AP can be at most {(51 / 101 + 67 / 101) / 2:.3f}"
    assert over_100.count == 2
    assert found(info)["over_300_objects"] == 1


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("shift", [-1, 1])
def test_image_ids_that_are_off_by_one_are_recognised(shift: int, text: bool, tmp_path: Path) -> None:
    coco = small_coco(12, 3)
    for annotation in coco["annotations"]:
        moved = annotation["image_id"] + shift
        annotation["image_id"] = str(moved) if text else moved
    info = inspected(tmp_path, coco)
    assert [p.code for p in info.errors] == ["shifted_image_ids"]
    with pytest.raises(DataError, match="shifted by one"):
        load_dataset(tmp_path / "annotations.json")


@pytest.mark.parametrize("gone", [0, 5, 11])
def test_unlisted_image_is_not_a_shift(gone: int, tmp_path: Path) -> None:
    coco = changed(small_coco(12, 3), lambda c: c["images"].pop(gone))
    assert found(inspected(tmp_path, coco)) == {"dangling_image": 3}


def headed(*, shift: int) -> Coco:
    """As Roboflow exports: class 0 is the heading of the others, and has no objects."""
    coco = numbered(3, shift)
    coco["categories"] = [{"id": 0, "name": "parts", "supercategory": "none"}] + [
        {**category, "supercategory": "parts"} for category in coco["categories"]
    ]
    return coco


def test_a_heading_that_has_objects_in_place_of_the_last_class_is_reported(tmp_path: Path) -> None:
    assert found(inspected(tmp_path, headed(shift=0))) == {"dummy_class": 1}
    assert found(inspected(tmp_path, headed(shift=-1))) == {"annotated_heading": 1, "unused_class": 1}


def spread(*, swapped: bool, reach: int = 0) -> Coco:
    """Boxes all over images of 200 x 100; ``reach`` of them are over the border below."""
    coco = small_coco(20, 3)
    for image in coco["images"]:
        image.update(width=200, height=100)
    for k, annotation in enumerate(coco["annotations"]):
        x, y = 6 * k % 170, 7 * k % 75
        box = [x, 80 if k < reach else y, 24, 16 + 10 * (k < reach)]
        annotation.update(bbox=[box[1], box[0], box[3], box[2]] if swapped else box, area=box[2] * box[3])
    return coco


def test_swapped_axes_show_in_all_boxes_together(tmp_path: Path) -> None:
    assert [p.code for p in inspected(tmp_path, spread(swapped=True)).errors] == ["swapped_boxes"]
    assert found(inspected(tmp_path, spread(swapped=False))) == {}
    assert found(inspected(tmp_path, spread(swapped=False, reach=6))) == {"box_clipped": 6}
