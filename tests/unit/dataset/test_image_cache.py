"""A cached image is the bytes that came from the store, or is fetched again: it is never decoded damaged."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from coco_files import small_coco, write, write_images

from engine.dataset import ImageFolder, load_dataset, load_sample
from engine.dataset.images.cache_checksums import _sums_once
from engine.dataset.types import CocoDataset
from engine.errors import StorageError
from engine.storage import Storage


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def flip_unseen(path: Path) -> None:
    """As a disk does it: the time of change stays."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    flip(path)
    os.utime(path, ns=times)


def make(tmp_path: Path, s3: str) -> tuple[CocoDataset, ImageFolder]:
    coco = small_coco()
    folder = write_images(tmp_path / "images", [image["file_name"] for image in coco["images"]])
    Storage().upload_folder(folder, f"{s3}/images")
    images = ImageFolder(f"{s3}/images", storage=Storage(), cache=tmp_path / "cache")
    dataset = load_dataset(write(tmp_path / "a.json", coco), folder)
    images.sync(dataset.images)
    _sums_once.cache_clear()
    return dataset, images


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_copy_is_fetched_again_and_reported(
    tmp_path: Path, s3: str, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    dataset, images = make(tmp_path, s3)
    paths = [images.path(image) for image in dataset.images]
    right = [path.read_bytes() for path in paths]
    made = [path.stat().st_mtime_ns for path in paths]
    DAMAGE[kind](paths[1])
    with caplog.at_level(logging.WARNING):
        images.sync(dataset.images)
    assert [path.read_bytes() for path in paths] == right
    assert [path.stat().st_mtime_ns for path in paths[2:]] == made[2:]
    assert (str(paths[1]) in caplog.text) == (kind != "missing")


def test_intact_copies_are_fetched_once_without_warnings(
    tmp_path: Path, s3: str, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, images = make(tmp_path, s3)
    before = [images.path(image).stat().st_ino for image in dataset.images]
    os.utime(images.path(dataset.images[0]))  # a backup has touched it
    images.sync(dataset.images)
    assert [images.path(image).stat().st_ino for image in dataset.images] == before
    assert not caplog.records


def test_copies_of_earlier_versions_are_kept_where_the_etag_proves_them(tmp_path: Path, s3: str) -> None:
    dataset, images = make(tmp_path, s3)
    paths = [images.path(image) for image in dataset.images]
    for sums in (tmp_path / "cache" / "images").rglob(".checksums"):
        sums.unlink()
    before = [path.stat().st_ino for path in paths]
    right = paths[0].read_bytes()
    flip(paths[0])
    images.sync(dataset.images)
    assert [path.stat().st_ino for path in paths][1:] == before[1:]
    assert paths[0].read_bytes() == right


def test_silent_disk_corruption_is_detected_on_read(tmp_path: Path, s3: str) -> None:
    dataset, images = make(tmp_path, s3)
    path = images.path(dataset.images[0])
    load_sample(dataset, 0, path, with_masks=False)
    flip_unseen(path)
    with pytest.raises(StorageError, match="was removed: run the same command again"):
        load_sample(dataset, 0, path, with_masks=False)
    images.sync(dataset.images)
    load_sample(dataset, 0, path, with_masks=False)
