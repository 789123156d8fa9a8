"""Commands that write a file leave one that is there, unless told otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy import write_toy_data
from typer.testing import CliRunner

from engine.cli.app import app
from engine.errors import ConfigError


def teacher(*arguments: object) -> None:
    ended = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if ended.exception is not None:
        raise ended.exception


def test_a_split_may_be_made_again_but_not_take_the_place_of_something_else(tmp_path: Path) -> None:
    data = write_toy_data(tmp_path / "train.json", range(10))
    before = data.read_bytes()
    teacher("split", data, "--output", tmp_path / "parts")
    teacher("split", data, "--output", tmp_path / "parts")
    with pytest.raises(ConfigError, match=r"train\.json exists already, with other content: .* --overwrite"):
        teacher("split", data, "--output", tmp_path)
    assert data.read_bytes() == before
    assert not (tmp_path / "val.json").exists()
    teacher("split", data, "--output", tmp_path, "--overwrite")
    assert data.read_bytes() != before


@pytest.mark.parametrize("command", ["predict", "export"])
def test_what_is_there_is_left_before_anything_is_inspected(tmp_path: Path, command: str) -> None:
    output = tmp_path / "output"
    output.write_text("mine")
    more = ("--images", tmp_path) if command == "predict" else ()
    with pytest.raises(ConfigError, match=r"output exists already: .* --overwrite"):
        teacher(command, "--adapter", tmp_path / "nothing", "--output", output, *more)
    assert output.read_text() == "mine"
