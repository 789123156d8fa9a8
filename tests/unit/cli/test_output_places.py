"""Where commands write to is checked before anything slow is done."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engine.cli import options
from engine.cli.labels import label
from engine.errors import ConfigError, DataError, StorageError
from engine.storage import Storage


@pytest.mark.parametrize("uri", ["s3://", "s3:///labels.json", "s3://bucket", "s3://bucket/", "."])
def test_what_names_no_file_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"names no bucket|names no object|is a folder"):
        options.check_writable(uri, Storage())


def test_a_bucket_that_does_not_exist_is_reported_first(s3: str) -> None:
    options.check_writable(f"{s3}/new/labels.json", Storage())
    with pytest.raises(StorageError, match="no such bucket"):
        options.check_writable("s3://missing-bucket/labels.json", Storage())


def test_labels_need_a_place_and_images_before_a_teacher_is_loaded(tmp_path: Path) -> None:
    adapters = [str(tmp_path / "no-adapter")]
    with pytest.raises(ConfigError, match="names no bucket"):
        label(adapters, str(tmp_path), "s3:///labels.json")
    with pytest.raises(DataError, match="holds no images"):
        label(adapters, str(tmp_path), str(tmp_path / "labels.json"))


@pytest.mark.parametrize(
    "words",
    [
        ["export", "--adapter", "a", "--output", "s3://bucket/sam.pth"],
        ["fetch", "out/run", "s3://bucket/run"],
        ["run", "-f", "m.yaml", "--work-dir", "file:///tmp/work"],
    ],
)
def test_a_path_of_this_machine_is_no_uri(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.cli.app import app

    monkeypatch.setattr(sys, "argv", ["teacher", *words])
    with pytest.raises(ConfigError, match=r"(s3|file):///?\w.* is a URI: give a path on this machine"):
        app()
