"""YOLO labels that are wrong are refused, or counted with file and line; those that only look odd are read."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from coco_files import small_coco, write_images
from other_formats import text, yolo
from PIL import Image

from engine.dataset import DatasetInfo, inspect_dataset, load_dataset
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
        ("0 nan 0.5 0.1 0.1\n", "bad_numbers", "labels/001.txt line 1: 'nan' is not a number"),
        (LINE + "0 inf 0.5 0.1 0.1\n", "bad_numbers", "labels/001.txt line 2: 'inf' is not a number"),
        ("0 0,5 0,5 0,1 0,1\n", "bad_numbers", "labels/001.txt line 1: '0,5' is not a number, write a decimal point"),
        ("\n\ncat 0.5 0.5 0.1 0.1\n", "bad_numbers", "labels/001.txt line 3: 'cat' is not a number"),
        ("0 0.5 0.5 0.1\n", "bad_numbers", "labels/001.txt line 1: 4 numbers are neither box nor polygon"),
        ("0.5 0.5 0.5 0.1 0.1\n", "bad_numbers", "labels/001.txt line 1: the class '0.5' is not a whole number"),
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
def test_yolo_label_file_variants_are_read(label: bytes, tmp_path: Path) -> None:
    small_yolo(tmp_path, label)
    assert [one.box_xyxy for one in load_dataset(tmp_path).annotations[0]] == [(24.0, 18.0, 40.0, 30.0)]


@pytest.mark.parametrize("label", [b"\xff\xd8\xff\xe0 not a label", b"0 0.5 0.5 \x00 0.1", b"\xe9t\xe9"])
def test_binary_label_file_leaves_its_image_out(label: bytes, tmp_path: Path) -> None:
    info = small_yolo(tmp_path, label)
    assert (info.images, info.images_read) == (1, 2)
    assert problems(info)["unreadable_labels"][1][0].startswith("labels/001.txt is ")


def test_an_image_whose_size_cannot_be_read_is_left_out_with_its_objects(tmp_path: Path) -> None:
    yolo(tmp_path, small_coco(5, 2))
    text(tmp_path / "images" / "001.png", b"no image")
    info = inspect_dataset(tmp_path)
    assert (info.images, info.annotations, info.annotations_read) == (4, 8, 10)
    assert problems(info)["unreadable_image"][0] == 1


def test_yolo_fractions_refer_to_the_upright_image(tmp_path: Path) -> None:
    yolo(tmp_path, small_coco(1, 1))
    turned = Image.Exif()
    turned[0x0112] = 6
    (tmp_path / "images" / "001.png").unlink()
    Image.new("RGB", (64, 48)).save(tmp_path / "images" / "001.jpg", exif=turned)
    text(tmp_path / "labels" / "001.txt", "0 0.5 0.5 0.5 0.5\n")
    dataset = load_dataset(tmp_path)
    assert (dataset.images[0].width, dataset.images[0].height) == (48, 64)
    assert dataset.annotations[0][0].box_xyxy == (12.0, 16.0, 36.0, 48.0)


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
def test_yolo_variants_are_refused_by_name(label: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=sentence):
        small_yolo(tmp_path, label, images=1)


def test_four_corner_polygons_are_not_taken_for_rotated_boxes(tmp_path: Path) -> None:
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
def test_data_yaml_variants_are_read(config: str, names: tuple[str, ...], tmp_path: Path) -> None:
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
def test_invalid_data_yaml_is_refused(config: str, sentence: str, tmp_path: Path) -> None:
    yolo(tmp_path, small_coco(2, 1), config=False)
    text(tmp_path / "data.yaml", config)
    with pytest.raises(DataError, match=sentence):
        inspect_dataset(tmp_path)


def test_yolo_names_come_from_classes_txt_and_nowhere_else(tmp_path: Path) -> None:
    yolo(tmp_path, small_coco(2, 1), config=False)
    with pytest.raises(DataError, match="contains YOLO labels without class names"):
        inspect_dataset(tmp_path)
    text(tmp_path / "labels" / "classes.txt", "\ufeffred cat\r\nblue dog\r\n")
    assert [one.name for one in inspect_dataset(tmp_path).classes] == ["red cat", "blue dog"]
    text(tmp_path / "classes.txt", "dog\ncat\n")
    with pytest.raises(DataError, match="name different classes"):
        inspect_dataset(tmp_path)


def test_darknet_lists_give_the_splits(tmp_path: Path) -> None:
    coco = small_coco(3, 1)
    write_images(tmp_path / "obj_train_data", [image["file_name"] for image in coco["images"]])
    for name in ("001", "002", "003"):
        text(tmp_path / "obj_train_data" / f"{name}.txt", LINE)
    text(tmp_path / "obj.names", "cat\ndog\n")
    text(tmp_path / "obj.data", "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n")
    text(tmp_path / "train.txt", "data/obj_train_data/001.png\ndata/obj_train_data/003.png\n")
    text(tmp_path / "valid.txt", "data\\obj_train_data\\002.png\r\n")
    assert inspect_dataset(tmp_path).splits == {"train": 2, "val": 1}


def test_images_of_one_name_in_several_folders_keep_their_own_labels(tmp_path: Path) -> None:
    for folder, share in (("day", 0.25), ("night", 0.5)):
        write_images(tmp_path / "images" / folder, ["1.png"])
        text(tmp_path / "labels" / folder / "1.txt", f"0 0.5 0.5 {share} {share}\n")
    text(tmp_path / "data.yaml", "names: [cat]\n")
    dataset = load_dataset(tmp_path)
    widths = {
        image.file_name: found[0].box_xyxy[2] - found[0].box_xyxy[0]
        for image, found in zip(dataset.images, dataset.annotations, strict=True)
    }
    assert widths == {"images/day/1.png": 16.0, "images/night/1.png": 32.0}


def test_folders_are_splits_only_if_they_contain_all_images(tmp_path: Path) -> None:
    for split in ("train", "valid", "extra"):
        write_images(tmp_path / split / "images", [f"{split}.png"])
        text(tmp_path / split / "labels" / f"{split}.txt", LINE)
    text(tmp_path / "classes.txt", "cat\n")
    with pytest.raises(DataError, match=r"divided into no split \(extra/images/extra.png …\), train .*, val "):
        inspect_dataset(tmp_path)
    (tmp_path / "extra" / "labels" / "extra.txt").unlink()
    assert inspect_dataset(tmp_path).splits == {"train": 1, "val": 1}
    (tmp_path / "valid").rename(tmp_path / "test")
    with pytest.raises(DataError, match=r"divided into train .*, test .*; training needs"):
        inspect_dataset(tmp_path)


@pytest.mark.parametrize("path", ["/etc", "../..", "../../outside", "file:///etc", "\x00", "~"])
def test_paths_in_a_data_yaml_never_lead_out_of_its_folder(path: str, tmp_path: Path) -> None:
    write_images(tmp_path / "outside", ["out.png"])
    folder = yolo(tmp_path / "data" / "set", small_coco(2, 1), config=False)
    text(folder / "data.yaml", f"path: {json.dumps(path)}\ntrain: {json.dumps(path)}\nnames: [cat, dog]\n")
    files: set[str] = set()
    with suppress(DataError):
        files = {image.file_name for image in load_dataset(folder).images}
    assert files <= {"images/001.png", "images/002.png"}


def test_a_data_yaml_with_aliases_is_not_followed(tmp_path: Path) -> None:
    folder = yolo(tmp_path, small_coco(2, 1), config=False)
    text(folder / "data.yaml", "a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]\n")
    with pytest.raises(
        DataError, match=r"contains YOLO labels without class names \(data\.yaml is not plain YAML with names\)"
    ):
        inspect_dataset(folder)
