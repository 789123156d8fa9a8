"""The example notebook runs from its first cell to its last, in a process of its own, and is kept without outputs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from forked import run_code
from loops import nonempty
from runs import write_parts
from tiny_run import save_run

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = json.loads((ROOT / "examples" / "label.ipynb").read_text(encoding="utf-8"))
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_kept_without_outputs() -> None:
    assert len(CODE) >= 5
    for cell in nonempty(NOTEBOOK["cells"]):
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_every_cell_of_the_notebook_runs(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "label.ipynb", tmp_path / "examples")
    write_parts(tmp_path / "unseen", 5, seed=0)
    save_run(tmp_path / "out" / "local" / "4f2a90c1d3e5", thresholds=dict.fromkeys(("bolt", "nut", "washer"), 0.05))
    environment = os.environ | {"TEACHER_CACHE": str(tmp_path / "cache")}
    done = run_code("\n\n".join(CODE), cwd=tmp_path / "examples", environment=environment)
    assert done.returncode == 0, done.stderr
    assert "objects in 5 images" in done.stdout
    assert "AP of the boxes" in done.stdout
    assert len(json.loads((tmp_path / "out" / "labels.json").read_text())["images"]) == 5
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 4
