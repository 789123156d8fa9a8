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
from coco_files import small_coco, write, write_images
from PIL import ExifTags, Image

from engine.dataset import Severity, validate, validate_dataset
from engine.dataset.images import ImageHeader, probe_image
from engine.storage import Storage

NAMES = [f"{i:03d}.png" for i in range(1, 13)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(tmp_path / "annotations.json", small_coco(12, 3))
    write_images(tmp_path / "images", NAMES)
    return tmp_path


def problems(folder: Path, *, thorough: bool = True) -> dict[str, tuple[Severity, int, str]]:
    info = validate_dataset(folder / "annotations.json", folder / "images", thorough=thorough)
    return {p.code: (p.severity, p.count, " ".join(p.examples)) for p in info.problems}


def test_right_images_are_no_problem(data: Path) -> None:
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
        (b"this is text", "no image"),
        (noise_png()[:3000], "cannot be read"),
        (huge_png(), "too large"),
    ],
)
def test_images_that_cannot_be_decoded_are_told(content: bytes, sentence: str, data: Path) -> None:
    (data / "images" / NAMES[4]).write_bytes(content)
    severity, count, example = problems(data)["unreadable_image"]
    assert (severity, count) == (Severity.WARNING, 1)
    assert example.startswith(NAMES[4])
    assert sentence in example


def test_damage_behind_the_header_shows_only_when_decoded(data: Path) -> None:
    (data / "images" / NAMES[0]).write_bytes(noise_png()[:3000])
    assert problems(data, thorough=False) == {}
    assert list(problems(data)) == ["unreadable_image"]


def test_another_size_than_annotated_is_told(data: Path) -> None:
    write_images(data / "images", NAMES[:2], size=(128, 96))
    severity, count, example = problems(data)["wrong_size"]
    assert (severity, count) == (Severity.WARNING, 2)
    assert "001.png is 128x96, not 64x48" in example


def test_images_annotated_as_they_are_stored_are_only_mentioned(data: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8
    Image.new("RGB", (64, 48)).save(data / "images" / NAMES[0], "PNG", exif=exif)
    assert problems(data) == {"turned_image": (Severity.INFO, 1, NAMES[0])}


def test_a_jpeg_called_png_is_only_mentioned(data: Path) -> None:
    Image.new("RGB", (64, 48)).save(data / "images" / NAMES[0], "JPEG")
    assert problems(data) == {"mislabelled_image": (Severity.INFO, 1, "001.png is JPEG")}


def test_images_that_are_not_there_are_errors_if_none_is(data: Path) -> None:
    (data / "images" / NAMES[0]).unlink()
    assert problems(data)["missing_image"][:2] == (Severity.WARNING, 1)
    shutil.rmtree(data / "images")
    assert "no_images_found" in [p.code for p in validate_dataset(data / "annotations.json").errors]


def test_images_in_s3_are_opened_too(s3: str, data: Path) -> None:
    (data / "images" / NAMES[0]).write_bytes(b"")
    storage = Storage()
    storage.upload_folder(data, f"{s3}/data")
    info = validate_dataset(f"{s3}/data/annotations.json", f"{s3}/data/images/", storage=storage)
    assert [(p.code, p.count) for p in info.problems] == [("unreadable_image", 1)]


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
