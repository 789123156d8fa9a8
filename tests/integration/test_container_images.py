"""The built images as a cluster runs them: read-only, without capabilities or root, with little memory, offline."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.storage import Storage, StorageOptions

ROOT = Path(__file__).resolve().parents[2]
IMAGES = {
    "operator": "requirements-operator.lock",
    "trainer": "trainer_image/requirements.lock",
    "optimizer": "optimizer_image/requirements.lock",
}
HOW = "`make images` builds them; docs/images.md says how without a registry"
PODMAN = ("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs")
RESTRICTED = (
    *("--network", "host", "--memory", "2g", "--ulimit", "nofile=1024:2048", "--ulimit", "nproc=1000:1000"),
    *(
        "--read-only",
        "--read-only-tmpfs=false",
        "--tmpfs",
        "/tmp",
        "--cap-drop",
        "ALL",
        "--user",
        "65532",
        "--security-opt",
        "no-new-privileges",
    ),
)
MEGABYTE = 10**6
SIZE_LIMITS = {"operator": 200 * MEGABYTE, "trainer": 7000 * MEGABYTE, "optimizer": 4800 * MEGABYTE}
START_LIMIT = 5.0
"""Seconds to the first line of help, on a machine that does other things too."""

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

pytestmark = pytest.mark.slow


def podman(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"STORAGE_DRIVER": "overlay"} | os.environ
    return subprocess.run([*PODMAN, *arguments], env=environment, capture_output=True, text=True, check=False)


def command(image: str, *words: str, options: Sequence[str] = ()) -> list[str]:
    """``podman run`` of some words in place of the image's main program, as a pod's ``command`` is."""
    # What would leave this machine is refused; the S3 server of the tests is on it, and plain HTTP.
    variables = {"HTTPS_PROXY": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    variables |= {name: value for name, value in os.environ.items() if name.startswith("AWS_") and value != os.devnull}
    given = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    entrypoint = ("--entrypoint", json.dumps(words))
    return [*PODMAN, "run", "--rm", *RESTRICTED, *given, *options, *entrypoint, f"localhost/{image}"]


def run(image: str, *words: str, options: Sequence[str] = (), exit_code: int = 0) -> str:
    environment = {"STORAGE_DRIVER": "overlay"} | os.environ
    line = command(image, *words, options=options)
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout


def digests(folder: Path) -> dict[str, str]:
    """Path in a folder of packages -> SHA-256, for all of the project that an image holds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for package in ("engine", "teacher_operator")
        for path in sorted((folder / package).rglob("*"))
        if path.suffix in {".py", ".yaml", ".j2", ".json", ".jpg"}
    }


DIGESTS = """
import hashlib, json, pathlib, sysconfig
root = pathlib.Path(sysconfig.get_path("purelib"))
print(json.dumps({
    str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
    for package in ("engine", "teacher_operator")
    for path in (root / package).rglob("*") if path.suffix in {".py", ".yaml", ".j2", ".json", ".jpg"}
} | {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in pathlib.Path("/opt").glob("*.lock")}))
"""


@pytest.fixture(scope="module", autouse=True)
def images() -> None:
    """All images, built from what lies here; anything else would test something else."""
    if shutil.which("podman") is None or shutil.which("runc") is None:
        pytest.skip(f"no podman with runc here; {HOW}")
    for image, lock in IMAGES.items():
        if podman("image", "exists", f"localhost/{image}").returncode != 0:
            pytest.skip(f"no image localhost/{image}; {HOW}")
        built = json.loads(run(image, "python", "-c", DIGESTS))
        here = digests(ROOT) | digests(ROOT / "operator")
        for name in ("requirements-build.lock", lock):
            here[Path(name).name] = hashlib.sha256((ROOT / name).read_bytes()).hexdigest()
        if other := sorted(name for name in built.keys() | here.keys() if built.get(name) != here.get(name)):
            pytest.skip(f"localhost/{image} was built from other sources ({', '.join(other[:3])} …); {HOW}")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of the tree: a file is left in the working directory where a container runs out of memory."""
    monkeypatch.chdir(tmp_path)


def inspect(name: str) -> dict[str, Any]:
    done = podman("image", "inspect", name)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    return dict(found)


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_as_small_as_stated(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = inspect(f"localhost/{image}")
    base = inspect(found["Labels"]["org.opencontainers.image.base.name"])
    assert found["RootFS"]["Layers"][: len(base["RootFS"]["Layers"])] == base["RootFS"]["Layers"]
    over = found["Size"] - base["Size"]
    with capsys.disabled():
        print(f"\n{image}: {over / MEGABYTE:.0f} MB over its base of {base['Size'] / MEGABYTE:.0f} MB")
    assert over < SIZE_LIMITS[image]
    assert found["User"] == "65532:65532"  # a number, which Kubernetes asks for where runAsNonRoot is all that is set


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("operator", ("teacher-operator", "--help")),
        ("operator", ("teacher", "--help")),
        ("trainer", ("teacher", "--help")),
        ("trainer", ("teacher", "doctor")),
        ("optimizer", ("teacher", "--help")),
    ],
)
def test_an_image_starts_fast(image: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    took = []
    for _ in range(3):
        started = time.monotonic()
        assert run(image, *words) or words[-1] == "doctor"
        took.append(time.monotonic() - started)
    with capsys.disabled():
        print(f"\n{image}: `{' '.join(words)}` in {statistics.median(took):.2f} s, the container's start included")
    assert statistics.median(took) < START_LIMIT


@pytest.mark.parametrize("image", IMAGES)
def test_a_container_is_restricted_and_its_user_has_a_name_and_a_home(image: str) -> None:
    program = """
import getpass, os, pathlib, tempfile
assert os.getuid() == os.getgid() == 65532, (os.getuid(), os.getgid())
assert getpass.getuser() == "teacher"
assert pathlib.Path.home() == pathlib.Path("/tmp")
tempfile.TemporaryFile(dir=pathlib.Path.home()).close()
for folder in ("/opt", "/opt/venv", "/var/tmp"):
    try:
        open(f"{folder}/written", "w")
    except OSError:
        continue
    raise SystemExit(f"{folder} can be written to")
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
assert int(status["NoNewPrivs"]) == 1
"""
    run(image, "python", "-c", program)


def test_every_module_of_the_operator_imports_in_its_image_and_torch_is_not_there() -> None:
    program = """
import importlib.util, pkgutil, teacher_operator
for module in pkgutil.walk_packages(teacher_operator.__path__, "teacher_operator."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert not [name for name in ("torch", "torchvision", "transformers", "peft", "cv2") if importlib.util.find_spec(name)]
"""
    run("operator", "python", "-c", program)
    assert "kind: CustomResourceDefinition" in run("operator", "teacher-operator", "crd")


@pytest.mark.parametrize("image", IMAGES)
def test_every_way_to_credentials_is_still_there(image: str) -> None:
    program = """
import boto3, botocore.session
for service in ("s3", "sts", "sso", "sso-oidc", "signin"):
    boto3.client(service, region_name="eu-central-1").meta.service_model
assert boto3.client("s3", region_name="eu-central-1").get_paginator("list_objects_v2")
print([provider.METHOD for provider in botocore.session.get_session().get_component("credential_provider").providers])
"""
    providers = run(image, "python", "-c", program)
    for method in (
        "env",
        "assume-role-with-web-identity",
        "sso",
        "shared-credentials-file",
        "container-role",
        "iam-role",
    ):
        assert repr(method) in providers


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set with boxes and masks."""
    folder = tmp_path_factory.mktemp("parts")
    script = ROOT / "examples" / "demo_data.py"
    subprocess.run([sys.executable, str(script), str(folder), "--images", "12", "--seed", "3"], check=True)
    return folder


@pytest.fixture
def request_folder(s3: str, parts: Path, tmp_path: Path) -> Path:
    """A folder with ``request.yaml``, a manifest whose data and base models are in the bucket; mounted in a pod."""
    storage = Storage(StorageOptions())
    storage.upload_folder(parts, f"{s3}/data")
    for slug in ("grounding_dino", "sam"):
        storage.upload_folder(ROOT / "examples" / "tiny_teachers" / slug, f"{s3}/bases/{slug}")
    document = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "TeacherFineTune",
        "metadata": {"name": "parts"},
        "spec": {
            "dataset": {"annotations": f"{s3}/data/annotations.json", "images": f"{s3}/data/images/"},
            "output": f"{s3}/models",
            "teachers": [
                {"name": "GroundingDino", "baseModel": f"{s3}/bases/grounding_dino", "epochs": 1},
                {"name": "Sam", "baseModel": f"{s3}/bases/sam", "epochs": 1},
            ],
        },
    }
    tmp_path.chmod(0o755)
    (tmp_path / "request.yaml").write_text(yaml.safe_dump(document))
    return tmp_path


def prepare(folder: Path) -> str:
    """Inspect the data in the operator's image, as the inspection Job does; the run's folder in storage."""
    words = ("teacher", "prepare", "-f", "/etc/teacher/request.yaml", "--outcome", "/tmp/outcome")
    return run("operator", *words, options=["--volume", f"{folder}:/etc/teacher:ro"]).strip().splitlines()[-1]


def train(run_uri: str, teacher: str) -> list[str]:
    """The words of a trainer's Job."""
    words = ["teacher", "train", "--config", f"{run_uri}/teacher_config.yaml", "--teacher", teacher]
    return [*words, "--progress", "json", "--work-dir", "/tmp/work", "--outcome", "/tmp/outcome"]


def test_the_operators_image_inspects_data_on_s3(s3: str, parts: Path) -> None:
    Storage(StorageOptions()).upload_folder(parts, f"{s3}/data")
    words = ("teacher", "inspect", f"{s3}/data/annotations.json", "--images", f"{s3}/data/images/", "--json")
    assert json.loads(run("operator", *words))["images"] == 12


def test_the_operators_image_reads_s3_without_a_key(
    s3: str, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Storage(StorageOptions()).upload_folder(parts, f"{s3}/data")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/trainer")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/identity/token")
    tmp_path.chmod(0o755)
    (tmp_path / "token").write_text("header.payload.signature")
    words = ("teacher", "inspect", f"{s3}/data/annotations.json", "--images", f"{s3}/data/images/", "--json")
    found = run("operator", *words, options=["--volume", f"{tmp_path}:/identity:ro"])
    assert json.loads(found)["images"] == 12


def test_what_the_operators_image_prepares_the_trainers_trains_and_evaluates(s3: str, request_folder: Path) -> None:
    run_uri = prepare(request_folder)
    for teacher in ("GroundingDino", "Sam"):
        run("trainer", *train(run_uri, teacher))
    storage = Storage(StorageOptions())
    assert {item.key for item in storage.list(run_uri)} >= ARTIFACTS
    metrics = json.loads(storage.read_bytes(f"{run_uri}/metrics.json"))
    assert [result["teacher"] for result in metrics["teachers"]] == ["GroundingDino", "Sam"]
    for slug in ("grounding_dino", "sam"):
        data = ("--data", f"{s3}/data/annotations.json", "--images", f"{s3}/data/images/")
        words = ("teacher", "evaluate", "--adapter", f"{run_uri}/teachers/{slug}_lora", *data, "--json")
        assert json.loads(run("trainer", *words)).keys() == {"base", "adapted"}


def test_the_optimizers_image_exports_what_the_trainers_tuned_and_measures_it(s3: str, request_folder: Path) -> None:
    run_uri = prepare(request_folder)
    run("trainer", *train(run_uri, "Sam"))
    data = ("--data", f"{s3}/data/annotations.json", "--images", f"{s3}/data/images/")
    # More loss than ever allowed: this holds that each runtime works, not how well.
    formats = ("--format", "onnx", "--format", "openvino-int8", "--max-ap-drop", "0.2", "--threads", "1")
    run(
        "optimizer",
        "teacher",
        "optimize",
        "--adapters",
        run_uri,
        *data,
        *formats,
        "--output",
        f"{s3}/edge",
        "--teacher",
        "Sam",
    )
    for name in ("encoder.onnx", "encoder.int8.xml"):
        found = run("optimizer", "teacher", "evaluate", "--artifact", f"{s3}/edge/sam/{name}", *data, "--json")
        assert json.loads(found)["images"] == 12
    artifact = ("--artifact", f"{s3}/edge/sam/encoder.onnx", "--threads", "1", "--json")
    assert json.loads(run("optimizer", "teacher", "benchmark", *artifact))["engine"].keys() == {"encoder", "decoder"}


def test_torch_computes_in_the_optimizers_image_without_triton_and_without_a_gpu() -> None:
    program = """
import importlib.util, torch
assert importlib.util.find_spec("triton") is None
assert not torch.cuda.is_available()
torch.linalg.svd(torch.nn.functional.conv2d(torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3)).flatten(1))
"""
    run("optimizer", "python", "-c", program)


def test_processes_of_a_trainer_find_each_other() -> None:
    program = """
from engine.training.distributed import joined
with joined() as processes:
    assert processes.sum(processes.rank.index + 1) == 3
"""
    launcher = f"""
import sys
from engine.processes.launch import launch
sys.exit(launch(lambda _: [sys.executable, "-c", {program!r}], processes=2))
"""
    run("trainer", "python", "-c", launcher)


@pytest.fixture
def container() -> Iterator[str]:
    """The name of a container that is gone afterwards."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield name
    podman("rm", "--force", "--ignore", "--time", "0", name)


def test_sigterm_ends_a_trainer_with_143_after_a_checkpoint(request_folder: Path, container: str) -> None:
    file = request_folder / "request.yaml"
    document = yaml.safe_load(file.read_text())
    document["spec"]["teachers"] = [document["spec"]["teachers"][1] | {"epochs": 200}]
    document["spec"]["training"] = {"earlyStopping": {"patience": 0}}
    file.write_text(yaml.safe_dump(document))
    run_uri = prepare(request_folder)
    line = command("trainer", *train(run_uri, "Sam"), options=["--name", container])
    environment = {"STORAGE_DRIVER": "overlay"} | os.environ
    with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for said in process.stdout:
            if '"event":"step"' in said:
                assert podman("kill", "--signal", "TERM", container).returncode == 0
                break
        process.stdout.read()
    assert process.returncode == 143
    keys = {item.key for item in Storage(StorageOptions()).list(run_uri)}
    assert any(key.startswith("teachers/sam_lora/last/checkpoint-") for key in keys)
    assert "metadata.json" not in keys


def test_more_memory_than_the_limit_ends_a_container_and_no_more() -> None:
    run("trainer", "python", "-c", "held = bytearray(3 * 10**9)", exit_code=137)


@pytest.mark.skipif(shutil.which("buildah") is None, reason="no buildah here")
@pytest.mark.parametrize(("image", "lock"), IMAGES.items())
def test_all_that_an_image_holds_is_listed_and_pinned(image: str, lock: str, tmp_path: Path) -> None:
    output = tmp_path / "bill.cdx.json"
    line = [sys.executable, str(ROOT / ".ci" / "sbom.py"), f"{image}:latest", "--lock", str(ROOT / lock)]
    environment = {"STORAGE_DRIVER": "overlay", "BUILDAH_ISOLATION": "chroot"} | os.environ
    done = subprocess.run(
        [*line, "--output", str(output)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    components = json.loads(output.read_text())["components"]
    listed = {one["purl"].split("@")[0] for one in components}
    assert {"pkg:deb/debian/libc6", "pkg:pypi/teacher-finetune", "pkg:generic/python"} <= listed
    assert ("pkg:pypi/torch" in listed) == (image != "operator")
