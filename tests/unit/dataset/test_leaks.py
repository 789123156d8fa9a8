"""What is in train and in val is reported or refused, and our own split keeps it on one side."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coco_files import Coco, small_coco, write
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from engine.dataset import inspect_dataset, inspect_request, split_file, validate_dataset
from engine.dataset.checks.problems import refused
from engine.dataset.images.near_duplicates import is_same, same_pictures, thumbnail
from engine.dataset.splits.leaks import Grouping, source_of
from engine.dataset.types import DatasetInfo
from engine.errors import DataError
from engine.spec import DatasetSpec, OnProblem
from engine.storage import Storage

Picture = NDArray[np.uint8]


def scene(seed: int, size: tuple[int, int] = (64, 48)) -> Picture:
    """(H, W, 3) bright shapes on a dark ground, another for each seed."""
    rng = np.random.default_rng(seed)
    image = np.full((size[1], size[0], 3), 40, np.uint8)
    for _ in range(12):
        x, y = rng.integers(0, size[0] - 8), rng.integers(0, size[1] - 8)
        w, h = rng.integers(size[1] // 8, size[1] // 2, 2)
        image[y : y + h, x : x + w] = rng.integers(60, 230, 3)
    return image


def files(folder: Path, pictures: dict[str, Picture]) -> Path:
    for name, picture in pictures.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path, quality=90)
    return folder


def coco_of(names: list[str], **fields: list[str]) -> Coco:
    coco = small_coco(len(names), 2)
    for i, (image, name) in enumerate(zip(coco["images"], names, strict=True)):
        image |= {"file_name": name} | {field: values[i] for field, values in fields.items()}
    return coco


def codes(info: DatasetInfo) -> dict[str, int]:
    return {problem.code: problem.count for problem in info.problems}


def fault(info: DatasetInfo, percent: int = 5) -> str:
    return refused(info, on_problem=OnProblem.SKIP, max_skipped_percent=20, max_leaked_percent=percent)


def given(folder: Path, train: dict[str, Picture], val: dict[str, Picture]) -> Path:
    """A Roboflow export: splits in folders of their own."""
    for split, pictures in (("train", train), ("valid", val)):
        files(folder / split, pictures)
        write(folder / split / "_annotations.coco.json", coco_of(list(pictures)))
    return folder


def jpeg(picture: Picture, quality: int = 60) -> Picture:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=quality)
    return np.asarray(Image.open(content).convert("RGB"))


CLEAN = {f"{i:03}.jpg": scene(i) for i in range(20)}
OTHERS = {f"{i:03}.jpg": scene(100 + i) for i in range(10)}

CHANGES: dict[str, Callable[[Picture], Picture]] = {
    "encoded again": lambda p: jpeg(p, 50),
    "larger": lambda p: np.asarray(Image.fromarray(p).resize((p.shape[1] * 2, p.shape[0] * 2))),
    "brighter": lambda p: np.asarray(ImageEnhance.Brightness(Image.fromarray(p)).enhance(1.1)),
    "grey": lambda p: np.asarray(Image.fromarray(p).convert("L").convert("RGB")),
    "mirrored": lambda p: np.ascontiguousarray(p[:, ::-1]),
    "a quarter turn": lambda p: np.ascontiguousarray(np.rot90(p)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_near_duplicates_survive_encoding_scaling_brightness_and_rotation(change: str) -> None:
    for seed in range(10):
        picture = scene(seed, (320, 240))
        assert is_same(thumbnail(picture), thumbnail(CHANGES[change](picture)))


def test_other_pictures_and_blank_ones_are_not_the_same() -> None:
    others = np.stack([thumbnail(scene(seed)) for seed in range(300)])
    assert not list(same_pictures(others))
    blank = np.stack([thumbnail(np.full((48, 64, 3), level, np.uint8)) for level in (20, 20, 90)])
    assert not list(same_pictures(blank))


def test_moved_object_makes_a_different_picture() -> None:
    frames = []
    for position in range(0, 60, 6):
        frame = scene(1, (320, 240)).copy()
        frame[100:112, 100 + position : 112 + position] = 255
        frames.append(thumbnail(frame))
    assert not list(same_pictures(np.stack(frames)))


def test_duplicates_within_a_split_are_not_leaks() -> None:
    twice = np.stack([thumbnail(scene(seed)) for seed in (1, 1, 2, 3)])
    assert list(same_pictures(twice, np.array([0, 0, 1, 1]))) == []
    assert list(same_pictures(twice, np.array([0, 1, 0, 1]))) == [(0, 1)]


@pytest.mark.parametrize("dataset", ["bccd", "dsb2018"])
def test_real_microscopy_has_no_false_alarm(dataset: str) -> None:
    folder = Path(__file__).parents[4] / "shared" / "data" / dataset
    if not folder.is_dir():
        pytest.skip("the data is not there")
    from engine.dataset.images.decoding import decode_image

    paths = sorted((folder / "images").iterdir())
    assert not list(same_pictures(np.stack([thumbnail(decode_image(path)) for path in paths])))


def test_same_file_in_two_splits_is_refused_before_images_are_read(tmp_path: Path) -> None:
    images = files(tmp_path / "images", CLEAN)
    train, val = (write(tmp_path / f"{split}.json", coco_of(list(CLEAN))) for split in ("train", "val"))
    spec = DatasetSpec.model_validate(
        {"train": {"annotations": str(train)}, "val": {"annotations": str(val)}, "images": str(images)}
    )
    info = inspect_request(spec, storage=Storage(), fingerprint=False)
    assert codes(info)["val_leaked"] == 20
    assert "20 of 20 images of val are in another split too, more than the 5 %" in fault(info)
    assert not fault(info, percent=100)


def test_copies_in_two_split_folders_are_found_by_name_and_size(tmp_path: Path) -> None:
    root = given(tmp_path, CLEAN, {"003.jpg": CLEAN["003.jpg"], **{f"new/{n}": p for n, p in OTHERS.items()}})
    assert codes(inspect_dataset(root))["val_leaked"] == 1


def test_the_same_name_in_two_folders_is_no_leak_where_the_files_differ(tmp_path: Path) -> None:
    root = given(tmp_path, CLEAN, OTHERS)
    assert "val_leaked" not in codes(inspect_dataset(root))
    assert "val_leaked" not in codes(validate_dataset(root))


@pytest.mark.parametrize("change", ["other name", *CHANGES])
def test_validation_sees_copies_under_other_names(tmp_path: Path, change: str) -> None:
    copies = {f"c{name}.png": CHANGES.get(change, np.asarray)(CLEAN[name]) for name in ("001.jpg", "002.jpg")}
    train = {f"t{name}.png": picture for name, picture in CLEAN.items()}
    folder = tmp_path / "train"
    root = given(tmp_path, train, OTHERS)
    for name, picture in copies.items():
        if change == "other name":
            shutil.copy(folder / f"t{name[1:]}", root / "valid" / name)
        else:
            Image.fromarray(picture).save(root / "valid" / name)
    coco = coco_of([*OTHERS, *copies])
    for image, name in zip(coco["images"], [*OTHERS, *copies], strict=True):
        with Image.open(root / "valid" / name) as opened:
            image["width"], image["height"] = opened.size
    write(root / "valid" / "_annotations.coco.json", coco)
    info = validate_dataset(root)
    assert codes(info)["val_leaked"] == 2
    assert "2 of 12 images of val" in fault(info)


def test_an_etag_in_s3_shows_the_same_bytes(s3: str, tmp_path: Path) -> None:
    root = given(tmp_path, CLEAN, OTHERS)
    shutil.copy(root / "train" / "005.jpg", root / "valid" / "another.jpg")
    write(root / "valid" / "_annotations.coco.json", coco_of([*OTHERS, "another.jpg"]))
    Storage().upload_folder(root, f"{s3}/leak")
    assert codes(inspect_dataset(f"{s3}/leak/"))["val_leaked"] == 1


ROBOFLOW = [f"scene{i:02}_jpg.rf.{n}{i:030x}.jpg" for i in range(8) for n in range(3)]


def test_versions_of_roboflow_are_distinguished_by_their_names(tmp_path: Path) -> None:
    pictures = {name: scene(i) for i, name in enumerate(ROBOFLOW)}
    root = given(tmp_path, dict(list(pictures.items())[:22]), dict(list(pictures.items())[22:]))
    info = inspect_dataset(root)
    assert codes(info)["version_leaked"] == 2
    assert not fault(info)  # other pictures may have had the same name


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("a_jpg.rf.c81e728d9d4c2f636f067f89cc14862c.jpg", "a"),
        ("train/my.cat_png.rf.AbCdEfGh123.png", "my.cat"),
        ("a-jpg.jpg", ""),
        ("rf.jpg", ""),
    ],
)
def test_the_source_of_a_version(name: str, source: str) -> None:
    assert source_of(name) == source


def test_splits_are_compared_by_class(tmp_path: Path) -> None:
    root = given(tmp_path, CLEAN, OTHERS)
    path = root / "valid" / "_annotations.coco.json"
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = "CAT"
    path.write_text(json.dumps(content))
    info = inspect_dataset(root)
    assert (codes(info)["val_lacks_class"], codes(info)["train_lacks_class"]) == (1, 1)
    content["categories"][1]["name"] = "DOG"
    path.write_text(json.dumps(content))
    info = inspect_dataset(root)
    assert "no class in common" in fault(info)


def sides(folder: Path) -> dict[str, str]:
    """By file name, its split."""
    return {
        image["file_name"]: path.stem
        for path in folder.glob("*.json")
        for image in json.loads(path.read_text())["images"]
    }


def divided(
    tmp_path: Path, pictures: dict[str, Picture], *, group_by: str | None = None, **fields: list[str]
) -> dict[str, str]:
    files(tmp_path / "images", pictures)
    data = write(tmp_path / "all.json", coco_of(list(pictures), **fields))
    split_file(
        str(data),
        tmp_path / "out",
        {"train": 0.8, "val": 0.2},
        seed=0,
        images=str(tmp_path / "images"),
        group_by=group_by,
    )
    found = sides(tmp_path / "out")
    assert found.keys() == pictures.keys()
    assert set(found.values()) == {"train", "val"}
    return found


def test_our_split_keeps_copies_and_versions_on_one_side(tmp_path: Path) -> None:
    pictures = {name: scene(i // 3 if i < 12 else i) for i, name in enumerate(ROBOFLOW)}
    for i in range(8):
        pictures |= {f"p{i}.png": scene(50 + i), f"q{i}.png": scene(50 + i)}
        pictures |= {f"r{i}.png": scene(70 + i), f"s{i}.png": jpeg(scene(70 + i)[:, ::-1])}
    side = divided(tmp_path, pictures)
    for i in range(8):
        assert side[f"p{i}.png"] == side[f"q{i}.png"]
        assert side[f"r{i}.png"] == side[f"s{i}.png"]
        assert len({side[name] for name in ROBOFLOW[3 * i : 3 * i + 3]}) == 1
    assert 8 <= sum(split == "val" for split in side.values()) <= 14


@pytest.mark.parametrize("group_by", ["Folder", "Prefix:_", "Field:video_id"])
def test_our_split_keeps_the_groups_of_a_user_on_one_side(tmp_path: Path, group_by: str) -> None:
    names = [f"day{i % 6}/cam{i % 6}_{i:03}.jpg" for i in range(36)]
    videos = [f"v{i % 6}" for i in range(36)]
    side = divided(tmp_path, {name: scene(i) for i, name in enumerate(names)}, group_by=group_by, video_id=videos)
    for group in range(6):
        assert len({side[name] for i, name in enumerate(names) if i % 6 == group}) == 1


def test_a_field_that_no_image_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has a field video_id"):
        divided(tmp_path, dict(CLEAN), group_by="Field:video_id")


def test_group_field_missing_in_given_splits_is_refused_before_training(tmp_path: Path) -> None:
    split = {"annotations": str(write(tmp_path / "a.json", coco_of([f"{i}.png" for i in range(12)]))), "images": "."}
    request = DatasetSpec.model_validate({"train": split, "val": split, "groupBy": "Field:video_id"})
    with pytest.raises(DataError, match="has a field video_id"):
        inspect_request(request, storage=Storage())


def test_val_split_with_half_left_out_is_refused(tmp_path: Path) -> None:
    spec = {}
    for name, count in (("train", 60), ("val", 10)):
        coco = coco_of([f"{name}{i}.png" for i in range(count)])
        if name == "val":
            for annotation in coco["annotations"][::2]:
                annotation["bbox"] = [v / 64 for v in annotation["bbox"]]
        files(tmp_path / name, {f"{name}{i}.png": scene(len(name) * 100 + i) for i in range(count)})
        spec[name] = {"annotations": str(write(tmp_path / f"{name}.json", coco)), "images": str(tmp_path / name)}
    info = inspect_request(DatasetSpec.model_validate(spec), storage=Storage())
    assert info.annotations == 130
    assert "10 of 20 annotations of val would be left out" in fault(info)


def test_groups_of_names() -> None:
    assert Grouping.of("Prefix:-").group("a/cam-1-004.jpg") == "a/cam-1"
    assert Grouping.of("Prefix:-").group("a/cam.jpg") == ""
    assert Grouping.of("Folder").group("cam.jpg") == ""


def test_copies_within_one_file_are_reported(tmp_path: Path) -> None:
    pictures = {"a.png": scene(1), "b.png": scene(1), "c.png": scene(2), "d.jpg": scene(2)}
    pictures |= {f"{i}.png": scene(10 + i) for i in range(12)}
    images = files(tmp_path / "images", pictures)
    found = codes(validate_dataset(write(tmp_path / "all.json", coco_of(list(pictures))), images))
    assert (found["same_bytes"], found["same_picture"]) == (1, 1)
