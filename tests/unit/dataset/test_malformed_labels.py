"""Labels that are wrong are refused, or counted with file and place; those that only look odd are read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import changed, small_coco, write, write_images
from other_formats import labelme, labelme_file, labelme_mask, text, via, via_metadata, voc, yolo
from PIL import Image

from engine.dataset import DatasetInfo, decode_masks, inspect_dataset, load_dataset
from engine.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_CACHE", str(tmp_path_factory.mktemp("cache")))


def problems(info: DatasetInfo) -> dict[str, tuple[int, tuple[str, ...]]]:
    usual = ("few_images", "rare_class", "unused_class")
    return {one.code: (one.count, one.examples) for one in info.problems if one.code not in usual}


def small_yolo(folder: Path, label: str | bytes, *, images: int = 2) -> DatasetInfo:
    """A YOLO dataset whose first label file is ``label``."""
    yolo(folder, small_coco(images, 1))
    text(folder / "labels" / "001.txt", label)
    return inspect_dataset(folder)


LINE = "0 0.5 0.5 0.25 0.25\n"


@pytest.mark.parametrize(
    ("label", "code", "place"),
    [
        ("0 nan 0.5 0.1 0.1\n", "bad_numbers", "labels/001.txt line 1: 'nan' is no number"),
        (LINE + "0 inf 0.5 0.1 0.1\n", "bad_numbers", "labels/001.txt line 2: 'inf' is no number"),
        ("0 0,5 0,5 0,1 0,1\n", "bad_numbers", "labels/001.txt line 1: '0,5' is no number, write a decimal point"),
        ("\n\ncat 0.5 0.5 0.1 0.1\n", "bad_numbers", "labels/001.txt line 3: 'cat' is no number"),
        ("0 0.5 0.5 0.1\n", "bad_numbers", "labels/001.txt line 1: 4 numbers are neither box nor polygon"),
        ("0.5 0.5 0.5 0.1 0.1\n", "bad_numbers", "labels/001.txt line 1: the class '0.5' is no whole number"),
        ("0 0.1 0.1 0.9 0.1 0.9\n", "bad_numbers", "labels/001.txt line 1: 6 numbers are neither box nor polygon"),
        ("2 0.5 0.5 0.1 0.1\n", "dangling_category", "labels/001.txt line 1: class 2 of 2 in data.yaml"),
        ("-1 0.5 0.5 0.1 0.1\n", "dangling_category", "labels/001.txt line 1: class -1 of 2 in data.yaml"),
        ("0 0.5 0.5 0 0.1\n", "empty_box", "labels/001.txt line 1"),
        ("0 0.5 0.5 -0.2 0.1\n", "empty_box", "labels/001.txt line 1"),
        ("0 1.5 0.5 0.1 0.1\n", "box_outside", "labels/001.txt line 1"),
        ("0 0.1 0.5 0.4 0.1\n", "box_clipped", "labels/001.txt line 1"),
    ],
)
def test_a_bad_line_of_yolo_is_counted_with_its_place(label: str, code: str, place: str, tmp_path: Path) -> None:
    info = small_yolo(tmp_path, label, images=20)
    assert problems(info)[code] == (1, (place,))


def test_yolo_images_without_labels_differ_from_empty_ones_and_labels_without_images_are_counted(
    tmp_path: Path,
) -> None:
    yolo(tmp_path, small_coco(8, 1))
    (tmp_path / "labels" / "001.txt").unlink()
    text(tmp_path / "labels" / "002.txt", "")
    text(tmp_path / "labels" / "003.txt", "\r\n  \r\n")
    text(tmp_path / "labels" / "900.txt", LINE + LINE)
    text(tmp_path / "README.txt", "0 1 2 3 4")
    info = inspect_dataset(tmp_path)
    assert (info.images, info.annotations, info.annotations_read) == (8, 5, 7)
    assert problems(info) == {
        "no_label_file": (1, ("images/001.png",)),
        "dangling_image": (2, ("labels/900.txt line 1", "labels/900.txt line 2")),
        "empty_image": (3, ()),
    }


@pytest.mark.parametrize(
    "label",
    [
        b"\xef\xbb\xbf0 0.5 0.5 0.25 0.25\r\n",
        b"0\t0.5  0.5 0.25\t0.25",
        b"0.0 5e-1 .5 0.250000000000 0.25\n\n",
        "0 0.5 0.5 0.25 0.25\n".encode("utf-16"),
    ],
    ids=["BOM and CRLF", "tabs", "number forms", "UTF-16"],
)
def test_yolo_as_editors_save_it_is_read(label: bytes, tmp_path: Path) -> None:
    small_yolo(tmp_path, label)
    assert [one.box_xywh for one in load_dataset(tmp_path).annotations[0]] == [(24.0, 18.0, 16.0, 12.0)]


@pytest.mark.parametrize("label", [b"\xff\xd8\xff\xe0 not a label", b"0 0.5 0.5 \x00 0.1", b"\xe9t\xe9"])
def test_a_label_file_that_is_no_text_leaves_its_image_out(label: bytes, tmp_path: Path) -> None:
    info = small_yolo(tmp_path, label)
    assert (info.images, info.images_read) == (1, 2)
    assert problems(info)["unreadable_labels"][1][0].startswith("labels/001.txt is ")


def test_an_image_whose_size_cannot_be_read_is_left_out_with_its_objects(tmp_path: Path) -> None:
    yolo(tmp_path, small_coco(5, 2))
    text(tmp_path / "images" / "001.png", b"no image")
    info = inspect_dataset(tmp_path)
    assert (info.images, info.annotations, info.annotations_read) == (4, 8, 10)
    assert problems(info)["unreadable_image"][0] == 1


def test_yolo_shares_are_of_the_image_as_exif_turns_it(tmp_path: Path) -> None:
    yolo(tmp_path, small_coco(1, 1))
    turned = Image.Exif()
    turned[0x0112] = 6
    (tmp_path / "images" / "001.png").unlink()
    Image.new("RGB", (64, 48)).save(tmp_path / "images" / "001.jpg", exif=turned)
    text(tmp_path / "labels" / "001.txt", "0 0.5 0.5 0.5 0.5\n")
    dataset = load_dataset(tmp_path)
    assert (dataset.images[0].width, dataset.images[0].height) == (48, 64)
    assert dataset.annotations[0][0].box_xywh == (12.0, 16.0, 24.0, 32.0)


OBB = "".join(f"0 {x} 0.2 {x + 0.3} 0.5 {x + 0.1875} 0.7 {x - 0.1125} 0.4\n" for x in (0.3, 0.4, 0.5))
POSE = "".join(f"0 {x} 0.5 0.4 0.4 {x} 0.5 2 {x - 0.1} 0.45 1 0 0 0\n" for x in (0.4, 0.5, 0.6))
POSE_2D = "".join(f"0 {x} 0.5 0.4 0.4 {x} 0.5 {x - 0.1} 0.45 {x + 0.1} 0.6\n" for x in (0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        ("0 320 240 100 50\n0 120 140 100 50\n", "so they are pixels: divide x and width"),
        (LINE.strip() + " 0.9\n", "as predictions have"),
        (OBB, r"turned box of four corners \(YOLO OBB\)"),
        (POSE, r"key points in it \(YOLO pose\)"),
        (POSE_2D, r"key points in it \(YOLO pose\)"),
        ("".join(f"0 0.{k} 0.{k} 0.{k + 3} 0.{k + 2}\n" for k in range(1, 7)) * 2, "x1 y1 x2 y2, two corners"),
        ("387.0 63.0 455.0 63.0 455.0 112.0 387.0 112.0 plane 0\n", "DOTA"),
        ("Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n", "KITTI"),
    ],
    ids=["pixels", "predictions", "OBB", "pose", "pose in two numbers", "corners", "DOTA", "KITTI"],
)
def test_what_only_looks_like_yolo_is_refused_by_name(label: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=sentence):
        small_yolo(tmp_path, label, images=1)


def test_polygons_of_four_corners_are_no_turned_boxes_if_they_are_upright_or_askew(tmp_path: Path) -> None:
    upright = "0 0.2 0.2 0.6 0.2 0.6 0.7 0.2 0.7\n"
    askew = "0 0.2 0.2 0.6 0.25 0.8 0.7 0.1 0.6\n"
    assert small_yolo(tmp_path, upright + askew, images=1).masks == 2


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ("names: [yes, no]\n", ("yes", "no")),
        ("nc: 2\nnames: ['cat', 'dog']\ntrain: ../train/images\n", ("cat", "dog")),
        ("names:\n  1: dog\n  0: cat\ntrain: images\n", ("cat", "dog")),
        ("train: C:\\data\\set\\images\nnames: [cat, dog]\n", ("cat", "dog")),
        ("train: /content/set/images/\nnames: [2024, 3.10]\n", ("2024", "3.10")),
        ("path: /content/set\ntrain: images\ntest: # none\nnames: [cat, dog]\n", ("cat", "dog")),
    ],
)
def test_a_data_yaml_is_read_as_its_user_meant_it(config: str, names: tuple[str, ...], tmp_path: Path) -> None:
    yolo(tmp_path, small_coco(2, 2), config=False)
    text(tmp_path / "data.yaml", config)
    info = inspect_dataset(tmp_path)
    assert (tuple(one.name for one in info.classes), info.images) == (names, 2)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("names: [cat]\nnc: 2\n", "nc: 2, but has 1 names"),
        ("names: cat\n", "must be a list of class names"),
        ("names: {a: cat}\n", "must be a list of class names"),
        ("names: [cat, dog]\nkpt_shape: [17, 3]\n", "YOLO pose"),
        ("names: [cat, dog]\ntrain: images\nval: other\n", "gives 'other' as val"),
        ("names: [cat, dog]\ntrain: ../train/images\nval: ../valid/images\n", "both lead to the same images"),
    ],
)
def test_a_data_yaml_that_cannot_be_followed_is_refused(config: str, sentence: str, tmp_path: Path) -> None:
    yolo(tmp_path, small_coco(2, 1), config=False)
    text(tmp_path / "data.yaml", config)
    with pytest.raises(DataError, match=sentence):
        inspect_dataset(tmp_path)


def test_yolo_names_come_from_classes_txt_and_nowhere_else(tmp_path: Path) -> None:
    yolo(tmp_path, small_coco(2, 1), config=False)
    with pytest.raises(DataError, match="nothing names their classes"):
        inspect_dataset(tmp_path)
    text(tmp_path / "labels" / "classes.txt", "\ufeffred cat\r\nblue dog\r\n")
    assert [one.name for one in inspect_dataset(tmp_path).classes] == ["red cat", "blue dog"]
    text(tmp_path / "classes.txt", "dog\ncat\n")
    with pytest.raises(DataError, match="name different classes"):
        inspect_dataset(tmp_path)


def test_darknet_lists_say_which_image_is_in_which_part(tmp_path: Path) -> None:
    coco = small_coco(3, 1)
    write_images(tmp_path / "obj_train_data", [image["file_name"] for image in coco["images"]])
    for name in ("001", "002", "003"):
        text(tmp_path / "obj_train_data" / f"{name}.txt", LINE)
    text(tmp_path / "obj.names", "cat\ndog\n")
    text(tmp_path / "obj.data", "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n")
    text(tmp_path / "train.txt", "data/obj_train_data/001.png\ndata/obj_train_data/003.png\n")
    text(tmp_path / "valid.txt", "data\\obj_train_data\\002.png\r\n")
    assert inspect_dataset(tmp_path).parts == {"train": 2, "val": 1}


def test_images_of_one_name_in_several_folders_keep_their_own_labels(tmp_path: Path) -> None:
    for folder, share in (("day", 0.25), ("night", 0.5)):
        write_images(tmp_path / "images" / folder, ["1.png"])
        text(tmp_path / "labels" / folder / "1.txt", f"0 0.5 0.5 {share} {share}\n")
    text(tmp_path / "data.yaml", "names: [cat]\n")
    dataset = load_dataset(tmp_path)
    widths = {
        image.file_name: found[0].box_xywh[2] for image, found in zip(dataset.images, dataset.annotations, strict=True)
    }
    assert widths == {"images/day/1.png": 16.0, "images/night/1.png": 32.0}


def test_voc_counts_pixels_from_one_only_in_files_of_the_challenge(tmp_path: Path) -> None:
    coco = small_coco(2, 1)
    for one_based in (False, True):
        folder = voc(tmp_path / str(one_based), coco, one_based=one_based)
        assert load_dataset(folder).annotations[0][0].box_xywh == (4.0, 5.0, 12.0, 20.0)


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
        (lambda t: t[:-20], "unreadable_labels", "Annotations/001.xml is no well-formed XML: unclosed token: line 1"),
        (lambda _: "<a>" * 60, "unreadable_labels", "Annotations/001.xml has elements nested more than 50 deep"),
        (
            lambda t: t.replace("<xmin>4<", "<xmin>nan<"),
            "bad_numbers",
            "Annotations/001.xml object 1: 'nan' is no number",
        ),
        (
            lambda t: t.replace("<xmin>4<", "<xmin>4,5<"),
            "bad_numbers",
            "Annotations/001.xml object 1: '4,5' is no number",
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


def test_voc_image_sets_and_folders_give_the_parts(tmp_path: Path) -> None:
    folder = voc(tmp_path, small_coco(4, 1))
    sets = folder / "ImageSets" / "Main"
    (sets / "default.txt").unlink()
    text(sets / "train.txt", "# a comment\n001\n002\n")
    text(sets / "val.txt", "003\r\n")
    text(sets / "cat_train.txt", "001 1\n002 -1\n")
    assert inspect_dataset(folder).parts == {"train": 2, "val": 1}
    text(sets / "trainval.txt", "001\n002\n003\n")
    text(sets / "test.txt", "004\n901\n")
    assert inspect_dataset(folder).parts == {"train": 2, "val": 1, "test": 1}
    (sets / "val.txt").unlink()
    with pytest.raises(DataError, match=r"divided into neither .*, test .*; training needs a train and a val part"):
        inspect_dataset(folder)
    (sets / "test.txt").unlink()
    assert inspect_dataset(folder).parts == {"all": 3}
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
    assert [one.box_xywh for one in found] == [
        (4.0, 5.0, 12.0, 20.0),
        (10.0, 10.0, 10.0, 20.0),
        (25.0, 15.0, 10.0, 10.0),
        (30.0, 10.0, 30.0, 18.0),
        (4.0, 5.0, 46.0, 20.0),
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
        (shape(points=[[1, 2], [3, None], [4, 5]]), "bad_numbers", "001.json shape 1: 'None' is no number"),
        (shape(points=[1, 2, 3]), "bad_numbers", "001.json shape 1: points are no list of x and y"),
        (shape(points=[[math.nan, 2], [3, 1], [4, 5]]), "bad_numbers", "001.json shape 1: 'nan' is no number"),
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
        {"name": "polygon", "all_points_x": [1, 2, 3], "all_points_y": [1]},
    ]
    metadata = via_metadata(coco)
    (entry,) = metadata.values()
    entry["regions"] = [{"shape_attributes": one, "region_attributes": {"class": "cat"}} for one in shapes]
    write(tmp_path / "via_project_1Jan2026.json", {"_via_settings": {}, "_via_img_metadata": metadata})
    found = load_dataset(tmp_path).annotations[0]
    assert [tuple(round(value) for value in one.box_xywh) for one in found] == [
        (15, 15, 10, 10),
        (20, 15, 20, 10),
        (25, 10, 10, 20),
        (1, 1, 8, 8),
    ]
    info = inspect_dataset(tmp_path)
    assert problems(info)["missing_box"][1] == (
        "via_project_1Jan2026.json 001.png region 5 (point, which has no area)",
    )
    assert problems(info)["bad_numbers"][0] == 2


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


def test_via_attributes_that_may_all_be_the_class_are_not_chosen_between(tmp_path: Path) -> None:
    coco = small_coco(1, 1)
    via(tmp_path, coco)
    metadata = via_metadata(coco)
    next(iter(metadata.values()))["regions"][0]["region_attributes"] = {"colour": "red", "size": "big"}
    write(tmp_path / "via_project_1Jan2026.json", {"_via_settings": {}, "_via_img_metadata": metadata})
    with pytest.raises(DataError, match="have the attributes colour, size, and none says which is the class"):
        inspect_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("annotations.xml", "<annotations><version>1.1</version></annotations>", "CVAT for images XML"),
        ("a.json", {"info": {}, "categories": {"label": {}}, "items": []}, "Datumaro"),
        ("a.json", [{"image": "a.jpg", "annotations": [{"label": "x", "coordinates": {}}]}], "CreateML"),
        ("a.json", [{"id": 1, "annotations": [], "data": {"image": "a.jpg"}}], "Label Studio's own JSON"),
        ("a.json", [{"image": "a", "id": 1, "annotator": 1, "annotation_id": 2}], "JSON_MIN"),
        ("a.json", [{"name": "a.jpg", "labels": []}], "BDD100K"),
        ("a.json", {"description": "", "tags": [], "size": {}, "objects": []}, "Supervisely"),
        ("a.ndjson", {"data_row": {"id": "x"}, "projects": {}}, "NDJSON"),
        ("a.json", {"data_row": {"id": "x"}, "projects": {}}, "Labelbox"),
        ("a.json", {"asset": {}, "regions": []}, "VoTT"),
        ("a.json", {"version": "2.0", "item": {}, "annotations": []}, "V7 Darwin"),
        ("a.json", {"project": {}, "config": {}, "metadata": {}, "file": {}, "view": {}}, "VIA 3"),
        ("a.json", {"image": {}, "annotations": []}, "SA-1B"),
        ("a.csv", "filename,file_size,file_attributes,region_count,region_id\n", "a CSV of VIA"),
        ("a.csv", "ImageID,Source,LabelName,Confidence,XMin\n", "Open Images"),
        ("a.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n", "TensorFlow"),
        ("a.tfrecord", b"\x00\x01", "TFRecord"),
        ("a.txt", "Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59", "KITTI"),
        ("a.parquet", b"PAR1", "Parquet"),
    ],
)
def test_formats_that_are_not_read_are_named_with_what_to_do(
    name: str, content: object, kind: str, tmp_path: Path
) -> None:
    raw = content if isinstance(content, str | bytes) else json.dumps(content)
    write_images(tmp_path, ["img.png"])
    text(tmp_path / name, raw)
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(DataError, match=rf"is .*{kind}.*, which is not read .*: "):
            inspect_dataset(source)


def test_one_file_of_many_asks_for_its_folder(tmp_path: Path) -> None:
    coco = changed(small_coco(1, 1), lambda _: None)
    files = {
        "YOLO": yolo(tmp_path / "y", coco) / "labels" / "001.txt",
        "Pascal VOC": voc(tmp_path / "v", coco) / "Annotations" / "001.xml",
        "LabelMe": labelme(tmp_path / "l", coco) / "001.json",
    }
    for kind, file in files.items():
        with pytest.raises(DataError, match=f"is the {kind} file of one image: give the folder"):
            inspect_dataset(file)


def test_folders_are_parts_only_if_they_hold_everything(tmp_path: Path) -> None:
    for part in ("train", "valid", "extra"):
        write_images(tmp_path / part / "images", [f"{part}.png"])
        text(tmp_path / part / "labels" / f"{part}.txt", LINE)
    text(tmp_path / "classes.txt", "cat\n")
    with pytest.raises(DataError, match=r"divided into neither \(extra/images/extra.png …\), train .*, val "):
        inspect_dataset(tmp_path)
    (tmp_path / "extra" / "labels" / "extra.txt").unlink()
    assert inspect_dataset(tmp_path).parts == {"train": 1, "val": 1}
    (tmp_path / "valid").rename(tmp_path / "test")
    with pytest.raises(DataError, match=r"divided into train .*, test .*; training needs"):
        inspect_dataset(tmp_path)
