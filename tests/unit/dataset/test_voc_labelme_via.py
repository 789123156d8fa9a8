"""Labels of Pascal VOC, LabelMe and VIA that are wrong are counted with their place; what is only odd is read."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import small_coco, write
from other_formats import labelme, labelme_file, labelme_mask, text, via, via_metadata, voc

from engine.dataset import DatasetInfo, decode_masks, inspect_dataset, load_dataset
from engine.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_CACHE", str(tmp_path_factory.mktemp("cache")))


def problems(info: DatasetInfo) -> dict[str, tuple[int, tuple[str, ...]]]:
    usual = ("few_images", "rare_class", "unused_class")
    return {one.code: (one.count, one.examples) for one in info.problems if one.code not in usual}


def test_voc_counts_pixels_from_one_only_in_files_of_the_challenge(tmp_path: Path) -> None:
    coco = small_coco(2, 1)
    for one_based in (False, True):
        folder = voc(tmp_path / str(one_based), coco, one_based=one_based)
        assert load_dataset(folder).annotations[0][0].box_xyxy == (4.0, 5.0, 16.0, 25.0)


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {chr(98 + k)} "{f"&{chr(97 + k)};" * 10}">' for k in range(9))
    + "]><annotation><filename>&j;</filename></annotation>"
)


@pytest.mark.parametrize(
    ("change", "code", "example"),
    [
        (lambda _: BOMB, "unreadable_labels", "Annotations/001.xml declares a document type"),
        (lambda t: t[:-20], "unreadable_labels", "Annotations/001.xml is not well-formed XML: unclosed token: line 1"),
        (lambda _: "<a>" * 60, "unreadable_labels", "Annotations/001.xml has elements nested more than 50 deep"),
        (
            lambda t: t.replace("<xmin>4<", "<xmin>nan<"),
            "bad_numbers",
            "Annotations/001.xml object 1: 'nan' is not a number",
        ),
        (
            lambda t: t.replace("<xmin>4<", "<xmin>4,5<"),
            "bad_numbers",
            "Annotations/001.xml object 1: '4,5' is not a number",
        ),
        (lambda t: t.replace("<name>cat<", "<name> <"), "dangling_category", "Annotations/001.xml object 1"),
        (lambda t: t.replace("bndbox", "robndbox"), "missing_box", "Annotations/001.xml object 1 (a turned box"),
        (lambda t: t.replace("<xmax>16<", "<xmax>2<"), "empty_box", "Annotations/001.xml object 1"),
        (lambda t: t.replace("001.png", "002.png"), "unreadable_labels", "Annotations/001.xml says filename '002.png'"),
        (lambda t: t.replace("001.png", "900.png"), None, ""),
        (lambda t: t.replace("001.png", "C:\\data\\001.png"), None, ""),
        (lambda t: "\ufeff" + t.replace("><", ">\r\n<"), None, ""),
        (lambda t: t.replace("<width>64<", "<width>0<"), None, ""),
    ],
)
def test_a_bad_voc_file_is_counted_with_its_place(
    change: Callable[[str], str], code: str | None, example: str, tmp_path: Path
) -> None:
    folder = voc(tmp_path, small_coco(3, 1))
    edit(folder / "Annotations" / "001.xml", change)
    found = problems(inspect_dataset(folder))
    if code is None:
        assert not found
    else:
        assert found[code][0] == 1
        assert found[code][1][0].startswith(example)


def test_voc_image_sets_and_folders_give_the_splits(tmp_path: Path) -> None:
    folder = voc(tmp_path, small_coco(4, 1))
    sets = folder / "ImageSets" / "Main"
    (sets / "default.txt").unlink()
    text(sets / "train.txt", "# a comment\n001\n002\n")
    text(sets / "val.txt", "003\r\n")
    text(sets / "cat_train.txt", "001 1\n002 -1\n")
    assert inspect_dataset(folder).splits == {"train": 2, "val": 1}
    text(sets / "trainval.txt", "001\n002\n003\n")
    text(sets / "test.txt", "004\n901\n")
    assert inspect_dataset(folder).splits == {"train": 2, "val": 1, "test": 1}
    (sets / "val.txt").unlink()
    with pytest.raises(DataError, match=r"divided into no split .*, test .*; training needs a train and a val split"):
        inspect_dataset(folder)
    (sets / "test.txt").unlink()
    assert inspect_dataset(folder).splits == {"all": 3}
    text(sets / "val.txt", "003\n900\n")
    with pytest.raises(DataError, match="lists 1 images without an XML file, such as '900'"):
        inspect_dataset(folder)


def shape(**more: Any) -> dict[str, Any]:
    return {"label": "cat", "points": [[4, 5], [16, 5], [10, 25]], "shape_type": "polygon"} | more


def small_labelme(folder: Path, *shapes: dict[str, Any], **more: Any) -> DatasetInfo:
    coco = small_coco(3, 1)
    labelme(folder, coco)
    write(folder / "001.json", labelme_file(coco, coco["images"][0], shapes=list(shapes), **more))
    return inspect_dataset(folder)


def test_labelme_file_that_names_another_image_is_left_out(tmp_path: Path) -> None:
    info = small_labelme(tmp_path, shape(), imagePath="..\\old\\002.png")
    (problem,) = (p for p in info.problems if p.code == "unreadable_labels")
    assert (info.images, info.images_read, problem.count) == (2, 3, 1)
    assert "001.json has imagePath" in problem.examples[0]


def test_labelme_shapes_become_boxes_polygons_and_masks(tmp_path: Path) -> None:
    mask = np.zeros((48, 64), np.bool_)
    mask[10:20, 30:45] = mask[25:28, 40:60] = True
    small_labelme(
        tmp_path,
        shape(),
        shape(shape_type="rectangle", points=[[20, 30], [10, 10]]),
        shape(shape_type="circle", points=[[30, 20], [33, 24]]),
        labelme_mask(mask, "dog"),
        shape(group_id=1),
        shape(group_id=1, points=[[40, 5], [50, 5], [45, 25]]),
        shape(label="__ignore__"),
    )
    found = load_dataset(tmp_path).annotations[0]
    assert [one.box_xyxy for one in found] == [
        (4.0, 5.0, 16.0, 25.0),
        (10.0, 10.0, 20.0, 30.0),
        (25.0, 15.0, 35.0, 25.0),
        (30.0, 10.0, 60.0, 28.0),
        (4.0, 5.0, 50.0, 25.0),
    ]
    assert found[1].segmentation is None
    assert math.isclose(found[2].area, math.pi * 25, rel_tol=0.01)
    assert np.array_equal(decode_masks([found[3].segmentation], 48, 64)[0], mask)
    assert len(found[4].segmentation) == 2


@pytest.mark.parametrize(
    ("one", "code", "example"),
    [
        (shape(shape_type="point", points=[[1, 2]]), "missing_box", "001.json shape 1 (point, has no area)"),
        (shape(shape_type="linestrip"), "missing_box", "001.json shape 1 (linestrip, has no area)"),
        (shape(shape_type="rotation"), "missing_box", "001.json shape 1 (rotation, which is not read)"),
        (shape(points=[[1, 2], [3, 4]]), "missing_box", "001.json shape 1 (polygon of 2 points)"),
        (shape(points=[[1, 2], [3, None], [4, 5]]), "bad_numbers", "001.json shape 1: 'None' is not a number"),
        (shape(points=[1, 2, 3]), "bad_numbers", "001.json shape 1: points are not a list of x and y"),
        (shape(points=[[math.nan, 2], [3, 1], [4, 5]]), "bad_numbers", "001.json shape 1: 'nan' is not a number"),
        (shape(label=None), "dangling_category", "001.json shape 1"),
        (
            shape(shape_type="mask", points=[[1, 1], [2, 2]], mask="AAAA"),
            "bad_numbers",
            "001.json shape 1: its mask is no",
        ),
        ("text", "dangling_category", "001.json shape 1 (polygon of 0 points)"),
    ],
)
def test_a_bad_labelme_shape_is_counted_with_its_place(one: Any, code: str, example: str, tmp_path: Path) -> None:
    info = small_labelme(tmp_path, one, shape())
    assert problems(info)[code][0] == 1
    assert problems(info)[code][1][0].startswith(example)
    assert info.annotations == 3


@pytest.mark.parametrize("path", ["001.png", ".\\001.png", "C:\\data\\001.png", "/home/me/001.png", "../other/001.png"])
def test_labelme_paths_of_other_machines_are_followed(path: str, tmp_path: Path) -> None:
    info = small_labelme(tmp_path, shape(), imagePath=path, imageData="A" * 200_000)
    assert (info.images, info.annotations) == (3, 3)
    assert problems(info) == {"partly_masked": (1, ("1 of 3",))}


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"shapes": 3}', "\x00", '{"a": ' * 2000])
def test_a_broken_labelme_file_leaves_its_image_out(content: str, tmp_path: Path) -> None:
    labelme(tmp_path, small_coco(3, 1))
    text(tmp_path / "001.json", content)
    info = inspect_dataset(tmp_path)
    assert (info.images, info.images_read) == (2, 3)
    assert problems(info)["unreadable_labels"][1][0].startswith("001.json is ")


def test_via_regions_become_boxes_and_polygons(tmp_path: Path) -> None:
    coco = small_coco(1, 0)
    via(tmp_path, coco)
    shapes = [
        {"name": "circle", "cx": 20, "cy": 20, "r": 5},
        {"name": "ellipse", "cx": 30, "cy": 20, "rx": 10, "ry": 5, "theta": 0},
        {"name": "ellipse", "cx": 30, "cy": 20, "rx": 10, "ry": 5, "theta": math.pi / 2},
        {"name": "polyline", "all_points_x": [1, 9, 5, 1], "all_points_y": [1, 1, 9, 1]},
        {"name": "point", "cx": 1, "cy": 2},
        {"name": "rect", "x": "a", "y": 1, "width": 3, "height": 4},
        {"name": "circle", "cx": 20, "cy": 20, "r": 1e308},
        {"name": "polygon", "all_points_x": [1, 2, 3], "all_points_y": [1]},
    ]
    metadata = via_metadata(coco)
    (entry,) = metadata.values()
    entry["regions"] = [{"shape_attributes": one, "region_attributes": {"class": "cat"}} for one in shapes]
    write(tmp_path / "via_project_1Jan2026.json", {"_via_settings": {}, "_via_img_metadata": metadata})
    found = load_dataset(tmp_path).annotations[0]
    assert [tuple(round(value) for value in one.box_xyxy) for one in found] == [
        (15, 15, 25, 25),
        (20, 15, 40, 25),
        (25, 10, 35, 30),
        (1, 1, 9, 9),
    ]
    info = inspect_dataset(tmp_path)
    assert problems(info)["missing_box"][1] == (
        "via_project_1Jan2026.json 001.png region 5 (point, which has no area)",
    )
    assert problems(info)["bad_numbers"][0] == 3


@pytest.mark.parametrize(
    ("attributes", "settings", "name"),
    [
        ({"class": "cat"}, {}, "cat"),
        ({"Label": "cat", "colour": "red"}, {}, "cat"),
        ({"animal": {"cat": True, "dog": False}}, {}, "cat"),
        ({"type": "1"}, {"type": {"type": "radio", "options": {"1": "cat", "2": "dog"}}}, "cat"),
        ({}, {}, "class 1"),
    ],
)
def test_via_classes_are_found_in_the_attributes(
    attributes: dict[str, Any], settings: dict[str, Any], name: str, tmp_path: Path
) -> None:
    coco = small_coco(2, 1)
    via(tmp_path, coco)
    metadata = via_metadata(coco)
    for entry in metadata.values():
        entry["regions"] = {"0": entry["regions"][0] | {"region_attributes": attributes}}
    project = {"_via_settings": {}, "_via_img_metadata": metadata, "_via_attributes": {"region": settings}}
    write(tmp_path / "via_project_1Jan2026.json", project)
    assert [one.name for one in inspect_dataset(tmp_path).classes] == [name]


def test_ambiguous_via_class_attributes_are_refused(tmp_path: Path) -> None:
    coco = small_coco(1, 1)
    via(tmp_path, coco)
    metadata = via_metadata(coco)
    next(iter(metadata.values()))["regions"][0]["region_attributes"] = {"colour": "red", "size": "big"}
    write(tmp_path / "via_project_1Jan2026.json", {"_via_settings": {}, "_via_img_metadata": metadata})
    with pytest.raises(DataError, match="have the attributes colour, size, and none says which is the class"):
        inspect_dataset(tmp_path)
