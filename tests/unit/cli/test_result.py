"""``teacher result``: what a teacher has published is read again, as its training left it."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy import metrics, result_of, run_config, settings

from engine.cli.result import result
from engine.config import to_yaml
from engine.errors import NotBetterThanBaseError, StorageError
from engine.layout import RESULT
from engine.plan import TrainingRun
from engine.results.outcome import parse_outcome
from engine.spec import OnNoGain, TeacherName

DINO = TeacherName.GROUNDING_DINO


def planned(folder: Path, *, on_no_gain: OnNoGain = OnNoGain.PUBLISH) -> tuple[str, Path]:
    """A run whose teacher was trained: its configuration, and where the result is."""
    config = run_config("s3://data/a.json", output=folder, grounding_dino=settings())
    training = config.training.model_copy(update={"on_no_gain": on_no_gain})
    config = config.model_copy(update={"training": training})
    path = folder / "teacher_config.yaml"
    path.write_text(to_yaml(config))
    file = Path(TrainingRun(DINO, config).layout.teacher(DINO), RESULT)
    file.parent.mkdir(parents=True, exist_ok=True)
    return str(path), file


def test_it_leaves_the_outcome_of_the_training(tmp_path: Path) -> None:
    config, file = planned(tmp_path)
    file.write_text(result_of(DINO).model_dump_json())
    outcome = tmp_path / "outcome.json"
    result(config, DINO, outcome=outcome)
    left = parse_outcome(outcome.read_text())
    assert left is not None
    assert left.trained is not None
    assert left.trained.teacher is DINO


def test_where_nothing_is_published_it_fails_with_a_sentence(tmp_path: Path) -> None:
    config, _ = planned(tmp_path)
    with pytest.raises(StorageError, match="has published nothing in"):
        result(config, DINO, outcome=tmp_path / "outcome.json")


def test_an_adapter_without_gain_fails_as_its_training_did_and_tells_what_is_published(tmp_path: Path) -> None:
    config, file = planned(tmp_path, on_no_gain=OnNoGain.FAIL)
    worse = result_of(DINO, before=metrics(0.3), after=metrics(0.2), improved=False)
    file.write_text(worse.model_dump_json())
    outcome = tmp_path / "outcome.json"
    with pytest.raises(NotBetterThanBaseError):
        result(config, DINO, outcome=outcome)
    left = parse_outcome(outcome.read_text())
    assert left is not None
    assert left.trained is not None
