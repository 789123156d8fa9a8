"""Progress in a pipe is one line of text an event; JSON comes only when asked for."""

from __future__ import annotations

import pytest

from engine.cli.progress_output import _title, bar, json_lines, lines, sentence
from engine.cli.progress_style import ProgressStyle, progress_listener
from engine.results.events import Event

EVENTS = [
    Event(event="note", teacher="sam", message="fetching the base"),
    Event(event="evaluation", teacher="sam", step=0, epoch=0, ap=0.3, ap_before=0.3, phase="base"),
    Event(event="start", teacher="sam", step=0, steps=4, epoch=0, epochs=2),
    Event(event="step", teacher="sam", step=1, steps=4, epoch=0.5, epochs=2, loss=1.25, images_per_second=3.14),
    Event(event="step", teacher="sam", step=4, steps=4, epoch=2, epochs=2, loss=1, seconds_left=0),
    Event(event="evaluation", teacher="sam", step=4, epoch=2, ap=0.25, ap_before=0.3, best=False, phase="adapted"),
    Event(event="checkpoint", teacher="sam", step=4, steps=4),
    Event(event="done", teacher="sam", message="published [here]\x1b[2J"),
    Event(event="error", teacher="sam", message="the command reports it"),
]


def test_every_event_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    tell = lines()
    for event in EVENTS:
        tell(event)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "sam: fetching the base",
        "sam: AP 0.300 (base)",
        "sam: starting, 4 steps",
        "sam: epoch 1 of 2, step 1 of 4, loss 1.250, 3.1 images/s",
        "sam: epoch 2 of 2, step 4 of 4, loss 1.000, 0 s left",
        "sam: AP 0.250 after epoch 2, none better than the base's 0.300 yet",
        "sam: checkpoint of step 4",
        "sam: published [here]\ufffd[2J",
    ]


@pytest.mark.parametrize("kind", ["start", "step", "evaluation", "checkpoint", "note", "done", "error"])
def test_an_event_without_details_is_reported_too(kind: str) -> None:
    assert "\n" not in sentence(Event(event=kind))


def test_a_pipe_gets_lines_and_json_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    progress_listener(ProgressStyle.AUTO)(EVENTS[0])
    assert capsys.readouterr().err == "sam: fetching the base\n"
    progress_listener(ProgressStyle.JSON)(EVENTS[0])
    assert capsys.readouterr().out.startswith('{"event":"note"')
    assert json_lines is not lines


def test_the_bar_shows_the_epoch_and_ends_with_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert [_title(event) for event in EVENTS[2:5]] == ["sam epoch 1 of 2", "sam epoch 1 of 2", "sam epoch 2 of 2"]
    tell = bar()
    for event in EVENTS:
        tell(event)
    assert "sam: AP 0.250 after epoch 2, none better than the base's 0.300 yet" in capsys.readouterr().err
