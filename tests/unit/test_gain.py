"""What a run gained and what it cost stands where people look first: the model card and the end of a command."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from toy import metrics, run_config, settings

from engine.cli import display
from engine.config import RunConfig
from engine.evaluation.retention import retention
from engine.results.card_snippets import plain_snippet
from engine.results.model_card import model_card
from engine.results.outcome import LIMIT, Outcome, TeacherOutcome
from engine.results.types import AdapterFile, TeacherResult
from engine.spec import AugmentationSpec, TeacherName


def result(**more: Any) -> TeacherResult:
    values: dict[str, Any] = {
        "teacher": TeacherName.GROUNDING_DINO,
        "base_model": "base",
        "base_revision": None,
        "before": metrics(0.25),
        "after": metrics(0.5),
        "thresholds": {"red": 0.25, "green": 0.125},
        "retention": retention("built-in", base=metrics(0.4), adapted=metrics(0.3)),
        "epochs": 6,
        "steps": 18,
        "seconds": 1,
        "peak_memory_bytes": 1,
        "trainable_parameters": 1,
        "adapter": AdapterFile(uri="a", sha256="0" * 64, size_bytes=1),
    }
    return TeacherResult(**values | more)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return run_config("a.json", output=tmp_path, augmentation=AugmentationSpec(), grounding_dino=settings())


def test_the_card_has_thresholds_and_what_is_left_of_the_base(config: RunConfig) -> None:
    card = model_card(result(), config, versions={})
    assert "| score thresholds | red 0.250, green 0.125 |" in card
    assert "| AP on other things | 0.400 | 0.300 |" in card
    assert "75% of its AP for 0 prompts" in card


def test_the_card_of_a_run_without_them_says_so(config: RunConfig) -> None:
    assert "share of the base's zero-shot AP that is kept | not measured |" in model_card(
        result(retention=None, thresholds={}), config, versions={}
    )


def test_a_name_of_a_class_is_no_markup_in_the_card(config: RunConfig) -> None:
    evil = "<img src=x onerror=alert(1)>|\n[here](http://evil.example) `code`"
    data = config.data.model_copy(update={"classes": (evil,)})
    thresholds = {evil: 0.5}
    card = model_card(result(thresholds=thresholds), config.model_copy(update={"data": data}), versions={})
    rows = [line for line in card.splitlines() if "onerror" in line]
    assert [row.partition(",")[0].partition(" |")[0] for row in rows] == ["| classes", "| score thresholds"]
    for row in rows:
        assert row.count("|") - row.count("\\|") == 3, "a bar in a name makes no cell, a line break ends no row"
        assert "<img" not in row
        assert "[here](" not in row
        assert " `code" not in row


def test_a_command_ends_with_what_is_left_of_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(record=True, width=200, quiet=False)
    monkeypatch.setattr(display, "console", console)
    display.show_results([result()])
    text = console.export_text()
    assert "GroundingDino: 75% of the base's zero-shot AP is kept (AP 0.400 -> 0.300)" in text


def test_thresholds_of_a_thousand_classes_do_not_lengthen_an_outcome() -> None:
    many = result(thresholds={f"class {i}": 0.5 for i in range(1000)})
    assert len(Outcome(trained=TeacherOutcome.of(many)).to_message()) < LIMIT // 4


def code_blocks(card: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", card, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    "evil",
    [
        'a"); import os; os.abort() #',
        "a\\",
        "a\nimport os",
        "a`b``c",
        "a\n```\n# Title",
        "{uri} é \U0001f600",
        "---\n'",
    ],
)
def test_an_output_or_a_base_of_any_name_is_no_code_and_no_markup_in_the_card(config: RunConfig, evil: str) -> None:
    adapter = AdapterFile(uri=f"{evil}/adapter_model.safetensors", sha256="0" * 64, size_bytes=1)
    card = model_card(result(adapter=adapter, base_model=evil), config, versions={})
    _, front, body = card.split("---\n", 2) if evil != "---\n'" else ["", *card[4:].split("\n---\n", 1)]
    assert yaml.safe_load(front)["base_model"] == evil
    plain, code = code_blocks(body)
    assigned = [one for one in ast.parse(plain).body if isinstance(one, ast.Assign)]
    places = {ast.unparse(one.targets[0]): one.value for one in assigned}
    assert [ast.literal_eval(places[name]) for name in ("base", "adapter")] == [evil, evil]
    ordinary = ast.parse(plain_snippet(result()))
    assert [type(one) for one in ast.parse(plain).body] == [type(one) for one in ordinary.body]
    usual = code_blocks(model_card(result(), config, versions={}))[1]
    given = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    expected = [node.value for node in ast.walk(ast.parse(usual)) if isinstance(node, ast.Constant)]
    assert given == [evil, *expected[1:]]  # the first is the adapter's folder
    assert [type(one) for one in ast.parse(code).body] == [type(one) for one in ast.parse(usual).body]
    assert len(re.findall("^# ", body, flags=re.MULTILINE)) == 1
    assert body.count("\n```") == 4
