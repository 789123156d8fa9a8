"""The stage that exports the student of a distillation: published with the run, refused with exit code 49."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from artifacts import random_student, write_data
from toy import result_of
from typer.testing import CliRunner

import engine
from engine.cli.app import app
from engine.config import DistillConfig, to_yaml
from engine.config.distill import generate_distill_config
from engine.dataset import DatasetInfo, inspect_dataset
from engine.dataset.types import Frame
from engine.errors import ArtifactRefusedError, ConfigError, MachineError, StorageError
from engine.layout import RESULT, SAMPLE_IMAGES, SAMPLES, SPLITS, RunLayout
from engine.models.model import Origin
from engine.optimization.artifact import Artifact
from engine.optimization.measure import Workshop
from engine.plan import TrainingRun
from engine.registry import StudentName
from engine.results.outcome import Outcome, parse_outcome
from engine.results.run_files import publication, read_metadata
from engine.runner import begin, published, run_stages
from engine.spec.distill import DistillSpec
from engine.stages import OPTIMIZATION, Stage, StageInput, of_run
from engine.storage import Storage
from engine.training.publish import publish_run

pytest.importorskip("onnxruntime")

DFINE = StudentName.DFINE
CLASSES, SIDES = ("red", "green"), (64, 96)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, with what the student finds as the truth."""
    return write_data(tmp_path_factory.mktemp("data"), random_student(CLASSES, SIDES), 6)


def dataset(data: Path, **more: Any) -> dict[str, Any]:
    return {"annotations": str(data), "images": str(data.parent / "images")} | more


class Published:
    """A run whose student is published, and whose next stage is to export it."""

    def __init__(self, data: Path, folder: Path, *optimize: Any) -> None:
        self.folder, self.storage = folder, Storage()
        spec = DistillSpec.model_validate(
            {"dataset": dataset(data), "output": str(folder / "output"), "optimize": optimize}
        )
        self.info: DatasetInfo = inspect_dataset(data, data.parent / "images")
        config = generate_distill_config(self.info, spec)
        assert isinstance(config, DistillConfig)
        self.config = config
        self.runs = (TrainingRun(DFINE, config),)
        self.layout = RunLayout.of(config)
        begin(self.info, self.runs, self.storage)

    def train(self) -> None:
        """Publish the student as its training does."""
        student = random_student(CLASSES, SIDES)
        work = self.folder / "work"
        local = Path(RunLayout(str(work)).teacher(DFINE))
        origin = Origin("random", "0" * 64, {}, student.classes, {}, student.settings, Frame.UPRIGHT)
        student.save(local, origin)
        (local / SAMPLE_IMAGES).mkdir(exist_ok=True)
        (local / SAMPLE_IMAGES / "none.txt").write_text("")
        (local / SAMPLES).write_text("[]")
        names = [f"{number}.png" for number in range(6)]
        listed = {"train": names[:3], "val": names[3:]}
        lists = {split: [{"file_name": one, "content": ""} for one in files] for split, files in listed.items()}
        (local / SPLITS).write_text(json.dumps({"splits": lists}))
        (local / RESULT).write_text(result_of(DFINE).model_dump_json())  # type: ignore[arg-type]
        files = {path.relative_to(work).as_posix(): path for path in sorted(local.rglob("*")) if path.is_file()}
        last = f"{local.relative_to(work).as_posix()}/{RESULT}"
        files[last] = files.pop(last)
        publication(self.layout, DFINE, storage=self.storage).publish(files)
        publish_run(self.config, storage=self.storage)

    def optimize(self) -> tuple[int, Outcome]:
        """Run the command of the stage; return its exit code and outcome."""
        (self.folder / "config.yaml").write_text(to_yaml(self.config))
        words = OPTIMIZATION.arguments(StageInput(config=str(self.folder / "config.yaml")))
        done = CliRunner().invoke(app, [*words, "--threads", "1", "--outcome", str(self.folder / "outcome")])
        outcome = parse_outcome((self.folder / "outcome").read_text())
        assert outcome is not None, done.output
        return getattr(done.exception, "exit_code", done.exit_code), outcome


def test_artifacts_are_published_with_the_run(data: Path, tmp_path: Path) -> None:
    run = Published(data, tmp_path, {"format": "onnx"})
    run.train()
    assert not run.storage.exists(run.layout.metadata), "the run has no artifacts yet"
    code, outcome = run.optimize()
    assert (code, outcome.exit_code) == (0, 0), outcome
    assert outcome.finished is not None
    assert outcome.finished["onnx"].startswith("AP ")
    metadata = read_metadata(run.layout, run.storage)
    (made,) = metadata.artifacts
    assert (made.split, made.images) == ("val", 3)
    assert made.artifacts[0].published
    folder = Path(run.layout.artifacts(DFINE))
    assert {file.name for file in folder.iterdir()} == {"artifacts.json", "detect.py", "model.onnx"}
    assert {one.path for one in metadata.files} >= {f"artifacts/dfine/{name.name}" for name in folder.iterdir()}
    report = Path(run.layout.report).read_text()
    assert "not published" not in report
    assert f"{made.artifacts[0].ap:.3f}" in report
    before = (folder / "model.onnx").stat().st_mtime_ns
    assert run.optimize()[0] == 0
    assert (folder / "model.onnx").stat().st_mtime_ns == before, "it is not built again"
    (folder / "model.onnx").write_bytes(b"other")
    with pytest.raises(StorageError, match=r"model\.onnx is missing or not what was published"):
        published(run.layout, run.storage, run.config)


def test_a_refused_artifact_leaves_the_student_and_the_others(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Published(data, tmp_path, {"format": "onnx"}, {"format": "openvino"})
    run.train()
    real = Workshop._ap
    lossy = {"onnxruntime": 0.0, "openvino": 1.0}

    def measured(self: Workshop, artifact: Artifact) -> tuple[float, float | None]:
        return real(self, artifact)[0] * lossy[artifact.sessions["detector"].runtime.split()[0]], None

    monkeypatch.setattr(Workshop, "_ap", measured)
    code, outcome = run.optimize()
    assert (code, outcome.exit_code, outcome.reason) == (49, 49, "ArtifactRefused")
    assert "onnx loses more than 0.001 AP (fp32: AP 0.0000" in outcome.message
    assert outcome.finished is not None
    assert outcome.finished["onnx"] == "refused: loses more than 0.001 AP"
    assert outcome.finished["openvino"].startswith("AP ")
    names = {file.name for file in Path(run.layout.artifacts(DFINE)).iterdir()}
    assert names == {"artifacts.json", "model.xml", "model.bin"}
    metadata = published(run.layout, run.storage, run.config)
    assert metadata is not None
    assert [one.published for one in metadata.artifacts[0].artifacts] == [False, True]
    assert engine.load_student(run.layout.root, device="cpu").classes == CLASSES
    assert "not published: loses more than 0.001 AP" in Path(run.layout.report).read_text()


def test_the_runner_exports_after_training_and_resumes_there(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Published(data, tmp_path, {"format": "onnx"})
    started: list[str] = []
    fails = [True]

    def stage(stage: Stage, given: StageInput, **options: Any) -> Outcome:
        started.append(stage.name)
        if stage.name == DFINE.value:
            run.train()
            return Outcome()
        if fails.pop():
            raise MachineError("no memory")
        code, outcome = run.optimize()
        if code == 49:
            raise ArtifactRefusedError(outcome.message)
        return outcome

    monkeypatch.setattr("engine.runner.run.run_stage", stage)
    monkeypatch.setattr(Workshop, "_ap", lambda self, artifact: (0.0, None))

    def go() -> Any:
        return run_stages(run.info, run.runs, run.storage, listener=lambda event: None, work_dir=tmp_path / "scratch")

    with pytest.raises(MachineError):
        go()
    fails.append(False)
    assert [one.published for one in go().artifacts[0].artifacts] == [False]
    assert started == [DFINE.value, "Optimization"] * 2
    go()
    assert len(started) == 4, "a published run has its artifacts"


def test_a_published_run_without_the_format_names_the_command(data: Path, tmp_path: Path) -> None:
    Published(data, tmp_path).train()
    later = Published(data, tmp_path, {"format": "onnx"})
    with pytest.raises(ConfigError, match=r"published without onnx.*`teacher optimize --student .* --format onnx"):
        published(later.layout, later.storage, later.config)


def test_the_stage_follows_training_and_only_where_it_is_wanted() -> None:
    assert [stage.name for stage in of_run([DFINE])] == ["Inspection", "DFine"]
    assert [(stage.name, stage.requires) for stage in of_run([DFINE], optimize=True)][-1] == (
        "Optimization",
        ("DFine",),
    )


def distill(data: Path, output: Path, *words: str) -> Any:
    return CliRunner().invoke(
        app, ["distill", "--data", str(data), "--images", str(data.parent / "images"), "--output", str(output), *words]
    )


def test_formats_are_checked_before_anything_is_trained(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setattr("engine.runner.label_unlabelled", started.append)
    done = distill(data, tmp_path, "--format", "tensorrt")
    assert "trtexec" in str(done.exception)
    monkeypatch.setattr("engine.optimization.packages.find_spec", lambda name: None if name == "nncf" else True)
    done = distill(data, tmp_path, "--format", "onnx-int8")
    assert isinstance(done.exception, ConfigError)
    assert "need nncf (it is not installed): pip install 'teacher-finetune[train,optimize]'" in str(done.exception)
    with pytest.raises(ConfigError, match="need nncf"):
        engine.distill(dataset(data), output=tmp_path, optimize=["onnx-int8"])
    assert started == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimize": [{"format": "onnx"}, {"format": "onnx"}]}, "each format can be listed once"),
        ({"optimize": [{"format": "onxx"}]}, "onnx"),
        ({"optimize": [{"format": "onnx", "maxApDrop": "2"}]}, "at most"),
    ],
)
def test_wrong_formats_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillSpec.model_validate({"dataset": {"annotations": "a.json"}, "output": "o"} | changes)


def test_formats_need_a_validation_split(data: Path) -> None:
    folds = dataset(data, split={"folds": 3})
    spec = DistillSpec.model_validate({"dataset": folds, "output": "o", "optimize": [{"format": "onnx"}]})
    with pytest.raises(ConfigError, match="folds leaves no validation split to measure artifacts on"):
        generate_distill_config(inspect_dataset(data, data.parent / "images"), spec)


def test_formats_are_outside_of_the_run_id_and_the_same_by_flags_and_python(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = []

    def caught(info: Any, runs: Any, *args: Any, **options: Any) -> None:
        planned.append(runs[0].config)
        raise ConfigError("caught")

    monkeypatch.setattr("engine.runner.run_stages", caught)
    distill(data, tmp_path)
    distill(data, tmp_path, "--format", "onnx", "--format", "openvino", "--max-ap-drop", "0.02")
    wanted = [{"format": "onnx", "max_ap_drop": 0.02}, {"format": "openvino", "max_ap_drop": "0.02"}]
    with pytest.raises(ConfigError, match="caught"):
        engine.distill(dataset(data), output=tmp_path, optimize=wanted)
    assert len({config.run_id for config in planned}) == 1
    assert planned[1] == planned[2]
    assert [one.format.value for one in planned[1].optimize] == ["onnx", "openvino"]
    assert "goes with --format" in str(distill(data, tmp_path, "--max-ap-drop", "0.02").exception)
