"""``--crowds Objects`` takes annotations with ``iscrowd: 1`` as objects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from coco_files import changed, small_coco, write, write_images
from typer.testing import CliRunner

from engine.cli.app import app


@pytest.mark.parametrize(("choice", "objects"), [("Ignore", 24), ("Objects", 36)])
@pytest.mark.parametrize("command", ["validate", "inspect"])
def test_crowds_are_objects_where_that_is_requested(command: str, choice: str, objects: int, tmp_path: Path) -> None:
    coco = changed(small_coco(12, 3), lambda c: [a.update(iscrowd=1) for a in c["annotations"][::3]])
    path = write(tmp_path / "a.json", coco)
    images = write_images(tmp_path / "images", [image["file_name"] for image in coco["images"]])
    words = [command, str(path), "--images", str(images), "--crowds", choice, "--json"]
    done = CliRunner().invoke(app, words)
    info = json.loads(done.stdout)
    assert round((1 - info["crowd_share"]) * info["annotations"]) == objects
    assert ("objects_as_crowds" in [p["code"] for p in info["problems"]]) == (choice == "Ignore")
