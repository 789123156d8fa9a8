"""The demo's data set is one that any COCO tool takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "demo_data.py"


def draw(output: Path, *arguments: str) -> Path:
    subprocess.run([sys.executable, str(SCRIPT), str(output), "--images", "6", *arguments], check=True)
    return output


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("both"))


def test_boxes_and_areas_are_those_of_the_masks_and_no_pixel_has_two_owners(both: Path) -> None:
    coco = COCO(both / "annotations.json")
    assert {category["name"] for category in coco.cats.values()} == {"bolt", "nut", "washer"}
    for image_id, image in coco.imgs.items():
        with Image.open(both / "images" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (256, 192)
        objects = coco.loadAnns(coco.getAnnIds(image_id))
        assert len(objects) >= 2
        masks = [coco.annToMask(o) for o in objects]
        assert np.sum(masks, axis=0).max() == 1
        for o, mask in zip(objects, masks, strict=True):
            rows, columns = np.nonzero(mask)
            x, y, width, height = o["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
            assert o["area"] == mask.sum() > 50


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(both: Path, tmp_path: Path) -> None:
    files = sorted(path.relative_to(both) for path in both.rglob("*") if path.is_file())
    assert len(files) == 7
    again, other = draw(tmp_path / "again"), draw(tmp_path / "other", "--seed", "1")
    assert all((both / name).read_bytes() == (again / name).read_bytes() for name in files)
    assert not any((both / name).read_bytes() == (other / name).read_bytes() for name in files)


def test_boxes_come_without_masks(both: Path, tmp_path: Path) -> None:
    boxes = json.loads((draw(tmp_path, "--kind", "boxes") / "annotations.json").read_text())["annotations"]
    expected = json.loads((both / "annotations.json").read_text())["annotations"]
    assert [o["bbox"] for o in boxes] == [o["bbox"] for o in expected]
    assert all(o["segmentation"] == [] for o in boxes)
