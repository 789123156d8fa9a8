"""What is in a dataset, what is wrong with it, and that loading agrees."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import Coco, changed, compressed, rectangle, small_coco, triangle, uncompressed, write, write_images
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loops import nonempty

from engine.dataset import DatasetInfo, Severity, inspect_dataset, inspect_request, load_dataset
from engine.dataset.checks.problem_catalogue import CATALOGUE
from engine.dataset.checks.problems import ProblemLog
from engine.dataset.dataset_summary import short_info
from engine.errors import DataError
from engine.spec import DatasetSpec
from engine.storage import Storage

NAMES = [f"{i:03d}.png" for i in range(1, 13)]


def inspected(folder: Path, coco: object) -> DatasetInfo:
    """The info of a file; loading it must give as many objects."""
    path = write(folder / "annotations.json", coco)
    info = inspect_dataset(path)
    dataset = load_dataset(path)
    assert len(dataset) == info.images
    assert sum(len(objects) for objects in dataset.annotations) == info.annotations
    assert list(dataset.classes) == [c.name for c in info.classes]
    counts = [
        sum(a.class_index == k for objects in dataset.annotations for a in objects) for k in range(len(info.classes))
    ]
    assert counts == [c.annotations for c in info.classes]
    if info.has_masks:
        having = sum(a.segmentation is not None and not a.iscrowd for objects in dataset.annotations for a in objects)
        assert having == info.masks
    for image, objects in zip(dataset.images, dataset.annotations, strict=True):
        for annotation in objects:
            left, top, right, bottom = annotation.box_xyxy
            assert left < right
            assert top < bottom
            assert annotation.area > 0
            if image.width:
                assert min(left, top) >= 0
                assert right <= image.width
                assert bottom <= image.height
    return info


def codes(info: DatasetInfo) -> dict[str, int]:
    return {problem.code: problem.count for problem in info.problems}


def test_valid_dataset_is_counted_without_problems(tmp_path: Path) -> None:
    info = inspected(tmp_path, small_coco(12, 3))
    assert info.problems == ()
    assert (info.images, info.annotations, info.annotations_read, info.splits) == (12, 36, 36, {"all": 12})
    assert (info.has_boxes, info.has_masks, info.masks, info.boxes_derived, info.crowd_share) == (True, False, 0, 0, 0)
    assert [(c.id, c.name, c.annotations, c.images) for c in info.classes] == [(1, "cat", 18, 12), (3, "dog", 18, 12)]
    assert info.digest == hashlib.sha256((tmp_path / "annotations.json").read_bytes()).hexdigest()
    assert info.sizes is not None
    assert (info.sizes.small, info.sizes.medium, info.sizes.large) == (36, 0, 0)
    assert info.sizes.relative_side == pytest.approx([(12 * h / 64 / 48) ** 0.5 for h in (20, 21, 22)], rel=0.02)
    assert info.sizes.elongation == pytest.approx(21 / 12, rel=0.02)
    assert info.image_sizes is not None
    assert info.image_sizes.median_size == info.image_sizes.largest_size == (64, 48)
    assert (info.image_sizes.objects_mean, info.image_sizes.objects_max) == (3, 3)


def test_order_of_keys_and_sections_does_not_matter(tmp_path: Path) -> None:
    coco = small_coco(12, 3, masks=True)
    info = inspected(tmp_path / "a", coco)
    for keys in (["annotations", "categories", "images"], ["images", "annotations", "categories"]):
        other = inspected(tmp_path / "b", {key: [dict(reversed(e.items())) for e in coco[key]] for key in keys})
        where = {"digest": "", "source": "", "files": {}}
        assert other.model_copy(update=where) == info.model_copy(update=where)


def each(section: str, change: Callable[[Coco], object], *, first: int = 1) -> Callable[[Coco], object]:
    """Change the first elements of a section."""
    return lambda coco: [change(element) for element in coco[section][:first]]


def setting(section: str, first: int = 1, /, **values: Any) -> Callable[[Coco], object]:
    return each(section, lambda element: element.update(values), first=first)


WRONG: dict[str, tuple[Callable[[Coco], object], int, int]] = {
    # code: (what makes it so, how often it occurs, how many of the 36 annotations stay usable)
    "dangling_image": (setting("annotations", 2, image_id=99), 2, 34),
    "dangling_category": (setting("annotations", 3, category_id=99), 3, 33),
    "missing_box": (each("annotations", lambda a: a.pop("bbox")), 1, 35),
    "bad_numbers": (setting("annotations", 2, bbox=[0, 0, float("nan"), 5]), 2, 34),
    "empty_box": (setting("annotations", 1, bbox=[5, 5, 0, 5]), 1, 35),
    "box_outside": (setting("annotations", 1, bbox=[70, 5, 10, 5]), 1, 35),
    "box_clipped": (each("annotations", lambda a: a.update(bbox=[50, a["bbox"][0] / 2, 20, 5]), first=4), 4, 36),
    "bad_mask": (setting("annotations", 2, segmentation=[[1, 2, 3, 4]]), 2, 36),
    "crowds": (setting("annotations", 2, iscrowd=1), 2, 36),
    "duplicate_image_id": (lambda c: c["images"].append({**c["images"][0], "file_name": "x.png"}), 1, 36),
    "duplicate_annotation_id": (setting("annotations", 3, id=1), 2, 36),
    "duplicate_category_id": (lambda c: c["categories"].append({"id": 1, "name": "cow"}), 1, 36),
    "duplicate_class_name": (setting("categories", 2, name="cat"), 1, 36),
    "unnamed_class": (setting("categories", 1, name=" "), 1, 36),
    "untidy_class_name": (setting("categories", 1, name=" cat "), 1, 36),
    "text_ids": (setting("images", 1, id="one"), 1, 33),
    "no_image_id": (each("images", lambda image: image.pop("id")), 1, 33),
    "no_file_name": (each("images", lambda image: image.pop("file_name")), 1, 33),
    "unsafe_file_name": (setting("images", 1, file_name="../../etc/passwd"), 1, 33),
    "duplicate_file_name": (setting("images", 2, file_name="same.png"), 1, 36),
    "missing_size": (each("images", lambda image: image.pop("width")), 1, 36),
    "empty_image": (lambda c: c["annotations"].__delitem__(slice(0, 3)), 1, 33),
    "unused_class": (lambda c: c["categories"].append({"id": 7, "name": "cow"}), 1, 36),
    "rare_class": (
        lambda c: (c["categories"].append({"id": 7, "name": "cow"}), c["annotations"][0].update(category_id=7)),
        1,
        36,
    ),
    "few_images": (lambda c: c["annotations"].__delitem__(slice(0, 9)), 1, 27),
    "dummy_class": (
        lambda c: (
            c["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"}),
            c["categories"][1].update(supercategory="pets"),
        ),
        1,
        36,
    ),
}


@pytest.mark.parametrize("code", WRONG)
def test_problems_are_counted_and_other_objects_used(code: str, tmp_path: Path) -> None:
    change, count, usable = WRONG[code]
    info = inspected(tmp_path, changed(small_coco(12, 3), change))
    assert codes(info)[code] == count
    assert info.annotations == usable
    assert not info.errors
    (problem,) = [p for p in info.problems if p.code == code]
    assert problem.message.endswith(".")
    assert problem.advice.endswith(".")
    assert len(problem.examples) <= 5


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("no_images", lambda c: c["images"].clear()),
        ("no_annotations", lambda c: c["annotations"].clear()),
        ("no_categories", lambda c: c["categories"].clear()),
        ("no_categories", lambda c: c.pop("categories")),
        ("no_usable_annotations", setting("annotations", 36, bbox=None)),
        ("no_usable_annotations", setting("annotations", 36, iscrowd=1)),
    ],
)
def test_untrainable_dataset_is_an_error(code: str, change: Callable[[Coco], object], tmp_path: Path) -> None:
    info = inspected(tmp_path, changed(small_coco(12, 3), change))
    assert code in [problem.code for problem in info.errors]
    assert not info.has_masks


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ({"images": [], "annotations": {"a": 1}, "categories": []}, "lists named images and annotations"),
        ({"images": [{"id": 1}]}, "lists named images and annotations"),
        ({"version": "5", "shapes": [], "imagePath": "a.png", "imageData": "x" * 99}, "LabelMe"),
        (changed(small_coco(), setting("annotations", 36, caption="a cat")), "captions"),
        (changed(small_coco(), setting("annotations", 36, segments_info=[{"id": 1}])), "panoptic"),
        ([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], "detection results"),
    ],
)
def test_other_file_formats_are_named(file: object, sentence: str, tmp_path: Path) -> None:
    path = write(tmp_path / "annotations.json", file)
    for read in (inspect_dataset, load_dataset):
        with pytest.raises(DataError, match=sentence):
            read(path)


MASK = np.zeros((48, 64), bool)
MASK[5:25, 4:16] = True
MASK[24, 15] = False


@pytest.mark.parametrize("segmentation", [triangle(4, 5, 12, 20), compressed(MASK), uncompressed(MASK)])
@pytest.mark.parametrize("box", [None, [], [0, 0, 0, 0], [1, 2, -3, 4], [1, 2]])
def test_missing_box_is_derived_from_mask(segmentation: object, box: object, tmp_path: Path) -> None:
    coco = changed(small_coco(36, 1), setting("annotations", 36, segmentation=segmentation, bbox=box))
    info = inspected(tmp_path, coco)
    assert (info.annotations, info.boxes_derived, info.masks, info.has_boxes, info.has_masks) == (
        36,
        36,
        36,
        True,
        True,
    )
    assert codes(info) == ({"box_repaired": 36} if box else {})
    dataset = load_dataset(tmp_path / "annotations.json")
    assert dataset.annotations[0][0].box_xyxy == (4, 5, 16, 25)


def test_polygons_that_repeat_boxes_do_not_count_as_masks(tmp_path: Path) -> None:
    def boxes_as_polygons(coco: Coco) -> None:
        for annotation in coco["annotations"]:
            annotation["segmentation"] = rectangle(*annotation["bbox"])

    coco = changed(small_coco(30, 3), boxes_as_polygons)
    info = inspected(tmp_path, coco)
    assert (info.has_masks, info.masks) == (False, 0)
    assert codes(info) == {"box_polygons": 90}
    assert all(
        a.segmentation is None
        for objects in nonempty(load_dataset(tmp_path / "annotations.json").annotations)
        for a in objects
    )

    outlined = changed(coco, each("annotations", lambda a: a.update(segmentation=triangle(*a["bbox"])), first=30))
    info = inspected(tmp_path, outlined)
    assert (info.has_masks, info.masks) == (True, 90)


def test_few_masks_do_not_count(tmp_path: Path) -> None:
    for count, has_masks in ((4, False), (5, True)):
        change = setting("annotations", count, segmentation=triangle(4, 5, 12, 20))
        info = inspected(tmp_path, changed(small_coco(100, 1), change))
        assert (info.has_masks, info.masks) == (has_masks, count)
        assert codes(info) == {"partly_masked": 1}


def test_masks_of_crowds_do_not_count(tmp_path: Path) -> None:
    change = setting("annotations", 10, segmentation=compressed(MASK), bbox=[4, 5, 12, 20], iscrowd=1)
    info = inspected(tmp_path, changed(small_coco(12, 3), change))
    assert (info.has_masks, info.masks, info.crowd_share) == (False, 0, round(10 / 36, 4))


def test_missing_images_are_left_out_and_reported(tmp_path: Path) -> None:
    write_images(tmp_path / "images", [*NAMES[1:], "more.jpg"])
    info = inspected(tmp_path, small_coco(12, 3))
    assert codes(info) == {"missing_image": 1, "image_left_out": 3, "unlisted_image": 1}
    assert (info.images, info.images_read, info.annotations, info.annotations_read) == (11, 12, 33, 36)


def test_image_folder_without_images_is_an_error_if_given_or_required(tmp_path: Path) -> None:
    path = write(tmp_path / "data" / "annotations.json", small_coco(12, 3))
    other = write_images(tmp_path / "other", ["x.png"])
    assert not inspect_dataset(path).errors
    assert [p.code for p in inspect_dataset(path, other).errors] == ["no_images_found", "no_usable_annotations"]
    request = DatasetSpec(annotations=str(path))
    info = inspect_request(request, storage=Storage())
    assert "no_images_found" in codes(info)


def test_splits_are_summed_and_classes_merged_by_name(tmp_path: Path) -> None:
    write(tmp_path / "train.json", small_coco(12, 3))
    names = [{"id": 1, "name": "dog"}, {"id": 3, "name": "cat"}]
    write(tmp_path / "val.json", small_coco(4, 2) | {"categories": names})
    images = write_images(tmp_path / "images", NAMES)
    spec = {"annotations": str(tmp_path / "train.json")}, {"annotations": str(tmp_path / "val.json")}
    request = DatasetSpec.model_validate({"train": spec[0], "val": spec[1], "images": str(images)})
    info = inspect_request(request, storage=Storage())
    assert info.splits == {"train": 12, "val": 4}
    assert (info.images, info.annotations) == (16, 44)
    assert {c.name: c.annotations for c in info.classes} == {"cat": 18 + 4, "dog": 18 + 4}
    digests = [hashlib.sha256((tmp_path / f"{split}.json").read_bytes()).hexdigest() for split in ("train", "val")]
    assert info.digest == hashlib.sha256("".join(digests).encode()).hexdigest()


ANY = st.none() | st.integers(-5, 70) | st.floats() | st.sampled_from(["1", "cat", "001.png", ""]) | st.just([1, 2])
SECTIONS = ["images", "annotations", "categories"]
BOXES = st.lists(st.floats(-100, 100) | st.integers(-10, 80), min_size=3, max_size=5)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["images", "annotations", "categories"]), st.integers(0, 7), st.integers(0, 9), ANY)
    ),
    st.lists(st.tuples(st.integers(0, 7), BOXES)),
)
def test_loading_agrees_with_inspection_for_any_values(
    tmp_path: Path, values: list[tuple[str, int, int, object]], boxes: list[tuple[int, list[float]]]
) -> None:
    coco = small_coco(4, 2, masks=True)
    for section, element, key, value in values:
        target = coco[section][element % len(coco[section])]
        target[list(target)[key % len(target)]] = value
    for element, box in boxes:
        coco["annotations"][element % 8]["bbox"] = box
    info = inspected(tmp_path, coco)
    assert info.annotations_read == 8
    assert DatasetInfo.model_validate_json(info.model_dump_json()) == info


def test_summary_fits_size_limit(tmp_path: Path) -> None:
    def many_classes(coco: Coco) -> None:
        coco["categories"] += [{"id": k, "name": f"кошка number {k}"} for k in range(10, 500)]
        coco["annotations"][0]["category_id"] = 77

    info = inspected(tmp_path, changed(small_coco(12, 3), many_classes))
    assert short_info(info, 10**6).model_dump_json() == info.model_dump_json()
    for limit in (60_000, 4096, 1500):
        text = short_info(info, limit).model_dump_json()
        assert len(text.encode()) <= limit
        small = DatasetInfo.model_validate_json(text)
        assert (small.digest, small.annotations) == (info.digest, info.annotations)
        assert len(small.problems) + small.problems_left_out == len(info.problems)
        assert len(small.classes) + small.classes_left_out == len(info.classes)
    assert {"cat", "dog"} <= {
        c.name for c in DatasetInfo.model_validate_json(short_info(info, 1500).model_dump_json()).classes
    }


def test_summary_of_all_problems_fits_size_limit(tmp_path: Path) -> None:
    log = ProblemLog()
    for code in CATALOGUE:
        log.add(code, ["é" * 100] * 5, count=10**9)
    info = inspected(tmp_path, small_coco()).model_copy(update={"problems": log.problems()})
    small = DatasetInfo.model_validate_json(short_info(info, 4096).model_dump_json())
    assert len(small.model_dump_json().encode()) <= 4096
    assert small.errors
    assert {p.severity for p in info.problems} == set(Severity)


def test_a_label_in_json_needs_no_ascii(tmp_path: Path) -> None:
    coco = changed(small_coco(), setting("categories", 1, name="кошка"))
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(coco, ensure_ascii=False), encoding="utf-8-sig")
    assert inspect_dataset(path).classes[0].name == "кошка"
