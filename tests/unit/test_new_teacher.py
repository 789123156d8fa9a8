"""A teacher of a test's own goes the whole way, from a manifest to labels, and no product file knows it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from toy import write_toy_base, write_toy_data
from toy_teacher.traits import TOY
from typer.testing import CliRunner

from engine.cli.app import app
from engine.config import from_yaml, to_yaml
from engine.estimate.forecast import forecast
from engine.layout import RunLayout
from engine.models.registry import REGISTRY
from engine.plan import TrainingRun
from engine.registry import TRAITS, register
from engine.results.run_files import read_metadata
from engine.spec import FineTuneSpec, TeacherName
from engine.storage import Storage
from engine.teachers import find_adapters
from engine.training.publish import train_and_publish


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[TeacherName]:
    register(TOY)
    yield TeacherName("Toy")
    REGISTRY.pop(TeacherName("Toy"), None)
    del TRAITS["Toy"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new")
    write_toy_base(folder / "base")
    write_toy_data(folder / "data" / "all.json", range(40))
    write_toy_data(folder / "other" / "all.json", range(100, 110))
    manifest = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "TeacherFineTune",
        "metadata": {"name": "squares"},
        "spec": {
            "dataset": {"annotations": str(folder / "data" / "all.json")},
            "output": str(folder / "output"),
            "teachers": [{"name": "Toy", "baseModel": str(folder / "base"), "epochs": 20}],
        },
    }
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    return folder


def teacher(*arguments: str | Path) -> str:
    """Standard output of a command."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def planned(folder: Path, registered: TeacherName) -> RunLayout:
    told = teacher("prepare", "-f", folder / "manifest.yaml", "--set", "training.workers=0")
    return RunLayout(told.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def trained(planned: RunLayout, folder: Path) -> RunLayout:
    run = TrainingRun(TeacherName("Toy"), from_yaml(Path(planned.config).read_text()))
    train_and_publish(
        run, storage=Storage(), listener=lambda event: None, work_dir=folder / "work", cache=folder / "cache"
    )
    return planned


def test_its_section_is_in_the_configuration_with_its_defaults(planned: RunLayout) -> None:
    text = Path(planned.config).read_text()
    config = from_yaml(text)
    assert config.teachers.names == ("Toy",)
    assert config.teachers.toy.box_weight == 3.5
    assert "  toy:  # the box of one square\n" in text
    assert "    box_weight: 3.5  # of the L1 loss on boxes\n" in text
    assert to_yaml(config) == text


def test_its_base_has_no_forecast_and_says_so(planned: RunLayout) -> None:
    from engine.dataset import inspect_dataset

    config = from_yaml(Path(planned.config).read_text())
    (one,) = forecast(config, inspect_dataset(config.data.source.annotations), Storage(), gpu="L4")
    assert (one.teacher, one.gpus) == ("Toy", ())


def test_a_manifest_may_name_it_and_the_schema_lists_it(registered: TeacherName) -> None:
    spec = FineTuneSpec.model_validate(
        {"dataset": {"annotations": "a.json"}, "output": "o", "teachers": [{"name": "Toy"}]}
    )
    assert spec.teachers[0].name is registered
    assert list(TeacherName) == ["GroundingDino", "MMGroundingDino", "Toy", "Sam", "Sam2"]


def test_a_run_has_one_teacher_for_each_kind_of_annotations() -> None:
    wanted = [{"name": "GroundingDino"}, {"name": "Toy"}]
    spec = {"dataset": {"annotations": "a.json"}, "output": "o", "teachers": wanted}
    with pytest.raises(ValidationError, match=r"GroundingDino and Toy both predict boxes, .*leave one out"):
        FineTuneSpec.model_validate(spec)


def test_it_is_trained_published_and_reported(trained: RunLayout, folder: Path, registered: TeacherName) -> None:
    (result,) = read_metadata(trained, Storage()).teachers
    assert result.teacher is registered
    assert result.after.ap > result.before.ap
    assert find_adapters(trained.root, storage=Storage()) == {registered: trained.teacher(registered)}
    card = Path(trained.teacher(registered), "README.md").read_text()
    assert "# Toy Squares adapted to squares" in card
    assert "print('toy')" in card
    report = Path(trained.report).read_text()
    assert "Toy Squares" in report
    assert "Grounding DINO" not in report


def test_its_adapter_is_evaluated(trained: RunLayout, folder: Path) -> None:
    told = json.loads(teacher("evaluate", "--data", folder / "other" / "all.json", "--adapter", trained.root, "--json"))
    assert told["adapted"]["ap"] > told["base"]["ap"]


def test_its_adapter_labels_images(trained: RunLayout, folder: Path, tmp_path: Path) -> None:
    (folder / "other" / "all.json").unlink(missing_ok=True)
    labels = tmp_path / "labels.json"
    teacher("label", "--adapters", trained.root, "--images", folder / "other", "--output", labels, "--threshold", "0.1")
    coco = json.loads(labels.read_text())
    assert {one["image_id"] for one in coco["annotations"]} == {one["id"] for one in coco["images"]}
    assert len(coco["images"]) == 10
