"""Images with labels of teachers: which are learned, which are left out, and what is reported."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from toy import write_toy_data

from engine.config.model import LabelsConfig
from engine.dataset import ImageFolder, load_dataset
from engine.dataset.images.thumbnail_cache import thumbnails_of
from engine.dataset.splits.groups import split_images
from engine.dataset.splits.leaks import SplitImages
from engine.errors import DataError
from engine.storage import Storage
from engine.training.data.teacher_labelled import LeftOut, TeacherLabelled
from engine.training.messages import left_out_messages


def change(file: Path, changes: Callable[[dict[str, Any]], None]) -> None:
    coco = json.loads(file.read_text())
    changes(coco)
    file.write_text(json.dumps(coco))


def add_scores(coco: dict[str, Any]) -> None:
    for found in coco["annotations"]:
        found["score"] = 0.8


def labels_of(file: Path) -> Path:
    change(file, add_scores)
    return file


def fetched(file: Path, human: dict[str, SplitImages], *, max_percent: int = 20) -> tuple[list[str], LeftOut]:
    config = LabelsConfig(
        teacher=None,
        annotations=str(file),
        images=None,
        digest=hashlib.sha256(file.read_bytes()).hexdigest(),
        human_share=0.5,
        min_score=0,
        soft_scores=False,
    )
    labelled = TeacherLabelled.of(config, ("red", "green"), storage=Storage(), cache=file.parent / "cache")
    split, left_out = labelled.fetch(human, max_percent=max_percent)
    assert len(split.paths) == len(split.dataset.images)
    return [image.file_name for image in split.dataset.images], left_out


def images_of(file: Path) -> SplitImages:
    dataset, cache = load_dataset(str(file), None, storage=Storage()), file.parent / "cache"
    folder = ImageFolder(str(file.parent), storage=Storage(), cache=cache)
    folder.sync(dataset.images)
    thumbnails = thumbnails_of(dataset.images, folder, cache=cache, check=lambda: None)
    return split_images([image.file_name for image in dataset.images], folder, thumbnails=thumbnails)


def camera(file: Path, frames: range) -> Path:
    """Frames of a fixed camera: near-duplicates with other bytes."""
    rows = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    scene = cv2.resize(rows, (320, 240), interpolation=cv2.INTER_CUBIC).astype(int)
    coco: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "red"}]}
    file.parent.mkdir()
    for index in frames:
        noise = np.random.default_rng([1, index]).integers(-4, 5, scene.shape)
        Image.fromarray(np.clip(scene + noise, 0, 255).astype(np.uint8)).save(file.parent / f"{index}.png")
        coco["images"].append({"id": index, "file_name": f"{index}.png", "width": 320, "height": 240})
        found = {"id": index, "image_id": index, "category_id": 1, "bbox": [9, 9, 40, 40], "area": 1600, "iscrowd": 0}
        coco["annotations"].append(found)
    file.write_text(json.dumps(coco))
    return file


def test_pictures_like_those_of_the_training_split_are_learned(tmp_path: Path) -> None:
    human = images_of(camera(tmp_path / "human" / "all.json", range(3)))
    labels = labels_of(camera(tmp_path / "yard" / "labels.json", range(2, 6)))  # the first has the bytes of a human one
    other = images_of(write_toy_data(tmp_path / "val" / "all.json", range(2)))
    assert fetched(labels, {"train": human, "val": other}) == (["3.png", "4.png", "5.png"], LeftOut(4, human=1))


@pytest.mark.parametrize("split", ["val", "test", "train"])
def test_pictures_of_measured_images_are_not_learned(tmp_path: Path, split: str) -> None:
    """Without a validation split the training split is validated by cross-validation."""
    human = images_of(camera(tmp_path / "human" / "all.json", range(3)))
    labels = labels_of(camera(tmp_path / "yard" / "labels.json", range(3, 6)))
    others = {} if split == "train" else {"train": images_of(write_toy_data(tmp_path / "a" / "all.json", range(2)))}
    with pytest.raises(
        DataError, match=r"no image with labels of .* of 3, 0 cannot be used, 0 have human labels, and 3"
    ):
        fetched(labels, others | {split: human})


def unreadable(coco: dict[str, Any]) -> None:
    coco["images"].append({"id": 99, "file_name": "bad.png", "width": 64, "height": 64})


def wrong_width(coco: dict[str, Any]) -> None:
    coco["images"][0]["width"] = 500


def test_unusable_images_are_counted_and_named_with_an_example(tmp_path: Path) -> None:
    file = labels_of(write_toy_data(tmp_path / "labels.json", range(9)))
    (tmp_path / "bad.png").write_bytes(b"no image")
    for changes in (unreadable, wrong_width):
        change(file, changes)
    names, left_out = fetched(file, {})
    assert names == [f"{index}.png" for index in range(1, 9)]
    (message,) = left_out_messages(left_out)
    assert message.startswith(
        "2 of 10 images with labels of teachers are left out: 2 cannot be decoded or have another"
    )
    assert re.search(r"0\.png is \d+x\d+ pixels, but the annotations state 500x", message)
    assert "bad.png" in message
    with pytest.raises(DataError, match=r"2 of 10 images with labels of .* more than the 19 % .*maxSkippedPercent"):
        fetched(file, {}, max_percent=19)


def test_the_message_counts_by_reason() -> None:
    assert list(left_out_messages(None)) == list(left_out_messages(LeftOut(5))) == []
    (message,) = left_out_messages(LeftOut(1000, human=2, evaluated=3))
    assert message == (
        "5 of 1,000 images with labels of teachers are left out: 2 have human labels, 3 show pictures of the "
        "validation or test split"
    )
