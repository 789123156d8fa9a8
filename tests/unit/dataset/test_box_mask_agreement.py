"""Box, mask, area and image size of an object must agree, in any encoding; what is right raises no alarm."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import Coco, changed, compressed, rectangle, small_coco, triangle, uncompressed, write
from loops import nonempty
from pycocotools import mask as coco_mask

from engine.dataset import DatasetInfo, inspect_dataset, load_dataset
from engine.dataset.checks import whole_file_checks
from engine.dataset.checks.problems import refused
from engine.errors import DataError
from engine.spec import OnProblem

WIDTH, HEIGHT = 320, 240
USUAL = {"few_images", "rare_class"}

Change = Callable[[Coco], object]


def outlined(count: int = 30, *, seed: int = 0) -> Coco:
    """Images of 320x240 pixels with three ellipses each, as polygons, their boxes and areas."""
    rng = np.random.default_rng(seed)
    annotations: list[Coco] = []
    for image in range(1, count + 1):
        for k in range(3):
            w, h = (int(v) for v in rng.integers(20, 90, 2))
            x, y = int(rng.integers(5, WIDTH - w - 5)), int(rng.integers(5, HEIGHT - h - 5))
            angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
            points = np.stack([x + w / 2 * (1 + np.cos(angle)), y + h / 2 * (1 + np.sin(angle))], axis=1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 1 + k % 2,
                    "bbox": [x, y, w, h],
                    "area": float(np.pi * w * h / 4),
                    "iscrowd": 0,
                    "segmentation": [points.round(2).ravel().tolist()],
                }
            )
    return {
        "images": [
            {"id": i, "file_name": f"{i:03d}.png", "width": WIDTH, "height": HEIGHT} for i in range(1, count + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def of_all(change: Callable[[Coco], object], *, every: int = 1) -> Change:
    return lambda coco: [change(annotation) for annotation in coco["annotations"][::every]]


def box(function: Callable[[float, float, float, float], list[float]]) -> Callable[[Coco], object]:
    return lambda a: a.update(bbox=function(*a["bbox"]))


def points(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Coco], object]:
    def change(a: Coco) -> None:
        a["segmentation"] = [function(np.reshape(p, (-1, 2))).ravel().tolist() for p in a["segmentation"]]

    return change


def mask_of(a: Coco) -> np.ndarray:
    rle = coco_mask.merge(coco_mask.frPyObjects(a["segmentation"], HEIGHT, WIDTH))
    return np.asarray(coco_mask.decode(rle), bool)


def drawn(encode: Callable[[np.ndarray], Coco]) -> Callable[[Coco], object]:
    return lambda a: a.update(segmentation=encode(mask_of(a)))


def by_rows(mask: np.ndarray) -> Coco:
    return {**uncompressed(mask.reshape(-1, order="C").reshape(mask.shape, order="F")), "size": list(mask.shape)}


def both(*changes: Callable[[Coco], object]) -> Callable[[Coco], object]:
    return lambda a: [change(a) for change in changes]


SHARES = np.array([WIDTH, HEIGHT])


def without_mask(change: Callable[[Coco], object]) -> Callable[[Coco], object]:
    return both(change, lambda a: a.update(segmentation=[]))


WRONG: dict[str, tuple[Callable[[Coco], object], str]] = {
    "corners": (box(lambda x, y, w, h: [x, y, x + w, y + h]), "corner_box"),
    "center": (box(lambda x, y, w, h: [x + w / 2, y + h / 2, w, h]), "center_box"),
    "shares": (box(lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]), "scaled_box"),
    "shares, center": (
        box(lambda x, y, w, h: [(x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT]),
        "scaled_box",
    ),
    "shares of the size alone": (box(lambda x, y, w, h: [x, y, w / WIDTH, h / HEIGHT]), "scaled_box"),
    "percents": (box(lambda x, y, w, h: [x / 3.2, y / 2.4, w / 3.2, h / 2.4]), "scaled_box"),
    "thousandths, corners, y first": (
        box(lambda x, y, w, h: [y / 0.24, x / 0.32, (y + h) / 0.24, (x + w) / 0.32]),
        "scaled_box",
    ),
    "y first": (box(lambda x, y, w, h: [y, x, h, w]), "swapped_axes"),
    "corners, y first": (box(lambda x, y, w, h: [y, x, y + h, x + w]), "swapped_axes"),
    "polygons as shares": (points(lambda p: p / SHARES), "scaled_mask"),
    "polygons as percents": (points(lambda p: p / SHARES * 100), "scaled_mask"),
    "polygons of a resized image": (points(lambda p: p * (640 / WIDTH, 640 / HEIGHT)), "scaled_mask"),
    "boxes of a resized image": (box(lambda *b: [v / 2.5 for v in b]), "scaled_mask"),
    "polygons with y first": (points(lambda p: p[:, ::-1]), "swapped_axes"),
    "polygons outside the image": (points(lambda p: p + 2000), "box_and_mask_differ"),
    "polygons of another object": (points(lambda p: (p + 150) % SHARES), "box_and_mask_differ"),
    "polygons without a pixel": (points(lambda p: p * (1e-3, 1) + (7.1, 0)), "mask_without_pixel"),
    "run lengths by rows": (drawn(by_rows), "row_mask"),
    "run lengths that are inverted": (drawn(lambda m: uncompressed(~m)), "inverted_mask"),
    "run lengths that are inverted, as text": (drawn(lambda m: compressed(~m)), "inverted_mask"),
    "boxes as shares, no masks": (
        without_mask(box(lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT])),
        "scaled_box",
    ),
}


def inspected(folder: Path, coco: Coco) -> DatasetInfo:
    path = write(folder / "annotations.json", coco)
    info = inspect_dataset(path)
    if not info.errors or all(p.code == "no_usable_annotations" for p in info.errors):
        assert sum(map(len, load_dataset(path).annotations)) == info.annotations
    else:
        with pytest.raises(DataError):
            load_dataset(path)
    return info


def found(info: DatasetInfo) -> dict[str, int]:
    return {p.code: p.count for p in info.problems if p.code not in USUAL}


def is_refused(info: DatasetInfo) -> str:
    return refused(info, on_problem=OnProblem.SKIP, max_skipped_percent=20)


@pytest.mark.parametrize("kind", WRONG)
def test_contradictory_box_and_mask_is_named_and_refused(kind: str, tmp_path: Path) -> None:
    change, code = WRONG[kind]
    info = inspected(tmp_path, changed(outlined(), of_all(change)))
    assert found(info)[code] >= 0.6 * info.annotations_read, found(info)
    assert code in is_refused(info)


@pytest.mark.parametrize("kind", WRONG)
def test_one_object_in_ten_that_contradicts_is_left_out_and_counted(kind: str, tmp_path: Path) -> None:
    change, _ = WRONG[kind]
    info = inspected(tmp_path, changed(outlined(), of_all(change, every=10)))
    counted = {code: n for code, n in found(info).items() if code not in ("partly_masked", "wrong_area")}
    assert 6 <= sum(counted.values()) <= 9, counted
    assert info.annotations == info.annotations_read - sum(counted.values())
    assert not is_refused(info)


def jittered(a: Coco) -> None:
    rng = np.random.default_rng(a["id"])
    a["bbox"] = (np.array(a["bbox"]) + rng.uniform(-1.5, 1.5, 4)).tolist()


def occluded(a: Coco) -> None:
    x, y, w, h = a["bbox"]
    a["segmentation"] = [[x, y + 0.6 * h, x + 0.5 * w, y + 0.6 * h, x + 0.5 * w, y + h, x, y + h, x, y + 0.8 * h]]
    a["area"] = 0.2 * w * h


def in_parts(a: Coco) -> None:
    x, y, w, h = a["bbox"]
    a["segmentation"] = triangle(x, y, w / 3, h / 3) + triangle(x + w, y + h, -w / 3, -h / 3)
    a["area"] = w * h / 9


def at_the_border(a: Coco) -> None:
    _, y, w, h = a["bbox"]
    a["segmentation"] = triangle(WIDTH - w / 2, y, w, h)
    a["bbox"] = [WIDTH - w / 2, y, w / 2, h]


def speckled(a: Coco) -> None:
    mask = mask_of(a)
    mask[3, 3] = mask[-4, -4] = True
    a["segmentation"] = compressed(mask)


def tiny(a: Coco) -> None:
    x, y = a["bbox"][:2]
    a.update(bbox=[x, y, 0.8, 1.7], area=0.9, segmentation=[])


RIGHT: dict[str, Callable[[Coco], object]] = {
    "as drawn": lambda a: None,
    "run lengths as text": drawn(compressed),
    "run lengths as lists": drawn(uncompressed),
    "boxes off by a pixel": jittered,
    "area of the box": lambda a: a.update(area=a["bbox"][2] * a["bbox"][3]),
    "no area": lambda a: a.pop("area"),
    "occluded objects with whole boxes": occluded,
    "masks in parts": in_parts,
    "masks that reach out of the image": at_the_border,
    "masks with specks": speckled,
    "upright rectangles": lambda a: a.update(segmentation=rectangle(*a["bbox"])),
    "boxes alone, area of the mask": lambda a: a.update(segmentation=[], area=0.3 * a["area"]),
    "whole image": lambda a: a.update(
        bbox=[0, 0, WIDTH, HEIGHT], segmentation=[], area=WIDTH * HEIGHT, image_id=a["id"]
    ),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_valid_boxes_and_masks_are_not_reported(kind: str, tmp_path: Path) -> None:
    info = inspected(tmp_path, changed(outlined(), of_all(RIGHT[kind])))
    problems = [p.code for p in info.problems if p.severity != "info" and p.code not in (*USUAL, "dangling_image")]
    assert problems == []


def test_few_objects_smaller_than_a_pixel_are_not_reported(tmp_path: Path) -> None:
    assert found(inspected(tmp_path, changed(outlined(), of_all(tiny, every=10)))) == {"partly_masked": 1}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (box(lambda x, y, w, h: [x, y, x + w, y + h]), "corner_boxes"),
        (box(lambda x, y, w, h: [x / 3.2, y / 2.4, w / 3.2, h / 2.4]), "scaled_boxes"),
        (box(lambda x, y, w, h: [x / 0.32, y / 0.24, w / 0.32, h / 0.24]), "scaled_boxes"),
        (box(lambda x, y, w, h: [x, y, w / WIDTH, h / HEIGHT]), "scaled_boxes"),
    ],
)
def test_areas_reveal_the_box_format(change: Callable[[Coco], object], code: str, tmp_path: Path) -> None:
    plain = both(lambda a: a.update(area=a["bbox"][2] * a["bbox"][3], segmentation=[]), change)
    assert [p.code for p in inspected(tmp_path, changed(outlined(), of_all(plain))).errors] == [code]


def test_image_limits_reveal_the_box_format(tmp_path: Path) -> None:
    def corners(a: Coco) -> None:
        x, y, w, h = a["bbox"]
        a.update(bbox=[x, y, x + w, y + h], segmentation=[])
        del a["area"]

    def center(a: Coco) -> None:
        x, y, w, h = a["bbox"]
        if a["id"] % 4 == 0:
            x = WIDTH - w
        a.update(bbox=[x + w / 2, y + h / 2, w, h], segmentation=[])
        del a["area"]

    assert is_refused(inspected(tmp_path, changed(outlined(), of_all(corners))))
    assert [p.code for p in inspected(tmp_path, changed(outlined(), of_all(center))).errors] == ["center_boxes"]


@pytest.mark.parametrize(
    ("value", "wrong"),
    [(1, True), (0, True), (-5, True), (0.01, True), (WIDTH * HEIGHT, True), (None, False), ("mask", False)],
)
@pytest.mark.parametrize("masks", [True, False])
def test_invalid_area_is_replaced_by_that_of_mask_or_box(value: Any, wrong: bool, masks: bool, tmp_path: Path) -> None:
    def change(a: Coco) -> None:
        own = a["area"]
        a["area"] = own if value == "mask" else value
        a["segmentation"] = a["segmentation"] if masks else []

    coco = changed(outlined(), of_all(change))
    info = inspected(tmp_path, coco)
    assert found(info) == ({"wrong_area": 90} if wrong else {})
    if value != "mask":
        dataset = load_dataset(tmp_path / "annotations.json")
        for a, read in zip(
            nonempty(coco["annotations"]), [one for objects in dataset.annotations for one in objects], strict=True
        ):
            expected = mask_of(a).sum() if masks else a["bbox"][2] * a["bbox"][3]
            assert read.area == pytest.approx(expected, rel=0.1 if wrong else 1e-9)


def test_many_masks_are_sampled_and_all_are_read_if_one_contradicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_file_checks, "READ_WHOLE", 2000)
    monkeypatch.setattr(whole_file_checks, "EVERY", 8)
    change = WRONG["corners"][0]
    info = inspected(tmp_path, changed(outlined(200), of_all(change, every=10)))
    assert 54 <= found(info)["corner_box"] <= 60
    assert not found(inspected(tmp_path, outlined(200)))


def test_order_of_sections_does_not_matter(tmp_path: Path) -> None:
    coco = changed(outlined(), of_all(WRONG["corners"][0], every=10))
    first = found(inspected(tmp_path / "a", coco))
    assert (
        found(inspected(tmp_path / "b", {key: coco[key] for key in ("annotations", "categories", "images")})) == first
    )


def test_the_advice_names_the_cause(tmp_path: Path) -> None:
    info = inspected(tmp_path, changed(small_coco(12, 3), of_all(box(lambda *b: [v / 64 for v in b]))))
    assert "multiply x and width by the image's width" in is_refused(info)
    assert len(json.dumps(is_refused(info))) < 1500


def mixed(read: Callable[[list[float]], list[float]]) -> Coco:
    """Boxes without masks with their areas; one in ten is written otherwise, next to its true area."""
    coco = outlined()
    for k, annotation in enumerate(coco["annotations"]):
        del annotation["segmentation"]
        x, y, w, h = annotation["bbox"]
        annotation["area"] = w * h
        if k % 10 == 0:
            annotation["bbox"] = read([x, y, w, h])
    return coco


@pytest.mark.parametrize(
    ("read", "code"),
    [
        (lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]], "corner_box"),
        (lambda b: [100 * v / side for v, side in zip(b, (WIDTH, HEIGHT) * 2, strict=True)], "scaled_box"),
    ],
)
def test_a_box_without_a_mask_must_have_its_area_where_all_others_have(
    read: Callable[[list[float]], list[float]], code: str, tmp_path: Path
) -> None:
    info = inspect_dataset(write(tmp_path / "annotations.json", mixed(read)))
    assert {p.code: p.count for p in info.problems if p.code not in USUAL} == {code: 9}
    assert info.annotations == 81 == sum(map(len, load_dataset(tmp_path / "annotations.json").annotations))


def test_areas_of_removed_masks_do_not_count_as_evidence(tmp_path: Path) -> None:
    coco = changed(outlined(), of_all(lambda a: a.pop("segmentation")))
    info = inspect_dataset(write(tmp_path / "annotations.json", coco))
    assert {p.code for p in info.problems} <= USUAL


def test_a_box_of_the_whole_image_around_a_small_mask_is_a_placeholder(tmp_path: Path) -> None:
    coco = changed(outlined(), lambda c: c["annotations"][4].update(bbox=[0, 0, WIDTH, HEIGHT]))
    info = inspect_dataset(write(tmp_path / "annotations.json", coco))
    assert {p.code: p.count for p in info.problems if p.code not in USUAL} == {"box_and_mask_differ": 1}


def test_a_sample_of_masks_finds_what_is_wrong_with_every_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_file_checks, "READ_WHOLE", 0)
    coco = outlined(200)
    for annotation in coco["annotations"][1::2]:
        annotation["segmentation"] = [[v / WIDTH for v in annotation["segmentation"][0]]]
    assert inspect_dataset(write(tmp_path / "annotations.json", coco)).annotations == 300


def test_points_are_not_masks(tmp_path: Path) -> None:
    def named(annotation: Coco) -> None:
        (points,) = annotation["segmentation"]
        annotation["segmentation"] = [[{"x": x, "y": y} for x, y in zip(points[::2], points[1::2], strict=True)]]

    info = inspect_dataset(write(tmp_path / "annotations.json", changed(outlined(), of_all(named))))
    assert {p.code: p.count for p in info.problems if p.code not in USUAL} == {"bad_mask": 90}
    assert not info.has_masks
