"""Adapters without our package: what the card says runs with transformers and PEFT, or segment_anything, alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from tiny_run import TINY, save_run
from toy import result_of, run_config
from typer.testing import CliRunner

from engine.cli.app import app
from engine.config import RunConfig
from engine.dataset.types import Sample
from engine.errors import BaseModelError
from engine.layout import ADAPTER
from engine.models.lora import AdapterCard, merged
from engine.results.card_snippets import plain_snippet
from engine.results.model_card import model_card
from engine.results.types import AdapterFile
from engine.spec import TeacherName
from engine.teachers import load_adapted
from engine.teachers.sam.checkpoint import convert_original, export_original

DINO, SAM, SAM2 = TeacherName.GROUNDING_DINO, TeacherName.SAM, TeacherName.SAM2
CLASSES = ("Hex_Nut", "washer no. 3", "bolt")
PROMPTS = {"bolt": "a long Screw."}
"""The other classes are prompted by their names."""

BOXES = [[20.0, 20.0, 120.0, 120.0]]
"""As in the snippet of SAM."""

WITHOUT_OURS = """\
import sys
try:
    import engine
except ImportError:
    pass
else:
    sys.exit("our package can be imported")
"""


def alone(code: str, folder: Path) -> None:
    """Run Python in ``folder`` with the packages installed here except ours, which only a .pth file makes known."""
    packages = sysconfig.get_path("purelib")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-S", "-P", "-c", f"import sys; sys.path.append({packages!r})\n{WITHOUT_OURS}\n{code}"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def snippet_of(card: str) -> str:
    return next(code for code in re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL) if "from peft" in code)


def config_of(folder: Path, name: TeacherName) -> RunConfig:
    settings = AdapterCard.read(folder / "teachers" / f"{name.slug}_lora").settings
    return run_config("a.json", output=folder, **{name.slug: settings})


def card_of(folder: Path, name: TeacherName) -> str:
    adapter = AdapterFile(uri=str(folder / "teachers" / f"{name.slug}_lora" / ADAPTER), sha256="0", size_bytes=1)
    result = result_of(name, base_model=str(TINY / name.slug), adapter=adapter)
    return model_card(result, config_of(folder, name), versions={})


@pytest.fixture
def image(tmp_path: Path) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8))
    noise.resize((200, 150)).save(tmp_path / "image.png")
    (tmp_path / "image.png").rename(tmp_path / "image.jpg")  # without loss, under the snippet's name
    with Image.open(tmp_path / "image.jpg") as opened:
        return np.asarray(opened.convert("RGB"))


def test_the_card_of_grounding_dino_finds_what_our_loader_finds(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    save_run(tmp_path, (DINO,), thresholds={"bolt": 0.05}, classes=CLASSES, prompts=PROMPTS)
    saved = "import numpy; numpy.savez('found.npz', boxes=boxes.numpy(), scores=scores.numpy())"
    alone(snippet_of(card_of(tmp_path, DINO)) + saved, tmp_path)
    found = np.load(tmp_path / "found.npz")
    scores, boxes = found["scores"].ravel(), found["boxes"].repeat(len(CLASSES), axis=0)
    best = np.argsort(-scores, kind="stable")[:20]
    (ours,) = load_adapted(tmp_path).predict([Sample.of(image)])
    np.testing.assert_allclose(ours.scores[:20], scores[best], atol=1e-5)
    for box, score, label in zip(ours.boxes_xyxy[:20], ours.scores[:20], ours.class_indices[:20], strict=True):
        same = np.flatnonzero((abs(scores - score) < 1e-5) & (np.arange(len(scores)) % len(CLASSES) == label))
        assert np.abs(boxes[same] / (200, 150, 200, 150) - box / (200, 150, 200, 150)).max(axis=1).min() < 1e-5
    assert ours.scores.std() > 1e-4, "a model that says the same everywhere agrees with any other"


@pytest.mark.parametrize("name", [SAM, SAM2])
def test_the_card_of_sam_gives_the_masks_that_our_loader_gives(
    tmp_path: Path, image: NDArray[np.uint8], name: TeacherName
) -> None:
    save_run(tmp_path, (name,))
    saved = "import numpy; numpy.savez('found.npz', masks=masks.numpy(), scores=scores.numpy())"
    alone(snippet_of(card_of(tmp_path, name)) + saved, tmp_path)
    found = np.load(tmp_path / "found.npz")
    (ours,) = load_adapted(tmp_path).predict([Sample.of(image, BOXES, [0])])
    np.testing.assert_allclose(ours.scores, found["scores"], atol=1e-5)
    (mask,) = coco_mask.decode(ours.masks).transpose(2, 0, 1)
    assert 0 < mask.sum() < mask.size
    np.testing.assert_array_equal(mask.astype(bool), found["masks"][0])


@pytest.mark.parametrize("name", [DINO, SAM, SAM2])
def test_the_card_loads_the_adapter_with_this_package(
    tmp_path: Path, image: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, name: TeacherName
) -> None:
    save_run(tmp_path, (name,))
    codes = re.findall(r"```python\n(.*?)```", card_of(tmp_path, name), flags=re.DOTALL)
    (code,) = [code for code in codes if "import engine" in code]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(names["detections"]) >= 1
    assert names["teacher"].name is name


def plain(base: str, uri: str, *, teacher: TeacherName = DINO, revision: str | None = None) -> str:
    adapter = AdapterFile(uri=uri, sha256="0", size_bytes=1)
    code = plain_snippet(result_of(teacher, base_model=base, base_revision=revision, adapter=adapter))
    compile(code, "card", "exec")
    return code


def test_places_are_those_that_transformers_can_read() -> None:
    commit, digest = "a" * 40, "b" * 64
    hub = plain("owner/model", f"s3://bucket/out/run/1/teachers/grounding_dino_lora/{ADAPTER}", revision=commit)
    assert "base = 'owner/model'\n" in hub
    assert hub.count(f"revision='{commit}'") == 2
    assert "adapter = 'grounding_dino_lora'  # of 's3://bucket/out/run/1/teachers/grounding_dino_lora'\n" in hub
    far = plain("s3://models/tiny/", f"file:///my%20runs/x/{ADAPTER}", revision=digest)
    assert "base = 'tiny'  # of 's3://models/tiny/'\n" in far
    assert "adapter = '/my runs/x'\n" in far
    assert "revision" not in far
    original = plain("s3://models/sam_vit_b.pth", f"out/{ADAPTER}", teacher=SAM)
    assert "base = 'sam_vit_b'  # a folder made of 's3://models/sam_vit_b.pth', see below\n" in original


def test_places_that_others_have_named_are_text_in_the_code() -> None:
    code = plain("x'); import os; os._exit(3) #", f"o\"ut'\n```/{ADAPTER}")
    names: dict[str, Any] = {}
    for line in code.splitlines():
        if line.startswith(("base =", "adapter =")):
            exec(line, names)
    assert names["base"] == "x'); import os; os._exit(3) #"
    assert names["adapter"] == "o\"ut'\n```"
    assert not any(line.startswith("```") for line in code.splitlines())


def test_the_shipped_sam_is_exported_to_what_segment_anything_loads(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    save_run(tmp_path, (SAM,))
    adapter, output = tmp_path / "teachers" / "sam_lora", tmp_path / "sam.pth"
    done = CliRunner().invoke(app, ["export", "--adapter", str(adapter), "--output", str(output)])
    assert done.exit_code == 0, done.output
    code = done.stderr[done.stderr.index("from functools") :]
    used = f"""
import numpy
from PIL import Image
from segment_anything import SamPredictor

predictor = SamPredictor(sam)
predictor.set_image(numpy.asarray(Image.open("image.jpg").convert("RGB")))
masks, scores, _ = predictor.predict(box=numpy.array({BOXES[0]}), multimask_output=False)
numpy.savez("found.npz", masks=masks, scores=scores)
"""
    alone(code + used, tmp_path)
    found = np.load(tmp_path / "found.npz")
    (ours,) = load_adapted(tmp_path).predict([Sample.of(image, BOXES, [0])])
    np.testing.assert_allclose(ours.scores, found["scores"], atol=1e-4)
    (mask,) = coco_mask.decode(ours.masks).transpose(2, 0, 1)
    assert (mask.astype(bool) ^ found["masks"][0]).mean() < 1e-3


def test_an_export_whose_attention_heads_are_unknown_is_refused_as_a_base(tmp_path: Path) -> None:
    save_run(tmp_path, (SAM,))
    export_original(merged(load_adapted(tmp_path, device="cpu")), tmp_path / "sam.pth")
    with pytest.raises(BaseModelError, match="number of attention heads is unknown"):
        convert_original(tmp_path / "sam.pth", tmp_path / "sam")
