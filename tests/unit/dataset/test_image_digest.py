"""Other images under the same annotations are other data, wherever they lie."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from toy import write_toy_data

from engine import runner
from engine.dataset import inspect_request
from engine.dataset.images.digest import local_marks
from engine.errors import DataError
from engine.manifest import Manifest
from engine.spec import DatasetSpec, FineTuneSpec
from engine.storage import ChangedError, Storage
from engine.training.data.annotated_splits import AnnotatedSplits

OLD = 10**9
"""Nanoseconds since the epoch: long ago, so that what was read then is known."""


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TEACHER_CACHE", str(tmp_path / "cache"))


def manifest(file: Path | str, tmp_path: Path) -> Manifest:
    return Manifest(name="a", spec=FineTuneSpec(dataset=DatasetSpec(annotations=str(file)), output=str(tmp_path / "o")))


def run_id(file: Path | str, tmp_path: Path) -> str:
    return runner.prepare(manifest(file, tmp_path), Storage())[1][0].config.run_id


def turn(image: Path) -> None:
    """Change pixels, and neither size nor time."""
    content, status = image.read_bytes(), image.stat()
    image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_changed_image_byte_changes_the_run_id(tmp_path: Path) -> None:
    file = write_toy_data(tmp_path / "data" / "a.json", range(20))
    first = run_id(file, tmp_path)
    (tmp_path / "data" / "unlisted.png").write_bytes(b"other")
    assert run_id(file, tmp_path) == first
    turn(tmp_path / "data" / "7.png")
    changed = run_id(file, tmp_path)
    assert changed != first
    turn(tmp_path / "data" / "7.png")
    assert run_id(file, tmp_path) == first


def test_swapped_images_change_the_run_id(tmp_path: Path) -> None:
    file = write_toy_data(tmp_path / "data" / "a.json", range(20))
    first = run_id(file, tmp_path)
    one, other = tmp_path / "data" / "1.png", tmp_path / "data" / "2.png"
    one.rename(tmp_path / "held")
    other.rename(one)
    (tmp_path / "held").rename(other)
    assert run_id(file, tmp_path) != first


def test_same_bytes_have_the_same_run_id_elsewhere_and_in_s3(tmp_path: Path, s3: str) -> None:
    file = write_toy_data(tmp_path / "data" / "a.json", range(20))
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    Storage().upload_folder(tmp_path / "data", f"{s3}/data")
    places = (file, tmp_path / "moved" / "a.json", f"{s3}/data/a.json")
    digests = [
        inspect_request(DatasetSpec(annotations=str(place)), storage=Storage()).images_digest for place in places
    ]
    assert digests == [digests[0]] * 3
    Storage().write_bytes(f"{s3}/data/3.png", b"other")
    assert inspect_request(DatasetSpec(annotations=places[2]), storage=Storage()).images_digest != digests[0]


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_images_that_change_between_inspection_and_training_are_refused(
    tmp_path: Path, where: str, request: pytest.FixtureRequest
) -> None:
    file: Path | str = write_toy_data(tmp_path / "data" / "a.json", range(20))
    if where == "s3":
        bucket = request.getfixturevalue("s3")
        Storage().upload_folder(tmp_path / "data", f"{bucket}/data")
        file = f"{bucket}/data/a.json"
    config = runner.prepare(manifest(file, tmp_path), Storage())[1][0].config

    def load() -> AnnotatedSplits:
        return AnnotatedSplits.of(config.data, masks=False, seed=0, storage=Storage(), cache=tmp_path / "cache")

    assert load().images_digest == config.data.images_digest
    turn(tmp_path / "data" / "5.png")
    if where == "s3":
        Storage().upload(tmp_path / "data" / "5.png", f"{bucket}/data/5.png")
    with pytest.raises(DataError, match=r"images have changed since they were inspected, .* start again from the mani"):
        load()


def test_image_changed_after_listing_is_refused(tmp_path: Path, s3: str) -> None:
    storage = Storage()
    storage.write_bytes(f"{s3}/1.png", b"first")
    (listed,) = storage.list(s3)
    storage.download(listed.uri, tmp_path / "same", etag=listed.etag)
    storage.write_bytes(f"{s3}/1.png", b"other")
    with pytest.raises(ChangedError, match=r"1\.png has changed since it was listed"):
        storage.download(listed.uri, tmp_path / "1.png", etag=listed.etag)
    assert not (tmp_path / "1.png").exists()


def test_files_are_read_once_and_damaged_cache_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = tmp_path / "images", tmp_path / "cache"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(bytes([number]))
    monkeypatch.setattr("engine.dataset.images.digest.SETTLED_NS", -OLD)
    keys = [f"{number}.png" for number in range(3)]
    marks = local_marks(folder, keys, cache=cache)
    (kept,) = (cache / "digests").iterdir()
    whole = kept.read_bytes()

    def refuses(*_: object) -> None:
        raise AssertionError("a known file was read again")

    with monkeypatch.context() as patched:
        patched.setattr("hashlib.file_digest", refuses)
        assert local_marks(folder, keys, cache=cache) == marks
    for torn in (
        b"",
        whole[:-9],
        whole.replace(b'"1.png"', b'"2.png"'),
        b"[[[\n" * 99,
        whole[:65] + b"\xff" + whole[66:],
    ):
        kept.write_bytes(torn)
        assert local_marks(folder, keys, cache=cache) == marks
        assert kept.read_bytes() == whole


def test_damaged_cache_of_unreadable_images_is_recomputed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write_toy_data(tmp_path / "data" / "a.json", range(20))
    (tmp_path / "data" / "7.png").write_bytes(b"no image")
    config = runner.prepare(manifest(file, tmp_path), Storage())[1][0].config
    data = AnnotatedSplits.of(config.data, masks=False, seed=0, storage=Storage(), cache=tmp_path / "cache")
    splits = {name: data.fetch_images(name) for name in data.whole}
    assert [list(found.faults) for found in splits.values() if found.faults] == [["7.png"]]
    kept = {path: path.read_bytes() for path in (tmp_path / "cache" / "readable").iterdir()}
    for torn in (b"", b"{", b'{"faults": 1}', b"\xff" * 99, b"[" * 9999):
        for path in kept:
            path.write_bytes(torn)
        assert {name: data.fetch_images(name) for name in data.whole} == splits
        assert {path: path.read_bytes() for path in kept} == kept
    assert not [name for name in data.whole if data.fetch_images(name) != splits[name]]
    assert "readable" in caplog.text
    assert "checked again" in caplog.text
