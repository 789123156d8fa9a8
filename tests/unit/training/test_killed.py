"""A run that is killed, at any moment and any number of times, ends as one that never was."""

from __future__ import annotations

import itertools
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from killed import attempt, published
from toy import ToyTeacher, run_config, settings, training, write_toy_base, write_toy_data

from engine.config import RunConfig
from engine.dataset import inspect_dataset
from engine.errors import LossNotFiniteError
from engine.layout import RunLayout
from engine.plan import TrainingRun
from engine.spec import AugmentationSpec, Intensity, TeacherName
from engine.storage import Storage
from engine.teachers import REGISTRY, load_adapted
from engine.training import loop
from engine.training.publish import train_and_publish

INTERRUPTED = 143


@pytest.fixture(autouse=True)
def toy_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, TeacherName.GROUNDING_DINO, ToyTeacher)
    monkeypatch.setattr(loop, "checkpoint_interval", lambda cost: 0.0)  # after every step: most moments to be killed at


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    write_toy_base(folder / "base")
    write_toy_data(folder / "data" / "all.json", range(30))
    return folder


def config_of(toy_data: Path, output: str, **common: Any) -> RunConfig:
    annotations = toy_data / "data" / "all.json"
    info = inspect_dataset(annotations)
    config = run_config(
        annotations,
        output=output,
        augmentation=AugmentationSpec(intensity=Intensity.LOW),
        common=training(**({"patience": 1, "log_seconds": 1e-6} | common)),
        grounding_dino=settings(base_model=str(toy_data / "base"), epochs=4, evaluations=4),
    )
    Storage().write_bytes(RunLayout.of(config).dataset, info.model_dump_json().encode())
    return config


@pytest.fixture(scope="session")
def whole(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int]:
    """What a run that is never stopped publishes, and how many moments it has."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, TeacherName.GROUNDING_DINO, ToyTeacher)
        patch.setattr(loop, "checkpoint_interval", lambda cost: 0.0)
        config = config_of(toy_data, str(folder / "output"))
        exit_code, moments, said = attempt(config, folder / "work")
    assert (exit_code, said) == (0, "")
    return published(config), moments


def ends_well(config: RunConfig, work: Path, moment: int, by: signal.Signals, *, node_lost: bool) -> bool:
    """Whether an attempt was stopped at the moment; another one has ended the run then."""
    exit_code, _, said = attempt(config, work, die_at=moment, by=by)
    assert exit_code in ({0, -by} if by == signal.SIGKILL else {0, INTERRUPTED}), said
    if exit_code != 0:
        again, _, said = attempt(config, work.with_name("another machine") if node_lost else work)
        assert (again, said) == (0, "")
    return exit_code != 0


@pytest.mark.parametrize("share", [0.15, 0.4, 0.6, 0.8, 0.92])
def test_killed_at_a_moment_it_ends_the_same(
    toy_data: Path, tmp_path: Path, whole: tuple[dict[str, Any], int], share: float
) -> None:
    expected, moments = whole
    config = config_of(toy_data, str(tmp_path / "output"))
    assert ends_well(config, tmp_path / "work", int(moments * share), signal.SIGKILL, node_lost=True)
    assert published(config) == expected


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("node_lost", [False, True])
def test_killed_at_many_moments_it_ends_the_same(
    toy_data: Path, tmp_path: Path, whole: tuple[dict[str, Any], int], by: signal.Signals, node_lost: bool
) -> None:
    expected, moments = whole
    tried = range(1 + 2 * node_lost + (by == signal.SIGTERM), moments + 1, int(os.environ.get("KILLED_EVERY", "26")))
    stopped = 0
    for moment in tried:
        config = config_of(toy_data, str(tmp_path / str(moment) / "output"))
        stopped += ends_well(config, tmp_path / str(moment) / "work", moment, by, node_lost=node_lost)
        assert published(config) == expected, moment
    print(f"{by.name}, node {'lost' if node_lost else 'kept'}: {len(tried)} moments of {moments}, stopped at {stopped}")
    assert stopped > len(tried) // 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_again_and_again_it_ends_the_same(
    toy_data: Path, tmp_path: Path, whole: tuple[dict[str, Any], int], seed: int
) -> None:
    """As on machines that live for a while only: some go on where they were, some are new."""
    expected, moments = whole
    config, rng = config_of(toy_data, str(tmp_path / "output")), random.Random(seed)
    for _ in range(100):
        work = tmp_path / f"work-{rng.randrange(2)}"
        by = rng.choice([signal.SIGKILL, signal.SIGTERM])
        exit_code, _, said = attempt(config, work, die_at=rng.randrange(1, moments // 2), by=by)
        if exit_code == 0:
            break
        assert exit_code in {-signal.SIGKILL, INTERRUPTED}, said
    assert published(config) == expected


@pytest.mark.parametrize("share", [0.3, pytest.param(0.75, marks=pytest.mark.slow)])
def test_killed_with_everything_in_s3_it_ends_the_same(
    toy_data: Path, tmp_path: Path, whole: tuple[dict[str, Any], int], s3: str, share: float
) -> None:
    config = config_of(toy_data, f"{s3}/output", workers=1)
    exit_code, moments, _ = attempt(config_of(toy_data, f"{s3}/whole"), tmp_path / "whole")
    assert exit_code == 0
    assert ends_well(config, tmp_path / "work", int(moments * share), signal.SIGKILL, node_lost=True)
    assert published(config) == whole[0]


def test_a_run_whose_loss_becomes_nan_leaves_its_best_adapter_in_storage(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, loss, calls = config_of(toy_data, str(tmp_path / "output")), ToyTeacher.loss, itertools.count()

    def broken(self: ToyTeacher, batch: Any, *, count: float) -> Any:
        losses = loss(self, batch, count=count)
        return losses | {"loss": losses["loss"] * float("nan")} if next(calls) > 6 else losses

    monkeypatch.setattr(ToyTeacher, "loss", broken)
    with pytest.raises(LossNotFiniteError, match=r"the best adapter so far is kept at .*/last/best$") as failure:
        train_and_publish(
            TrainingRun(TeacherName.GROUNDING_DINO, config),
            storage=Storage(),
            listener=lambda event: None,
            work_dir=tmp_path / "work",
            cache=tmp_path / "cache",
        )
    assert load_adapted(str(failure.value).rpartition(" at ")[2]).classes == ("red", "green")
