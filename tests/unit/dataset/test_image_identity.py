"""A name means exactly one file, and one file is one image."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from coco_files import Coco, changed, small_coco, write, write_images

from engine.dataset import folder_dataset, inspect_dataset, load_dataset, split_file, to_coco
from engine.dataset.export_layouts import find_splits
from engine.dataset.inspect import inspect_splits
from engine.storage import Storage

NFC, NFD = unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png")


def named(*names: str) -> Coco:
    """Images of these names, with three objects each."""

    def rename(coco: Coco) -> None:
        for image, name in zip(coco["images"], names, strict=True):
            image["file_name"] = name

    return changed(small_coco(len(names)), rename)


def used(tmp_path: Path, coco: Coco, files: list[str]) -> tuple[list[str], dict[str, tuple[int, str]]]:
    """Names of the usable images, and the problems of images that a dataset has with these files."""
    write_images(tmp_path / "images", files)
    data = load_dataset(write(tmp_path / "a.json", coco), tmp_path / "images")
    info = inspect_dataset(tmp_path / "a.json", tmp_path / "images")
    assert info.images == len(data.images)
    image_problems = ("missing_image", "unsafe_file_name", "duplicate_file_name", "unlisted_image", "no_images_found")
    found = {p.code: (p.count, " ".join(p.examples)) for p in info.problems if p.code in image_problems}
    return [image.file_name for image in data.images], found


DAY = "/data/local-files/?d=day/{}"
NIGHT = "/data/local-files/?d=night/{}"


@pytest.mark.parametrize(
    ("names", "files", "kept"),
    [
        pytest.param(
            [DAY.format("1.png"), DAY.format("2.png"), NIGHT.format("1.png"), NIGHT.format("2.png")],
            ["day/1.png", "day/2.png"],
            [0, 1],
            id="folders of Label Studio's server",
        ),
        pytest.param([NIGHT.format("1.png"), "3.png"], ["day/1.png", "3.png"], [1], id="alone"),
        pytest.param(["day/1.png", "/srv/night/1.png"], ["day/1.png"], [0], id="absolute, file meant by another"),
        pytest.param(["day/1.png", "/srv/night/2.png"], ["day/1.png", "day/2.png"], [0], id="absolute, folder named"),
        pytest.param(["/srv/night/1.png", "day/1.png"], ["day/1.png"], [1], id="in the other order"),
        pytest.param(["day/1.png", "night/1.png"], ["1.png"], [], id="both guessed"),
        pytest.param(["1.png", "images/1.png"], ["1.png"], [0], id="with and without folder"),
        pytest.param(["day/1.png", "1.png"], ["day/1.png"], [0], id="named without its folder"),
        pytest.param(["x/day/1.png", "1.png", "2.png"], ["day/1.png", "2.png"], [0, 2], id="the longer name"),
        pytest.param(["a.png", "A.png"], ["a.png"], [0], id="letter case"),
        pytest.param(["A.png", "a.PNG"], ["a.png"], [], id="letter case, neither right"),
        pytest.param(["a.png", "A.png"], ["a.png", "A.png"], [0, 1], id="letter case of two files"),
        pytest.param(["a b.png", "a%20b.png"], ["a b.png"], [0], id="quoted"),
        pytest.param(["a%20b.png", "c.png"], ["a b.png", "c.png"], [0, 1], id="quoted alone"),
        pytest.param(["http://h/a+b.png", "/data/local-files/?d=a+b.png"], ["a+b.png"], [], id="two URLs of one file"),
        pytest.param(["/data/local-files/?d=x/a+b.png"], ["x/a+b.png"], [0], id="plus"),
        pytest.param(["/data/local-files/?d=x%2Fa%26b.png"], ["x/a&b.png"], [0], id="and"),
        pytest.param(["..\\..\\label-studio\\media\\upload\\4\\1.png"], ["1.png"], [0], id="Label Studio 1.16"),
        pytest.param(["..\\upload\\4\\1.png", "..\\upload\\5\\1.png"], ["1.png"], [], id="of two projects"),
        pytest.param(["../1.png", "1.png"], ["1.png"], [1], id="outside, of the same name"),
        pytest.param(["/data/upload/4/1.png", "/data/upload/5/1.png"], ["1.png"], [], id="uploads of two projects"),
        pytest.param(["day\\1.png", "night\\1.png"], ["day/1.png", "night/1.png"], [0, 1], id="backslashes"),
        pytest.param([NFD], [NFC], [0], id="names of macOS"),
        pytest.param([NFC], [NFD], [0], id="files of macOS"),
        pytest.param([NFD, NFC], [NFC, NFD], [0, 1], id="both are there"),
        pytest.param([f"x/{NFD}"], [f"y/x/{NFC}"], [0], id="below a folder"),
    ],
)
def test_name_contradicted_by_another_entry_matches_no_file(
    tmp_path: Path, names: list[str], files: list[str], kept: list[int]
) -> None:
    usable, problems = used(tmp_path, named(*names), files)
    assert usable == [names[i] for i in kept]
    lost = sum(problems.get(code, (0, ""))[0] for code in ("missing_image", "unsafe_file_name"))
    assert lost == len(names) - len(kept)
    assert "duplicate_file_name" not in problems


def test_objects_of_unmatched_images_are_left_out_with_them(tmp_path: Path) -> None:
    coco = named("/srv/night/1.png", "day/1.png", "day/2.png")
    write_images(tmp_path / "images", ["day/1.png", "day/2.png"])
    data = load_dataset(write(tmp_path / "a.json", coco), tmp_path / "images")
    assert [[found.id for found in objects] for objects in data.annotations] == [[4, 5, 6], [7, 8, 9]]
    assert [image.id for image in data.images] == [2, 3]
    reordered = {key: coco[key] for key in ("annotations", "categories", "images")}
    assert load_dataset(write(tmp_path / "b.json", reordered), tmp_path / "images").annotations == data.annotations


def test_the_reason_is_reported(tmp_path: Path) -> None:
    _, problems = used(tmp_path, named("day/1.png", "/srv/night/1.png"), ["day/1.png"])
    assert problems == {"missing_image": (1, "/srv/night/1.png (another entry means day/1.png)")}


@pytest.mark.parametrize("again", ["1.png", "./1.png", ".\\1.png", "link.png", "linked/1.png"])
def test_the_same_file_listed_twice_is_reported_however_it_is_spelled(tmp_path: Path, again: str) -> None:
    write_images(tmp_path / "images", ["1.png"])
    (tmp_path / "images" / "link.png").symlink_to("1.png")
    (tmp_path / "images" / "linked").mkdir()
    os.link(tmp_path / "images" / "1.png", tmp_path / "images" / "linked" / "1.png")
    _, problems = used(tmp_path, named("1.png", again, "2.png"), ["2.png"])
    assert problems == {"duplicate_file_name": (1, "")}


def test_a_file_with_two_names_is_one_candidate(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a/1.png"])
    (tmp_path / "images" / "b").symlink_to("a")
    usable, problems = used(tmp_path, named("1.png"), [])
    assert (usable, problems) == (["1.png"], {})


JUNK = ["._1.png", "day/._1.png", "__MACOSX/1.png", "__MACOSX/._a.json", ".DS_Store", "Thumbs.db", "._a.json"]


def test_metadata_of_macos_and_windows_is_ignored_in_listings(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "d", ["1.png", "2.png"])
    write(folder / "a.json", named("1.png", "2.png"))
    for junk in JUNK:
        (folder / junk).parent.mkdir(exist_ok=True)
        (folder / junk).write_bytes(b"\0\5\26\7")
    splits = find_splits(str(folder), None, storage=Storage())
    assert [split.annotations for split in splits.values()] == [f"{folder}/a.json"]
    info = inspect_splits(splits, source="d", storage=Storage())
    assert (info.images, [p.code for p in info.problems if "image" in p.code]) == (2, ["few_images"])
    assert [image.file_name for image in folder_dataset(str(folder), ["cat"], storage=Storage()).images] == [
        "1.png",
        "2.png",
    ]


@pytest.mark.parametrize("listed_as", [str, int])
def test_references_are_matched_with_ids_written_otherwise(tmp_path: Path, listed_as: Any) -> None:
    def change(coco: Coco) -> None:
        for image in coco["images"]:
            image["id"] = listed_as(image["id"])
        for category in coco["categories"]:
            category["id"] = listed_as(category["id"])
        for annotation in coco["annotations"]:
            for key in ("image_id", "category_id"):
                annotation[key] = (int if listed_as is str else str)(annotation[key])

    plain, other = small_coco(10), changed(small_coco(10), change)
    reordered = {key: other[key] for key in ("categories", "annotations", "images")}
    write_images(tmp_path, [image["file_name"] for image in plain["images"]])
    expected = load_dataset(write(tmp_path / "a.json", plain), tmp_path)
    for coco in (other, reordered):
        found = load_dataset(write(tmp_path / "b.json", coco), tmp_path)
        assert found.classes == expected.classes
        assert [[a.class_index for a in objects] for objects in found.annotations] == [
            [a.class_index for a in objects] for objects in expected.annotations
        ]
    splits = split_file(str(tmp_path / "b.json"), tmp_path / "out", {"train": 0.5, "val": 0.5}, seed=0)
    assert sum(split.annotations for split in splits) == len(plain["annotations"])
    assert all(not split.without for split in splits)


def test_ids_that_only_look_alike_stay_apart_through_our_own_writer(tmp_path: Path) -> None:
    ids: list[int | str] = [1, "1", "x", 2**70, 0]
    coco = small_coco(5, 1)
    for image, annotation, number in zip(coco["images"], coco["annotations"], ids, strict=True):
        image["id"] = annotation["image_id"] = number
        annotation["category_id"] = number
    coco["categories"] = [{"id": number, "name": f"class {i}"} for i, number in enumerate(ids)]
    write_images(tmp_path, [image["file_name"] for image in coco["images"]])
    data = load_dataset(write(tmp_path / "a.json", coco), tmp_path)
    again = load_dataset(write(tmp_path / "b.json", to_coco(data)), tmp_path)
    assert [image.id for image in again.images] == ids
    names = [[data.classes[a.class_index] for a in objects] for objects in data.annotations]
    assert names == [[f"class {i}"] for i in range(5)]
    assert [[again.classes[a.class_index] for a in objects] for objects in again.annotations] == names
    info = inspect_dataset(tmp_path / "a.json", tmp_path)
    assert len({one.id for one in info.classes}) == 5
    split_file(str(tmp_path / "a.json"), tmp_path / "out", {"train": 0.6, "val": 0.4}, seed=0)
    halves = [json.loads((tmp_path / "out" / f"{split}.json").read_text()) for split in ("train", "val")]
    assert [len(half["annotations"]) for half in halves] == [3, 2]
    assert {(type(i["id"]), i["id"]) for half in halves for i in half["images"]} == {(type(i), i) for i in ids}
