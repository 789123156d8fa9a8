from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.cli import fetch, run_lookup
from engine.cli.app import app
from engine.cli.run_lookup import ResolvedRun, find_run
from engine.errors import ConfigError, StorageError

ASKED: list[tuple[str, str | None]] = []


def resolve(name: str, namespace: str | None) -> ResolvedRun:
    ASKED.append((name, namespace))
    return ResolvedRun("s3://models/forklifts/1/", endpoint_url="http://minio:9000", region="eu-central-1")


@pytest.fixture(autouse=True)
def nobody_was_asked() -> None:
    ASKED.clear()


def install(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    points = [EntryPoint(name=f"{i}", value=value, group=run_lookup.GROUP) for i, value in enumerate(values)]
    monkeypatch.setattr(run_lookup, "entry_points", lambda group: points if group == run_lookup.GROUP else [])


def test_a_bare_name_is_resolved_by_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, f"{__name__}:resolve")
    assert find_run("forklifts").uri == "s3://models/forklifts/1/"
    find_run("forklifts", namespace="vision")
    assert ASKED == [("forklifts", None), ("forklifts", "vision")]


def test_folders_are_no_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, f"{__name__}:resolve")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for folder in ("s3://b/x/1", "file:///x", "./nowhere", "a/b", "here"):
        assert find_run(folder) == ResolvedRun(folder)
    assert not ASKED
    find_run("here", namespace="vision")  # which only names have
    assert ASKED == [("here", "vision")]
    with pytest.raises(ConfigError, match="--namespace goes with a name, but a/b is a folder"):
        find_run("a/b", namespace="vision")


def test_one_that_lacks_what_it_needs_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "no_such_package.runs:resolve", f"{__name__}:resolve")
    assert find_run("forklifts").region == "eu-central-1"


@pytest.mark.parametrize("values", [(), ("no_such_package.runs:resolve",)])
def test_without_any_it_is_reported_what_to_install(monkeypatch: pytest.MonkeyPatch, values: tuple[str, ...]) -> None:
    install(monkeypatch, *values)
    with pytest.raises(ConfigError, match=r"teacher-finetune\[operator\].*or give the run's URI") as caught:
        find_run("forklifts")
    assert ("no_such_package" in str(caught.value)) is bool(values)


def test_fetch_reaches_storage_as_the_run_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, f"{__name__}:resolve")
    asked: list[tuple[str | None, str | None]] = []

    def storage(endpoint_url: str | None = None, region: str | None = None, **_: object) -> None:
        asked.append((endpoint_url, region))
        raise StorageError("far enough")

    monkeypatch.setattr(fetch.options, "storage", storage)
    for more in ([], ["--endpoint-url", "http://localhost:1"]):
        ended = CliRunner().invoke(app, ["fetch", "forklifts", str(tmp_path), "-n", "vision", *more])
        assert isinstance(ended.exception, StorageError)
    assert asked == [("http://minio:9000", "eu-central-1"), ("http://localhost:1", "eu-central-1")]
    assert ASKED == [("forklifts", "vision")] * 2
