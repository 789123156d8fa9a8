from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from transformers import SamConfig, SamModel

from engine.errors import BaseModelError, ConfigError
from engine.models.adapter_files import local_adapter
from engine.models.base_sources import is_hub_id, resolve_base_model
from engine.storage import Storage
from engine.teachers.sam.checkpoint import export_original

WEIGHTS = b"stand-in for weights: nothing here reads them"
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


def make_model(folder: Path, **files: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"config.json": b"{}", "model.safetensors": WEIGHTS, "tokenizer.json": b"{}"} | files
    for name, data in content.items():
        if data:
            (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("facebook/sam-vit-base", True),
        ("bert-base-uncased", True),
        ("/models/sam", False),
        ("./sam", False),
        ("~/sam", False),
        ("models/of/mine", False),
        ("s3://bucket/sam", False),
        ("weights/sam_vit_b.pth", False),
    ],
)
def test_hub_ids_are_distinguished_from_places(name: str, expected: bool) -> None:
    assert is_hub_id(name) is expected


def test_a_folder_of_that_name_goes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path / "owner" / "model")
    monkeypatch.chdir(tmp_path)
    assert not is_hub_id("owner/model")
    assert resolve_base_model("owner/model", None, storage=Storage(), cache=tmp_path).sha256 == SHA256


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_folder_is_used_where_it_is(tmp_path: Path, scheme: str) -> None:
    folder = make_model(tmp_path / "model")
    model = resolve_base_model(f"{scheme}{folder}", None, storage=Storage(), cache=tmp_path / "cache")
    assert (model.folder, model.revision, model.sha256) == (folder, SHA256, SHA256)
    assert not (tmp_path / "cache").exists()


def test_a_revision_of_a_folder_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    with pytest.raises(ConfigError, match="'main' goes with a hub id"):
        resolve_base_model(str(folder), "main", storage=Storage(), cache=tmp_path)


def test_the_digest_of_shards_changes_with_each(tmp_path: Path) -> None:
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = json.dumps({"weight_map": {"a": names[0], "b": names[1]}}).encode()
    shards = {"model.safetensors": b"", "model.safetensors.index.json": index, names[0]: b"1"}
    digests = set()
    for number, second in enumerate((b"2", b"3")):
        folder = make_model(tmp_path / str(number), **shards | {names[1]: second})
        digests.add(resolve_base_model(str(folder), None, storage=Storage(), cache=tmp_path).sha256)
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"config.json": b""}, "has no config.json"),
        ({"model.safetensors": b""}, "has no model.safetensors: weights in pickle files are refused"),
        ({"model.safetensors": b"", "pytorch_model.bin": b"x"}, "has no model.safetensors, only pytorch_model.bin"),
        (
            {"config.json": b'{"model_type": "sam3_video"}', "model.safetensors": b"", "sam3.pt": b"x"},
            "cannot be tuned: SAM 3 is not supported: its weights are gated, the SAM License",
        ),
    ],
)
@pytest.mark.parametrize("place", ["folder", "s3"])
def test_what_is_no_model_is_a_sentence(
    tmp_path: Path, files: dict[str, bytes], sentence: str, place: str, request: pytest.FixtureRequest
) -> None:
    uri = str(make_model(tmp_path / "model", **files))
    if place == "s3":
        source, uri = tmp_path / "model", f"{request.getfixturevalue('s3')}/model"
        Storage().upload_folder(source, uri)
    with pytest.raises(BaseModelError, match=sentence):
        resolve_base_model(uri, None, storage=Storage(), cache=tmp_path / "cache")


def test_what_is_not_there_is_a_sentence(tmp_path: Path, s3: str) -> None:
    for missing in (str(tmp_path / "model"), f"{s3}/model", str(tmp_path / "sam.pth"), f"{s3}/models/sam.pth"):
        with pytest.raises(BaseModelError, match=f"base model {missing} is not there"):
            resolve_base_model(missing, None, storage=Storage(), cache=tmp_path / "cache")


def test_a_prefix_is_fetched_once_without_pickles_and_again_when_it_changes(tmp_path: Path, s3: str) -> None:
    storage, uri, cache = Storage(), f"{s3}/models/tiny/", tmp_path / "cache"
    folder = make_model(tmp_path / "model", **{"pytorch_model.bin": b"pickle", "README.md": b"# tiny"})
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.safetensors").write_bytes(b"other")
    storage.upload_folder(folder, uri)
    first = resolve_base_model(uri, None, storage=storage, cache=cache)
    assert (first.revision, first.sha256) == (SHA256, SHA256)
    assert sorted(path.name for path in first.folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    fetched = (first.folder / "model.safetensors").stat().st_mtime_ns
    again = resolve_base_model(uri, None, storage=storage, cache=cache)
    assert again == first
    assert (again.folder / "model.safetensors").stat().st_mtime_ns == fetched

    storage.write_bytes(f"{uri}model.safetensors", b"new weights")
    changed = resolve_base_model(uri, None, storage=storage, cache=cache)
    assert changed.sha256 == hashlib.sha256(b"new weights").hexdigest()
    assert changed.folder != first.folder
    assert not [path for path in (cache / "base_models").iterdir() if path.name.startswith(".")]


COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as downloading a model takes."""

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def log_message(self, *args: object) -> None:
        pass

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        files = {"config.json": b"{}", "model.safetensors": WEIGHTS, "pytorch_model.bin": b"pickle"}
        if path.startswith("/api/models/org/good/revision/") or path == "/api/models/org/good":
            if path.endswith("/gone"):
                return self.send(404, {"X-Error-Code": "RevisionNotFound"})
            siblings = [{"rfilename": name} for name in files]
            return self.send(200, {}, json.dumps({"id": "org/good", "sha": COMMIT, "siblings": siblings}).encode())
        if path.startswith(f"/api/models/org/good/tree/{COMMIT}"):
            tree = [
                {"type": "file", "path": n, "size": len(b), "oid": f"{i:040x}"}
                for i, (n, b) in enumerate(files.items())
            ]
            return self.send(200, {}, json.dumps(tree).encode())
        if path.startswith(f"/org/good/resolve/{COMMIT}/"):
            name = path.rpartition("/")[2]
            return self.send(200, {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT}, files[name])
        if "org/gated" in path or "gated/sam3" in path:
            return self.send(403, {"X-Error-Code": "GatedRepo"})
        if "org/refused" in path:
            return self.send(403, {})
        return self.send(404, {"X-Error-Code": "RepoNotFound"})

    def send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


ASK = """
import json, sys
from pathlib import Path
from engine.errors import BaseModelError
from engine.storage import Storage
from engine.teachers.sam.checkpoint import export_original
from engine.models.base_sources import resolve_base_model
answers = []
for repo, revision in json.loads(sys.argv[1]):
    try:
        model = resolve_base_model(repo, revision, storage=Storage(), cache=Path("unused"))
        answers.append([model.revision, model.sha256, sorted(p.name for p in model.folder.iterdir())])
    except BaseModelError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


def ask(endpoint: str, home: Path, *models: tuple[str, str | None]) -> list[object]:
    """Resolve models in a process of its own: the hub's library reads its environment when it is imported."""
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", ASK, json.dumps(models)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    answers: list[object] = json.loads(done.stdout.splitlines()[-1])
    return answers


def test_the_hub_gives_a_commit_without_pickles_or_a_sentence(hub: str, tmp_path: Path) -> None:
    good, gone, missing, gated, refused, sam3 = ask(
        hub,
        tmp_path,
        ("org/good", None),
        ("org/good", "gone"),
        ("org/missing", None),
        ("org/gated", None),
        ("org/refused", None),
        ("gated/sam3", None),
    )
    assert good == [COMMIT, SHA256, ["config.json", "model.safetensors"]]
    assert "has no revision 'gone'" in str(gone)
    assert "neither a folder here nor a model on the hub" in str(missing)
    assert "is gated" in str(gated)
    assert "HF_TOKEN" in str(gated)
    assert "403" in str(refused)
    assert "cannot be tuned: SAM 3 is not supported" in str(sam3)
    assert "HF_TOKEN" not in str(sam3), "a token would not help"


def test_a_model_that_cannot_be_tuned_is_refused_without_a_network_too(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="facebook/sam3 cannot be tuned: SAM 3 is not supported"):
        resolve_base_model("facebook/sam3", None, storage=Storage(), cache=tmp_path)


def test_offline_what_is_not_in_the_cache_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"not in the hub's cache.*HF_HUB_OFFLINE"):
        resolve_base_model("no-such-owner/no-such-model", None, storage=Storage(), cache=tmp_path)


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_an_original_sam_checkpoint_is_converted_once(
    tmp_path: Path, place: str, request: pytest.FixtureRequest
) -> None:
    config = SamConfig(
        vision_config={"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "global_attn_indexes": [1]},
    )
    model = SamModel(config)
    uri = str(tmp_path / "sam_tiny.pth")
    export_original(model, tmp_path / "sam_tiny.pth")
    digest = hashlib.sha256(Path(uri).read_bytes()).hexdigest()
    if place == "s3":
        uri = f"{request.getfixturevalue('s3')}/models/sam_tiny.pth"
        Storage().upload(tmp_path / "sam_tiny.pth", uri)
    first = resolve_base_model(uri, None, storage=Storage(), cache=tmp_path / "cache")
    assert (first.revision, first.sha256) == (digest, digest)
    converted = first.folder / "model.safetensors"
    made = converted.stat().st_mtime_ns
    assert "pth" not in "".join(path.name for path in first.folder.iterdir())
    again = resolve_base_model(uri, None, storage=Storage(), cache=tmp_path / "cache")
    assert again == first
    assert converted.stat().st_mtime_ns == made


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4" * 64 + b"\nsize 123456\n"


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "vocab.txt"])
def test_a_clone_without_git_lfs_is_named_as_such(tmp_path: Path, file: str) -> None:
    for name in ("config.json", "model.safetensors", file):
        (tmp_path / name).write_bytes(b"{}")
    (tmp_path / file).write_bytes(POINTER)
    with pytest.raises(BaseModelError, match=rf"{file} is a Git LFS pointer.*git lfs pull"):
        resolve_base_model(str(tmp_path), None, storage=Storage(), cache=tmp_path / "cache")


def test_a_checkpoint_that_is_a_pointer_of_git_lfs_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "sam_vit_b.pth").write_bytes(POINTER)
    with pytest.raises(BaseModelError, match="git lfs pull"):
        resolve_base_model(str(tmp_path / "sam_vit_b.pth"), None, storage=Storage(), cache=tmp_path / "cache")


@pytest.mark.parametrize("file", ["teacher.json", "adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_that_is_a_pointer_of_git_lfs_is_named_as_such(tmp_path: Path, file: str) -> None:
    for name in ("teacher.json", "adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes(b"{}")
    (tmp_path / file).write_bytes(POINTER)
    with (
        pytest.raises(BaseModelError, match=rf"{file} is a Git LFS pointer"),
        local_adapter(str(tmp_path), Storage()),
    ):
        pytest.fail("a pointer was taken for an adapter")
