"""The probe asks for what the data does not have, and comes with the engine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from engine.config import DataConfig
from engine.config.model import SplitFilesConfig
from engine.dataset import validate_dataset
from engine.errors import ConfigError
from engine.evaluation.retention import BUILT_IN, PROBE
from engine.storage import Storage
from engine.training.data.retention_data import RetentionData, prepare_retention_data


def probe_of(
    cache: Path, *classes: str, prompts: dict[str, str] | None = None, masks: bool = False, given: Path | None = None
) -> RetentionData | None:
    data = DataConfig(
        digest="", classes=classes, prompts=prompts or {}, source=None, split=None, train=None, val=None, test=None
    )
    part = None if given is None else SplitFilesConfig(annotations=str(given), images=None)
    return prepare_retention_data(part, data, masks=masks, storage=Storage(), cache=cache)


@pytest.fixture
def without_masks(tmp_path: Path) -> Path:
    """The first scene of the built-in probe, its objects without masks."""
    content = json.loads(PROBE.read_text())
    content["images"] = content["images"][:1]
    content["annotations"] = [
        {key: value for key, value in found.items() if key != "segmentation"}
        for found in content["annotations"]
        if found["image_id"] == content["images"][0]["id"]
    ]
    (tmp_path / "one").mkdir()
    name = content["images"][0]["file_name"]
    (tmp_path / "one" / name).write_bytes((PROBE.parent / name).read_bytes())
    file = tmp_path / "one" / "annotations.json"
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize("masks", [False, True])
def test_the_built_in_probe_has_drawn_things_and_photographs(tmp_path: Path, masks: bool) -> None:
    probe = probe_of(tmp_path, "forklift", masks=masks)
    assert probe is not None
    assert probe.source == BUILT_IN
    assert {"apple", "star", "cat", "person", "cup"} <= set(probe.split.dataset.classes)
    assert len(probe.split.dataset) == 25
    assert probe.split.sample(0, with_masks=False).image.shape == (240, 320, 3)


def test_the_built_in_probe_is_small_and_without_a_fault() -> None:
    assert sum(file.stat().st_size for file in PROBE.parent.iterdir()) < 500_000
    problems = validate_dataset(PROBE, PROBE.parent).problems
    assert {problem.code for problem in problems} == {"rare_class"}  # nobody trains on it


def test_what_the_data_has_is_not_asked_for_however_it_is_written(tmp_path: Path) -> None:
    probe = probe_of(tmp_path, "CAT", "Space_Shuttle", "mug", prompts={"mug": "Cup"})
    assert probe is not None
    assert not {"cat", "space shuttle", "cup"} & set(probe.split.dataset.classes)
    assert "saucer" in probe.split.dataset.classes


def test_images_that_show_nothing_else_are_left_out(tmp_path: Path) -> None:
    probe = probe_of(tmp_path, "cat")
    assert probe is not None
    assert "chelsea.jpg" not in {image.file_name for image in probe.split.dataset.images}


def test_a_probe_that_shows_nothing_else_is_none(tmp_path: Path, without_masks: Path) -> None:
    names = [category["name"] for category in json.loads(PROBE.read_text())["categories"]]
    assert probe_of(tmp_path, *names) is None
    assert probe_of(tmp_path, "forklift", masks=True, given=without_masks) is None


def test_users_may_give_their_own(tmp_path: Path, without_masks: Path) -> None:
    probe = probe_of(tmp_path, "forklift", given=without_masks)
    assert probe is not None
    assert (len(probe.split.dataset), probe.source) == (1, str(without_masks))


def test_images_of_it_that_cannot_be_decoded_are_left_out(tmp_path: Path) -> None:
    folder = shutil.copytree(PROBE.parent, tmp_path / "own")
    (folder / "chelsea.jpg").write_bytes(b"")
    probe = probe_of(tmp_path, "forklift", given=folder / PROBE.name)
    assert probe is not None
    assert probe.unreadable.faults.keys() == {"chelsea.jpg"}
    assert len(probe.split.dataset) == len(probe.split.paths) == 24


def test_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json"):
        probe_of(tmp_path, "forklift", given=tmp_path / "nowhere.json")
