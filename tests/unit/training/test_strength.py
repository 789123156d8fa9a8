"""The strength of an adapter after training: what is measured is published, and nothing is worse than its base."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from together import together
from toy import ToyTeacher, metrics, result_of, run_config, settings, training, write_toy_base, write_toy_data

from engine.config import RunConfig
from engine.config.model import SplitFilesConfig
from engine.dataset import Sample, load_dataset, load_sample
from engine.errors import InterruptedTrainingError
from engine.evaluation.evaluate import Evaluation, evaluate
from engine.models.lora import adapter_off
from engine.results.events import Event
from engine.results.low_retention import retention_warning
from engine.results.metrics import ApMetrics
from engine.results.model_card import model_card
from engine.results.no_gain import warning
from engine.results.outcome import TeacherOutcome
from engine.results.types import Retention, StrengthCurve, StrengthPoint, TeacherResult
from engine.spec import TeacherName
from engine.teachers import REGISTRY, load_adapted
from engine.training import TeacherTrainer
from engine.training import strength as strength_module
from engine.training.data.annotated_splits import SplitData
from engine.training.distributed import Processes
from engine.training.evaluation import Evaluator
from engine.training.messages import summary

FOLDER = "teachers/grounding_dino_lora"
STRENGTHS = (0.25, 0.5, 0.85, 1.0)


@pytest.fixture(autouse=True)
def toy_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, TeacherName.GROUNDING_DINO, ToyTeacher)
    monkeypatch.setattr("engine.evaluation.retention.MIN_BASE_AP", 0.001)  # the toy's base finds little


@pytest.fixture(scope="module")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strength")
    write_toy_base(folder / "base")
    write_toy_data(folder / "data" / "all.json", range(120))
    other = write_toy_data(folder / "other" / "all.json", range(30))
    other.write_text(other.read_text().replace('"red"', '"crimson"').replace('"green"', '"lime"'))
    return folder


def config_of(
    folder: Path, *, retained: bool = True, common: dict[str, Any] | None = None, **changes: Any
) -> RunConfig:
    other = folder / "other" / "all.json" if retained else folder / "data" / "all.json"
    files = SplitFilesConfig(annotations=str(other), images=None)
    return run_config(
        folder / "data" / "all.json",
        output=folder / "output",
        split=(60, 20, 20),
        common=training(**{"strengths": STRENGTHS, "retention": files} | (common or {})),
        grounding_dino=settings(base_model=str(folder / "base"), **{"epochs": 20} | changes),
    )


def cannot_gain(folder: Path, **changes: Any) -> RunConfig:
    """A run that forgets what the base finds, at any strength: it jumps far away with every step."""
    return config_of(folder, epochs=1, learning_rate=1.0, clip_norm=1e6, warmup_fraction=0.0, **changes)


def lora_alpha(work: Path) -> float:
    value: float = json.loads((work / FOLDER / "adapter_config.json").read_text())["lora_alpha"]
    return value


def test_what_is_published_is_what_was_measured_at_the_chosen_strength(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strength_module, "choose_strength", lambda points, **rule: (0.5, "half of it"))
    result = TeacherTrainer(config_of(toy_data), work_dir=tmp_path).train()
    assert result.strength == 0.5
    assert lora_alpha(tmp_path) == 0.5 * settings().lora.alpha
    curve = result.strength_curve
    assert curve is not None
    assert [point.strength for point in curve.points] == [0.0, *STRENGTHS]
    aps = {point.strength: point.ap for point in curve.points}
    assert (aps[0], aps[0.5]) == (result.before.ap, result.after.ap)
    assert aps[1] == max(point.ap for point in result.history if point.ap is not None)
    assert len(set(aps.values())) > 3, "the strength matters"
    assert result.retention is not None
    assert next(point.retention for point in curve.points if point.strength == 0.5) == result.retention.share
    assert (curve.images, curve.retention_images) == (24, 30)

    teacher = load_adapted(tmp_path / FOLDER)
    dataset = load_dataset(toy_data / "other" / "all.json")

    def load(index: int) -> Sample:
        return load_sample(dataset, index, toy_data / "other" / dataset.images[index].file_name, with_masks=False)

    asked = teacher.asking(dataset.classes)
    assert result.retention.adapted == evaluate(asked, dataset, load, batch_size=4).metrics
    with adapter_off(teacher):
        assert result.retention.base == evaluate(asked, dataset, load, batch_size=4).metrics


def test_a_required_retention_is_kept(toy_data: Path, tmp_path: Path) -> None:
    result = TeacherTrainer(config_of(toy_data, common={"min_retention": 0.0}), work_dir=tmp_path).train()
    assert result.strength_curve is not None
    assert result.after.ap == max(point.ap for point in result.strength_curve.points)
    assert result.strength_curve.reason.startswith("highest AP of those that keep 0%")


def test_a_run_that_cannot_gain_publishes_its_base(toy_data: Path, tmp_path: Path) -> None:
    config = cannot_gain(toy_data)
    result = TeacherTrainer(config, work_dir=tmp_path).train()
    trained = [point.ap for point in result.history if point.ap is not None]
    assert max(trained) < result.before.ap, "otherwise this tests nothing"
    assert result.strength == 0
    assert lora_alpha(tmp_path) == 0
    assert (result.after, result.test_after) == (result.before, result.test_before)
    assert result.improved is False
    assert result.retention is not None
    assert result.retention.share == 1
    assert f"strength 0 and gives the base's results: the best one trained had AP {max(trained):.3f}" in (
        warning(result) or ""
    )
    for text in (warning(result), result.conclusion, summary(result), model_card(result, config, versions={})):
        assert "has strength 0 and gives the base's results" in (text or "").replace("&#x27;", "'")
    outcome = TeacherOutcome.of(result)
    assert (outcome.strength, outcome.improved) == (0, False)

    teacher = load_adapted(tmp_path / FOLDER)
    dataset = load_dataset(toy_data / "data" / "all.json")
    samples = [
        load_sample(dataset, index, toy_data / "data" / dataset.images[index].file_name, with_masks=False)
        for index in range(8)
    ]
    with adapter_off(teacher):
        base = teacher.predict(samples)
    for one, other in zip(teacher.predict(samples), base, strict=True):
        assert one.boxes_xyxy.tolist() == other.boxes_xyxy.tolist()
        assert one.scores.tolist() == other.scores.tolist()


def test_a_required_retention_is_measured_at_a_single_strength_and_its_lack_is_reported(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(source: str, *, base: ApMetrics, adapted: ApMetrics) -> Retention:
        share = 1.0 if adapted == base else 0.5
        return Retention(source=source, prompts=(), base=base, adapted=adapted, share=share)

    monkeypatch.setattr(strength_module, "retention", half)
    config = config_of(toy_data, epochs=6, common={"strengths": (1.0,), "min_retention": 0.99})
    result = TeacherTrainer(config, work_dir=tmp_path).train()
    curve = result.strength_curve
    assert curve is not None
    assert result.retention is not None
    assert [point.retention for point in curve.points] == [1, 0.5]
    assert (result.strength, curve.min_retention) == (1, 0.99)
    assert curve.reason == "highest retention; none that is better than the base keeps 99% of the base's zero-shot AP"
    said = "keeps 50.0% of the base's zero-shot AP, and training.retention.minShare requires 99%"
    for text in (retention_warning(result), summary(result), model_card(result, config, versions={})):
        assert said in (text or "").replace("&#x27;", "'")


def test_a_lack_of_retention_is_warned_of_where_a_share_is_required() -> None:
    def curve(required: float | None) -> StrengthCurve:
        return StrengthCurve(images=9, points=(), reason="", min_retention=required)

    def kept(share: float) -> Retention:
        return Retention(source="", prompts=(), base=metrics(0.2), adapted=metrics(0.1), share=share)

    def warned(required: float | None, share: float | None, strength: float = 1.0) -> str | None:
        retention = None if share is None else kept(share)
        changes = {"retention": retention, "strength": strength, "strength_curve": curve(required)}
        return retention_warning(result_of(TeacherName.GROUNDING_DINO, **changes))

    assert warned(None, 0.1) is None
    assert warned(0.0, None) is None
    assert warned(0.8, 0.8) is None
    assert warned(0.8, 1.0, strength=0.0) is None
    assert "keeps 50.0%" in (warned(0.8, 0.5) or "")
    assert "could not be measured" in (warned(0.8, None) or "")
    assert "could not be measured" in (warned(0.8, -1.0) or "")
    assert retention_warning(result_of(TeacherName.GROUNDING_DINO)) is None


def test_a_large_split_is_measured_in_part_and_judged_as_a_whole(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strength_module, "CURVE_IMAGES", 3)
    monkeypatch.setattr(strength_module, "choose_strength", lambda points, **rule: (1.0, "by a few images"))
    result = TeacherTrainer(config_of(toy_data), work_dir=tmp_path / "gains").train()
    assert result.strength_curve is not None
    assert (result.strength_curve.images, result.strength_curve.retention_images) == (3, 3)
    assert (result.after.images, result.retention and result.retention.adapted.images) == (24, 30)
    assert (result.strength, result.strength_curve.reason) == (1, "by a few images")
    assert result.after.ap > result.before.ap


def on_part(monkeypatch: pytest.MonkeyPatch, strength: float) -> None:
    """Measure a part of the validation split, and choose a strength by it; the whole split chooses by the rule."""
    choose = strength_module.choose_strength
    calls = itertools.count()

    def chosen(points: Sequence[StrengthPoint], **rule: Any) -> tuple[float, str]:
        return choose(points, **rule) if next(calls) else (strength, "by a few images")

    monkeypatch.setattr(strength_module, "CURVE_IMAGES", 3)
    monkeypatch.setattr(strength_module, "choose_strength", chosen)


@pytest.mark.parametrize("by_part", [0.0, 1.0])
def test_only_the_whole_split_shows_that_nothing_is_better(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_part: float
) -> None:
    on_part(monkeypatch, by_part)
    result = TeacherTrainer(cannot_gain(toy_data), work_dir=tmp_path).train()
    assert (result.strength, result.after) == (0, result.before)
    assert result.strength_curve is not None
    assert result.strength_curve.images == 24
    assert [point.strength for point in result.strength_curve.points] == [0.0, *STRENGTHS]
    assert result.strength_curve.reason.startswith("none is better than the base")


def test_no_gain_on_a_part_of_the_split_does_not_discard_a_gain_on_the_whole(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_part(monkeypatch, 0.0)
    notes: list[str] = []
    trainer = TeacherTrainer(
        config_of(toy_data, epochs=6), work_dir=tmp_path, listeners=[lambda event: notes.append(event.message or "")]
    )
    result = trainer.train()
    best = max(point.ap for point in result.history if point.ap is not None)
    assert best > result.before.ap, "otherwise this tests nothing"
    assert result.strength > 0
    assert result.after.ap >= result.before.ap + 0.95 * (best - result.before.ap)
    assert result.strength_curve is not None
    assert (result.strength_curve.images, result.after.images) == (24, 24)
    assert "no strength is better than the base on 3 images: measuring all strengths on all 24 images" in notes


def test_a_strength_that_is_worse_on_the_whole_split_gives_way_to_another(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_part(monkeypatch, 0.25)
    evaluate_at = strength_module._evaluate

    def bad_at_a_quarter(evaluator: Evaluator, split: SplitData, strength: float, **how: Any) -> Evaluation:
        found = evaluate_at(evaluator, split, strength, **how)
        if strength != 0.25:
            return found
        return replace(found, metrics=found.metrics.model_copy(update={"ap": 0.0}))

    monkeypatch.setattr(strength_module, "_evaluate", bad_at_a_quarter)
    result = TeacherTrainer(config_of(toy_data, epochs=6), work_dir=tmp_path).train()
    assert result.strength > 0.25
    assert result.after.ap > result.before.ap


def test_without_retention_data_ap_decides(toy_data: Path, tmp_path: Path) -> None:
    result = TeacherTrainer(config_of(toy_data, retained=False), work_dir=tmp_path).train()
    assert result.strength_curve is not None
    assert result.retention is None
    assert {point.retention for point in result.strength_curve.points} == {None}
    assert result.after.ap == max(point.ap for point in result.strength_curve.points)
    assert result.strength_curve.reason == "highest AP; retention was not measured"


@pytest.mark.parametrize("message", ["measuring the adapter", "strength 0.5"])
def test_a_run_that_is_killed_while_it_is_measured_ends_the_same(toy_data: Path, tmp_path: Path, message: str) -> None:
    config = config_of(toy_data, epochs=3)
    whole = TeacherTrainer(config, work_dir=tmp_path / "whole").train()

    def kill(event: Event) -> None:
        if (event.message or "").startswith(message):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(InterruptedTrainingError):
        TeacherTrainer(config, work_dir=tmp_path / "killed", listeners=[kill]).train()
    resumed = TeacherTrainer(config, work_dir=tmp_path / "killed").train()
    outside = {"seconds", "peak_memory_bytes", "adapter"}
    assert resumed.model_dump(exclude=outside) == whole.model_dump(exclude=outside)
    for name in ("adapter_model.safetensors", "adapter_config.json", "teacher.json"):
        assert (tmp_path / "killed" / FOLDER / name).read_bytes() == (tmp_path / "whole" / FOLDER / name).read_bytes()


def train_together(processes: Processes, config: RunConfig, work: Path) -> TeacherResult:
    return TeacherTrainer(config, work_dir=work / str(processes.rank.index), processes=processes).train()


def test_several_processes_choose_the_same_strength(toy_data: Path, tmp_path: Path) -> None:
    config = config_of(toy_data, epochs=3, lora={"preset": "all", "rank": 8, "alpha": 16, "dropout": 0})
    alone = TeacherTrainer(config, work_dir=tmp_path / "alone").train()
    ends = together(train_together, config, tmp_path / "together", count=2)
    assert ends[0] == ends[1]
    assert alone.strength_curve is not None
    assert ends[0].strength_curve is not None
    for one, other in zip(ends[0].strength_curve.points, alone.strength_curve.points, strict=True):
        assert one.strength == other.strength
        assert one.ap == pytest.approx(other.ap, abs=0.02)
    assert not (tmp_path / "together" / "1").exists()
