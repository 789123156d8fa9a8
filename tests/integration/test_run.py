"""From a manifest to adapters in object storage, as a user does it: real data, real processes, a real S3 server."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from forked import run_code
from packaging.requirements import Requirement
from PIL import Image
from runs import TINY, manifest, teacher, write_parts

from engine.results.events import parse_line
from engine.results.outcome import Outcome, parse_outcome
from engine.storage import Storage, StorageOptions


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parts(tmp_path_factory.mktemp("parts"))


def outcome_in(file: Path) -> Outcome:
    outcome = parse_outcome(file.read_text())
    assert outcome is not None, file.read_text()
    return outcome


ARTIFACTS = {
    "teacher_config.yaml",
    "dataset.json",
    "metadata.json",
    "metrics.json",
    "report.html",
    *(
        f"teachers/{slug}_lora/{name}"
        for slug in ("grounding_dino", "sam")
        for name in ("adapter_config.json", "adapter_model.safetensors", "README.md")
    ),
}


@pytest.fixture(scope="module")
def published(module_s3: str, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A manifest whose data and output are in S3, and the URI of its run, which is published."""
    Storage(StorageOptions()).upload_folder(parts, f"{module_s3}/data")
    folder = tmp_path_factory.mktemp("published")
    file = manifest(folder, data=f"{module_s3}/data", output=f"{module_s3}/models")
    run_uri = teacher("run", "-f", str(file), cwd=folder).stdout.strip().splitlines()[-1]
    assert re.fullmatch(rf"{module_s3}/models/parts/[0-9a-f]{{12}}", run_uri)
    return file, run_uri


@pytest.mark.usefixtures("s3")
def test_a_manifest_on_s3_becomes_adapters_on_s3_once(published: tuple[Path, str], tmp_path: Path) -> None:
    storage = Storage(StorageOptions())
    file, run_uri = published
    keys = {item.key for item in storage.list(run_uri)}
    assert keys >= ARTIFACTS
    for slug in ("grounding_dino", "sam"):
        assert any(key.startswith(f"teachers/{slug}_lora/last/checkpoint-") for key in keys)
    assert any(key.startswith("logs/sam/events.out") for key in keys)
    metrics = json.loads(storage.read_bytes(f"{run_uri}/metrics.json"))
    assert [result["teacher"] for result in metrics["teachers"]] == ["GroundingDino", "Sam"]

    before = storage.read_bytes(f"{run_uri}/metadata.json")
    again = teacher("run", "-f", str(file), cwd=tmp_path)
    assert again.stdout.strip().splitlines()[-1] == run_uri
    assert "published already" in again.stderr
    assert storage.read_bytes(f"{run_uri}/metadata.json") == before

    fetched = teacher("fetch", run_uri, str(tmp_path / "fetched"), cwd=tmp_path).stdout.split()
    assert [Path(line).name for line in fetched] == ["grounding_dino_lora", "sam_lora"]
    assert (tmp_path / "fetched" / "teachers" / "sam_lora" / "adapter_model.safetensors").stat().st_size > 10_000


@pytest.mark.usefixtures("s3")
def test_the_code_of_the_model_card_loads_the_adapter(published: tuple[Path, str], tmp_path: Path) -> None:
    _, run_uri = published
    storage = Storage(StorageOptions())
    for slug in ("grounding_dino", "sam"):
        card = storage.read_bytes(f"{run_uri}/teachers/{slug}_lora/README.md").decode()
        blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
        (lines,) = (block for block in blocks if "load_adapted" in block)
        assert lines.startswith("import engine\n")
        Image.new("RGB", (128, 96), (90, 90, 90)).save(tmp_path / "image.jpg")
        program = f"import os\nos.chdir({str(tmp_path)!r})\n{lines}\nassert teacher.name.slug == '{slug}'\n"
        done = run_code(f"{program}assert len(detections.scores) == len(detections.boxes_xyxy)\n")
        assert done.returncode == 0, done.stderr


def test_a_run_is_prepared_and_trained_by_processes_that_know_nothing_of_each_other(
    s3: str, parts: Path, tmp_path: Path
) -> None:
    file, left = manifest(tmp_path, data=str(parts), output=f"{s3}/models"), tmp_path / "outcome.json"
    prepare = ("prepare", "-f", str(file), "--outcome", str(left), "--set", "training.seed=5")
    run_uri = teacher(*prepare, cwd=tmp_path).stdout.strip()
    prepared = outcome_in(left).prepared
    assert prepared is not None
    assert (prepared.uri, prepared.uri.rpartition("/")[2]) == (run_uri, prepared.run_id)
    assert ([name.value for name in prepared.teachers], prepared.published) == (["GroundingDino", "Sam"], ())
    storage = Storage(StorageOptions())
    assert b"seed: 5" in storage.read_bytes(prepared.config_uri)

    trained = []
    for name in prepared.teachers:
        work = tmp_path / name
        work.mkdir()
        arguments = ("--config", prepared.config_uri, "--teacher", name, "--progress", "json", "--outcome", str(left))
        teacher("train", *arguments, cwd=work)
        trained.append(outcome_in(left).trained)
    published = storage.read_bytes(f"{run_uri}/metadata.json")
    teacher(*prepare, cwd=tmp_path)
    again = outcome_in(left).prepared
    assert again is not None
    assert list(again.published) == trained
    assert storage.read_bytes(f"{run_uri}/metadata.json") == published

    for key in ("metadata.json", "attempts/run/commit.json"):  # as if the last process had been killed before its end
        storage.delete(f"{run_uri}/{key}")
    lines = teacher("train", *arguments, cwd=tmp_path).stdout.splitlines()
    events = [event.event for line in lines if (event := parse_line(line)) is not None]
    assert events == ["done"]
    assert outcome_in(left).trained == trained[-1]
    assert storage.exists(f"{run_uri}/metadata.json")


@pytest.mark.slow
def test_a_stopped_run_resumes_and_ends_as_if_it_was_never_stopped(parts: Path, tmp_path: Path) -> None:
    adapters = {}
    for name in ("whole", "stopped"):
        folder = tmp_path / name
        folder.mkdir()
        file = manifest(folder, data=str(parts), output="out", epochs=6)
        spec = yaml.safe_load(file.read_text())
        spec["spec"]["teachers"] = spec["spec"]["teachers"][1:]
        file.write_text(yaml.safe_dump(spec))
        if name == "stopped":
            environment = os.environ | {"TEACHER_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-m", "engine.cli", "run", "-f", str(file), "--progress", "json"]
            with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    if '"event":"step"' in line:
                        process.send_signal(signal.SIGTERM)
                        break
                process.stdout.read()
            assert process.returncode == 143
            assert not list(folder.glob("out/parts/*/metadata.json"))
        teacher("run", "-f", str(file), cwd=folder)
        (adapter,) = folder.glob("out/parts/*/teachers/sam_lora/adapter_model.safetensors")
        adapters[name] = adapter.read_bytes()
    assert adapters["whole"] == adapters["stopped"]


@pytest.mark.parametrize(
    ("change", "exit_code", "sentence"),
    [
        ({"dataset": {"annotations": "missing.json"}}, 40, "missing.json"),
        ({"outptu": "x"}, 40, "did you mean 'output'"),
        ({"teachers": [{"name": "Sam", "baseModel": "no/such/folder/here"}]}, 42, "no/such/folder/here"),
        ({"dataset": {"annotations": "empty.json"}}, 41, "empty.json"),
        ({"storage": {"endpointUrl": "http://169.254.169.254/"}}, 40, "169.254.169.254"),
    ],
)
def test_a_failure_is_a_sentence_and_an_exit_code(
    parts: Path, tmp_path: Path, change: dict[str, object], exit_code: int, sentence: str
) -> None:
    (tmp_path / "empty.json").write_text('{"images": [], "annotations": [], "categories": []}')
    file = manifest(tmp_path, data=str(parts), output="out", **change)
    done = teacher("run", "-f", str(file), cwd=tmp_path, check=False)
    assert done.returncode == exit_code, done.stderr
    assert sentence in done.stderr.replace("\n", "")
    assert "Traceback" not in done.stderr

    left = tmp_path / "outcome.json"
    if exit_code != 42:  # base models are for trainers to find
        done = teacher("prepare", "-f", str(file), "--outcome", str(left), cwd=tmp_path, check=False)
        outcome = outcome_in(left)
        assert done.returncode == outcome.exit_code == exit_code, done.stderr
        assert sentence in outcome.message
        assert sentence in done.stderr.replace("\n", "")


def test_a_run_without_a_gain_is_published_and_fails_only_if_asked_to(parts: Path, tmp_path: Path) -> None:
    learns_nothing = [{"name": "Sam", "baseModel": str(TINY / "sam"), "epochs": 1, "learningRate": "0.000000000001"}]
    file = manifest(tmp_path, data=str(parts), output="out", teachers=learns_nothing, training={"onNoGain": "Fail"})
    for _ in range(2):  # then it is published already
        done = teacher("run", "-f", str(file), cwd=tmp_path, check=False)
        assert done.returncode == 48, done.stderr
        assert done.stderr.count("error: the adapter of Sam is not better than its base: AP") == 1
    (folder,) = tmp_path.glob("out/parts/*/")
    result = json.loads((folder / "metrics.json").read_text())["teachers"][0]
    assert result["improved"] is None, "too few validation images to show anything"
    assert "not better than its base" in (folder / "teachers" / "sam_lora" / "README.md").read_text()

    left, config = tmp_path / "outcome.json", str(folder / "teacher_config.yaml")
    arguments = ("--config", config, "--teacher", "Sam", "--progress", "json", "--outcome", str(left))
    done = teacher("train", *arguments, cwd=tmp_path, check=False)
    outcome = outcome_in(left)
    assert (done.returncode, outcome.exit_code, outcome.reason) == (48, 48, "NotBetterThanBase")
    assert outcome.trained is not None
    assert outcome.trained.adapter.uri.endswith("sam_lora/adapter_model.safetensors")

    done = teacher("run", "-f", str(file), "--set", "training.on_no_gain=Publish", cwd=tmp_path)
    assert "published already" in done.stderr, "the setting is no part of what a run is"
    assert "the adapter of Sam is not better than its base" in done.stderr


def test_a_trainer_tells_its_failure_once_and_leaves_it(tmp_path: Path) -> None:
    left = tmp_path / "outcome.json"
    arguments = ("--config", "nothing.yaml", "--teacher", "Sam", "--progress", "json", "--outcome", str(left))
    done = teacher("train", *arguments, cwd=tmp_path, check=False)
    event = parse_line(done.stdout)
    outcome = outcome_in(left)
    assert event is not None
    assert (event.event, event.teacher, done.stderr) == ("error", "sam", "")
    assert (event.exit_code, event.reason, event.message) == (outcome.exit_code, outcome.reason, outcome.message)
    assert (done.returncode, outcome.reason) == (40, "ConfigurationInvalid")
    assert outcome.message.startswith("nothing.yaml does not exist")


def test_an_outcome_is_of_one_teacher(parts: Path, tmp_path: Path) -> None:
    file, left = manifest(tmp_path, data=str(parts), output="out"), tmp_path / "outcome.json"
    run = teacher("prepare", "-f", str(file), cwd=tmp_path).stdout.strip()
    arguments = ("--config", f"{run}/teacher_config.yaml", "--progress", "json", "--outcome", str(left))
    assert teacher("train", *arguments, cwd=tmp_path, check=False).returncode == 40
    assert "give one --teacher" in outcome_in(left).message


def installed_without_extras() -> set[str]:
    """The distributions that pip installs with this one where no extra is asked for."""
    found, new = set(), {"teacher-finetune"}
    while new:
        found |= new
        wanted = [Requirement(text) for name in new for text in importlib.metadata.requires(name) or []]
        new = {one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})} - found
    return {name.lower().replace("_", "-") for name in found}


def test_before_training_nothing_is_needed_that_only_extras_bring(parts: Path, tmp_path: Path) -> None:
    base = installed_without_extras()
    assert {"boto3", "botocore", "pydantic-core"} <= base
    assert not {"torch", "jinja2", "scipy", "kopf"} & base
    refused = [
        module
        for module, names in importlib.metadata.packages_distributions().items()
        if not {name.lower().replace("_", "-") for name in names} & base
    ]
    assert {"torch", "transformers", "peft", "jinja2", "scipy", "cv2", "safetensors"} <= set(refused)
    file = manifest(tmp_path, data=str(parts), output="out")
    annotations = str(parts / "annotations.json")
    program = f"""if True:
        import sys
        sys.modules |= dict.fromkeys({refused!r})
        from engine.cli.app import app
        from engine.errors import StorageError
        for command in (["prepare", "-f", {str(file)!r}], ["inspect", {annotations!r}], ["validate", {annotations!r}],
                        ["split", {annotations!r}, "--output", "splits"]):
            app(command, standalone_mode=False)
        try:
            app(["fetch", "s3://nowhere/1", "out", "--endpoint-url", "http://127.0.0.1:9"], standalone_mode=False)
        except StorageError as error:
            assert "nowhere" in str(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("out/parts/*/teacher_config.yaml"))
