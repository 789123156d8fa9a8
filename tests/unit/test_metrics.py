"""A metric is one entry of a table: outcome, status, terminal, report and model card show it."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from tft_objects import info_of
from toy import metrics, result_of, run_config, settings

from engine.cli import display
from engine.evaluation.report import render_report
from engine.results import metric_table as table
from engine.results.metric_table import METRICS, Metric, metric_text
from engine.results.model_card import model_card
from engine.results.outcome import LIMIT, Outcome, TeacherOutcome, parse_outcome
from engine.spec import AugmentationSpec, TeacherName
from teacher_operator.api.status import METRICS as MOST
from teacher_operator.decide.conditions import published_teacher

DINO = TeacherName.GROUNDING_DINO
RESULT = result_of(DINO, before=metrics(0.25), after=metrics(0.5))


@pytest.fixture
def skill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a metric to the table: a quarter of AP."""
    added = Metric("skill", "Skill", "a quarter of AP", lambda measured: measured.ap / 4, headline=True)
    monkeypatch.setattr(table, "METRICS", (*METRICS, added))


@pytest.mark.usefixtures("skill")
def test_a_metric_that_is_added_to_the_table_is_in_outcome_and_status() -> None:
    outcome = parse_outcome(Outcome(trained=TeacherOutcome.of(RESULT)).to_message())
    assert outcome is not None
    assert outcome.trained is not None
    skill = outcome.trained.metrics["skill"]
    assert (skill.before, skill.after) == (0.0625, 0.125)
    status = published_teacher(DINO, outcome.trained, now=0).model_dump(mode="json", by_alias=True)
    assert {"name": "skill", "before": "0.062", "after": "0.125"} in status["metrics"]
    assert {"name": "ap", "before": "0.250", "after": "0.500"} in status["metrics"]


@pytest.mark.usefixtures("skill")
def test_a_metric_that_is_added_to_the_table_is_in_terminal_report_and_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(record=True, width=200)
    monkeypatch.setattr(display, "console", console)
    display.show_results([RESULT])
    terminal = console.export_text()
    assert "Skill" in terminal
    assert "0.062 -> 0.125" in terminal
    page = render_report(
        name="a",
        run_id="1",
        created="2026-01-01T00:00:00+00:00",
        info=info_of(),
        config_yaml="",
        settings={},
        results=[RESULT],
        samples={},
        environment={},
    )
    assert "a quarter of AP" in page
    config = run_config("a.json", output=tmp_path, augmentation=AugmentationSpec(), grounding_dino=settings())
    assert "| Skill, a quarter of AP | 0.062 | 0.125 |" in model_card(RESULT, config, versions={})


def test_a_metric_that_does_not_apply_is_left_out() -> None:
    assert "miou" not in TeacherOutcome.of(RESULT).metrics


def test_the_headline_metrics_fit_into_outcome_and_status() -> None:
    headline = [metric for metric in METRICS if metric.headline]
    assert "ap" in {metric.name for metric in headline}
    assert len(headline) <= MOST
    assert len(Outcome(trained=TeacherOutcome.of(RESULT)).model_dump_json()) < LIMIT / 4


def test_what_was_not_measured_is_no_number() -> None:
    assert (metric_text(-1), metric_text(0.0), metric_text(1.0)) == ("–", "0.000", "1.000")
