"""A mistyped local path is an error of the configuration, which no later attempt corrects."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.cli.app import app
from engine.errors import ConfigError
from engine.storage import NotFoundError, missing
from engine.storage.bounded_read import read_bounded


@pytest.mark.parametrize(
    "words",
    [
        "run --data nolabels.json --output out",
        "run --data folder/none --output out",
        "run --data file:///no/labels.json --output out",
        "run --data none.zip --output out",
        "inspect nolabels.json",
        "validate -f nope.yaml",
        "run -f nope.yaml",
        "train --config nope.yaml",
    ],
)
def test_a_local_path_that_does_not_exist_ends_with_40(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, words.split())
    assert isinstance(ended.exception, ConfigError), ended.exception
    assert (ended.exception.exit_code, ended.exception.retryable) == (40, False)
    assert "does not exist" in str(ended.exception)


@pytest.mark.parametrize("uri", ["s3://b/x", "gs://b/x", "az://b/x", "pvc://claim/x"])
def test_what_may_still_arrive_is_retried(uri: str) -> None:
    assert isinstance(missing(uri, "it does not exist"), NotFoundError)


def test_a_missing_object_of_a_configuration_is_retried(s3: str) -> None:
    from engine.storage import Storage

    with pytest.raises(NotFoundError):
        read_bounded(Storage(), f"{s3}/nope.yaml", limit=10, error=ConfigError)
