"""What a newer version of teacher has written is refused with a sentence, wherever it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from engine.config import from_yaml
from engine.errors import BaseModelError, ConfigError, StorageError
from engine.layout import RunLayout
from engine.models.lora import AdapterCard
from engine.results.run_files import fetch_run, read_metadata, read_result
from engine.spec import TeacherName
from engine.storage import Storage
from engine.text.format_version import refuse_newer
from engine.training import checkpoint
from engine.training.checkpoint import Checkpoint, Progress, load_checkpoint, save_checkpoint

NEWER = "has format_version 2, .* reads up to 1: .* upgrade"


@pytest.mark.parametrize("version", [2, 0, -1, 10**30, "1", 1.0, True, None, [], {}])
def test_only_versions_that_are_known_are_read(version: object) -> None:
    with pytest.raises(StorageError, match="format_version"):
        refuse_newer(json.dumps({"format_version": version}), where="a.json", error=StorageError)


@pytest.mark.parametrize("content", ['{"format_version": 1}', "{}", "[2]", "no JSON", "", b"\xff"])
def test_those_before_it_was_written_and_what_is_no_file_of_ours_pass(content: str | bytes) -> None:
    refuse_newer(content, where="a.json", error=StorageError)


def write(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def test_files_of_a_run(tmp_path: Path) -> None:
    layout = RunLayout(str(tmp_path / "run"))
    write(tmp_path / "run" / "metadata.json", {"format_version": 2})
    write(Path(layout.teacher(TeacherName.SAM)) / "result.json", {"format_version": 2})
    with pytest.raises(StorageError, match=NEWER):
        read_metadata(layout, Storage())
    with pytest.raises(StorageError, match=NEWER):
        fetch_run(layout, tmp_path / "copy", storage=Storage())
    with pytest.raises(StorageError, match=NEWER):
        read_result(layout, TeacherName.SAM, Storage())


def test_an_adapter(tmp_path: Path) -> None:
    write(tmp_path / "teacher.json", {"format_version": 2})
    with pytest.raises(BaseModelError, match=NEWER):
        AdapterCard.read(tmp_path)


def test_a_configuration() -> None:
    with pytest.raises(ConfigError, match=NEWER):
        from_yaml(yaml.safe_dump({"format_version": 2}))


def test_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 2)
    save_checkpoint(Checkpoint(Progress(step=1), {}, {}, adapter={"a": torch.zeros(1)}, optimizer={}), tmp_path)
    with pytest.raises(StorageError, match=NEWER):
        load_checkpoint(tmp_path)
