"""Names of classes and files cannot drive the terminal of whoever looks at a data set."""

from __future__ import annotations

import json
from pathlib import Path

from coco_files import changed, small_coco, write_images
from runs import teacher

EVIL = "bolt\x1b[2J\x1b]0;owned\x07\x9b31m"


def test_no_control_character_of_the_data_reaches_the_terminal(tmp_path: Path) -> None:
    def change(coco: dict) -> None:  # type: ignore[type-arg]
        coco["categories"][0]["name"] = EVIL
        coco["images"][0]["file_name"] = f"{EVIL}.png"
        coco["images"][1]["file_name"] = f"../{EVIL}.png"

    write_images(tmp_path / "images", [f"{i:03d}.png" for i in range(3, 13)])
    (tmp_path / "annotations.json").write_text(json.dumps(changed(small_coco(), change)))
    for command in ("inspect", "validate"):
        done = teacher(command, "annotations.json", "--images", "images", cwd=tmp_path, check=False)
        assert "bolt" in done.stderr
        assert not {"\x1b", "\x07", "\x9b"} & set(done.stdout + done.stderr)
