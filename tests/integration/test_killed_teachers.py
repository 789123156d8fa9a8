"""The real (tiny) teachers, killed in the middle of a run whose disk is lost: the run ends as one that never was."""

from __future__ import annotations

from pathlib import Path

import pytest
from killed import attempt, published
from runs import manifest, teacher, write_parts

from engine.config import RunConfig, from_yaml
from engine.training import loop

pytestmark = pytest.mark.slow


def planned(folder: Path) -> RunConfig:
    """A run of both teachers, whose data workers are processes of their own."""
    folder.mkdir()
    file = manifest(folder, data=str(write_parts(folder.parent / "parts")), output=str(folder / "output"), epochs=2)
    uri = teacher("prepare", "-f", str(file), "--set", "training.workers=2", cwd=folder).stdout.strip()
    return from_yaml((Path(uri) / "teacher_config.yaml").read_text(), where=uri)


def test_both_teachers_end_the_same_when_they_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "checkpoint_interval", lambda cost: 0.0)
    whole, killed = planned(tmp_path / "whole"), planned(tmp_path / "killed")
    for name in whole.teachers.names:
        exit_code, moments, said = attempt(whole, tmp_path / "whole" / "work", teacher=name)
        assert (exit_code, said) == (0, "")
        for number, share in enumerate((0.5, 0.25)):
            work = tmp_path / "killed" / f"{name}-{number}"
            exit_code, _, said = attempt(killed, work, teacher=name, die_at=int(moments * share))
            assert exit_code == -9, said
        exit_code, _, said = attempt(killed, tmp_path / "killed" / name, teacher=name)
        assert (exit_code, said) == (0, "")
    assert published(killed) == published(whole)
