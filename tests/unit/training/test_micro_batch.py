"""A step is cut to what has room, and a run tells what was expected and what was held."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_sam import sam_settings
from toy import ToyTeacher, run_config, write_toy_data

from engine.config import LoraSettings
from engine.processes.launch import Rank
from engine.results.events import Event
from engine.results.types import TeacherResult
from engine.spec import LoraPreset
from engine.training import TeacherTrainer, micro_batch, prepare_model
from engine.training.checkpoint import Progress

TINY_SAM = Path(__file__).resolve().parents[3] / "examples" / "tiny_teachers" / "sam"


def trained(folder: Path, preset: LoraPreset = LoraPreset.ENCODER_DECODER) -> tuple[TeacherResult, list[str]]:
    data = write_toy_data(folder / "data" / "all.json", range(6), masks=True)
    settings = sam_settings(
        base_model=str(TINY_SAM),
        lora=LoraSettings(preset=preset, rank=4, alpha=8, dropout=0),
        batch_size=4,
        point_share=0.2,
    )
    config = run_config(data, output=folder / "output", split=(66, 34, 0), sam=settings)
    events: list[Event] = []
    result = TeacherTrainer(config, work_dir=folder / "work", listeners=[events.append]).train()
    return result, [event.message or "" for event in events if event.event == "note"]


def test_little_memory_reduces_the_micro_batch_and_recomputes_and_reports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(micro_batch, "measure_available_memory", lambda teacher, rank: 12_000_000)
    result, notes = trained(tmp_path)
    assert any("1 of the 4 images of a step at a time, recomputing encoder and decoder" in note for note in notes)
    assert any(note.startswith("steps used") for note in notes)
    assert result.predicted_memory_bytes == pytest.approx(result.step_memory_bytes, rel=0.15)


@pytest.mark.parametrize(
    ("processes", "setting", "begun", "expected"),
    [
        (1, None, None, 16),
        (8, None, None, 2),
        (8, 1, None, 1),
        (3, None, None, 6),
        (1, 2, None, 2),
        (1, None, 4, 4),
        (1, 2, 4, 2),
        (8, None, 4, 2),
    ],
)
def test_a_micro_batch_is_at_most_the_share_of_a_process_and_what_the_settings_allow(
    processes: int, setting: int | None, begun: int | None, expected: int
) -> None:
    settings = sam_settings(base_model="any", batch_size=16, micro_batch_size=setting)
    plan = micro_batch.plan_micro_batch(
        ToyTeacher(),
        settings,
        None,  # type: ignore[arg-type]  # the base is unknown: the data does not matter
        bfloat16=False,
        begun=None if begun is None else Progress(planned_micro_batch_size=begun),
        processes=SimpleNamespace(rank=Rank(size=processes), decided=lambda decide: decide()),  # type: ignore[arg-type]
    )
    assert plan.micro_batch_size == expected


def test_a_container_has_what_its_limit_leaves_it(tmp_path: Path) -> None:
    assert micro_batch._left_in_cgroup(tmp_path) is None
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 500\nactive_file 200\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert micro_batch._left_in_cgroup(tmp_path) is None
    (tmp_path / "memory.max").write_text("5000\n")
    assert micro_batch._left_in_cgroup(tmp_path) == 4500, "files that were read give way"


def test_a_machine_has_what_it_says_is_available(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 200 kB\nMemAvailable:    100 kB\n")
    assert micro_batch._left_on_machine(tmp_path / "meminfo") == 102_400
    assert micro_batch._left_on_machine(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("preset", "bytes_left", "keeps"),
    [("decoder", 12_000_000, False), ("decoder", 10**12, True), ("decoder", None, False), ("all", 10**12, False)],
)
def test_freed_memory_is_kept_only_where_twice_of_what_tensors_hold_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str, bytes_left: int | None, keeps: bool
) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(micro_batch, "measure_available_memory", lambda teacher, rank: bytes_left)
    monkeypatch.setattr(prepare_model, "keep_memory", lambda: calls.append(True))
    _, notes = trained(tmp_path, LoraPreset(preset))
    assert bool(calls) == keeps
    assert any(note.endswith("keeping freed memory") for note in notes) == keeps
