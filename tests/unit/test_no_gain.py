"""An adapter that is not better than its base: said everywhere, published, and a failure where that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console
from toy import metadata_of, metrics, result_of, run_config, settings, training, write_toy_data

import engine.runner.run
from engine import fine_tune
from engine.cli import display, progress_output
from engine.cli.outcome_file import failures_in
from engine.config import from_yaml, generate_config, to_yaml
from engine.dataset import inspect_dataset
from engine.errors import EXIT_ERRORS, NotBetterThanBaseError
from engine.evaluation.conclusion import conclude_result, improved
from engine.layout import RunLayout
from engine.results.events import Event
from engine.results.metric_table import Change
from engine.results.metrics import Comparison, Interval
from engine.results.model_card import model_card
from engine.results.no_gain import ADVICE, check_gain, warning
from engine.results.outcome import LIMIT, parse_outcome
from engine.results.types import TeacherResult
from engine.spec import DatasetSpec, FineTuneSpec, OnNoGain, TeacherName, TrainingSpec
from engine.stages import Stage, StageInput
from engine.training.messages import summary

DINO, SAM = TeacherName.GROUNDING_DINO, TeacherName.SAM


def worse(teacher: TeacherName = SAM, **changes: Any) -> TeacherResult:
    return result_of(teacher, before=metrics(0.063), after=metrics(0.059), improved=False, **changes)


def interval(low: float, high: float) -> Comparison:
    whole = Interval(low=0, high=1)
    return Comparison(images=9, resamples=100, before=whole, after=whole, difference=Interval(low=low, high=high))


@pytest.mark.parametrize(
    ("aps", "comparison", "better"),
    [
        ((0.2, 0.3), None, True),
        ((0.3, 0.2), None, False),
        ((0.2, 0.2), None, False),
        ((0.0, 0.0), None, False),
        ((0.2, 0.201), None, None),
        ((0.2, 0.3), interval(0.05, 0.15), True),
        ((0.2, 0.207), interval(-0.02, 0.03), None),
        ((0.3, 0.29), interval(-0.05, 0.02), False),
        ((-1, -1), None, None),
    ],
)
def test_an_adapter_is_better_if_ap_rises_by_more_than_chance(
    aps: tuple[float, float], comparison: Comparison | None, better: bool | None
) -> None:
    base, adapted = map(metrics, aps)
    other = result_of(DINO, before=metrics(0.5), after=metrics(0.1))
    assert improved(result_of(DINO, before=base, after=adapted, comparison=comparison)) is better
    tested = {"test_before": base, "test_after": adapted, "test_comparison": comparison}
    assert improved(other.model_copy(update=tested)) is better, "the test split judges where there is one"


def test_only_what_is_known_to_be_no_better_is_warned_of() -> None:
    assert warning(result_of(DINO, improved=True)) is None
    assert warning(result_of(DINO)) is None, "a result of an earlier version"
    said = warning(worse(test_before=metrics(0.07), test_after=metrics(0.08)))
    assert said is not None
    assert "adapter of Sam is not better than its base: AP 0.063 -> 0.059 (validation), 0.070 -> 0.080 (test)" in said


@pytest.mark.parametrize(("images", "better"), [(5, None), (6, False)])
def test_strength_0_has_no_gain_although_few_images_show_nothing(images: int, better: bool | None) -> None:
    base = metrics(0.2).model_copy(update={"images": images})
    found = result_of(DINO, before=base, after=base, strength=0.0)
    assert improved(found) is better
    found = found.model_copy(update={"improved": improved(found)})
    assert ("too few images" in conclude_result(found).sentence) == (better is None)
    assert "no adapter was better than the base" in conclude_result(found).sentence
    assert "It has strength 0 and gives the base's results" in (warning(found) or "")
    assert ADVICE in summary(found)
    with pytest.raises(NotBetterThanBaseError, match="GroundingDino"):
        check_gain([found], OnNoGain.FAIL)
    tested = dict.fromkeys(("test_before", "test_after"), base.model_copy(update={"images": 6}))
    assert improved(found.model_copy(update=tested)) is False, "the test split judges where there is one"


def test_a_run_fails_only_where_that_is_requested_and_names_the_adapter() -> None:
    results = [result_of(DINO, improved=True), worse()]
    check_gain(results, OnNoGain.PUBLISH)
    check_gain(results[:1], OnNoGain.FAIL)
    with pytest.raises(NotBetterThanBaseError, match=r"Sam is not better than its base: AP 0.063 -> 0.059") as failure:
        check_gain(results, OnNoGain.FAIL)
    assert "GroundingDino" not in str(failure.value)
    assert (failure.value.exit_code, failure.value.reason) == (48, "NotBetterThanBase")
    assert EXIT_ERRORS[48] is NotBetterThanBaseError


def test_the_setting_is_part_of_the_configuration_and_not_of_the_run_id(tmp_path: Path) -> None:
    file = write_toy_data(tmp_path / "a.json", range(8))
    info = inspect_dataset(file)
    ids = set()
    for setting in OnNoGain:
        spec = FineTuneSpec(
            dataset=DatasetSpec(annotations=str(file)), output="out", training=TrainingSpec(on_no_gain=setting)
        )
        config = generate_config(info, spec)
        assert config.training.on_no_gain is setting
        assert from_yaml(to_yaml(config), where="the test") == config
        ids.add(config.run_id)
    assert len(ids) == 1
    with pytest.raises(ValidationError, match="onNoGain"):
        TrainingSpec.model_validate({"onNoGain": "Ignore"})


def test_the_end_of_a_command_and_the_log_say_it(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(record=True, width=300, quiet=False)
    monkeypatch.setattr(display, "console", console)
    display.show_results([result_of(DINO, improved=True), worse()])
    text = console.export_text()
    assert text.count("is not better than its base") == 1
    assert "the adapter of Sam is not better than its base: AP 0.063 -> 0.059" in text
    assert ADVICE in summary(worse())
    assert ADVICE not in summary(result_of(DINO, improved=True))


def test_the_card_says_it_first(tmp_path: Path) -> None:
    config = run_config("a.json", output=tmp_path, grounding_dino=settings())
    card = model_card(worse(DINO), config, versions={})
    assert card.index("not better than its base") < card.index("```python")
    assert "not better than its base" not in model_card(result_of(DINO, improved=True), config, versions={})


def test_a_trainer_that_fails_for_it_leaves_what_it_has_published(tmp_path: Path) -> None:
    left, results = tmp_path / "outcome.json", [worse()]
    with pytest.raises(NotBetterThanBaseError), failures_in(left, results):
        check_gain(results, OnNoGain.FAIL)
    outcome = parse_outcome(left.read_text())
    assert outcome is not None
    assert (outcome.exit_code, outcome.reason) == (48, "NotBetterThanBase")
    assert outcome.trained is not None
    assert (outcome.trained.improved, outcome.trained.metrics["ap"]) == (False, Change(before=0.063, after=0.059))
    assert len(left.read_bytes()) < LIMIT


@pytest.mark.parametrize("setting", OnNoGain)
def test_all_teachers_are_trained_and_published_before_a_run_fails_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: OnNoGain
) -> None:
    file = write_toy_data(tmp_path / "data" / "a.json", range(12), masks=True)
    trained: list[TeacherName] = []

    def train(stage: Stage, given: StageInput, **_: Any) -> None:
        trained.append(stage.teacher)
        if stage.teacher is DINO:
            raise EXIT_ERRORS[48]("the adapter is not better")
        config = from_yaml(Path(given.config).read_text())
        layout = RunLayout.of(config)
        done = metadata_of(run_id=config.run_id, teachers=(worse(DINO), result_of(SAM, improved=True)))
        Path(layout.metadata).write_text(done.model_dump_json())

    monkeypatch.setattr(engine.runner.run, "run_stage", train)
    monkeypatch.setenv("TEACHER_CACHE", str(tmp_path / "cache"))
    asked: dict[str, Any] = {"output": tmp_path / "out", "name": "parts", "training": {"on_no_gain": setting}}
    if setting is OnNoGain.FAIL:
        for _ in range(2):  # the second time it is published already
            with pytest.raises(NotBetterThanBaseError, match="GroundingDino"):
                fine_tune(file, **asked)
    else:
        assert fine_tune(file, **asked).teachers[0].improved is False
    assert trained == [DINO, SAM]
    assert list(tmp_path.glob("out/parts/*/metadata.json"))


def test_the_bar_calls_nothing_the_best_that_the_base_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(record=True, width=200, quiet=False)
    monkeypatch.setattr(progress_output, "console", console)
    tell = progress_output.bar()
    known = {"event": "evaluation", "teacher": "sam", "phase": "adapted", "ap_before": 0.3}
    tell(Event(event="start", teacher="sam", steps=10))
    tell(Event(**known, ap=0.2, best=False))
    tell(Event(**known, ap=0.4, best=True, best_ap=0.4))
    tell(Event(event="done", teacher="sam"))
    text = console.export_text()
    assert "AP 0.200, none better than the base's 0.300 yet" in text
    assert "AP 0.400, the best so far" in text


def test_the_default_of_a_configuration_is_to_publish() -> None:
    assert training().on_no_gain is OnNoGain.PUBLISH
