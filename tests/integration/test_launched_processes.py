"""Several processes that train one teacher, as Jobs with several GPUs or nodes do it: `teacher launch`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from ports import free_port
from runs import teacher, write_parts
from safetensors.torch import load_file

from engine.results.events import Event, parse_line
from engine.results.outcome import Outcome, parse_outcome

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "examples" / "tiny_teachers"


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set with boxes and masks."""
    return write_parts(tmp_path_factory.mktemp("parts"), 13)


def start(*words: str, cwd: Path) -> subprocess.Popen[str]:
    """The command line, with what a machine of its own keeps."""
    cwd.mkdir(exist_ok=True)
    environment = os.environ | {"TEACHER_CACHE": str(cwd / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "engine.cli", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True)


def run(*words: str, cwd: Path) -> tuple[int, list[Event], str]:
    """Exit code, progress lines, and standard error."""
    with start(*words, cwd=cwd) as process:
        out, err = process.communicate(timeout=300)
    return process.returncode, events_of(out), err


def events_of(out: str) -> list[Event]:
    return [event for line in out.splitlines() if (event := parse_line(line)) is not None]


def outcome_in(file: Path) -> Outcome:
    outcome = parse_outcome(file.read_text())
    assert outcome is not None, file.read_text()
    return outcome


def prepare(folder: Path, data: Path, *, output: str, epochs: int = 2) -> list[str]:
    """What trains SAM in a planned run."""
    spec = {
        "dataset": {"annotations": f"{data}/annotations.json", "images": f"{data}/images/"},
        "output": output,
        "teachers": [{"name": "Sam", "baseModel": str(TINY / "sam"), "epochs": epochs}],
    }
    kind = {"apiVersion": "finetune.dev/v1alpha1", "kind": "TeacherFineTune"}
    file = folder / "parts.yaml"
    file.write_text(yaml.safe_dump({**kind, "metadata": {"name": "parts"}, "spec": spec}))
    run_uri = teacher("prepare", "-f", str(file), cwd=folder).stdout.strip()
    return ["train", "--config", f"{run_uri}/teacher_config.yaml", "--teacher", "Sam", "--progress", "json"]


def adapter_of(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("out/parts/*/teachers/sam_lora/adapter_model.safetensors")
    return load_file(file)


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="session")
def alone(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], list[Event]]:
    """The adapter that one process trains, and what it says."""
    folder = tmp_path_factory.mktemp("alone")
    train = prepare(folder, parts, output=str(folder / "out"))
    events = events_of(teacher(*train, cwd=folder).stdout)
    return adapter_of(folder), events


def test_two_processes_publish_what_one_would(
    parts: Path, tmp_path: Path, alone: tuple[dict[str, torch.Tensor], list[Event]]
) -> None:
    train = prepare(tmp_path, parts, output=str(tmp_path / "out"))
    left = tmp_path / "outcome.json"
    exit_code, events, err = run("launch", "--processes", "2", "--outcome", str(left), *train, cwd=tmp_path)
    assert exit_code == 0, err
    adapter, alone_events = alone
    assert_close(adapter_of(tmp_path), adapter)
    (done,) = [event for event in events if event.event == "done"]
    (alone_done,) = [event for event in alone_events if event.event == "done"]
    assert (done.step, done.epoch) == (alone_done.step, alone_done.epoch)
    assert (done.ap_before, done.ap) == pytest.approx((alone_done.ap_before, alone_done.ap), abs=0.02)
    measured = [event.step for event in events if event.event == "evaluation"]
    assert measured == [event.step for event in alone_events if event.event == "evaluation"]
    trained = outcome_in(left).trained
    assert trained is not None
    assert (trained.metrics["ap"].after, trained.teacher) == (round(done.ap, 4), "Sam")


def two_machines(train: Sequence[str], folder: Path) -> list[subprocess.Popen[str]]:
    """One process on each of two machines that share nothing but the network and the output."""
    meeting = ("--nodes", "2", "--rendezvous", f"127.0.0.1:{free_port()}")
    return [
        start(
            *("launch", "--processes", "1", *meeting, "--node-rank", str(rank)),
            *("--outcome", str(folder / f"outcome{rank}"), *train, "--work-dir", "work"),
            cwd=folder / f"machine{rank}",
        )
        for rank in range(2)
    ]


@pytest.mark.slow
def test_sigterm_on_one_machine_stops_all_and_others_resume(
    parts: Path, tmp_path: Path, alone: tuple[dict[str, torch.Tensor], list[Event]]
) -> None:
    train = prepare(tmp_path, parts, output=str(tmp_path / "out"))
    first, second = two_machines(train, tmp_path)
    assert first.stdout is not None
    for line in first.stdout:
        if '"event":"step"' in line:
            second.send_signal(signal.SIGTERM)
            break
    for rank, process in enumerate((first, second)):
        process.communicate(timeout=120)
        outcome = outcome_in(tmp_path / f"outcome{rank}")
        assert (process.returncode, outcome.exit_code, outcome.reason) == (143, 143, "Interrupted")
        assert "stopped after step" in outcome.message
    assert not list(tmp_path.glob("out/parts/*/metadata.json"))

    for name in ("machine0", "machine1"):
        (tmp_path / name).rename(tmp_path / f"{name}-before")
    first, second = two_machines(train, tmp_path)
    out, err = first.communicate(timeout=240)
    assert first.returncode == 0, err
    assert "resuming after step" in " ".join(event.message or "" for event in events_of(out))
    out, err = second.communicate(timeout=240)
    assert (second.returncode, events_of(out)) == (0, []), err
    assert outcome_in(tmp_path / "outcome0").trained == outcome_in(tmp_path / "outcome1").trained
    assert_close(adapter_of(tmp_path), alone[0])
    assert not list((tmp_path / "machine1" / "work").glob("**/*"))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 2)])
def test_another_number_of_processes_resumes_from_the_checkpoint(
    parts: Path, tmp_path: Path, alone: tuple[dict[str, torch.Tensor], list[Event]], before: int, after: int
) -> None:
    """As when `gpus` or `nodes` of an object are changed while it trains."""
    train = prepare(tmp_path, parts, output=str(tmp_path / "out"))
    with start("launch", "--processes", str(before), *train, cwd=tmp_path / "before") as stopped:
        assert stopped.stdout is not None
        for line in stopped.stdout:
            if '"event":"step"' in line:
                stopped.send_signal(signal.SIGTERM)
                break
        stopped.communicate(timeout=120)
    assert stopped.returncode == 143
    exit_code, events, err = run("launch", "--processes", str(after), *train, cwd=tmp_path / "after")
    assert exit_code == 0, err
    assert "resuming after step" in " ".join(event.message or "" for event in events)
    assert_close(adapter_of(tmp_path), alone[0])


def test_what_fails_in_one_process_is_reported_once_and_ends_all(parts: Path, tmp_path: Path) -> None:
    train = prepare(tmp_path, parts, output=str(tmp_path / "out"))
    (config,) = tmp_path.glob("out/parts/*/teacher_config.yaml")
    config.write_text(config.read_text().replace(str(TINY), "/no/such/folder"))
    left = tmp_path / "outcome.json"
    exit_code, events, err = run("launch", "--processes", "2", "--outcome", str(left), *train, cwd=tmp_path)
    outcome = outcome_in(left)
    assert (exit_code, outcome.exit_code, outcome.reason) == (42, 42, "BaseModelUnavailable")
    (error,) = [event for event in events if event.event == "error"]
    assert (error.exit_code, error.message) == (42, outcome.message)
    assert "/no/such/folder" in outcome.message
    assert "Traceback" not in err


def test_only_a_planned_run_is_trained_by_several(tmp_path: Path) -> None:
    for words in (["run", "-f", "x"], ["train", "--data", "x"], ["train", "--config", "x", "--outcome", "y"]):
        exit_code, _, err = run("launch", "--processes", "2", *words, cwd=tmp_path)
        assert exit_code == 40
        assert err.startswith("error: ")
