"""A cached base model is what was written, or is made again, or is named: it is never used damaged."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import BaseModelError
from engine.models.base_cache import cached_copy, hub_copy
from engine.models.base_sources import resolve_base_model
from engine.storage import Storage

WEIGHTS = random.Random(0).randbytes(50_000)


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    for at in random.Random(1).sample(range(len(content)), 399):
        content[at] ^= 0x40
    file.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped": flipped,
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1000]),
    "empty": lambda file: file.write_bytes(b""),
    "missing": lambda file: file.unlink(),
    "added": lambda file: (file.parent / "tokenizer.json").write_bytes(b"{}"),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_copy_of_a_prefix_is_fetched_again(
    tmp_path: Path, s3: str, caplog: pytest.LogCaptureFixture, kind: str, name: str
) -> None:
    storage, uri = Storage(), f"{s3}/base"
    storage.write_bytes(f"{uri}/config.json", b'{"model_type": "sam"' + b" " * 2000 + b"}")
    storage.write_bytes(f"{uri}/model.safetensors", WEIGHTS)
    first = resolve_base_model(uri, None, storage=storage, cache=tmp_path)
    assert resolve_base_model(uri, None, storage=storage, cache=tmp_path) == first
    assert not caplog.records
    DAMAGE[kind](first.folder / name)
    with caplog.at_level(logging.WARNING):
        again = resolve_base_model(uri, None, storage=storage, cache=tmp_path)
    assert again == first
    assert (again.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert "is damaged" in caplog.text
    assert str(first.folder) in caplog.text
    assert sorted(path.name for path in first.folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_copy_of_which_nothing_is_known_is_made_again(tmp_path: Path) -> None:
    made: list[Path] = []

    def fill(folder: Path) -> None:
        made.append(folder)
        (folder / "a").write_bytes(b"right")

    folder = cached_copy(tmp_path, ["key"], fill, model="m")
    folder.with_suffix(".sha256.json").unlink()
    (folder / "a").write_bytes(b"wrong")
    assert (cached_copy(tmp_path, ["key"], fill, model="m") / "a").read_bytes() == b"right"
    folder.with_suffix(".sha256.json").write_text('{"a"')
    assert (cached_copy(tmp_path, ["key"], fill, model="m") / "a").read_bytes() == b"right"
    assert len(made) == 3


def test_a_damaged_copy_that_cannot_be_made_again_is_named(tmp_path: Path) -> None:
    folder = cached_copy(tmp_path, ["key"], lambda folder: (folder / "a").write_bytes(b"right"), model="m")
    (folder / "a").write_bytes(b"wrong")

    def fail(folder: Path) -> None:
        raise BaseModelError("the store is gone")

    with pytest.raises(BaseModelError, match=r"the store is gone. The cached copy of base model m was damaged"):
        cached_copy(tmp_path, ["key"], fail, model="m")
    assert not folder.exists()


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubCache:
    """A snapshot as the hub's library keeps it: links to blobs that are named by their digest."""

    def __init__(self, folder: Path) -> None:
        self.blobs, self.snapshot = folder / "blobs", folder / "snapshots" / "c0ffee"
        self.content = {"config.json": b"{}", "model.safetensors": WEIGHTS}
        self.fetched = 0
        self.reachable = True

    def blob(self, name: str) -> Path:
        content = self.content[name]
        return self.blobs / (git_sha1(content) if name == "config.json" else hashlib.sha256(content).hexdigest())

    def fetch(self) -> Path:
        self.blobs.mkdir(parents=True, exist_ok=True)
        self.snapshot.mkdir(parents=True, exist_ok=True)
        for name, content in self.content.items():
            if not self.blob(name).exists() and self.reachable:
                self.blob(name).write_bytes(content)
                self.fetched += 1
            if self.reachable and not (self.snapshot / name).is_symlink():
                (self.snapshot / name).symlink_to(self.blob(name))
        return self.snapshot


@pytest.mark.parametrize("kind", ["flipped", "truncated", "empty"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_blob_of_the_hub_is_fetched_again(tmp_path: Path, kind: str, name: str) -> None:
    hub = HubCache(tmp_path)
    hub.content["config.json"] = b"{" + b" " * 3000 + b"}"
    hub_copy("org/m", hub.fetch, offline=False)
    DAMAGE[kind](hub.blob(name))
    folder = hub_copy("org/m", hub.fetch, offline=False)
    assert (folder / name).read_bytes() == hub.content[name]
    assert hub.fetched == 3


def test_offline_a_damaged_blob_of_the_hub_is_named(tmp_path: Path) -> None:
    hub = HubCache(tmp_path)
    hub_copy("org/m", hub.fetch, offline=True)
    flipped(hub.blob("model.safetensors"))
    with pytest.raises(BaseModelError, match=f"org/m is damaged.*{hub.blob('model.safetensors')}.*Delete"):
        hub_copy("org/m", hub.fetch, offline=True)
    hub.reachable = False
    with pytest.raises(BaseModelError, match=r"model\.safetensors cannot be fetched again"):
        hub_copy("org/m", hub.fetch, offline=False)
