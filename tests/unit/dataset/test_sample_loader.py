"""One image with its objects, and where its file lies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from coco_files import Coco, changed, compressed, small_coco, triangle, write, write_images
from PIL import ExifTags, Image

from engine.dataset import CocoDataset, ImageFolder, load_dataset, load_sample
from engine.errors import DataError
from engine.storage import Storage


def dataset_of(folder: Path, coco: Coco) -> CocoDataset:
    return load_dataset(write(folder / "annotations.json", coco))


def test_objects_come_in_corners_with_their_masks(tmp_path: Path) -> None:
    mask = np.zeros((48, 64), bool)
    mask[5:26, 4:10] = True

    def change(coco: Coco) -> None:
        coco["annotations"][0].update(segmentation=compressed(mask), iscrowd=1)
        coco["annotations"][2].update(segmentation=[], bbox=[34, 5, 100, 22])

    dataset = dataset_of(tmp_path, changed(small_coco(1, 3, masks=True), change))
    write_images(tmp_path, ["001.png"])
    sample = load_sample(dataset, 0, tmp_path / "001.png", with_masks=True)
    assert sample.image.shape == (48, 64, 3)
    assert sample.boxes_xyxy.tolist() == [[4, 5, 16, 25], [19, 5, 31, 26], [34, 5, 64, 27]]
    assert sample.boxes_xyxy.dtype == np.float32
    assert sample.class_indices.tolist() == [0, 1, 0]
    assert sample.is_crowd.tolist() == [True, False, False]
    assert sample.annotation_indices.tolist() == [0, 1, 2]
    assert sample.masks is not None
    assert np.array_equal(sample.masks[0], mask)
    assert sample.masks[1, 6, 20]
    assert not sample.masks[2].any()
    assert load_sample(dataset, 0, tmp_path / "001.png", with_masks=False).masks is None


def test_chosen_objects_alone_are_decoded(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, small_coco(1, 3, masks=True))
    write_images(tmp_path, ["001.png"])
    sample = load_sample(dataset, 0, tmp_path / "001.png", with_masks=True, select=np.array([2, 0]))
    assert sample.annotation_indices.tolist() == [2, 0]
    assert sample.boxes_xyxy[:, 0].tolist() == [34, 4]
    assert sample.masks is not None
    assert len(sample.masks) == 2


def test_image_without_objects_has_empty_arrays(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, changed(small_coco(2, 1), lambda c: c["annotations"].pop(0)))
    write_images(tmp_path, ["001.png"])
    sample = load_sample(dataset, 0, tmp_path / "001.png", with_masks=True)
    assert sample.boxes_xyxy.shape == (0, 4)
    assert sample.masks is not None
    assert sample.masks.shape == (0, 48, 64)


def test_boxes_are_cut_at_an_image_whose_size_the_file_does_not_say(tmp_path: Path) -> None:
    def change(coco: Coco) -> None:
        del coco["images"][0]["width"]
        coco["annotations"][0]["bbox"] = [50, 5, 500, 20]
        coco["annotations"][1]["bbox"] = [70, 5, 5, 20]

    dataset = dataset_of(tmp_path, changed(small_coco(1, 3), change))
    write_images(tmp_path, ["001.png"])
    sample = load_sample(dataset, 0, tmp_path / "001.png", with_masks=False)
    assert sample.annotation_indices.tolist() == [0, 2]
    assert sample.boxes_xyxy[0].tolist() == [50, 5, 64, 25]


def turned(path: Path, orientation: int, *, stored: tuple[int, int] = (64, 48)) -> Path:
    """A JPEG of a white top half, as it is stored."""
    pixels = np.zeros((stored[1], stored[0], 3), np.uint8)
    pixels[: stored[1] // 2] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    return path


def test_annotations_made_on_the_stored_pixels_of_a_turned_image_stay_right(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, small_coco(1, 1))
    sample = load_sample(dataset, 0, turned(tmp_path / "a.jpg", 6), with_masks=False)
    assert sample.image.shape == (48, 64, 3)
    assert sample.image[:20].min() > 200
    assert sample.image[30:].max() < 50


def test_annotations_made_on_the_upright_image_stay_right(tmp_path: Path) -> None:
    coco = changed(small_coco(1, 1), lambda c: c["images"][0].update(width=48, height=64))
    sample = load_sample(dataset_of(tmp_path, coco), 0, turned(tmp_path / "a.jpg", 6), with_masks=False)
    assert sample.image.shape == (64, 48, 3)
    assert sample.image[:, 30:].min() > 200
    assert sample.image[:, :20].max() < 50


def test_an_image_of_another_size_is_refused_by_name(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, small_coco(1, 1))
    for size in ((48, 64), (128, 96)):
        path = tmp_path / "other.png"
        Image.new("RGB", size).save(path)
        with pytest.raises(
            DataError, match=rf"001\.png is {size[0]}x{size[1]} pixels, but the annotations state 64x48"
        ):
            load_sample(dataset, 0, path, with_masks=False)


def test_undecodable_image_is_refused_by_its_dataset_name(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, small_coco(1, 1))
    (tmp_path / "cached").write_bytes(b"")
    with pytest.raises(DataError, match=r"^001\.png"):
        load_sample(dataset, 0, tmp_path / "cached", with_masks=False)


def test_a_mask_of_another_size_is_refused_by_the_name_of_its_image(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, small_coco(1, 1, masks=True))
    wrong = replace(dataset.annotations[0][0], segmentation=compressed(np.eye(5, dtype=bool)))
    write_images(tmp_path, ["001.png"])
    with pytest.raises(DataError, match=r"001\.png: a mask cannot be decoded"):
        load_sample(replace(dataset, annotations=((wrong,),)), 0, tmp_path / "001.png", with_masks=True)


def test_files_on_disk_are_used_where_they_are(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "100%25 images", ["001.png", "a b/002.png"])
    dataset = dataset_of(tmp_path / "elsewhere", small_coco(3, 1))
    for uri in (str(folder), folder.as_uri()):
        images = ImageFolder(uri, storage=Storage(), cache=tmp_path / "cache")
        images.sync(dataset.images)
        assert images.path(dataset.images[0]) == folder / "001.png"
        assert images.path(dataset.images[1]) == folder / "a b" / "002.png"
        assert images.missing(dataset.images) == [dataset.images[2]]
        with pytest.raises(DataError, match=r"003\.png is not in .*images: upload it"):
            images.path(dataset.images[2])
    assert not (tmp_path / "cache").exists()


def test_images_from_s3_are_fetched_once_and_again_when_they_change(s3: str, tmp_path: Path) -> None:
    storage = Storage()
    folder = write_images(tmp_path / "images", ["001.png", "sub/002.png", "003.png"])
    storage.upload_folder(folder, f"{s3}/images")
    dataset = dataset_of(tmp_path, small_coco(2, 1))
    fetched: list[int] = []
    images = ImageFolder(f"{s3}/images/", storage=storage, cache=tmp_path / "cache")
    images.sync(dataset.images, on_progress=lambda progress: fetched.append(progress.objects))
    assert max(fetched) == 2
    path = images.path(dataset.images[1])
    assert path.read_bytes() == (folder / "sub" / "002.png").read_bytes()
    assert path.suffix == ".png"

    path.touch()
    before = path.stat().st_mtime_ns
    ImageFolder(f"{s3}/images", storage=storage, cache=tmp_path / "cache").sync(dataset.images)
    assert path.stat().st_mtime_ns == before

    write_images(folder, ["sub/002.png"], size=(10, 10))
    storage.upload(folder / "sub" / "002.png", f"{s3}/images/sub/002.png")
    again = ImageFolder(f"{s3}/images", storage=storage, cache=tmp_path / "cache")
    again.sync(dataset.images)
    assert Image.open(again.path(dataset.images[1])).size == (10, 10)


def test_a_triangle_is_drawn_where_its_points_are(tmp_path: Path) -> None:
    coco = changed(small_coco(1, 1), lambda c: c["annotations"][0].update(segmentation=triangle(10, 10, 20, 20)))
    dataset = dataset_of(tmp_path, coco)
    write_images(tmp_path, ["001.png"])
    masks = load_sample(dataset, 0, tmp_path / "001.png", with_masks=True).masks
    assert masks is not None
    assert masks[0].sum() == pytest.approx(200, abs=25)
    assert masks[0, 12, 12]
    assert not masks[0, 28, 28]
