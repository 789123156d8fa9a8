"""What the images install is what is tested: every pin of theirs is a pin of ``requirements.lock``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGES = (
    "requirements-operator.lock",
    "trainer_image/requirements.lock",
    "optimizer_image/requirements.lock",
    "requirements-build.lock",
)


def pins(path: Path) -> dict[str, set[str]]:
    """``name==version`` -> its hashes."""
    found: dict[str, set[str]] = {}
    for line in path.read_text().splitlines():
        if pin := re.match(r"([a-z0-9.-]+==[^ ]+)", line):
            hashes = found.setdefault(pin[1], set())
        elif digest := re.match(r" +--hash=(sha256:[0-9a-f]{64})", line):
            hashes.add(digest[1])
    return found


@pytest.mark.parametrize("lock", IMAGES)
def test_every_pin_of_an_image_is_in_the_lock_with_the_same_hashes(lock: str) -> None:
    everything, image = pins(ROOT / "requirements.lock"), pins(ROOT / lock)
    assert image
    assert all(image.values())
    assert {pin: hashes for pin, hashes in image.items() if everything.get(pin) != hashes} == {}, "run `make lock`"


def test_the_operator_is_without_torch_and_the_trainer_without_the_cluster() -> None:
    operator, trainer, _, _ = ({pin.split("==")[0] for pin in pins(ROOT / lock)} for lock in IMAGES)
    assert not operator & {"torch", "torchvision", "transformers", "peft", "opencv-python-headless"}
    assert not trainer & {"kopf", "kubernetes", "nncf", "onnx", "onnxruntime", "openvino"}


def test_the_optimizer_is_the_trainer_with_its_runtimes_and_without_triton() -> None:
    trainer, optimizer = ({pin.split("==")[0] for pin in pins(ROOT / lock)} for lock in IMAGES[1:3])
    assert trainer - optimizer == {"triton"}
    assert optimizer - trainer >= {"nncf", "onnx", "onnxruntime", "openvino"}
    assert not optimizer & {"kopf", "kubernetes"}
