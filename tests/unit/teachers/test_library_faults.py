"""Every fault of the library that we do without: the library's wrong number and our right one, on the same model."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "library_faults.py"
spec = importlib.util.spec_from_file_location("library_faults", SCRIPT)
assert spec is not None
assert spec.loader is not None
library_faults = importlib.util.module_from_spec(spec)
sys.modules["library_faults"] = library_faults  # dataclasses look their module up
spec.loader.exec_module(library_faults)


@pytest.mark.parametrize("fault", library_faults.FAULTS, ids=lambda fault: fault.__name__)
def test_where_the_library_is_wrong_we_are_right(fault) -> None:
    torch.manual_seed(0)
    row = fault()
    near = row.right if isinstance(row.right, str) else pytest.approx(row.right, rel=0.02, abs=2e-4)
    assert row.library != near
    assert row.ours == near
