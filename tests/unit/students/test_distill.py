"""``teacher distill`` and ``engine.distill``: from a request to a published student."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_run import save_run
from toy import toy_sample, write_toy_data
from typer.testing import CliRunner

import engine
from engine.cli.app import app
from engine.config.data_section import train_images
from engine.config.distill import LabelsFile, generate_distill_config
from engine.dataset import inspect_dataset
from engine.dataset.predictions import load_predictions
from engine.dataset.teacher_labels import teacher_labels
from engine.dataset.types import CocoDataset
from engine.errors import ConfigError, DataError
from engine.layout import RunLayout
from engine.manifest import DistillManifest, load, load_manifest
from engine.models.model import Batch, Example
from engine.processes.launch import Rank
from engine.processes.supervisor import Child, Ended
from engine.registry import StudentName
from engine.results.run_files import read_metadata
from engine.runner import begin, label_unlabelled, prepare
from engine.spec import TeacherName
from engine.spec.distill import DistillSpec, UnlabelledSpec
from engine.storage import Storage
from engine.students import DFine
from engine.training.data.sampler import Steps
from engine.training.publish import train_and_publish

SMALL = {
    "students.*.image_size": "[64, 64]",
    "students.*.denoising": "10",
    "students.*.evaluations": "1",
    "training.workers": "0",
    "augmentation.intensity": "none",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_data(tmp_path_factory.mktemp("squares") / "all.json", range(12))


def manifest(data: Path, output: Path, **student: Any) -> str:
    spec = {
        "dataset": {"annotations": str(data)},
        "output": str(output),
        "student": {"size": "femto", "epochs": 1, "batchSize": 4} | student,
        "settings": SMALL,
    }
    whole = {"apiVersion": "finetune.dev/v1alpha1", "kind": "StudentDistill", "metadata": {"name": "edge"}}
    return yaml.safe_dump(whole | {"spec": spec})


def command(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_manifest_is_trained_and_its_student_loaded(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "student.yaml"
    file.write_text(manifest(data, tmp_path / "output"))
    done = command("distill", "-f", file, "--work-dir", tmp_path / "work")
    assert done.exit_code == 0, done.output
    root = done.stdout.strip().splitlines()[-1]
    student = engine.load_student(root, device="cpu")
    assert student.classes == ("red", "green")
    assert len(student.predict([toy_sample(0)])[0]) > 0
    again = command("distill", "-f", file, "--work-dir", tmp_path / "work")
    assert "published already" in again.output
    assert again.stdout.strip().splitlines()[-1] == root


def test_a_student_predicts_and_is_evaluated_by_the_commands(data: Path, tmp_path: Path) -> None:
    run = engine.distill(
        data, output=tmp_path / "out", student={"size": "femto", "epochs": 1, "batch_size": 4}, settings=SMALL
    )
    images = str(data.parent / "images") if (data.parent / "images").is_dir() else str(data.parent)
    labels = tmp_path / "labels.json"
    arguments = ["predict", "--student", run.uri, "--images", images, "--output", str(labels), "--threshold", "0"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(labels.read_text())["annotations"]
    done = CliRunner().invoke(app, ["evaluate", "--student", run.uri, "--data", str(data), "--json"])
    assert done.exit_code == 0, done.output
    assert 0 <= json.loads(done.stdout)["ap"] <= 1
    done = CliRunner().invoke(app, ["predict", "--images", images, "--output", str(labels), "--overwrite"])
    assert "give one of --adapter, --student, and --artifact" in str(done.exception)


def test_flags_manifest_and_python_plan_the_same_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = []

    def caught(info: Any, runs: Any, *args: Any, **options: Any) -> None:
        planned.append(runs[0].config)
        raise ConfigError("caught")

    monkeypatch.setattr("engine.runner.run_stages", caught)
    file = tmp_path / "student.yaml"
    file.write_text(manifest(data, tmp_path / "output"))
    command("distill", "-f", file)
    settings = [word for path, value in SMALL.items() for word in ("--set", f"{path}={value}")]
    flags = ["--data", data, "--output", tmp_path / "output", "--name", "edge", "--size", "femto"]
    command("distill", *flags, "--epochs", "1", "--batch-size", "4", *settings)
    student = {"size": "femto", "epochs": 1, "batch_size": 4}
    with pytest.raises(ConfigError, match="caught"):
        engine.distill(data, output=tmp_path / "output", name="edge", student=student, settings=SMALL)
    assert len({config.run_id for config in planned}) == 1
    assert planned[0] == planned[1] == planned[2]


def test_unset_values_follow_from_the_data(data: Path, tmp_path: Path) -> None:
    spec = DistillSpec.model_validate({"dataset": {"annotations": str(data)}, "output": str(tmp_path)})
    config = generate_distill_config(inspect_dataset(data), spec)
    settings = config.students.dfine  # type: ignore[attr-defined]
    assert (settings.size, settings.batch_size, settings.epochs) == ("nano", 8, 300)
    assert config.labels is None
    assert re.fullmatch("[0-9a-f]{12}", config.run_id)


@pytest.mark.parametrize(
    ("labelled", "batch_size", "steps"), [(100, 8, 3000), (1_000, 8, 3000), (20_000, 32, 24 * 626)]
)
def test_labelled_images_count_for_the_length_of_the_training(
    data: Path, labelled: int, batch_size: int, steps: int
) -> None:
    """3,000 steps, or 24 passes if that is more."""
    given = {"dataset": {"annotations": str(data)}, "output": "out", "unlabelled": {"labels": "labels.json"}}
    spec = DistillSpec.model_validate(given)
    info = inspect_dataset(data)
    human = train_images(info, spec.dataset)
    config = generate_distill_config(info, spec, labels=LabelsFile("a", labelled))
    settings = config.students.of(StudentName.DFINE)
    assert settings is not None
    planned = Steps.of(settings, images=human + labelled, seed=0, human=human, human_share=0.5).total
    assert settings.batch_size == batch_size
    assert steps <= planned < 1.05 * steps
    assert settings.warmup_fraction == 0.05


def test_planning_counts_the_images_of_the_labels(data: Path, tmp_path: Path) -> None:
    spec = {"dataset": {"annotations": str(data)}, "output": str(tmp_path)}
    epochs = []
    for images in (1, 500):
        labels = tmp_path / f"{images}.json"
        found = [{"id": number, "file_name": f"{number}.png"} for number in range(images)]
        labels.write_text(json.dumps({"images": found, "annotations": [], "categories": []}))
        asked = DistillSpec.model_validate(spec | {"unlabelled": {"labels": str(labels)}})
        _, (run,) = prepare(DistillManifest(name="edge", spec=asked), Storage())
        settings = run.config.models.of(StudentName.DFINE)
        assert settings is not None
        epochs.append(settings.epochs)
    assert epochs[0] == 300
    assert epochs[1] < 50
    labels.write_text("[]")
    with pytest.raises(DataError, match="is not labels with scores"):
        prepare(DistillManifest(name="edge", spec=asked), Storage())


@pytest.mark.parametrize(
    ("student", "rate"),
    [
        ({"size": "pico"}, 8e-4),
        ({"size": "medium"}, 2e-4),
        ({"baseModel": "ustc-community/dfine-small-coco"}, 2e-4),
        ({"baseModel": "ustc-community/dfine-nano-coco"}, 8e-4),
        ({"size": "medium", "learningRate": "1e-3"}, 1e-3),
        ({"name": "RfDetr", "size": "tiny"}, 8e-4),
        ({"name": "RfDetr", "size": "nano"}, 1e-4),
    ],
)
def test_the_learning_rate_is_that_of_the_size(data: Path, student: dict[str, Any], rate: float) -> None:
    spec = {"dataset": {"annotations": str(data)}, "output": "out", "student": student}
    config = generate_distill_config(inspect_dataset(data), DistillSpec.model_validate(spec))
    settings = config.students.of(StudentName(student.get("name", "DFine")))
    assert settings is not None
    assert settings.learning_rate == rate


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"size": "femto", "baseModel": "some/base"}, "give either size or baseModel"),
        ({"revision": "main"}, "revision goes with baseModel"),
        ({"name": "YOLO"}, "'YOLO' is not allowed (known here: DFine, RfDetr)"),
        ({"epochs": 0}, "must be at least 1, found 0"),
    ],
)
def test_a_wrong_student_is_refused(data: Path, tmp_path: Path, student: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(DistillManifest, manifest(data, tmp_path, **student), where="student.yaml")


def test_a_manifest_of_the_other_command_is_refused_with_its_name(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found 'StudentDistill': teacher distill reads it"):
        load_manifest(manifest(data, tmp_path), where="student.yaml")


def test_a_setting_outside_the_groups_is_refused() -> None:
    spec = {"dataset": {"annotations": "a.json"}, "output": "o", "settings": {"teachers.*.epochs": "1"}}
    with pytest.raises(ValueError, match=r"there is no setting 'teachers\.\*\.epochs'"):
        DistillSpec.model_validate(spec)


def write_labels(file: Path, indices: range, *, score: float = 0.8, ignored: frozenset[int] = frozenset()) -> Path:
    """Labels of a teacher that finds each square."""
    write_toy_data(file, indices)
    coco = json.loads(file.read_text())
    for found in coco["annotations"]:
        found["score"] = score
        if found["image_id"] in ignored:
            found["ignore"] = 1
    file.write_text(json.dumps(coco))
    return file


def test_labels_of_a_teacher_join_the_human_ones(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images 8 to 11 have human labels, in any split: only the others are added. The report shows the teacher too."""
    teacher = save_run(tmp_path / "teacher", (TeacherName.GROUNDING_DINO,), classes=("green", "red"))
    lists = {"train": [{"file_name": f"{number}.png", "content": ""} for number in range(12)]}
    Path(RunLayout(str(teacher)).teacher(TeacherName.GROUNDING_DINO), "splits.json").write_text(
        json.dumps({"splits": lists})
    )
    labels = write_labels(tmp_path / "labels" / "labels.json", range(8, 20), ignored=frozenset({15}))
    coco = json.loads(labels.read_text())
    for found in coco["annotations"][4:]:  # of the images without human labels
        found["score"] = 0.4
    for found in coco["annotations"][:2]:
        found["category_id"] = 1
    labels.write_text(json.dumps(coco))
    seen: list[Batch] = []
    own = DFine.collate

    def collate(self: DFine, examples: Sequence[Example]) -> Batch:
        batch = own(self, examples)
        seen.append(batch)
        return batch

    monkeypatch.setattr(DFine, "collate", collate)
    spec = DistillSpec.model_validate(
        {
            "dataset": {"annotations": str(data)},
            "output": str(tmp_path / "output"),
            "student": {"size": "femto", "epochs": 1, "batchSize": 4},
            "teacher": str(teacher),
            "unlabelled": {"labels": str(labels), "humanShare": "0.25"},
            "settings": SMALL | {"labels.soft_scores": "true"},
        }
    )
    manifest = DistillManifest(name="edge", spec=spec)
    info, runs = prepare(manifest, Storage())
    begin(info, runs, Storage())
    notes: list[str] = []
    train_and_publish(
        runs[0],
        storage=Storage(),
        listener=lambda event: notes.append(event.message),
        work_dir=tmp_path / "work",
        cache=tmp_path / "cache",
    )
    assert "training on 10 images with human labels and 8 with labels of teachers" in notes
    assert len(seen) == 5
    for batch in seen:
        scores = torch.cat(batch["scores"])
        assert (scores == 1).sum() == 1, "one of four images has a human label"
        assert ((scores == 1) | torch.isclose(scores, torch.tensor(0.5))).all()
    unsure = sum(len(labels) for batch in seen for labels in batch["ignored_labels"])
    assert 0 < unsure < len(seen) * 3
    (result,) = read_metadata(runs[0].layout, Storage()).teachers
    assert result.labelled_images == 8
    report = Path(runs[0].layout.report).read_text()
    assert "Teachers labelled 8 of the training images" in report
    reference, measured = result.reference, result.after.images
    assert reference is not None
    assert (reference.teacher, reference.val.images, reference.trained_on) == ("GroundingDino", measured, measured)
    found = reference.found_by
    assert found.both + found.teacher_only + found.student_only + found.neither == measured
    for text in (
        "Objects found by teacher and student",
        "<b>Teacher</b>",
        "for the student, and differs by",
        "Truth: human labels only",
    ):
        assert text in report
    assert f"was trained on {measured} of the measured images" in report
    assert "Untrained" not in report
    split = json.loads(Path(runs[0].layout.teacher(StudentName.DFINE), "splits.json").read_text())["splits"]
    assert {one["file_name"] for one in split["train"]} >= {f"labels/{number}.png" for number in range(12, 20)}
    assert not any(one["file_name"].startswith("labels/") for one in split["val"])


def test_labels_without_scores_or_of_other_classes_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no score"):
        load_predictions(str(data), storage=Storage())
    labels = load_predictions(str(write_labels(tmp_path / "labels.json", range(2))), storage=Storage())
    with pytest.raises(DataError, match="none of the classes of the dataset, blue"):
        teacher_labels(labels, ["blue"], min_score=0, soft=True, where="labels.json")


def test_objects_below_the_lowest_score_are_ignored(tmp_path: Path) -> None:
    file = write_labels(tmp_path / "labels.json", range(2), score=0.4)
    labels = load_predictions(str(file), storage=Storage())
    for lowest, ignored in ((0.3, False), (0.5, True)):
        dataset = teacher_labels(labels, ["green", "red"], min_score=lowest, soft=True, where="labels.json")
        assert [one.ignored for objects in dataset.annotations for one in objects] == [ignored] * 2


def test_scores_are_shares_of_what_is_a_high_score_of_the_class(tmp_path: Path) -> None:
    file = write_labels(tmp_path / "labels.json", range(20), score=0.1, ignored=frozenset({2}))
    coco = json.loads(file.read_text())
    for number, found in enumerate(coco["annotations"]):
        found["score"] = 0.9 if found.get("ignore") else [0.1, 0.2, 0.2, 0.2][number // 2 % 4]
    file.write_text(json.dumps(coco))
    dataset = teacher_labels(
        load_predictions(str(file), storage=Storage()), ["green", "red"], min_score=0, soft=True, where=""
    )
    objects = [one for objects in dataset.annotations for one in objects]
    assert {round(one.score, 3) for one in objects if not one.ignored} == {0.5, 1.0}
    assert {one.class_index for one in objects if one.score > 0.999} == {0, 1}
    found = load_predictions(str(file), storage=Storage())
    hard = teacher_labels(found, ["green", "red"], min_score=0, soft=False, where="")
    scores = {one.score for objects in hard.annotations for one in objects}
    assert scores == {max(scores)}
    assert 0.9999 < max(scores) < 1, "1 marks human labels"


def labels_with(tmp_path: Path, *changes: dict[str, Any], image: dict[str, Any] | None = None) -> CocoDataset:
    """Labels whose first objects have further fields."""
    file = write_labels(tmp_path / "labels.json", range(len(changes)))
    coco = json.loads(file.read_text())
    for found, change in zip(coco["annotations"], changes, strict=False):
        found |= change
    coco["images"][0] |= image or {}
    file.write_text(json.dumps(coco))
    found = load_predictions(str(file), storage=Storage())
    return teacher_labels(found, ["green", "red"], min_score=0, soft=True, where="labels.json")


def test_a_crowd_among_labels_is_no_object(tmp_path: Path) -> None:
    labels = labels_with(tmp_path, {"iscrowd": 1}, {"iscrowd": 0})
    assert [one.iscrowd for objects in labels.annotations for one in objects] == [True, False]


SQUARE = [[2.0, 2.0, 9.0, 2.0, 9.0, 9.0]]


@pytest.mark.parametrize("without", [{}, {"segmentation": []}])
def test_an_object_without_a_mask_leaves_the_masks_of_others(tmp_path: Path, without: dict[str, Any]) -> None:
    labels = labels_with(tmp_path, {"segmentation": SQUARE}, {"segmentation": SQUARE}, without)
    masks = [one.segmentation for objects in labels.annotations for one in objects]
    assert [mask is not None for mask in masks] == [True, True, False]
    found = load_predictions(str(tmp_path / "labels.json"), storage=Storage())
    assert not found.has_masks, "their AP would count the object without one as a mistake"


@pytest.mark.parametrize("score", [95, -0.5])
def test_a_score_that_is_no_probability_is_refused_with_its_place(tmp_path: Path, score: float) -> None:
    with pytest.raises(DataError, match=rf"an object of 1\.png in labels\.json has the score {score}"):
        labels_with(tmp_path, {}, {"score": score})


def test_a_mask_in_an_image_of_unknown_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotation 0 of .* its image 0\.png has no width and height"):
        labels_with(tmp_path, {"segmentation": SQUARE}, image={"width": None, "height": None})


def test_each_step_has_the_same_share_of_human_labels_on_any_number_of_processes() -> None:
    steps = Steps(images=10, batch_size=4, epochs=6, evaluations=1, seed=3, human=3, human_share=0.5)
    used: Counter[int] = Counter()
    for step in range(steps.total):
        views = steps.views(step)
        assert sum(index < 3 for _, index in views) == 2
        assert sorted(views) == sorted(
            view for rank in range(2) for batch in replace(steps, rank=Rank(rank, 2)).batches(step) for view in batch
        )
        used.update(index for _, index in views)
    assert max(used[index] for index in range(3)) - min(used[index] for index in range(3)) <= 1
    assert max(used[index] for index in range(3, 10)) - min(used[index] for index in range(3, 10)) <= 1


def test_a_teacher_labels_the_unlabelled_images_first(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[Sequence[str]] = []

    def supervised(children: Sequence[Child], **options: Any) -> Ended:
        commands.append(children[0].command)
        return Ended(0, None)

    monkeypatch.setattr("engine.runner.unlabelled.supervise", supervised)
    write_toy_data(tmp_path / "yard" / "all.json", range(2))
    unlabelled = {"images": str(tmp_path / "yard"), "humanShare": "0.3"}
    spec = {"dataset": {"annotations": str(data)}, "output": str(tmp_path), "teacher": "run", "unlabelled": unlabelled}
    manifest = DistillManifest(name="edge", spec=DistillSpec.model_validate(spec))
    found = label_unlabelled(manifest, Storage()).spec
    (words,) = commands
    labels = words[words.index("--output") + 1]
    assert words[words.index("--adapters") + 1] == "run"
    assert words[words.index("--unsure") + 1] == "1"
    assert found.teacher == "run", "the report compares the student with it"
    assert found.unlabelled is not None
    assert (found.unlabelled.labels, found.unlabelled.human_share) == (labels, "0.3")
    assert label_unlabelled(manifest.model_copy(update={"spec": found}), Storage()).spec == found
    assert len(commands) == 1
    monkeypatch.setattr("engine.runner.unlabelled.supervise", lambda children, **options: Ended(41, None))
    with pytest.raises(DataError, match=r"labelling .*yard with run failed"):
        label_unlabelled(manifest, Storage())


@pytest.mark.parametrize("own_folder", [False, True])
def test_new_labels_are_made_if_images_or_teacher_change(
    data: Path, tmp_path: Path, own_folder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.runner.unlabelled.supervise", lambda children, **options: Ended(0, None))
    yard, run = tmp_path / "yard", tmp_path / "run"
    write_toy_data(yard / "all.json", range(2))
    adapter = Path(RunLayout(str(run)).teacher(TeacherName.GROUNDING_DINO))
    adapter.mkdir(parents=True)
    for file in ("teacher.json", "adapter_model.safetensors", "result.json"):
        (adapter / file).write_text("first")
    spec = {"dataset": {"annotations": str(data)}, "output": str(tmp_path)}
    given = {"teacher": str(adapter if own_folder else run), "unlabelled": {"images": str(yard)}}
    manifest = DistillManifest(name="edge", spec=DistillSpec.model_validate(spec | given))

    def labels() -> str | None:
        found = label_unlabelled(manifest, Storage()).spec.unlabelled
        return None if found is None else found.labels

    seen = [labels()]
    (yard / "notes.txt").write_text("no image")
    (adapter / "README.md").write_text("not decisive")
    assert labels() == seen[0]
    image = next(yard.rglob("*.png"))
    for change in (
        lambda: image.with_name("new.png").write_bytes(image.read_bytes()),
        lambda: image.write_bytes(b"another image"),
        lambda: (adapter / "adapter_model.safetensors").write_text("tuned again"),
        lambda: (adapter / "result.json").write_text("other thresholds"),
    ):
        change()
        assert labels() == labels()
        seen.append(labels())
    assert len(set(seen)) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"labels.humanShare": "0.3"}}, "humanShare"),
        ({"settings": {"labels.human_share": "1"}}, "human_share"),
        ({"student": {"batchSize": 1}}, "with labels students.dfine.batch_size must be at least 2: a step has images"),
        ({"settings": {"students.*.batch_size": "1"}}, "students.dfine.batch_size must be at least 2"),
        ({"dataset": {"annotations": "all.json", "split": {"folds": 3}}}, "folds cannot be combined with labels"),
    ],
)
def test_wrong_settings_are_found_before_the_images_are_labelled(
    data: Path, tmp_path: Path, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    monkeypatch.setattr("engine.runner.unlabelled.supervise", lambda children, **options: pytest.fail("it labels"))
    write_toy_data(tmp_path / "yard" / "all.json", range(2))
    unlabelled = {"images": str(tmp_path / "yard")}
    spec = {"dataset": {"annotations": "all.json"}, "output": str(tmp_path / "output"), "teacher": "run"}
    asked = DistillSpec.model_validate(spec | {"unlabelled": unlabelled} | changes)
    with pytest.raises(ConfigError, match=re.escape(message)):
        label_unlabelled(DistillManifest(name="edge", spec=asked), Storage())
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("share", ["0", "1", "1.5"])
def test_each_step_has_images_of_both_kinds(share: str) -> None:
    with pytest.raises(ValueError, match='must be above "0" and below "1"'):
        UnlabelledSpec.model_validate({"labels": "labels.json", "humanShare": share})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "run"}, "teacher labels images: give their folder"),
        ({"unlabelled": {"images": "yard"}}, "give a teacher"),
        ({"unlabelled": {"labels": "labels.json", "unsureShare": "0.5"}}, "unsureShare is for a teacher"),
    ],
)
def test_labels_have_a_source(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillSpec.model_validate({"dataset": {"annotations": "a.json"}, "output": "o"} | changes)
