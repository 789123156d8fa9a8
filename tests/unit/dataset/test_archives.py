"""Zip files are unpacked within bounds, and refused where they are broken or hostile."""

from __future__ import annotations

import os
import stat
import struct
import time
import zipfile
from pathlib import Path

import pytest
from coco_files import small_coco
from other_formats import coco_export, text, yolo, zipped

from engine.dataset import inspect_dataset, load_dataset
from engine.dataset.formats import archives
from engine.errors import DataError, MachineError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TEACHER_CACHE", str(folder))
    return folder


def archive_of(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries:
            file.writestr(name, content)
    return path


def link(name: str, mode: int = stat.S_IFLNK) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (mode | 0o777) << 16
    return info


@pytest.mark.parametrize("name", ["../../out.txt", "/etc/out.txt", "a/../../out.txt", "C:/out.txt", "..\\..\\out.txt"])
def test_archive_names_outside_the_folder_are_refused(name: str, tmp_path: Path, cache: Path) -> None:
    archive = archive_of(tmp_path / "data.zip", (name, b"x"))
    with pytest.raises(DataError, match="leads out of its folder"):
        inspect_dataset(archive)
    assert not [path for path in (*cache.rglob("*"), *tmp_path.rglob("out.txt")) if path.is_file()]


@pytest.mark.parametrize(("mode", "what"), [(stat.S_IFLNK, "a link"), (stat.S_IFIFO, "no plain file")])
def test_links_and_devices_are_refused(mode: int, what: str, tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "data.zip", (link("images/a.png", mode), b"/etc/passwd"))
    with pytest.raises(DataError, match=f"'images/a.png', which is {what}"):
        inspect_dataset(archive)


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "data.zip", ("a.json", b"{}"))
    content = bytearray(archive.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match="is encrypted"):
        inspect_dataset(archive)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive = archive_of(tmp_path / "data.zip", ("a.json", b"{}"), ("a.json", b"[]"))
    with pytest.raises(DataError, match=r"two files called 'a\.json'"):
        inspect_dataset(archive)


def test_zip_bomb_is_refused_before_unpacking(tmp_path: Path, cache: Path) -> None:
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file, file.open("0.txt", "w") as one:
        for _ in range(64):
            one.write(bytes(1 << 20))
    content = bytearray(archive.read_bytes())
    for at in (content.index(b"PK\x03\x04") + 22, content.index(b"PK\x01\x02") + 24):
        struct.pack_into("<L", content, at, 0xFFFFFFF0)  # it claims four gigabytes
    archive.write_bytes(content)
    began = time.monotonic()
    with pytest.raises(DataError, match="looks like a zip bomb"):
        inspect_dataset(archive)
    assert time.monotonic() - began < 2
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_archive_larger_than_its_header_is_refused(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "data.zip", ("a.txt", bytes(1 << 20)))
    content = bytearray(archive.read_bytes())
    for at in (content.index(b"PK\x03\x04") + 22, content.index(b"PK\x01\x02") + 24):
        struct.pack_into("<L", content, at, 100)
    archive.write_bytes(content)
    with pytest.raises(DataError, match="not a complete zip file"):
        inspect_dataset(archive)


def test_an_archive_that_does_not_fit_on_the_disk_is_reported_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = archive_of(tmp_path / "data.zip", ("a.json", b"{}"))
    monkeypatch.setattr(archives, "SPARE", 1 << 60)
    with pytest.raises(MachineError, match="TEACHER_CACHE"):
        inspect_dataset(archive)


@pytest.mark.parametrize("cut", [10, 200, -30])
def test_truncated_archive_is_refused(cut: int, tmp_path: Path) -> None:
    archive = zipped(coco_export(tmp_path / "data", small_coco(3, 1)), tmp_path / "data.zip")
    archive.write_bytes(archive.read_bytes()[:cut])
    with pytest.raises(DataError, match="not a complete zip file"):
        inspect_dataset(archive)


def test_damage_within_an_archive_is_noticed(tmp_path: Path) -> None:
    archive = zipped(coco_export(tmp_path / "data", small_coco(3, 1)), tmp_path / "data.zip")
    with zipfile.ZipFile(archive) as file:
        first = file.infolist()[0]
    content = bytearray(archive.read_bytes())
    content[first.header_offset + 30 + len(first.filename) + 20] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(DataError, match="not a complete zip file"):
        inspect_dataset(archive)


def test_metadata_of_macos_and_windows_in_archives_is_ignored(tmp_path: Path) -> None:
    folder = yolo(tmp_path / "data", small_coco(3, 1))
    text(folder / "__MACOSX" / "labels" / "._001.txt", b"\0\5\x16\7")
    text(folder / "labels" / "._001.txt", b"\0\5\x16\7")
    text(folder / "images" / ".DS_Store", b"\0")
    text(folder / "images" / "Thumbs.db", b"\0")
    text(folder / "__MACOSX" / "images" / "._001.png", b"\0")
    info = inspect_dataset(zipped(folder, tmp_path / "data.zip"))
    assert (info.images, info.annotations) == (3, 3)
    assert {one.code for one in info.problems} <= {"few_images", "rare_class"}


def test_names_are_utf8_whether_the_archive_says_so_or_not_and_may_have_backslashes(tmp_path: Path) -> None:
    folder = yolo(tmp_path / "data", small_coco(1, 1))
    image, label = (folder / "images" / "001.png").read_bytes(), (folder / "labels" / "001.txt").read_bytes()
    archive = archive_of(
        tmp_path / "data.zip",
        ("images\\Größe.png", image),
        ("labels\\Größe.txt", label),
        ("data.yaml", b"names: [cat, dog]"),
    )
    content = archive.read_bytes()
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        pieces = content.split(mark)
        fixed = [pieces[0]] + [p[: at - 4] + bytes([p[at - 4], p[at - 3] & ~0x08]) + p[at - 2 :] for p in pieces[1:]]
        content = mark.join(fixed)
    archive.write_bytes(content)
    dataset = load_dataset(archive)
    assert [image.file_name for image in dataset.images] == ["images/Größe.png"]
    assert len(dataset.annotations[0]) == 1


def test_an_archive_is_unpacked_once_and_again_if_it_or_its_copy_changes(tmp_path: Path, cache: Path) -> None:
    archive = zipped(yolo(tmp_path / "data", small_coco(3, 1)), tmp_path / "data.zip")
    first = inspect_dataset(archive)
    (copy,) = cache.glob("unpacked/*/files/labels/001.txt")
    before = copy.stat().st_ino
    inspect_dataset(archive)
    assert copy.stat().st_ino == before
    copy.write_text("0 0.1 0.1 0.1 0.1\n")
    assert inspect_dataset(archive).digest == first.digest
    zipped(yolo(tmp_path / "other", small_coco(3, 2)), archive)
    os.utime(archive, (1, 1))
    assert inspect_dataset(archive).annotations == 6


def test_archive_without_annotations_is_refused(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "data.zip", ("inner.zip", b"PK\x05\x06" + bytes(18)))
    with pytest.raises(DataError, match=r"data\.zip \(inner\.zip\) is a zip file in another"):
        inspect_dataset(archive)
    empty = archive_of(tmp_path / "empty.zip")
    with pytest.raises(DataError, match=r"empty\.zip holds no files"):
        inspect_dataset(empty)


def test_messages_name_the_archive_and_not_the_cache(tmp_path: Path, cache: Path) -> None:
    folder = yolo(tmp_path / "data", small_coco(2, 1))
    text(folder / "data.yaml", "names: [cat, dog]\ntrain: nowhere\nval: elsewhere")
    with pytest.raises(DataError, match=r"data\.zip") as failure:
        inspect_dataset(zipped(folder, tmp_path / "data.zip"))
    assert str(cache) not in str(failure.value)
    listing = archive_of(tmp_path / "list.zip", ("annotations.json", b"[1]"))
    with pytest.raises(DataError, match=r"list\.zip/annotations\.json is a list"):
        inspect_dataset(listing)
    outside = archive_of(tmp_path / "slip.zip", ("../evil.json", b"{}"))
    with pytest.raises(DataError, match=r"slip\.zip is not unpacked: '\.\./evil\.json' leads out"):
        inspect_dataset(outside)
