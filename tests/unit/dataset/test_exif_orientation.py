"""One frame for all images of a data set that EXIF turns or mirrors: in validation, training, labels and evaluation."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from coco_files import Coco, changed, small_coco, write
from labelling import Bright
from PIL import Image
from pycocotools import mask as coco_mask

from engine.config import generate_config
from engine.dataset import inspect_request, load_dataset, load_sample, validate_dataset
from engine.dataset.images.decoding import decode_image, probe_image
from engine.dataset.images.exif_orientation import turn_boxes, turned
from engine.dataset.predictions import load_predictions
from engine.dataset.types import Detections, Frame
from engine.errors import DataError
from engine.evaluation.evaluate_predictions import evaluate_predictions
from engine.labelling import label_folder
from engine.models.labeller import Labeller
from engine.spec import DatasetSpec, ExifOrientation, FineTuneSpec
from engine.storage import Storage
from engine.training.data.annotated_splits import AnnotatedSplits
from engine.training.data.splits import Splits

STORED = (64, 48)
BOX = (6, 4, 26, 14)
"""x, y, width, height of the bright rectangle in the stored pixels."""


def picture(orientation: int, size: tuple[int, int] = STORED, *, number: int = 0) -> bytes:
    """A dark image whose stored pixels have one bright rectangle, as JPEG; each number has a background of its own."""
    rough = np.random.default_rng(number).integers(0, 100, (6, 8, 3), np.uint8)
    pixels = np.asarray(Image.fromarray(rough).resize(size, Image.Resampling.NEAREST)).copy()
    x, y, width, height = BOX
    pixels[y : y + height, x : x + width] = 255
    exif, file = Image.Exif(), io.BytesIO()
    exif[274] = orientation
    Image.fromarray(pixels).save(file, "JPEG", exif=exif, quality=100)
    return file.getvalue()


def upright_box(orientation: int, size: tuple[int, int] = STORED) -> list[float]:
    x, y, width, height = BOX
    box = turn_boxes(np.array([[x, y, x + width, y + height]], np.float32), orientation, size)[0]
    return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]


def dataset(
    folder: Path,
    orientations: list[int],
    frame: Frame | list[Frame],
    *,
    square: tuple[int, ...] = (),
    unsized: tuple[int, ...] = (),
    first: int = 0,
) -> Path:
    """Images of these orientations, annotated in a frame; those at ``square`` are so, at ``unsized`` have no size.

    Pictures are numbered from ``first`` on: no two numbers are the same picture.
    """
    coco = small_coco(len(orientations), 1)
    frames = frame if isinstance(frame, list) else [frame] * len(orientations)
    for i, (orientation, image, annotation) in enumerate(
        zip(orientations, coco["images"], coco["annotations"], strict=True)
    ):
        size = (64, 64) if i in square else STORED
        image["file_name"] = f"{i:03d}.jpg"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "images" / image["file_name"]).write_bytes(picture(orientation, size, number=first + i))
        upright = frames[i] is Frame.UPRIGHT
        image["width"], image["height"] = size[::-1] if upright and orientation >= 5 else size
        annotation["bbox"] = upright_box(orientation, size) if upright else list(BOX)
        annotation["category_id"] = 1
        if i in unsized:
            del image["width"], image["height"]
    write(folder / "annotations.json", coco)
    return folder


def problems(folder: Path, asked: ExifOrientation = ExifOrientation.AUTO) -> dict[str, int]:
    info = validate_dataset(folder / "annotations.json", folder / "images", exif_orientation=asked)
    about = ("turned_image", "wrong_size", "box_outside", "box_clipped", "unreadable_image", "several_pages")
    return {p.code: p.count for p in info.problems if p.code.startswith("exif_") or p.code in about}


def splits_of(folder: Path, *, asked: ExifOrientation = ExifOrientation.AUTO) -> Splits:
    data = DatasetSpec(
        annotations=str(folder / "annotations.json"), images=str(folder / "images"), exif_orientation=asked
    )
    info = validate_dataset(folder / "annotations.json", folder / "images")
    config = generate_config(info, FineTuneSpec(dataset=data, output="out"))
    loaded = AnnotatedSplits.of(config.data, masks=False, seed=0, storage=Storage(), cache=folder / "cache")
    return Splits.of(loaded)


def brightness(splits: Splits) -> list[float]:
    """Mean of the pixels inside the box of each object: 255 where boxes fit their images."""
    found = []
    for split in (splits.train, splits.val):
        for index in range(len(split.dataset)):
            sample = split.sample(index, with_masks=False)
            assert len(sample) == 1
            x1, y1, x2, y2 = sample.boxes_xyxy[0].round().astype(int)
            found.append(float(sample.image[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].mean()))
    return found


MIXED = [1, 6, 3, 6, 2, 4, 8, 5, 7, 1]


@pytest.mark.parametrize("frame", list(Frame))
@pytest.mark.parametrize("unsized", [(), (2, 3, 6)])
def test_images_that_cannot_prove_their_frame_follow_those_that_do(
    tmp_path: Path, frame: Frame, unsized: tuple[int, ...]
) -> None:
    folder = dataset(tmp_path, MIXED, frame, square=(3, 8), unsized=unsized)
    assert min(brightness(splits_of(folder))) > 250
    proven = 2 if unsized else 3
    told = {} if frame is Frame.UPRIGHT else {"turned_image": proven, "exif_as_others": 8 - proven}
    assert problems(folder) == told


@pytest.mark.parametrize("frame", list(Frame))
@pytest.mark.parametrize("unsized", [(), (0, 1, 2, 3, 4)])
def test_where_none_proves_it_the_user_is_informed_and_can_set_it(
    tmp_path: Path, frame: Frame, unsized: tuple[int, ...]
) -> None:
    folder = dataset(tmp_path, [3, 6, 2, 1, 1], frame, square=(1,), unsized=unsized)
    assert problems(folder) == {"exif_unproven": 3}
    asked = ExifOrientation.APPLIED if frame is Frame.UPRIGHT else ExifOrientation.IGNORED
    assert min(brightness(splits_of(folder, asked=asked))) > 250
    assert "exif_unproven" not in problems(folder, asked)


def test_images_that_contradict_each_other_are_reported_and_taken_as_their_sizes_show(tmp_path: Path) -> None:
    frames = [Frame.STORED, Frame.STORED, Frame.UPRIGHT, Frame.STORED, Frame.STORED]
    folder = dataset(tmp_path, [6, 8, 6, 3, 1], frames)
    assert problems(folder) == {"turned_image": 2, "exif_contradiction": 1, "exif_as_others": 1}
    assert min(brightness(splits_of(folder))) > 250
    assert problems(folder, ExifOrientation.APPLIED) == {"turned_image": 2, "exif_contradiction": 2}


@pytest.mark.parametrize("orientations", [[1] * 5, [6, 8, 5, 7, 6]])
def test_upright_data_has_no_exif_message(tmp_path: Path, orientations: list[int]) -> None:
    assert problems(dataset(tmp_path, orientations, Frame.UPRIGHT)) == {}


def test_a_proof_in_the_training_split_counts_for_the_others(tmp_path: Path) -> None:
    dataset(tmp_path / "train", [6, 6, 3], Frame.STORED)
    dataset(tmp_path / "val", [2, 4, 3], Frame.STORED, square=(2,), first=3)
    spec = {
        "train": {"annotations": str(tmp_path / "train/annotations.json"), "images": str(tmp_path / "train/images")},
        "val": {"annotations": str(tmp_path / "val/annotations.json"), "images": str(tmp_path / "val/images")},
    }
    asked = DatasetSpec.model_validate(spec)
    config = generate_config(inspect_request(asked, storage=Storage()), FineTuneSpec(dataset=asked, output="out"))
    data = AnnotatedSplits.of(config.data, masks=False, seed=0, storage=Storage(), cache=tmp_path / "cache")
    assert data.undecided({"val": data.fetch_images("val")})
    assert min(brightness(Splits.of(data))) > 250


@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_are_turned_as_pillow_turns_images(orientation: int) -> None:
    stored = np.zeros((48, 64), np.uint8)
    x, y, width, height = BOX
    stored[y : y + height, x : x + width] = 1
    seen = Detections(
        np.array([[x, y, x + width, y + height]], np.float32),
        np.ones(1, np.float32),
        np.zeros(1, np.int64),
        masks=[coco_mask.encode(np.asfortranarray(stored))],
    )
    image = decode_image(picture(orientation))
    upright = turned(seen, orientation, STORED, to=Frame.UPRIGHT)
    assert upright.masks is not None
    assert np.array_equal(coco_mask.decode(upright.masks[0]), image[..., 0] > 128)
    back = turned(upright, orientation, image.shape[1::-1], to=Frame.STORED)
    assert back.masks is not None
    assert np.array_equal(back.boxes_xyxy, seen.boxes_xyxy)
    assert np.array_equal(coco_mask.decode(back.masks[0]), stored)


@pytest.mark.parametrize("truth", list(Frame))
@pytest.mark.parametrize("trained", list(Frame))
def test_labels_fit_the_truth_whichever_frame_either_is_in(tmp_path: Path, truth: Frame, trained: Frame) -> None:
    folder = dataset(tmp_path, MIXED, truth, square=(3,))
    labeller = Labeller(detector=Bright(), frame=trained)  # type: ignore[arg-type]
    output = str(tmp_path / "labels.json")
    label_folder(labeller, str(folder / "images"), output)

    def named(coco: Coco) -> None:
        coco["categories"] = [{"id": 1, "name": "tall"}, {"id": 3, "name": "wide"}]
        for annotation in coco["annotations"]:
            annotation["category_id"] = 1 if annotation["bbox"][2] < annotation["bbox"][3] else 3

    coco = changed(json.loads((folder / "annotations.json").read_text()), named)
    data = load_dataset(write(folder / "truth.json", coco), folder / "images")
    predictions = load_predictions(output, storage=Storage())
    measured = evaluate_predictions(data, predictions)
    assert measured.mistakes.found + measured.mistakes.wrong_class == len(MIXED)
    assert measured.mistakes.badly_localised == measured.mistakes.false == 0
    assert bool(measured.remarks) is (truth is not trained)


def test_labels_of_other_programs_with_sides_exchanged_are_refused_by_name(tmp_path: Path) -> None:
    folder = dataset(tmp_path, [6, 1], Frame.STORED)
    coco = json.loads((folder / "annotations.json").read_text())
    data = load_dataset(folder / "annotations.json", folder / "images")
    coco["images"][0] |= {"width": 48, "height": 64}
    coco["annotations"] = [one | {"score": 0.5} for one in coco["annotations"]]
    write(tmp_path / "labels.json", coco)
    with pytest.raises(DataError, match="EXIF"):
        evaluate_predictions(data, load_predictions(str(tmp_path / "labels.json"), storage=Storage()))


def animation(file_format: str, pages: int = 2, **options: object) -> bytes:
    images = [Image.new("RGB", STORED, (60 * i, 0, 0)) for i in range(pages)]
    file = io.BytesIO()
    images[0].save(file, file_format, save_all=True, append_images=images[1:], **options)
    return file.getvalue()


@pytest.mark.parametrize("file_format", ["TIFF", "GIF", "WEBP", "PNG"])
def test_several_pages_or_frames_are_reported(tmp_path: Path, file_format: str) -> None:
    folder = dataset(tmp_path, [1, 1], Frame.UPRIGHT)
    for name, pages in (("000.jpg", 1), ("001.jpg", 3)):
        (folder / "images" / name).write_bytes(animation(file_format, pages))
    assert problems(folder) == {"several_pages": 1}
    splits = splits_of(folder)
    assert splits.unreadable.pages == 1


def test_smaller_copies_in_a_tiff_are_not_pages() -> None:
    file = io.BytesIO()
    with Image.new("RGB", STORED) as image, Image.new("RGB", (32, 24)) as copy:
        copy.encoderinfo = {"tiffinfo": {254: 1}}
        image.save(file, "TIFF", save_all=True, append_images=[copy])
    assert probe_image(file.getvalue()).pages == 1


def test_a_sample_of_a_stored_data_set_keeps_square_pixels_as_they_are(tmp_path: Path) -> None:
    folder = dataset(tmp_path, [6, 6], Frame.STORED, square=(1,))
    data = load_dataset(folder / "annotations.json", folder / "images")
    path = folder / "images" / "001.jpg"
    stored = load_sample(replace(data, frame=Frame.STORED), 1, path, with_masks=False)
    assert np.array_equal(stored.image, decode_image(path, upright=False))
    assert np.array_equal(load_sample(data, 1, path, with_masks=False).image, decode_image(path))
