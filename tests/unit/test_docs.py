"""Pages that are generated say what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = runpy.run_path(str(DOCS / "generate.py"))["PAGES"]


@pytest.mark.parametrize("page", PAGES)
def test_a_generated_page_has_not_drifted(page: str) -> None:
    assert (DOCS / page).read_text() == PAGES[page](), "run `make docs`"
