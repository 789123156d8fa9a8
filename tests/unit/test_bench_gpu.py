"""The parts of ``make bench-gpu``, with small shapes on a CPU: they must run on the day there is a GPU."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Import a benchmark by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        return __import__(name)

    yield load
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(BENCHMARKS)):
            del sys.modules[name]


@pytest.mark.parametrize("base", ["shipped-grounding-dino", "shipped-sam", "shipped-sam2"])
def test_a_step_is_measured_next_to_a_plain_loop_and_the_prediction(script, base: str) -> None:
    steps = script("gpu_steps")
    arguments = Namespace(size="64x96", images=1, objects=2, repeats=1)
    time, memory, predicted = steps.measurements(base, arguments, torch.device("cpu"))
    assert time.ours > 0
    assert time.theirs > 0
    assert memory.ours > 1
    assert predicted.theirs == memory.ours
    assert 0.1 < predicted.ratio < 10


def test_all_published_bases_have_a_configuration(script) -> None:
    steps = script("gpu_steps")
    assert set(steps.PUBLISHED) <= set(steps.BASES)


def test_gradients_in_bfloat16_are_compared(script, tmp_path: Path) -> None:
    import runpy

    draw = runpy.run_path(str(BENCHMARKS.parent / "examples" / "demo_data.py"))["write"]
    draw(tmp_path, images=2, seed=0, kind="both")
    precision = script("gpu_precision")
    for name in precision.TEACHERS:
        (cosine,) = precision.cosines(name, tmp_path / "annotations.json", 1)
        assert 0.5 < cosine < 1


def test_speeds_of_the_steps_reach_the_input_benchmark_and_skipped_parts_say_why(
    script, tmp_path: Path, monkeypatch
) -> None:
    gpu = script("gpu")
    seen = []

    def run(arguments: list[str], figures: Path, *, timeout: float) -> dict[str, object]:
        seen.append(arguments)
        figure = {"against": "", "ours": 1, "theirs": 1, "unit": "s", "ratio": 1, "aim": ""}
        notes = {"grounding-dino-tiny, step": "7.50 images/s", "sam-vit-base, step": "3.00 images/s"}
        figures = [figure | {"what": what, "note": note} for what, note in notes.items()]
        return {"program": " ".join(arguments), "exit_code": 0, "seconds": 1.0, "figures": figures}

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    done = gpu.run_all((gpu.STEPS, gpu.INPUT, gpu.MEMORY, gpu.PROCESSES), shrunk=False)
    assert seen[1][-3:] == ["--training-speed", "7.50", "3.00"]
    assert len(seen) == 2
    file = gpu.write(done, tmp_path)
    assert file.name.startswith("gpu-")
    assert [one["program"].split()[0] for one in json.loads(file.read_text())["runs"] if "skipped" in one] == [
        "gpu_out_of_memory.py",
        "data_parallel.py",
    ]
    assert "two processes need two GPUs, and there is 0" in file.with_suffix(".md").read_text()


def test_without_a_gpu_it_says_so(script, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="torch finds no GPU"):
        script("gpu").main()
