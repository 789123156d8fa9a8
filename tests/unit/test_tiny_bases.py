"""The tiny bases that ship with the examples: what their cards say is true of the files beside them."""

from __future__ import annotations

import hashlib
import importlib
import re
from pathlib import Path

import pytest

from engine.models.registry import REGISTRY
from engine.spec import TeacherName

TINY = Path(__file__).resolve().parents[2] / "examples" / "tiny_teachers"
BASES = sorted(file.parent for file in TINY.glob("*/model.safetensors"))
DETECTORS = (TeacherName.GROUNDING_DINO, TeacherName.MM_GROUNDING_DINO)


def test_there_is_a_base_of_every_teacher() -> None:
    assert {name.slug for name in TeacherName} <= {folder.name for folder in BASES}


@pytest.mark.parametrize("folder", BASES, ids=lambda folder: folder.name)
def test_a_card_is_that_of_the_weights_beside_it(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    (digest,) = re.findall(r"sha256 `([0-9a-f]{64})`", card)
    assert digest == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (script,) = re.findall(r"^python examples/tiny_teachers/(\w+\.py) --seed \d+", card, re.MULTILINE)
    assert (TINY / script).is_file()


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_finds_objects_in_scenes_that_it_never_saw(
    name: TeacherName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(TINY)
    measure = importlib.import_module("train_grounding_dino").measure
    figures = measure(TINY / name.slug, 256, seed=7, scenes=16, kind=REGISTRY[name])
    assert figures["object AP50"] > 0.2
    assert figures["kinds AP50"] > 0.1
