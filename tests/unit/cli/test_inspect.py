"""What `teacher inspect` says of training: as it was asked for, and as it is written out."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from coco_files import changed, small_coco, write, write_images
from typer.testing import CliRunner

from engine.cli.app import app
from engine.dataset import inspect_dataset
from engine.errors import ConfigError
from engine.estimate.forecast import GIBIBYTES, Inspected, TeacherForecast
from engine.spec import TeacherName

TINY = Path(__file__).resolve().parents[3] / "examples" / "tiny_teachers" / "grounding_dino"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", [f"{i:03d}.png" for i in range(1, 13)])
    return write(tmp_path / "annotations.json", small_coco(12, 3, masks=True))


def inspect(*arguments: object) -> Result:
    ended = CliRunner().invoke(app, ["inspect", *map(str, arguments)])
    if ended.exception is not None:
        raise ended.exception
    return ended


def forecast(*arguments: object) -> dict[str, TeacherForecast]:
    found = Inspected.model_validate_json(inspect(*arguments, "--json").stdout)
    return {one.teacher.slug: one for one in found.forecast}


def manifest(folder: Path, **spec: Any) -> Path:
    dataset = {"annotations": str(folder / "annotations.json"), "images": str(folder / "images")}
    head = {"apiVersion": "finetune.dev/v1alpha1", "kind": "TeacherFineTune", "metadata": {"name": "pets"}}
    path = folder / "pets.yaml"
    path.write_text(yaml.safe_dump(head | {"spec": {"dataset": dataset, "output": "out", **spec}}))
    return path


def test_the_json_is_that_of_the_dataset_with_forecast_and_recommended_bases(data: Path) -> None:
    written = json.loads(inspect(data, "--json").stdout)
    assert [one["teacher"] for one in written.pop("forecast")] == ["GroundingDino", "Sam"]
    bases = {one["teacher"]: one["recommended"] for one in written.pop("bases")}
    assert bases["Sam"] == "facebook/sam-vit-base"
    assert written == json.loads(inspect_dataset(data).model_dump_json())


def test_the_table_is_that_of_the_json_and_has_the_gpu_that_was_asked_for(data: Path) -> None:
    shown = inspect(data, "--gpu", "H200").stderr
    for one in forecast(data, "--gpu", "H200").values():
        assert [row.gibibytes for row in one.gpus] == [*GIBIBYTES, 141]
        for row in one.gpus:
            assert row.chosen is not None
            again = ", ".join(row.chosen.checkpointing) or "nothing"
            cells = [
                f"{row.gibibytes} GiB",
                row.chosen.micro_batch_size,
                again,
                f"{row.chosen.memory_bytes / 2**30:.1f} GiB",
            ]
            assert " ".join(map(str, cells)) in " ".join(shown.split())
    assert [row.gibibytes for row in forecast(data, "--gpu", "L4")["sam"].gpus] == list(GIBIBYTES)


def test_the_recommended_base_is_shown_with_its_licence_and_the_reason(data: Path) -> None:
    shown = " ".join(inspect(data, "--gpu", "L4").stderr.split())
    assert "Sam: recommended base: facebook/sam-vit-base, which is used (94 M parameters, Apache-2.0" in shown
    assert "9 training images of 2 classes are served by the smallest base" in shown
    other = " ".join(inspect(data, "--base-model", TINY).stderr.split())
    assert "recommended base: IDEA-Research/grounding-dino-tiny (172 M parameters" in other
    assert f"instead of {TINY}" in other


def test_a_gpu_that_has_no_room_is_reported_to_have_none(data: Path) -> None:
    asked = (data, "--set", "training.precision=float32", "--set", "teachers.sam.checkpointing=[]")
    sam = forecast(*asked)["sam"]
    assert sam.gpus[0].chosen is None
    assert "8 GiB too small" in " ".join(inspect(*asked).stderr.split())


def test_what_is_predicted_follows_what_is_requested(data: Path) -> None:
    usual = forecast(data)["sam"]
    other = forecast(
        data, "--lora-preset", "all", "--set", "teachers.*.batch_size=3", "--set", "teachers.sam.micro_batch_size=1"
    )["sam"]
    assert (usual.preset, other.preset) == ("encoder-decoder", "all")
    assert (usual.step_images, other.step_images) == (4, 3)
    assert other.gpus[-1].chosen is not None
    assert other.gpus[-1].chosen.micro_batch_size == 1
    lasting = [forecast(data, "--set", f"teachers.sam.epochs={epochs}")["sam"].seconds for epochs in (10, 1000)]
    assert lasting[1] > 50 * lasting[0] > 0  # type: ignore[operator]
    slow = forecast(data, "--set", "training.precision=float32")["sam"]
    assert slow.gpus[-1].chosen.memory_bytes > usual.gpus[-1].chosen.memory_bytes  # type: ignore[union-attr]


def test_a_manifest_is_inspected_with_what_it_asks_for(data: Path) -> None:
    lora = {"preset": "all", "rank": 4}
    path = manifest(
        data.parent, teachers=[{"name": "Sam", "lora": lora, "epochs": 7}], training={"precision": "float32"}
    )
    (sam,) = forecast("-f", path).values()
    assert (sam.teacher, sam.preset, sam.epochs) == ("Sam", "all", 7)
    assert forecast("-f", path, "--set", "teachers.sam.epochs=8")["sam"].epochs == 8
    flags = ("--set", "training.precision=float32", "--lora-preset", "all", "--set", "teachers.*.lora.rank=4")
    assert forecast(data, *flags)["sam"].gpus == sam.gpus


def test_parts_that_a_manifest_gives_apart_are_what_is_learned_from_and_measured_on(data: Path) -> None:
    write(data.parent / "val.json", changed(small_coco(12, 3, masks=True), lambda coco: coco["images"].pop()))
    parts = {"train": {"annotations": str(data)}, "val": {"annotations": str(data.parent / "val.json")}}
    path = manifest(data.parent, dataset=parts | {"images": str(data.parent / "images"), "maxLeakedPercent": 100})
    found = Inspected.model_validate_json(inspect("-f", path, "--json").stdout)
    assert found.splits == {"train": 12, "val": 11}
    assert found.forecast[0].seconds is not None
    assert found.forecast[0].seconds > 0


def test_data_and_a_manifest_exclude_each_other(data: Path) -> None:
    path = manifest(data.parent)
    with pytest.raises(ConfigError, match=r"pets\.yaml holds .* leave out ANNOTATIONS, --images, --base-model"):
        inspect(data, "-f", path, "--images", "images", "--base-model", "base")
    with pytest.raises(ConfigError, match="give ANNOTATIONS, or a manifest with -f"):
        inspect()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--set", "teachers.sam.epoch=3"), "did you mean 'epochs'"),
        (
            ("--set", "teachers.sam.checkpointing=[backbone]"),
            "must be auto or a list of encoder, decoder, and 'backbone'",
        ),
        (("--set", "teachers.sam.lora.skip_layers=13"), "the encoder of facebook/sam-vit-base has 12 layers"),
    ],
)
def test_settings_that_are_wrong_are_reported(data: Path, asked: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        inspect(data, *asked)
    with pytest.raises(ConfigError, match=said):
        inspect("-f", manifest(data.parent), *asked)


def test_a_manifest_that_contradicts_its_data_is_reported(data: Path) -> None:
    write(data, small_coco(12, 3))
    with pytest.raises(ConfigError, match="teachers lists Sam, which needs masks"):
        inspect("-f", manifest(data.parent, teachers=[{"name": "Sam"}]))


def test_what_is_wrong_with_the_data_alone_is_reported_with_it(data: Path) -> None:
    def alike(coco: dict[str, Any]) -> None:
        coco["categories"][1]["name"] = "Cat"

    write(data, changed(small_coco(12, 3), alike))
    done = inspect(data, "--json")
    assert json.loads(done.stdout)["forecast"] == []
    assert "training needs cannot be estimated: Grounding DINO cannot tell class 'Cat' from 'cat'" in done.stderr
    write(data, small_coco(0))
    assert f"cannot be estimated: {data} cannot be trained on: The file lists no images." in inspect(data).stderr


def test_where_nothing_is_known_it_says_so_and_what_is_known(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cost = TeacherName.GROUNDING_DINO.traits.cost
    table = copy.deepcopy(cost.table)
    entries = table["grounding-dino-tiny"]["entries"]
    table["grounding-dino-tiny"]["entries"] = {k: v for k, v in entries.items() if k.startswith("encoder-decoder")}
    monkeypatch.setattr(cost, "table", table)
    unknown = forecast(data, "--lora-preset", "decoder")["grounding_dino"]
    assert (unknown.gpus, unknown.seconds) == ((), None)
    said = (
        "what IDEA-Research/grounding-dino-tiny needs of a GPU is not known with the preset decoder in bfloat16: known "
        "are encoder-decoder in bfloat16, encoder-decoder in float32"
    )
    assert unknown.unknown == said
    assert f"GroundingDino: {said}" in inspect(data, "--lora-preset", "decoder").stderr
    other = forecast(data, "--base-model", "someone/else")["grounding_dino"]
    assert "someone/else needs of a GPU is not known" in other.unknown
    assert "IDEA-Research/grounding-dino-base" in other.unknown
    assert "sam-vit" not in other.unknown
    assert forecast(data, "--base-model", TINY)["grounding_dino"].unknown == ""


def test_one_is_not_said_in_the_plural(data: Path) -> None:
    said = inspect(
        data,
        "--set",
        "teachers.*.epochs=1",
        "--set",
        "teachers.*.batch_size=1",
    ).stderr
    assert "steps of 1 image)" in said
    assert "training for 1 epoch on one A100: roughly 1 minute" in said
