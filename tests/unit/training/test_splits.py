from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from coco_files import compressed
from loops import nonempty
from toy import write_toy_data

from engine.config import DataConfig
from engine.config.model import SplitConfig, SplitFilesConfig
from engine.dataset import inspect_dataset
from engine.dataset.checks import whole_file_checks
from engine.dataset.splits.divide import balance_wanted
from engine.dataset.types import Detections
from engine.errors import DataError
from engine.storage import Storage
from engine.training.data.annotated_splits import AnnotatedSplits, SplitData
from engine.training.data.box_prompts import DetectedBoxes
from engine.training.data.splits import Splits
from engine.training.folds import detected_in_fold
from engine.training.prepare import SharedData


def data_of(annotations: str, images: str | None = None, **changes: object) -> DataConfig:
    values = {
        "digest": inspect_dataset(annotations, images).digest,
        "classes": ("red", "green"),
        "prompts": {},
        "source": SplitFilesConfig(annotations=annotations, images=images),
        "split": SplitConfig(train=60, val=20, test=20),
        "train": None,
        "val": None,
        "test": None,
    }
    return DataConfig.model_validate(values | changes)


def prepared(data: DataConfig, cache: Path, *, masks: bool = False, seed: int = 0) -> Splits:
    return Splits.of(AnnotatedSplits.of(data, masks=masks, seed=seed, storage=Storage(), cache=cache))


def names(split: SplitData | None) -> set[str]:
    return {image.file_name for image in split.dataset.images} if split else set()


@pytest.fixture
def half_masked(tmp_path: Path) -> str:
    """Twenty images with an object each; every second object has no mask."""
    file = write_toy_data(tmp_path / "data" / "all.json", range(20), masks=True)
    content = json.loads(file.read_text())
    for annotation in content["annotations"][::2]:
        del annotation["segmentation"]
    file.write_text(json.dumps(content))
    return str(file)


def test_each_image_is_in_one_split_by_the_seed(half_masked: str, tmp_path: Path) -> None:
    splits = prepared(data_of(half_masked), tmp_path)
    train, val, test = (names(split) for split in (splits.train, splits.val, splits.test))
    assert (len(train), len(val), len(test)) == (12, 4, 4)
    assert len(train | val | test) == 20
    assert names(prepared(data_of(half_masked), tmp_path).train) == train
    assert names(prepared(data_of(half_masked), tmp_path, seed=1).train) != train


def test_a_teacher_of_masks_learns_from_images_with_masks_and_shares_the_split(
    half_masked: str, tmp_path: Path
) -> None:
    boxes, masks = (prepared(data_of(half_masked), tmp_path, masks=wanted) for wanted in (False, True))
    assert names(masks.val) == names(boxes.val)
    assert names(masks.train) < names(boxes.train)
    assert all(found.segmentation for objects in masks.train.dataset.annotations for found in objects)
    assert [path.name for path in masks.train.paths] == [image.file_name for image in masks.train.dataset.images]


def test_classes_are_those_of_the_configuration_in_its_order(half_masked: str, tmp_path: Path) -> None:
    whole = prepared(data_of(half_masked), tmp_path).train.dataset
    turned = prepared(data_of(half_masked, classes=("green", "red")), tmp_path).train.dataset
    assert turned.classes == ("green", "red")
    for ours, theirs in zip(turned.annotations, whole.annotations, strict=True):
        assert [found.class_index for found in ours] == [1 - found.class_index for found in theirs]


def test_without_masks_a_teacher_of_masks_is_refused(tmp_path: Path) -> None:
    file = str(write_toy_data(tmp_path / "data" / "all.json", range(10)))
    with pytest.raises(DataError, match="the train split has no masks of the classes red, green"):
        prepared(data_of(file), tmp_path, masks=True)


def test_masks_that_fit_no_image_cost_their_images_before_training(tmp_path: Path) -> None:
    """Where the file gives no size, only the image tells."""
    file = write_toy_data(tmp_path / "data" / "all.json", range(20), masks=True)
    content = json.loads(file.read_text())
    image = content["images"][3]
    del image["width"], image["height"]
    for annotation in content["annotations"]:
        if annotation["image_id"] == image["id"]:
            x, y, width, height = map(int, annotation["bbox"])
            larger = np.zeros((500, 500), bool)
            larger[y : y + height, x : x + width] = True
            annotation["segmentation"] = compressed(larger)
    file.write_text(json.dumps(content))
    data = data_of(str(file))
    assert not prepared(data, tmp_path).unreadable.faults
    splits = prepared(data, tmp_path, masks=True)
    assert splits.unreadable.faults.keys() == {image["file_name"]}
    assert image["file_name"] not in names(splits.train) | names(splits.val) | names(splits.test)


def test_objects_outside_an_image_of_no_given_size_are_left_out_and_counted(tmp_path: Path) -> None:
    """Where the file gives no size, only the image tells; they must not count as objects that were not found."""
    file = write_toy_data(tmp_path / "data" / "all.json", range(20))
    content = json.loads(file.read_text())
    image = content["images"][3]
    del image["width"], image["height"]
    one = next(found for found in content["annotations"] if found["image_id"] == image["id"])
    content["annotations"].append(one | {"id": 10_000, "bbox": [500, 500, 8, 8]})
    file.write_text(json.dumps(content))
    for _ in range(2):  # looked at, and remembered
        splits = prepared(data_of(str(file)), tmp_path)
        assert not splits.unreadable.faults
        assert splits.objects_skipped == 1
        boxes = {
            found.box_xyxy
            for split in (splits.train, splits.val, splits.test)
            for objects in split.dataset.annotations
            for found in objects
        }
        assert len(boxes) > 10
        assert (500, 500, 508, 508) not in boxes


def test_images_come_from_object_storage_once(tmp_path: Path, s3: str) -> None:
    write_toy_data(tmp_path / "data" / "all.json", range(10))
    storage = Storage()
    storage.upload(tmp_path / "data" / "all.json", f"{s3}/toy/all.json")
    for image in (tmp_path / "data").glob("*.png"):
        storage.upload(image, f"{s3}/toy/images/{image.name}")
    data = data_of(f"{s3}/toy/all.json", f"{s3}/toy/images/")
    splits = prepared(data, tmp_path / "cache")
    assert all(path.is_relative_to(tmp_path / "cache") for path in nonempty(splits.train.paths))
    sample = splits.train.sample(0, with_masks=False)
    assert sample.image.shape == (32, 32, 3)
    fetched = {path: path.stat().st_mtime_ns for path in splits.train.paths}
    assert {path: path.stat().st_mtime_ns for path in prepared(data, tmp_path / "cache").train.paths} == fetched


@pytest.mark.parametrize("wanted", [{0, 1}, {0, 4}, {5}])
def test_an_image_that_a_split_needs_comes_with_its_group(wanted: set[int]) -> None:
    groups = [0, 0, 1, 2, 3, 3, 4, 5]
    indices = {"train": [0, 1, 2, 4, 5, 6], "val": [3, 7], "test": []}
    balance_wanted(indices, wanted, groups)
    splits_of_groups = [{name for name, split in indices.items() if i in split} for i in range(len(groups))]
    assert sorted(i for split in indices.values() for i in split) == list(range(8))
    assert all(splits_of_groups[i] == splits_of_groups[k] for i in range(8) for k in range(8) if groups[i] == groups[k])
    enough = len({groups[i] for i in wanted}) > 1
    assert bool(wanted & set(indices["val"])) == enough
    assert wanted & set(indices["train"])


def test_single_images_swap_and_splits_keep_their_sizes() -> None:
    indices = {"train": [0, 1, 2, 3], "val": [4, 5], "test": []}
    balance_wanted(indices, {1, 3}, range(6))
    assert indices == {"train": [0, 1, 2, 5], "val": [3, 4], "test": []}


def test_contradictions_that_the_sample_of_inspection_has_missed_are_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_toy_data(tmp_path / "data" / "all.json", range(20), masks=True)
    content = json.loads(file.read_text())
    x, y, width, height = content["annotations"][2]["bbox"]
    content["annotations"][2]["bbox"] = [x, y, x + width, y + height]  # within the image: only its mask tells
    file.write_text(json.dumps(content))
    monkeypatch.setattr(whole_file_checks, "READ_WHOLE", 0)
    monkeypatch.setattr(whole_file_checks, "EVERY", 1000)
    assert inspect_dataset(file).annotations == len(content["annotations"])
    assert prepared(data_of(str(file)), tmp_path).objects_skipped == 1


def in_folds(number: int, *, test: int = 0) -> SplitConfig:
    val = round((100 - test) / number)
    return SplitConfig(train=100 - test - val, val=val, test=test, folds=number)


def test_folds_divide_all_images_but_those_of_test(half_masked: str, tmp_path: Path) -> None:
    splits = prepared(data_of(half_masked, split=in_folds(4, test=20)), tmp_path)
    pool, tested = names(splits.train), names(splits.test)
    assert (len(pool), len(tested), names(splits.val)) == (16, 4, pool)
    assert not pool & tested
    assert [len(names(fold.val)) for fold in splits.folds] == [4] * 4
    assert set().union(*(names(fold.val) for fold in splits.folds)) == pool
    for fold in splits.folds:
        assert names(fold.train) == pool - names(fold.val)
        assert fold.test is None


def test_images_without_a_mask_are_validated_but_not_trained_on_in_a_fold(half_masked: str, tmp_path: Path) -> None:
    splits = prepared(data_of(half_masked, split=in_folds(2)), tmp_path, masks=True)
    masked = names(splits.train)
    assert len(masked) == 10
    assert len(names(splits.val)) == 20
    for fold in splits.folds:
        assert names(fold.train) == masked - names(fold.val)
        assert len(names(fold.val)) == 10


def test_detected_boxes_follow_their_images_into_a_fold(half_masked: str, tmp_path: Path) -> None:
    splits = prepared(data_of(half_masked, split=in_folds(4)), tmp_path)

    def boxes(split: SplitData) -> list[np.ndarray]:
        return [np.full((1, 4), image.id, np.float32) for image in split.dataset.images]

    found = [Detections(box, np.ones(1, np.float32), np.zeros(1, np.int64)) for box in boxes(splits.val)]
    shared = SharedData(Mock(), splits, DetectedBoxes.of(boxes(splits.train), found))
    for fold in splits.folds:
        detected = detected_in_fold(shared, fold)
        assert detected is not None
        for split, own in ((fold.train, detected.train), (fold.val, [one.boxes_xyxy for one in detected.val])):
            assert [box[0, 0] for box in own] == [image.id for image in split.dataset.images]
        assert shared.detected is not None
        assert detected.digest == shared.detected.digest


def test_a_fold_without_masks_is_refused_with_its_number(half_masked: str, tmp_path: Path) -> None:
    content = json.loads(Path(half_masked).read_text())
    for annotation in content["annotations"][4:]:
        annotation.pop("segmentation", None)
    Path(half_masked).write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"the validation part of fold \d+ has no masks of the classes"):
        prepared(data_of(half_masked, split=in_folds(10)), tmp_path, masks=True)
