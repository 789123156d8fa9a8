"""A few wrong inputs of every kind: none ends in a traceback, hangs, or takes a gigabyte."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from fuzz import FAULTS, execute, fuzz, prepared
from inputs import Kind

EACH = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def kinds(folder: Path) -> list[Kind]:
    return prepared(folder)


def test_no_kind_of_input_ends_in_a_traceback(
    kinds: list[Kind], folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tally = fuzz(kinds, folder, seed=12, each=EACH, keep=tmp_path / "kept")
    assert {kind for kind, _ in tally} == {kind.name for kind in kinds}
    assert tally.total() == EACH * len(kinds)
    assert not {end for _, end in tally} & FAULTS, capfd.readouterr().err[-3000:]


def hang(content: bytes, folder: Path) -> str:
    while True:
        pass


def crash(content: bytes, folder: Path) -> str:
    raise KeyError("anything")


def fill(content: bytes, folder: Path) -> str:
    return str(len(b"x" * (1100 << 20)))


@pytest.mark.parametrize(("check", "end"), [(hang, "hung"), (crash, "crashed"), (fill, "over 1 GB")])
def test_the_harness_finds_what_it_looks_for(check: object, end: str, tmp_path: Path) -> None:
    kind = Kind("any", lambda rng: b"", check)  # type: ignore[arg-type]
    assert execute(kind, b"", tmp_path) == end
