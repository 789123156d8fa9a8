"""From a manifest to adapters in object storage, as a user does it: real data, real processes, a real S3 server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from engine.storage import Storage, StorageOptions

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "examples" / "tiny_teachers"


def teacher(*arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder of its own."""
    environment = os.environ | {"TEACHER_CACHE": str(cwd / "cache"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "engine.cli", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if check:
        assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set with boxes and masks."""
    folder = tmp_path_factory.mktemp("parts")
    script = ROOT / "examples" / "demo_data.py"
    subprocess.run([sys.executable, str(script), str(folder), "--images", "12", "--seed", "3"], check=True)
    return folder


def manifest(folder: Path, *, data: str, output: str, epochs: int = 1, **spec: object) -> Path:
    teachers = [
        {"name": "GroundingDino", "baseModel": str(TINY / "grounding_dino"), "epochs": epochs},
        {"name": "Sam", "baseModel": str(TINY / "sam"), "epochs": epochs},
    ]
    document = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "TeacherFineTune",
        "metadata": {"name": "parts"},
        "spec": {
            "dataset": {"annotations": f"{data}/annotations.json", "images": f"{data}/images/"},
            "output": output,
            "teachers": teachers,
            **spec,
        },
    }
    path = folder / "parts.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


ARTIFACTS = {
    "teacher_config.yaml",
    "dataset.json",
    "metadata.json",
    "metrics.json",
    "report.html",
    *(
        f"teachers/{slug}_lora/{name}"
        for slug in ("grounding_dino", "sam")
        for name in ("adapter_config.json", "adapter_model.safetensors", "README.md", "last/checkpoint.safetensors")
    ),
}


def test_a_manifest_on_s3_becomes_adapters_on_s3_once(s3: str, parts: Path, tmp_path: Path) -> None:
    storage = Storage(StorageOptions())
    storage.upload_folder(parts, f"{s3}/data")
    file = manifest(tmp_path, data=f"{s3}/data", output=f"{s3}/models")
    run_uri = teacher("run", "-f", str(file), cwd=tmp_path).stdout.strip().splitlines()[-1]
    assert re.fullmatch(rf"{s3}/models/parts/[0-9a-f]{{12}}", run_uri)
    keys = {item.key for item in storage.list(run_uri)}
    assert keys >= ARTIFACTS
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


def test_the_lines_of_the_model_card_load_the_adapter(s3: str, parts: Path, tmp_path: Path) -> None:
    file = manifest(tmp_path, data=str(parts), output=f"{s3}/models")
    run_uri = teacher("run", "-f", str(file), cwd=tmp_path).stdout.strip().splitlines()[-1]
    storage = Storage(StorageOptions())
    for slug in ("grounding_dino", "sam"):
        card = storage.read_bytes(f"{run_uri}/teachers/{slug}_lora/README.md").decode()
        (lines,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
        assert len(lines.strip().splitlines()) == 3
        program = (
            "import numpy as np\nfrom engine.dataset import Sample\n"
            "samples = [Sample.of(np.full((96, 128, 3), 90, np.uint8), [[10, 10, 60, 60]])]\n"
            f"{lines}\nassert len(detections) == 1 and teacher.name.slug == '{slug}'\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_a_run_that_was_stopped_goes_on_and_ends_as_if_it_never_was(parts: Path, tmp_path: Path) -> None:
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
        ({"dataset": {"annotations": "missing.json"}}, 5, "missing.json"),
        ({"outptu": "x"}, 2, "did you mean 'output'"),
        ({"teachers": [{"name": "Sam", "baseModel": "no/such/folder/here"}]}, 4, "no/such/folder/here"),
        ({"dataset": {"annotations": "empty.json"}}, 3, "empty.json"),
        ({"storage": {"endpointUrl": "http://169.254.169.254/"}}, 2, "169.254.169.254"),
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


def test_looking_at_data_does_not_import_torch(parts: Path) -> None:
    program = (
        "import sys\nfrom engine.cli.app import app\n"
        f"app(['inspect', {str(parts / 'annotations.json')!r}], standalone_mode=False)\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
