"""A base with another image size, tokenizer or configuration is another base: another run, and of no adapter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coco_files import small_coco, write, write_images
from tiny_run import save_run

from engine.errors import BaseModelError, ConfigError
from engine.manifest import Manifest
from engine.runner import prepare
from engine.spec import DatasetSpec, FineTuneSpec, TeacherName, TeacherSpec
from engine.storage import Storage
from engine.storage.base_model_identity import base_digest, local_parts
from engine.storage.publication import sha256_of
from engine.teachers import load_adapted, resolve_base_model
from engine.training.resume import check_planned_base, check_same_run

TINY = Path(__file__).parents[2] / "examples" / "tiny_teachers" / "grounding_dino"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return shutil.copytree(TINY, tmp_path / "base")


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values, indent=7))


def other_size(base: Path) -> None:
    edit(base / "preprocessor_config.json", lambda v: v["size"].update(shortest_edge=96))


CHANGES = {
    "preprocessor": other_size,
    "configuration": lambda base: edit(base / "config.json", lambda v: v.update(layer_norm_eps=0.5)),
    "tokenizer": lambda base: edit(base / "tokenizer.json", lambda v: v["normalizer"].update(lowercase=False)),
}


@pytest.mark.parametrize("part", CHANGES)
def test_a_changed_file_is_another_base(base: Path, part: str) -> None:
    before, digest = local_parts(base), base_digest(str(base), storage=Storage())
    CHANGES[part](base)
    after = local_parts(base)
    assert {name for name in after if after[name] != before[name]} == {part}
    assert base_digest(str(base), storage=Storage()) != digest


def test_what_means_the_same_is_the_same_base(base: Path) -> None:
    before = base_digest(str(base), storage=Storage())
    edit(base / "config.json", lambda v: v.update(transformers_version="99", torch_dtype="float16", _name_or_path="x"))
    (base / "README.md").write_text("of no importance")
    assert base_digest(str(base), storage=Storage()) == before
    (base / "preprocessor_config.json").unlink()
    assert base_digest(str(base), storage=Storage()) != before


def test_weights_are_read_once_in_a_process_unless_they_change(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def digest(file: Path) -> str:
        read.append(file)
        return sha256_of(file)

    monkeypatch.setattr("engine.storage.base_model_identity.sha256_of", digest)
    before = base_digest(str(base), storage=Storage())
    model = resolve_base_model(str(base), None, storage=Storage(), cache=base.parent / "cache")
    assert len(read) == 1
    weights = base / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert base_digest(str(base), storage=Storage()) != before
    assert resolve_base_model(str(base), None, storage=Storage(), cache=base.parent / "cache").sha256 != model.sha256
    assert len(read) == 2


def test_a_model_of_the_hub_and_one_that_is_missing_have_none(tmp_path: Path) -> None:
    assert base_digest("facebook/sam-vit-base", storage=Storage()) is None
    assert base_digest(str(tmp_path / "nothing"), storage=Storage()) is None


def test_a_base_in_s3_is_known_without_its_weights(base: Path, s3: str) -> None:
    storage = Storage()
    storage.upload_folder(base, f"{s3}/base")
    before = base_digest(f"{s3}/base/", storage=storage)
    assert before is not None
    assert base_digest(f"{s3}/base", storage=storage) == before
    other_size(base)
    storage.upload(base / "preprocessor_config.json", f"{s3}/base/preprocessor_config.json")
    changed = base_digest(f"{s3}/base", storage=storage)
    assert changed != before
    storage.write_bytes(f"{s3}/base/model.safetensors", b"other weights")
    assert base_digest(f"{s3}/base", storage=storage) not in (before, changed)


def test_another_base_is_another_run_and_a_planned_one_is_kept_to(base: Path, tmp_path: Path) -> None:
    coco = small_coco()
    images = write_images(tmp_path / "images", [image["file_name"] for image in coco["images"]])
    spec = FineTuneSpec(
        dataset=DatasetSpec(annotations=str(write(tmp_path / "a.json", coco)), images=str(images)),
        output=str(tmp_path / "out"),
        teachers=[TeacherSpec(name=TeacherName.GROUNDING_DINO, base_model=str(base))],
    )
    storage, request = Storage(), Manifest(name="n", spec=spec)
    _, (first,) = prepare(request, storage)
    _, (again,) = prepare(request, storage)
    assert again.config == first.config
    settings = first.config.teachers.grounding_dino
    assert settings is not None
    check_planned_base(str(base), settings.base_digest, storage=storage)
    other_size(base)
    _, (other,) = prepare(request, storage)
    assert other.config.run_id != first.config.run_id
    with pytest.raises(ConfigError, match="has changed since this run was planned"):
        check_planned_base(str(base), settings.base_digest, storage=storage)


def test_a_checkpoint_of_another_preprocessor_is_not_resumed(tmp_path: Path) -> None:
    then = {"base_sha256": "a", "base_parts": {"preprocessor": "1", "tokenizer": "2"}}
    check_same_run(tmp_path, then, then)
    with pytest.raises(ConfigError, match=r"base_parts\.preprocessor was '1' and is '3'"):
        check_same_run(tmp_path, then, {"base_sha256": "a", "base_parts": {"preprocessor": "3", "tokenizer": "2"}})
    check_same_run(tmp_path, {"base_sha256": "a"}, then)  # of an earlier version


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("run"), (TeacherName.GROUNDING_DINO,))


@pytest.mark.parametrize("part", CHANGES)
def test_an_adapter_is_refused_by_a_base_that_was_changed(base: Path, run: Path, part: str) -> None:
    load_adapted(run, base_model=str(base))
    CHANGES[part](base)
    with pytest.raises(BaseModelError, match=f"another {part} than .* has now, with the same weights"):
        load_adapted(run, base_model=str(base))


def test_an_adapter_of_an_earlier_version_is_loaded(base: Path, run: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(run / "teachers" / "grounding_dino_lora", tmp_path / "adapter")
    edit(copied / "teacher.json", lambda values: values.pop("base_parts"))
    other_size(base)
    load_adapted(copied, base_model=str(base))


def test_processes_compare_all_of_the_base(base: Path) -> None:
    before = resolve_base_model(str(base), None, storage=Storage(), cache=base)
    other_size(base)
    after = resolve_base_model(str(base), None, storage=Storage(), cache=base)
    assert (after.sha256, after.digest != before.digest) == (before.sha256, True)
