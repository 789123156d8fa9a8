"""Sweeps and cross-validations: several trainings of one teacher."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from killed import attempt, published
from safetensors.torch import load_file
from together import Processes, together
from toy import ToyTeacher, run_config, settings, training, write_toy_base, write_toy_data

from engine.config import RunConfig
from engine.dataset import Sample, inspect_dataset, load_dataset, load_sample
from engine.errors import InterruptedTrainingError, LossNotFiniteError, OutOfGpuMemoryError
from engine.evaluation.evaluate import evaluate
from engine.layout import RunLayout
from engine.models.lora import AdapterCard
from engine.plan import TrainingRun
from engine.results.events import Event
from engine.results.types import TeacherResult
from engine.spec import TeacherName
from engine.storage import Storage
from engine.teachers import REGISTRY, load_adapted
from engine.training import TeacherTrainer
from engine.training.loop import Loop
from engine.training.publish import train_and_publish

FOLDER = "teachers/grounding_dino_lora"
RATES = (1e-3, 3e-2)
SLOW = pytest.mark.slow


@pytest.fixture(autouse=True)
def toy_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, TeacherName.GROUNDING_DINO, ToyTeacher)


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    write_toy_base(folder / "base")
    write_toy_data(folder / "data" / "all.json", range(30))
    return folder


def config_of(folder: Path, *, folds: int | None = None, test: int = 20, **changes: Any) -> RunConfig:
    config = run_config(
        folder / "data" / "all.json",
        output=folder / "output",
        split=(60, 20, 20),
        common=training(),
        grounding_dino=settings(base_model=str(folder / "base"), **({"epochs": 4, "evaluations": 2} | changes)),
    )
    if folds is None:
        return config
    val = round((100 - test) / folds)
    split = {"train": 100 - test - val, "val": val, "test": test, "folds": folds}
    data = config.data.model_dump() | {"split": split}
    return config.model_copy(update={"data": type(config.data).model_validate(data)})


def sweep(folder: Path, rates: tuple[float, ...] = RATES, **changes: Any) -> RunConfig:
    return config_of(folder, trials=[{"learning_rate": rate} for rate in rates], **changes)


def adapter_of(work: Path) -> bytes:
    return (work / FOLDER / "adapter_model.safetensors").read_bytes()


MEASURED = {"before", "after", "test_before", "test_after", "history", "best_epoch", "epochs", "steps", "thresholds"}


@pytest.fixture(scope="module")
def swept(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TeacherResult, list[Event]]:
    work, events = tmp_path_factory.mktemp("swept"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, TeacherName.GROUNDING_DINO, ToyTeacher)
        result = TeacherTrainer(sweep(toy_data), work_dir=work, listeners=[events.append]).train()
    return work, result, events


def test_a_sweep_publishes_the_best_trial_as_if_it_had_been_the_only_one(
    toy_data: Path, tmp_path: Path, swept: tuple[Path, TeacherResult, list[Event]]
) -> None:
    work, result, _ = swept
    alone = [
        TeacherTrainer(config_of(toy_data, learning_rate=rate), work_dir=tmp_path / str(rate)).train() for rate in RATES
    ]
    aps = [max(point.ap for point in one.history if point.ap is not None) for one in alone]
    assert [trial.ap for trial in result.trials] == aps
    assert aps[0] != aps[1]
    best = max(range(2), key=aps.__getitem__)
    assert [trial.chosen for trial in result.trials] == [index == best for index in range(2)]
    assert adapter_of(work) == adapter_of(tmp_path / str(RATES[best]))
    assert result.model_dump(include=MEASURED) == alone[best].model_dump(include=MEASURED)
    assert result.test_after is not None
    card = AdapterCard.read(work / FOLDER)
    assert (card.settings.learning_rate, card.settings.trials) == (RATES[best], ())


def test_every_trial_is_listed_with_settings_ap_time_and_images(swept: tuple[Path, TeacherResult, list[Event]]) -> None:
    work, result, _ = swept
    assert [trial.name for trial in result.trials] == ["trial-1", "trial-2"]
    assert [trial.settings for trial in result.trials] == [{"learning_rate": rate} for rate in RATES]
    assert [trial.images for trial in result.trials] == [4 * 18, 4 * 18]
    assert all(trial.seconds > 0 and trial.ap_before == result.before.ap for trial in result.trials)
    assert result.seconds == pytest.approx(sum(trial.seconds for trial in result.trials))
    assert TeacherResult.model_validate_json((work / FOLDER / "result.json").read_text()) == result


def test_progress_counts_the_steps_of_all_trials(swept: tuple[Path, TeacherResult, list[Event]]) -> None:
    _, _, events = swept
    steps = [event for event in events if event.steps is not None and event.step is not None]
    assert {event.steps for event in steps} == {24}
    assert {(event.trial, event.trials) for event in steps} == {(1, 2), (2, 2)}
    done = [event.step or 0 for event in steps]
    assert done == sorted(done)
    assert [event.step for event in steps if event.event == "step"][-1] == 24
    best = [event.best_ap for event in steps if event.best_ap is not None]
    assert best == sorted(best)
    notes = [event.message or "" for event in events if event.event == "note"]
    assert sum(note.startswith("trial-") and "AP" in note for note in notes) == 2


def diverge(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """Make the loss NaN from a call on; a training of four epochs has 20 calls."""
    loss, calls = ToyTeacher.loss, itertools.count()

    def diverging(self: ToyTeacher, batch: Any, *, count: float) -> Any:
        losses = loss(self, batch, count=count)
        return losses | {"loss": losses["loss"] * float("nan")} if next(calls) >= after else losses

    monkeypatch.setattr(ToyTeacher, "loss", diverging)


def test_a_trial_that_diverges_is_left_out(toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diverge(monkeypatch, after=20)
    result = TeacherTrainer(sweep(toy_data), work_dir=tmp_path).train()
    assert [trial.ap is None for trial in result.trials] == [False, True]
    assert [trial.chosen for trial in result.trials] == [True, False]
    assert "lower the learning rate" in result.trials[1].failure


def test_a_sweep_whose_trials_all_diverge_fails_with_their_reasons(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverge(monkeypatch, after=0)
    with pytest.raises(LossNotFiniteError, match=r"trial-1 \(learning_rate 0.001\): .*; trial-2 "):
        TeacherTrainer(sweep(toy_data), work_dir=tmp_path).train()


def lack_memory(monkeypatch: pytest.MonkeyPatch, *, trials: tuple[float, ...] = RATES, after: int = 7) -> None:
    """Make the GPU lack memory after some calls, in trainings with these learning rates."""
    loss, rate, calls = ToyTeacher.loss, Loop.__init__, itertools.count()
    current: list[float] = []

    def begin(self: Loop, *args: Any, **kwargs: Any) -> None:
        current[:] = [kwargs["settings"].learning_rate]
        rate(self, *args, **kwargs)

    def lacking(self: ToyTeacher, batch: Any, *, count: float) -> Any:
        if current[0] in trials and next(calls) >= after:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss(self, batch, count=count)

    monkeypatch.setattr(Loop, "__init__", begin)
    monkeypatch.setattr(ToyTeacher, "loss", lacking)


def test_a_trial_that_lacks_memory_is_left_out(toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lack_memory(monkeypatch, trials=RATES[:1])
    result = TeacherTrainer(sweep(toy_data), work_dir=tmp_path).train()
    assert [trial.ap is None for trial in result.trials] == [True, False]
    assert [trial.chosen for trial in result.trials] == [False, True]
    assert "too little memory for GroundingDino" in result.trials[0].failure
    assert 0 < result.trials[0].images < result.trials[1].images


def test_a_sweep_fails_for_lack_of_memory_only_if_no_trial_fits(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        lack_memory(patch)
        with pytest.raises(OutOfGpuMemoryError, match=r"trial-1 .* too little memory .*; trial-2 .* too little memory"):
            TeacherTrainer(sweep(toy_data), work_dir=tmp_path / "memory").train()
    diverge(monkeypatch, after=0)
    lack_memory(monkeypatch, trials=RATES[1:], after=0)
    with pytest.raises(
        LossNotFiniteError, match=r"trial-1 .* lower the learning rate .*; trial-2 .* too little memory"
    ):
        TeacherTrainer(sweep(toy_data), work_dir=tmp_path / "both").train()


def test_a_fold_that_lacks_memory_fails_with_the_exit_code_for_it(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(toy_data, folds=2)
    settings = config.teachers.of(TeacherName.GROUNDING_DINO)
    assert settings is not None
    lack_memory(monkeypatch, trials=(settings.learning_rate,))
    with pytest.raises(OutOfGpuMemoryError, match=r"^fold-1: .*too little memory"):
        TeacherTrainer(config, work_dir=tmp_path).train()


@pytest.mark.parametrize("failure", ["divergence", "memory"])
def test_a_failed_trial_has_the_same_progress_after_a_resume(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    diverge(monkeypatch, after=32) if failure == "divergence" else lack_memory(monkeypatch, trials=RATES[1:])
    config = sweep(toy_data)
    whole = TeacherTrainer(config, work_dir=tmp_path / "whole").train()
    failed = whole.trials[1]
    assert failed.failure
    assert (failed.images > 0, failed.epochs > 0, failed.seconds > 0) == (True, True, True)
    last = f"{FOLDER}/last"
    shutil.copytree(tmp_path / "whole" / last, tmp_path / "resumed" / last)
    result = TeacherTrainer(config, work_dir=tmp_path / "resumed").train()
    timeless = [[trial.model_copy(update={"seconds": 0}) for trial in one.trials] for one in (result, whole)]
    assert timeless[0] == timeless[1]
    assert result.trials[1].seconds >= failed.seconds


def test_the_best_adapters_of_trials_that_all_diverge_are_left_in_storage(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverge(monkeypatch, after=14)
    config = sweep(toy_data).model_copy(update={"output": str(tmp_path / "output")})
    said = r"adapter so far is kept; trial-2 .* there is no adapter yet\. Best adapters: "
    with pytest.raises(LossNotFiniteError, match=said) as failure:
        train_and_publish(
            TrainingRun(TeacherName.GROUNDING_DINO, config),
            storage=Storage(),
            listener=lambda event: None,
            work_dir=tmp_path / "work",
            cache=tmp_path / "cache",
        )
    uri = str(failure.value).rpartition(": ")[2]
    assert uri.endswith("/last/trial-1/best")
    assert load_adapted(uri).classes == ("red", "green")


def killer(trial: int, step: int) -> Any:
    """A listener that sends SIGTERM at a checkpoint of a trial, after ``step`` steps of all trials."""

    def listen(event: Event) -> None:
        if (event.event, event.trial, event.step) == ("checkpoint", trial, step):
            os.kill(os.getpid(), signal.SIGTERM)

    return listen


def resumed(config: RunConfig, folder: Path, *, trial: int, step: int) -> TeacherResult:
    """Stop a run at a checkpoint, and resume it on another machine that has only the checkpoints."""
    with pytest.raises(InterruptedTrainingError):
        TeacherTrainer(config, work_dir=folder / "stopped", listeners=[killer(trial, step)]).train()
    last = f"{FOLDER}/last"
    shutil.copytree(folder / "stopped" / last, folder / "resumed" / last)
    return TeacherTrainer(config, work_dir=folder / "resumed").train()


@pytest.mark.parametrize(
    ("trial", "step"), [pytest.param(1, 6, marks=SLOW), (1, 12), (2, 18), pytest.param(2, 24, marks=SLOW)]
)
def test_a_sweep_that_was_stopped_ends_as_one_that_was_not(
    toy_data: Path, tmp_path: Path, swept: tuple[Path, TeacherResult, list[Event]], trial: int, step: int
) -> None:
    work, whole, _ = swept
    result = resumed(sweep(toy_data), tmp_path, trial=trial, step=step)
    assert adapter_of(tmp_path / "resumed") == adapter_of(work)
    assert result.model_dump(include=MEASURED) == whole.model_dump(include=MEASURED)
    timeless = [[trial.model_copy(update={"seconds": 0}) for trial in one.trials] for one in (result, whole)]
    assert timeless[0] == timeless[1]


def test_trials_may_differ_in_rank_and_layers(toy_data: Path, tmp_path: Path) -> None:
    trials = [{"lora.rank": 2, "lora.alpha": 4}, {"lora.rank": 16, "lora.alpha": 32}]
    result = TeacherTrainer(config_of(toy_data, trials=trials), work_dir=tmp_path).train()
    rank = next(trial.settings["lora.rank"] for trial in result.trials if trial.chosen)
    assert AdapterCard.read(tmp_path / FOLDER).settings.lora.rank == rank
    assert load_adapted(tmp_path / FOLDER).classes == ("red", "green")
    assert result.trainable_parameters == rank * (192 + 64 + 64 + 4 + 64 + 2)


def train_together(processes: Processes, config: RunConfig, work: Path) -> TeacherResult:
    folder = work / str(processes.rank.index)
    return TeacherTrainer(config, work_dir=folder, processes=processes).train()


def without_dropout(config: RunConfig) -> RunConfig:
    settings = config.teachers.of(TeacherName.GROUNDING_DINO)
    assert settings is not None
    lora = settings.lora.model_copy(update={"dropout": 0.0})
    return config.with_settings(TeacherName.GROUNDING_DINO, settings.model_copy(update={"lora": lora}))


@pytest.mark.parametrize("repeated", ["sweep", pytest.param("folds", marks=SLOW)])
def test_several_processes_choose_and_train_what_one_does(toy_data: Path, tmp_path: Path, repeated: str) -> None:
    config = without_dropout(sweep(toy_data) if repeated == "sweep" else config_of(toy_data, folds=2, test=0))
    alone = TeacherTrainer(config, work_dir=tmp_path / "alone").train()
    first, second = together(train_together, config, tmp_path / "together")
    assert first == second
    assert [trial.chosen for trial in first.trials] == [trial.chosen for trial in alone.trials]
    assert first.after.ap == pytest.approx(alone.after.ap, abs=0.02)
    tensors = [load_file(tmp_path / work / FOLDER / "adapter_model.safetensors") for work in ("alone", "together/0")]
    for name, tensor in tensors[0].items():
        torch.testing.assert_close(tensors[1][name], tensor, rtol=1e-3, atol=1e-3)
    assert {path.name for path in (tmp_path / "together").iterdir()} == {"0"}


@pytest.mark.parametrize("share", [0.3, pytest.param(0.7, marks=SLOW)])
@pytest.mark.parametrize("repeated", ["sweep", "folds"])
def test_killed_and_resumed_on_another_machine_it_is_published_alike(
    toy_data: Path, tmp_path: Path, repeated: str, share: float
) -> None:
    whole, killed = (
        (sweep(toy_data) if repeated == "sweep" else config_of(toy_data, folds=2, test=0)).model_copy(
            update={"output": str(tmp_path / name / "output")}
        )
        for name in ("whole", "killed")
    )
    info = inspect_dataset(toy_data / "data" / "all.json").model_dump_json().encode()
    for config in (whole, killed):
        Storage().write_bytes(RunLayout.of(config).dataset, info)
    exit_code, moments, said = attempt(whole, tmp_path / "whole" / "work")
    assert (exit_code, said) == (0, "")
    work = tmp_path / "killed"
    exit_code, _, _ = attempt(killed, work / "work", die_at=int(moments * share), by=signal.SIGKILL)
    assert exit_code == -signal.SIGKILL
    assert attempt(killed, work / "another machine")[::2] == (0, "")
    assert _timeless(published(killed)) == _timeless(published(whole))


def _timeless(found: dict[str, Any]) -> dict[str, Any]:
    result = found["GroundingDino"]
    for trial in [*result["trials"], *(result["cross_validation"] or {}).get("folds", [])]:
        del trial["seconds"]
    return found


@pytest.fixture(scope="module")
def validated(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TeacherResult, list[Event]]:
    work, events = tmp_path_factory.mktemp("validated"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, TeacherName.GROUNDING_DINO, ToyTeacher)
        result = TeacherTrainer(config_of(toy_data, folds=3), work_dir=work, listeners=[events.append]).train()
    return work, result, events


def test_every_image_is_in_one_fold_and_none_of_test(validated: tuple[Path, TeacherResult, list[Event]]) -> None:
    work, result, _ = validated
    splits = json.loads((work / FOLDER / "splits.json").read_text())["splits"]
    names = {name: [image["file_name"] for image in images] for name, images in splits.items()}
    assert names.keys() == {"train", "test", "fold-1", "fold-2", "fold-3"}
    folds = [name for fold in ("fold-1", "fold-2", "fold-3") for name in names[fold]]
    assert sorted(folds) == sorted(names["train"])
    assert not set(folds) & set(names["test"])
    assert [len(names[fold]) for fold in ("fold-1", "fold-2", "fold-3")] == [8, 8, 8]
    assert result.after.images == 24


def test_the_result_estimates_the_published_adapter_by_its_folds(
    validated: tuple[Path, TeacherResult, list[Event]],
) -> None:
    work, result, events = validated
    found = result.cross_validation
    assert found is not None
    aps = [fold.ap or 0.0 for fold in found.folds]
    if result.strength == 0:
        assert aps == [fold.ap_before for fold in found.folds]
    assert [fold.validation_images for fold in found.folds] == [8, 8, 8]
    assert found.ap_mean == pytest.approx(sum(aps) / 3)
    assert found.ap_sigma == pytest.approx((sum((ap - found.ap_mean) ** 2 for ap in aps) / 2) ** 0.5)
    assert found.epochs == max(1, round(sum(fold.best_epoch for fold in found.folds) / 3))
    assert result.epochs == found.epochs
    assert result.trials == ()
    assert result.test_after is not None
    assert {event.trials for event in events if event.event == "step"} == {4}
    assert AdapterCard.read(work / FOLDER).settings.epochs == found.epochs


def test_no_fold_is_measured_by_an_adapter_that_was_trained_on_it(toy_data: Path, tmp_path: Path) -> None:
    """Adapters that learn their images by heart find them, and those of other folds less often."""
    config = config_of(toy_data, folds=3, test=0, epochs=60, evaluations=1)
    result = TeacherTrainer(config, work_dir=tmp_path).train()
    dataset = load_dataset(toy_data / "data" / "all.json")

    def load(index: int) -> Sample:
        return load_sample(dataset, index, toy_data / "data" / dataset.images[index].file_name, with_masks=False)

    learned = evaluate(load_adapted(tmp_path / FOLDER), dataset, load, batch_size=4).metrics
    assert learned.ap > result.after.ap + 0.1
    assert result.cross_validation is not None
    assert abs(result.cross_validation.ap_mean - result.after.ap) < 0.1


@pytest.mark.parametrize(
    ("trial", "step"), [(1, 4), *(pytest.param(*moment, marks=SLOW) for moment in ((1, 8), (3, 24), (4, 0)))]
)
def test_a_cross_validation_that_was_stopped_ends_as_one_that_was_not(
    toy_data: Path, tmp_path: Path, validated: tuple[Path, TeacherResult, list[Event]], trial: int, step: int
) -> None:
    work, whole, events = validated
    last = [event.step for event in events if (event.event, event.trial) == ("checkpoint", trial)]
    result = resumed(config_of(toy_data, folds=3), tmp_path, trial=trial, step=step or last[-1] or 0)
    assert adapter_of(tmp_path / "resumed") == adapter_of(work)
    assert result.model_dump(include=MEASURED) == whole.model_dump(include=MEASURED)
    assert result.cross_validation is not None
    assert whole.cross_validation is not None
    assert result.cross_validation.ap_mean == whole.cross_validation.ap_mean
