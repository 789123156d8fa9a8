"""Flags, ``--set``, manifests and Python make the same request; flags have the bounds of the spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from engine.cli import request_options
from engine.cli.app import app
from engine.cli.request_options import ALL, HYPERPARAMETERS, Flag, Request, takes_request
from engine.cli.spec_options import bounds
from engine.config.model import TrainingConfig
from engine.config.teachers import LoraSettings, TeacherSettings
from engine.errors import ConfigError
from engine.spec import LoraSpec, SplitSpec, TeacherSpec, TrainingSpec


def request_of(*words: object) -> Request:
    """Return the request that a command with all options would work on."""
    found: list[Request] = []

    def command(read_request: request_options.ReadRequest) -> None:
        found.append(read_request())

    one = typer.Typer()
    one.command()(takes_request(*ALL)(command))
    ended = CliRunner().invoke(one, list(map(str, words)))
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    assert ended.exit_code == 0, ended.stderr
    return found[0]


def manifest(folder: Path, **spec: object) -> Path:
    head = {"apiVersion": "finetune.dev/v1alpha1", "kind": "TeacherFineTune", "metadata": {"name": "pets"}}
    path = folder / "pets.yaml"
    path.write_text(yaml.safe_dump(head | {"spec": {"dataset": {"annotations": "a.json"}, "output": "out", **spec}}))
    return path


def test_flags_and_a_manifest_make_the_same_request(tmp_path: Path) -> None:
    settings = {"teachers.*.epochs": "3", "teachers.*.lora.preset": "all", "teachers.sam.clip_norm": "0.5"}
    path = manifest(tmp_path, teachers=[{"name": "Sam", "baseModel": "base"}], settings=settings)
    data = ("--data", "a.json", "--output", "out", "--name", "pets", "--teacher", "Sam", "--base-model", "base")
    flags = ("--epochs", 3, "--lora-preset", "all", "--set", "teachers.sam.clip_norm=0.5")
    assert request_of(*data, *flags).manifest == request_of("-f", path).manifest


def test_a_sweep_and_folds_are_given_as_in_a_manifest(tmp_path: Path) -> None:
    words = ("--data", "a.json", "--output", "out", "--sweep-learning-rate", "5e-4", "--sweep-learning-rate", "1e-3")
    found = request_of(*words, "--sweep-rank", 8, "--sweep-rank", 16, "--sweep-preset", "all", "--folds", 5)
    assert found.spec.settings == {
        "training.sweep.learning_rates": "[5e-4, 1e-3]",
        "training.sweep.ranks": "[8, 16]",
        "training.sweep.presets": "[all]",
    }
    assert found.spec.dataset.split == SplitSpec(folds=5)


def test_settings_of_the_command_line_are_added_to_those_of_a_manifest(tmp_path: Path) -> None:
    path = manifest(tmp_path, settings={"training.seed": "1", "training.workers": "0"})
    found = request_of("-f", path, "--seed", 2, "--set", "training.patience=9")
    assert found.spec.settings == {"training.seed": "2", "training.workers": "0", "training.patience": "9"}


def test_splits_are_given_as_in_a_manifest() -> None:
    dataset = request_of("--train", "t.json", "--val", "v.json", "--images", "i", "--output", "out").spec.dataset
    assert (dataset.annotations, dataset.images) == (None, "i")
    assert dataset.train is not None
    assert dataset.val is not None
    assert (dataset.train.annotations, dataset.val.annotations) == ("t.json", "v.json")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--epochs", 0), "--epochs': Input should be greater than or equal to 1"),
        (("--lora-rank", 513), "--lora-rank': Input should be less than or equal to 512"),
        (("--learning-rate", "2"), '--learning-rate\': must be above "0" and at most "1"'),
        (("--learning-rate", "fast"), "--learning-rate': must be a number that is not negative, such as 0.05 or 1e-4"),
        (("--learning-rate", "-1"), "--learning-rate': must be a number that is not negative, such as 0.05 or 1e-4"),
        (("--endpoint-url", "foo"), "--endpoint-url': must be a URL such as https://s3.example.com, found 'foo'"),
        (("--lora-preset", "most"), "'decoder', 'encoder-decoder', 'all'"),
        (("--group-by", "Name"), "--group-by': must be Folder, Prefix: and a separator"),
    ],
)
def test_a_flag_has_the_bounds_of_its_field(words: tuple[object, ...], said: str) -> None:
    ended = CliRunner().invoke(app, ["run", "--data", "a.json", "--output", "out", *map(str, words)])
    assert ended.exit_code == 2
    assert said in " ".join(ended.stderr.replace("│", "").split())


@pytest.mark.parametrize("path", ["output", "data.split", "storage.region", "name", "trainig.seed"])
def test_only_settings_of_training_are_set_by_their_path(path: str) -> None:
    with pytest.raises(ConfigError, match=rf"there is no setting '{path}'"):
        request_of("--data", "a.json", "--output", "out", "--set", f"{path}=1")


def test_the_bounds_of_a_field_are_those_of_its_setting() -> None:
    pairs = [
        (TeacherSpec, TeacherSettings, ("epochs", "batch_size")),
        (LoraSpec, LoraSettings, ("rank", "alpha", "skip_layers")),
        (TrainingSpec, TrainingConfig, ("seed",)),
    ]
    for spec, settings, fields in pairs:
        assert fields
        for field in fields:
            assert bounds(spec, field) == bounds(settings, field), field


@pytest.mark.parametrize("flag", ALL, ids=lambda flag: flag.flag)
def test_help_is_the_description_of_the_field(flag: Flag) -> None:
    command: Any = typer.main.get_command(app)
    (option,) = [one for one in command.commands["run"].params if flag.flag in one.opts]
    description = flag.model.model_fields[flag.field].description
    assert description
    assert str(option.help).startswith(description)


def test_every_hyperparameter_is_a_setting() -> None:
    assert all(flag.setting for flag in HYPERPARAMETERS)
    assert not any(flag.setting for flag in request_options.DATA)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [("--data a.json", "--data"), ("--config c.yaml --epochs=3", "--epochs"), ("-f pets.yaml", "-f")],
)
def test_train_refuses_options_of_run_and_names_that_command(words: str, wrong: str) -> None:
    ended = CliRunner().invoke(app, ["train", *words.split()])
    assert isinstance(ended.exception, ConfigError)
    assert f"{wrong} is an option of teacher run" in str(ended.exception)


def test_train_reports_an_unknown_option_as_such() -> None:
    ended = CliRunner().invoke(app, ["train", "--config", "c.yaml", "--epoch-count", "3"])
    assert (ended.exit_code, "No such option" in ended.stderr) == (2, True)
