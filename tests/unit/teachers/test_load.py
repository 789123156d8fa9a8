"""A run's folder gives its teachers, one by one or as a pipeline; a folder of one adapter gives that one."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_run import CLASSES, save_run
from toy import metadata_of

from engine.dataset import Sample
from engine.dataset.inspect import inspect_dataset
from engine.errors import BaseModelError, ConfigError, StorageError
from engine.models.labeller import DEFAULT_THRESHOLD
from engine.spec import TeacherName
from engine.storage import Storage
from engine.students import load_student
from engine.teachers import adapter_off, find_adapters, load_adapted, load_labeller

THRESHOLDS = {"bolt": 0.2, "nut": 0.4, "washer": 0.6}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("run"), thresholds=THRESHOLDS)


def test_an_adapter_is_loaded_from_its_own_folder_or_from_its_run(run: Path) -> None:
    assert load_adapted(run / "teachers" / "sam_lora").name is TeacherName.SAM
    assert load_adapted(run, teacher="Sam").name is TeacherName.SAM
    assert load_adapted(run, teacher=TeacherName.GROUNDING_DINO).classes == CLASSES


def test_of_several_teachers_one_must_be_named(run: Path) -> None:
    folders = f"{run}/teachers/grounding_dino_lora or {run}/teachers/sam_lora"
    with pytest.raises(ConfigError, match=f"GroundingDino and Sam: give {folders}$"):
        load_adapted(run)


def test_a_base_that_was_moved_is_asked_for(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "teachers" / "sam_lora", tmp_path / "sam_lora")
    card = tmp_path / "sam_lora" / "teacher.json"
    content = json.loads(card.read_text())
    content["settings"]["base_model"] = "bases/of/sam"
    card.write_text(json.dumps(content))
    with pytest.raises(BaseModelError, match=r"bases/of/sam is not there.* --base-model \(base_model=\)"):
        load_adapted(tmp_path / "sam_lora")
    with pytest.raises(BaseModelError, match=r"nowhere/of/sam is not there: there is no folder [^ ]*$"):
        load_adapted(tmp_path / "sam_lora", base_model="nowhere/of/sam")


def test_a_run_of_one_teacher_needs_no_name(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "teachers" / "sam_lora", tmp_path / "teachers" / "sam_lora")
    assert load_adapted(tmp_path).name is TeacherName.SAM
    with pytest.raises(ConfigError, match="it has none of GroundingDino"):
        load_adapted(tmp_path, teacher="GroundingDino")
    with pytest.raises(ConfigError, match="no teacher 'Dino'"):
        load_adapted(tmp_path, teacher="Dino")


def test_a_folder_that_is_neither_run_nor_adapter_is_reported_so(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="not the folder of an adapter made here, nor of a run"):
        load_adapted(tmp_path)


def test_a_student_is_named_as_such_and_an_adapter_is_no_student(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "students" / "dfine"
    folder.mkdir(parents=True)
    (folder / "student.json").write_text("{}")
    for where in (tmp_path, folder):
        with pytest.raises(BaseModelError, match="has a student, and no adapter of a teacher: --student takes it"):
            load_adapted(where)
    for where in (run, run / "teachers" / "sam_lora"):
        with pytest.raises(BaseModelError, match="but has an adapter of a teacher: --adapter takes it"):
            load_student(where)
    with pytest.raises(BaseModelError, match="--artifact takes exported files"):
        load_student(tmp_path / "model.onnx")


def test_a_pipeline_has_both_teachers_and_what_the_run_has_measured(run: Path) -> None:
    labeller = load_labeller(run)
    assert labeller.detector.name is TeacherName.GROUNDING_DINO
    assert labeller.segmenter is not None
    assert labeller.segmenter.name is TeacherName.SAM
    assert labeller.thresholds == THRESHOLDS
    assert labeller.ids == (1, 2, 3)
    assert set(labeller.identity) == {"grounding_dino", "sam"}
    image = np.full((96, 128, 3), 90, np.uint8)
    (seen,) = load_labeller(run, threshold=0.0).label([image])
    assert len(seen) > 0
    assert seen.masks is not None
    assert seen.masks[0]["size"] == [96, 128]


def test_a_threshold_takes_the_place_of_those_measured(run: Path) -> None:
    assert set(load_labeller(run, threshold=0.05).thresholds.values()) == {0.05}


def test_a_run_that_has_measured_no_thresholds_has_the_default(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "grounding_dino_lora"
    shutil.copytree(run / "teachers" / "grounding_dino_lora", folder)
    (folder / "result.json").unlink()
    labeller = load_labeller(folder)
    assert labeller.thresholds == {}
    assert labeller.lowest_scores.tolist() == pytest.approx([DEFAULT_THRESHOLD] * 3)
    assert labeller.segmenter is None
    (folder / "result.json").write_text("{")
    with pytest.raises(StorageError, match=r"result\.json cannot be read"):
        load_labeller(folder)


def test_an_adapter_that_is_not_the_published_one_is_refused(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "grounding_dino_lora"
    shutil.copytree(run / "teachers" / "grounding_dino_lora", folder)
    digest = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
    (folder / "result.json").write_text(json.dumps({"adapter": {"sha256": digest}}))
    load_adapted(folder)
    (folder / "result.json").write_text(json.dumps({"adapter": {"sha256": "0" * 64}}))
    with pytest.raises(
        BaseModelError, match=r"adapter_model\.safetensors is not the adapter that result\.json next to it"
    ):
        load_adapted(folder)


@pytest.mark.parametrize("file", ["adapter_config.json", "teacher.json", "adapter_model.safetensors"])
def test_a_file_of_an_adapter_that_was_changed_since_it_was_published_is_refused(
    run: Path, tmp_path: Path, file: str
) -> None:
    """A changed scale in adapter_config.json would give other labels, and nothing else would tell."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    adapter = copy / "teachers" / "sam_lora"
    metadata = metadata_of(files={path.relative_to(copy).as_posix(): path for path in adapter.iterdir()})
    (copy / "metadata.json").write_text(metadata.model_dump_json())
    load_adapted(adapter)
    (adapter / file).write_bytes((adapter / file).read_bytes().replace(b'"r"', b'"r" ') + b" ")
    with pytest.raises(BaseModelError, match=f"{file} is not what was published"):
        load_adapted(adapter)


def test_adapters_of_two_runs_make_one_pipeline(run: Path) -> None:
    dino, sam = (run / "teachers" / f"{slug}_lora" for slug in ("grounding_dino", "sam"))
    assert load_labeller(sam, dino).segmenter is not None
    with pytest.raises(ConfigError, match="finds the boxes"):
        load_labeller(sam)
    with pytest.raises(ConfigError, match="both adapters of GroundingDino: give one"):
        load_labeller(run, dino)


def test_labels_have_the_category_ids_of_the_dataset(run: Path, tmp_path: Path) -> None:
    from coco_files import small_coco, write, write_images

    coco = small_coco()
    coco["categories"] = [{"id": 4 * i, "name": name} for i, name in enumerate(CLASSES, start=2)]
    for i, annotation in enumerate(coco["annotations"]):
        annotation["category_id"] = coco["categories"][i % 3]["id"]
    images = write_images(tmp_path / "images", [image["file_name"] for image in coco["images"]])
    info = inspect_dataset(write(tmp_path / "a.json", coco), images)
    shutil.copytree(run / "teachers", tmp_path / "run" / "teachers")
    (tmp_path / "run" / "dataset.json").write_text(info.model_dump_json())
    assert load_labeller(tmp_path / "run").ids == (8, 12, 16)
    assert load_labeller(tmp_path / "run" / "teachers" / "grounding_dino_lora").ids == (8, 12, 16)


def test_a_run_in_s3_is_loaded_from_there(run: Path, s3: str) -> None:
    Storage().upload_folder(run, f"{s3}/run")
    assert list(find_adapters(f"{s3}/run", storage=Storage())) == [TeacherName.GROUNDING_DINO, TeacherName.SAM]
    labeller = load_labeller(f"{s3}/run")
    assert (labeller.thresholds, labeller.segmenter is None) == (THRESHOLDS, False)
    assert labeller.identity == load_labeller(run).identity


def test_an_adapter_is_switched_off_for_a_while(run: Path) -> None:
    teacher = load_adapted(run, teacher="GroundingDino")
    sample = Sample.of(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    on = teacher.predict([sample])[0].scores
    with adapter_off(teacher):
        off = teacher.predict([sample])[0].scores
    assert not np.allclose(on, off)
    np.testing.assert_array_equal(teacher.predict([sample])[0].scores, on)


def test_what_the_run_measured_against_its_labels_is_reported(run: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(run, tmp_path / "run")
    assert load_labeller(copied).remarks == ()
    measured = {
        "grounding_dino": {"quality": {"bolt": {"f1": 0.013}, "nut": {"f1": 0.6}, "washer": {"f1": -1}}},
        "sam": {"before": {"ap": 0.063}, "after": {"ap": 0.041}},
    }
    for slug, values in measured.items():
        file = copied / "teachers" / f"{slug}_lora" / "result.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))
    poor, worse = load_labeller(copied).remarks
    assert "hardly found" in poor
    assert poor.endswith(": bolt (0.01)")
    assert worse.startswith("the adapter of Sam is worse than its base (AP 0.063 -> 0.041)")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"strength": 0.0}))
    assert load_labeller(copied).remarks[1] == (
        "the adapter of Sam has strength 0, as none was better than the base: labels are the base's"
    )
