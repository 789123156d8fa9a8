"""Exports as tools write them, on disk and in S3."""

from __future__ import annotations

from pathlib import Path

import pytest
from coco_files import small_coco, write, write_images
from loops import nonempty

from engine.dataset import ImageFolder, find_splits, inspect_dataset, load_dataset
from engine.dataset.splits.split_files import is_image
from engine.errors import ConfigError, DataError
from engine.storage import Storage

Layout = dict[str, tuple[str, str]]
"""From split to annotation file and folder of images."""

EXPORTS: dict[str, Layout] = {
    "Roboflow": {
        "train": ("train/_annotations.coco.json", "train"),
        "val": ("valid/_annotations.coco.json", "valid"),
        "test": ("test/_annotations.coco.json", "test"),
    },
    "Roboflow, not divided": {"all": ("train/_annotations.coco.json", "train")},
    "CVAT": {"all": ("annotations/instances_default.json", "images")},
    "CVAT, subset": {"all": ("annotations/instances_default.json", "images/default")},
    "CVAT, subsets": {
        "train": ("annotations/instances_Train.json", "images/Train"),
        "val": ("annotations/instances_Validation.json", "images/Validation"),
    },
    "Label Studio": {"all": ("result.json", "images")},
    "COCO": {
        "train": ("annotations/instances_train2017.json", "train2017"),
        "val": ("annotations/instances_val2017.json", "val2017"),
    },
    "Datumaro": {
        "train": ("annotations/instances_train.json", "images/train"),
        "val": ("annotations/instances_val.json", "images/val"),
    },
    "FiftyOne": {"all": ("labels.json", "data")},
    "one folder": {"all": ("my_labels.json", ".")},
    "files beside one folder": {"train": ("train.json", "images"), "val": ("val.json", "images")},
    "keypoints": {"all": ("annotations/person_keypoints_default.json", "images")},
}


def export(folder: Path, layout: Layout) -> Path:
    for number, (file, images) in enumerate(layout.values()):
        coco = small_coco(4 + number, 2)
        for image in coco["images"]:
            image["file_name"] = f"{number}-{image['file_name']}"
        write(folder / file, coco)
        write_images(folder / images, [image["file_name"] for image in coco["images"]], shade=100 + number)
    return folder


@pytest.mark.parametrize("tool", EXPORTS)
def test_exports_are_found_with_their_images(tool: str, tmp_path: Path) -> None:
    layout = EXPORTS[tool]
    root = export(tmp_path, layout)
    splits = find_splits(str(root), None, storage=Storage())
    found = {
        name: (Path(split.annotations).relative_to(root).as_posix(), Path(split.images).relative_to(root).as_posix())
        for name, split in splits.items()
    }
    assert found == layout
    info = inspect_dataset(root)
    assert info.splits == {name: 4 + number for number, name in enumerate(layout)}
    assert {problem.code for problem in info.problems} <= {"few_images", "rare_class"}


@pytest.mark.parametrize("tool", EXPORTS)
def test_each_file_of_an_export_finds_its_images_too(tool: str, tmp_path: Path) -> None:
    root = export(tmp_path, EXPORTS[tool])
    for file, _ in nonempty(EXPORTS[tool].values()):
        dataset = load_dataset(root / file)
        folder = ImageFolder.of(str(root / file), storage=Storage(), cache=tmp_path / "cache")
        assert folder.missing(dataset.images) == []


@pytest.mark.parametrize("tool", ["CVAT, subsets", "COCO"])
def test_moved_images_are_found_by_split(tool: str, tmp_path: Path) -> None:
    root, moved = export(tmp_path / "export", EXPORTS[tool]), tmp_path / "moved"
    moved.mkdir()
    for name, (_, images) in EXPORTS[tool].items():
        (root / images).rename(moved / name)
    splits = find_splits(str(root), str(moved), storage=Storage())
    assert {name: Path(split.images).name for name, split in splits.items()} == {name: name for name in EXPORTS[tool]}


def test_an_export_in_s3_is_read_where_it_is(s3: str, tmp_path: Path) -> None:
    export(tmp_path / "export", EXPORTS["Roboflow"])
    storage = Storage()
    storage.upload_folder(tmp_path / "export", f"{s3}/export")
    here, there = inspect_dataset(tmp_path / "export"), inspect_dataset(f"{s3}/export/")
    assert there.splits == {"train": 4, "val": 5, "test": 6}
    assert there.model_copy(update={"source": here.source}) == here
    split = find_splits(f"{s3}/export", None, storage=storage)["val"]
    folder = ImageFolder(split.images, storage=storage, cache=tmp_path / "cache")
    dataset = load_dataset(split.annotations)
    folder.sync(dataset.images)
    first = dataset.images[0]
    assert folder.path(first).read_bytes() == (tmp_path / "export" / "valid" / first.file_name).read_bytes()


def test_annotations_of_another_task_are_ignored(tmp_path: Path) -> None:
    root = export(tmp_path, EXPORTS["COCO"])
    for name in ("captions_train2017", "person_keypoints_train2017", "panoptic_val2017", "image_info_test2017"):
        write(root / "annotations" / f"{name}.json", {"images": []})
    splits = find_splits(str(root), None, storage=Storage())
    assert [Path(split.annotations).name for split in splits.values()] == [
        "instances_train2017.json",
        "instances_val2017.json",
    ]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["readme.txt"], "looked for _annotations.coco.json"),
        (["day.json", "night.json"], "several annotation files that may be meant: day.json, night.json"),
        (["train/a.json", "train/b.json", "val.json"], "several"),
        (["train.json", "test.json"], "needs a train and a val split"),
    ],
)
def test_ambiguous_folder_is_refused(files: list[str], sentence: str, tmp_path: Path) -> None:
    for name in files:
        write(tmp_path / name, small_coco(2, 1))
    with pytest.raises(DataError, match=sentence):
        inspect_dataset(tmp_path)


def test_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.json does not exist"):
        inspect_dataset(tmp_path / "nothing.json")


def test_several_splits_are_not_loaded_as_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"several splits: give one of .*train.*valid"):
        load_dataset(export(tmp_path, EXPORTS["Roboflow"]))


def test_images_are_distinguished_by_their_names() -> None:
    names = ("a/b.JPG", "x.tiff", "a.json", "jpg", "a.txt")
    assert [name for name in names if is_image(name)] == ["a/b.JPG", "x.tiff"]
