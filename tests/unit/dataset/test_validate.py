"""Every image is opened before the GPU is paid for."""

from __future__ import annotations

import io
import shutil
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import Coco, changed, small_coco, write, write_images
from PIL import ExifTags, Image

from engine.config import generate_config
from engine.dataset import Severity, inspect_dataset, validate_dataset
from engine.dataset.checks import validate
from engine.dataset.images.decoding import ImageHeader, probe_image
from engine.spec import DatasetSpec, FineTuneSpec
from engine.storage import Storage
from engine.training.data.annotated_splits import AnnotatedSplits
from engine.training.data.splits import Splits

NAMES = [f"{i:03d}.png" for i in range(1, 13)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(tmp_path / "annotations.json", small_coco(12, 3))
    write_images(tmp_path / "images", NAMES)
    return tmp_path


def problems(folder: Path, *, thorough: bool = True) -> dict[str, tuple[Severity, int, str]]:
    info = validate_dataset(folder / "annotations.json", folder / "images", thorough=thorough)
    return {p.code: (p.severity, p.count, " ".join(p.examples)) for p in info.problems}


def test_valid_images_have_no_problems(data: Path) -> None:
    assert problems(data) == {}
    assert validate_dataset(data / "annotations.json").images == 12


def huge_png() -> bytes:
    """Two gigapixels in some hundred bytes."""
    file = io.BytesIO()
    Image.new("1", (1, 1)).save(file, "PNG")
    header = b"IHDR" + (50_000).to_bytes(4) * 2 + bytes([1, 0, 0, 0, 0])
    return file.getvalue()[:12] + header + zlib.crc32(header).to_bytes(4) + file.getvalue()[33:]


def noise_png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "empty"),
        (b"this is text", "not an image"),
        (noise_png()[:3000], "cannot be read"),
        (huge_png(), "too large"),
    ],
)
def test_images_that_cannot_be_decoded_are_reported(content: bytes, sentence: str, data: Path) -> None:
    (data / "images" / NAMES[4]).write_bytes(content)
    severity, count, example = problems(data)["unreadable_image"]
    assert (severity, count) == (Severity.WARNING, 1)
    assert example.startswith(NAMES[4])
    assert sentence in example


def test_damage_after_the_header_is_found_only_by_decoding(data: Path) -> None:
    (data / "images" / NAMES[0]).write_bytes(noise_png()[:3000])
    assert problems(data, thorough=False) == {}
    assert set(problems(data)) == {"unreadable_image", "image_left_out"}


def test_another_size_than_annotated_is_reported(data: Path) -> None:
    write_images(data / "images", NAMES[:2], size=(128, 96))
    severity, count, example = problems(data)["wrong_size"]
    assert (severity, count) == (Severity.WARNING, 2)
    assert "001.png is 128x96, not 64x48" in example


def test_validation_counts_what_training_uses(data: Path) -> None:
    """Of an image that is cut off, one of another size, and two whose size the file does not give."""

    def blur(coco: Coco) -> None:
        for image in coco["images"][:2]:
            del image["width"], image["height"]
        coco["annotations"][0]["bbox"] = [70, 5, 10, 10]  # beside an image of 64 pixels
        coco["annotations"][1]["bbox"] = [60, 5, 10, 10]

    annotations, images = write(data / "annotations.json", changed(small_coco(12, 3), blur)), data / "images"
    (images / NAMES[3]).write_bytes(noise_png()[:3000])
    write_images(images, NAMES[5:6], size=(128, 96))
    info = validate_dataset(annotations, images)
    assert (info.images, info.images_read, info.annotations, info.annotations_read) == (10, 12, 29, 36)
    assert sum(one.annotations for one in info.classes) == 29
    counts = {p.code: p.count for p in info.problems}
    assert (counts["image_left_out"], counts["box_outside"], counts["missing_size"]) == (6, 1, 2)
    spec = FineTuneSpec(dataset=DatasetSpec(annotations=str(annotations), images=str(images)), output="out")
    for known in (info, inspect_dataset(annotations, images)):
        config = generate_config(known, spec)
        splits = Splits.of(
            AnnotatedSplits.of(config.data, masks=False, seed=0, storage=Storage(), cache=data / "cache")
        )
        datasets = [split.dataset for split in (splits.train, splits.val)]
        assert sum(map(len, datasets)) == info.images
        assert sum(len(objects) for one in datasets for objects in one.annotations) == info.annotations


def test_unusable_images_are_not_reported_as_missing(data: Path) -> None:
    write_images(data / "images", NAMES, size=(128, 96))
    info = validate_dataset(data / "annotations.json", data / "images")
    assert (info.images, info.images_read) == (0, 12)
    assert [p.code for p in info.errors] == ["no_usable_annotations"]


def test_images_annotated_as_they_are_stored_are_only_mentioned(data: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8
    Image.new("RGB", (64, 48)).save(data / "images" / NAMES[0], "PNG", exif=exif)
    assert problems(data) == {"turned_image": (Severity.INFO, 1, NAMES[0])}


def test_a_jpeg_called_png_is_only_mentioned(data: Path) -> None:
    Image.new("RGB", (64, 48)).save(data / "images" / NAMES[0], "JPEG")
    assert problems(data) == {"mislabelled_image": (Severity.INFO, 1, "001.png is JPEG")}


def test_missing_images_are_an_error_if_all_are_missing(data: Path) -> None:
    (data / "images" / NAMES[0]).unlink()
    assert problems(data)["missing_image"][:2] == (Severity.WARNING, 1)
    shutil.rmtree(data / "images")
    assert "no_images_found" in [p.code for p in validate_dataset(data / "annotations.json").errors]


def test_images_in_s3_are_opened_too(s3: str, data: Path) -> None:
    (data / "images" / NAMES[0]).write_bytes(b"")
    storage = Storage()
    storage.upload_folder(data, f"{s3}/data")
    info = validate_dataset(f"{s3}/data/annotations.json", f"{s3}/data/images/", storage=storage)
    assert [(p.code, p.count) for p in info.problems] == [("image_left_out", 3), ("unreadable_image", 1)]
    assert (info.images, info.images_read) == (11, 12)


def test_examples_are_the_first_images_of_the_file_whichever_are_done_first(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one waits for six others."""
    write_images(data / "images", NAMES, size=(128, 96))
    others, enough = iter(NAMES[1:7]), threading.Event()

    def probe(source: Any, *, name: str) -> ImageHeader:
        if name == NAMES[0]:
            enough.wait(60)
        elif next(others, None) is None:
            enough.set()
        return probe_image(source, name=name)

    monkeypatch.setattr(validate, "probe_image", probe)
    severity, count, examples = problems(data)["wrong_size"]
    assert (severity, count) == (Severity.WARNING, 12)
    assert [word for word in examples.split() if word.endswith(".png")] == NAMES[:5]
