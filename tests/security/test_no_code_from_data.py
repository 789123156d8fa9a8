"""Nothing that is read can run code: no pickle, no code of a model's own, no YAML that makes objects."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import grounding_dino_settings
from tiny_run import save_run
from tiny_sam import sam_settings
from toy import write_toy_base

from engine.errors import TeacherError
from engine.spec import TeacherName
from engine.storage import Storage
from engine.teachers import load_adapted, load_teacher
from engine.training.checkpoint import checkpoint_name, load_checkpoint

ROOT = Path(__file__).parents[2]
TINY_SAM = ROOT / "examples" / "tiny_teachers" / "sam"
OURS = [path for folder in ("engine", "operator") for path in (ROOT / folder).rglob("*.py")]

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load"), ("pd", "read_pickle"), ("os", "system")}


def faults(path: Path) -> Iterator[str]:
    """What could run what it reads."""
    for node in ast.walk(ast.parse(path.read_text())):
        where = f"{path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import) and MODULES & {one.name.partition(".")[0] for one in node.names}:
            yield f"{where} imports a module that runs what it reads"
        from_one = isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES
        if from_one and {one.name for one in node.names} != {"UnpicklingError"}:
            yield f"{where} imports from a module that runs what it reads"
        if not isinstance(node, ast.Call):
            continue
        keywords = {word.arg: word.value for word in node.keywords}
        if isinstance(node.func, ast.Name) and node.func.id in CALLS:
            yield f"{where} calls {node.func.id}"
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            named = node.func.value.id, node.func.attr
            if named in METHODS:
                yield f"{where} calls {'.'.join(named)}"
            if named == ("torch", "load") and not _is(keywords.get("weights_only"), True):
                yield f"{where} calls torch.load without weights_only=True"
            if named == ("np", "load") and not _is(keywords.get("allow_pickle"), False):
                yield f"{where} calls np.load without allow_pickle=False"
        for name, wanted in (("trust_remote_code", False), ("allow_pickle", False), ("shell", False)):
            if name in keywords and not _is(keywords[name], wanted):
                yield f"{where} sets {name}"


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_no_code_of_ours_reads_what_could_run() -> None:
    assert len(OURS) > 100
    assert [fault for path in OURS for fault in faults(path)] == []


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    lines = ["import pickle", "torch.load(f)", "yaml.load(f)", "np.load(f)", "eval(s)", "load(trust_remote_code=True)"]
    file = tmp_path / "bad.py"
    file.write_text("\n".join(lines))
    assert len(list(faults(file))) == len(lines)


class Payload:
    """Whoever unpickles it creates the file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Path]:
    trace = tmp_path / "it was run"
    yield trace
    assert not trace.exists(), "code from data was run"


def test_the_payload_works(tmp_path: Path) -> None:
    torch.save(Payload(tmp_path / "run"), tmp_path / "x.pth")
    torch.load(tmp_path / "x.pth", weights_only=False)
    assert (tmp_path / "run").exists()


def write_pickles(folder: Path, trace: Path, *names: str) -> None:
    for name in names:
        torch.save({"model": Payload(trace)}, folder / name)


@pytest.mark.parametrize("name", [TeacherName.GROUNDING_DINO, TeacherName.SAM])
def test_a_base_model_of_pickles_is_refused(tmp_path: Path, trace: Path, name: TeacherName) -> None:
    folder = write_toy_base(tmp_path / "base")
    (folder / "model.safetensors").unlink()
    write_pickles(folder, trace, "pytorch_model.bin", "model.safetensors.bin", "training_args.bin")
    settings = (sam_settings if name is TeacherName.SAM else grounding_dino_settings)(base_model=str(folder))
    with pytest.raises(TeacherError, match="pickle files are refused"):
        load_teacher(name, settings, classes=("a",), prompts={}, storage=Storage(), cache=tmp_path / "cache")


@pytest.mark.parametrize("file", ["model.safetensors", "sam.pth"])
def test_a_pickle_under_another_name_is_refused(tmp_path: Path, trace: Path, file: str) -> None:
    folder = shutil.copytree(TINY_SAM, tmp_path / "base")
    write_pickles(folder, trace, file)
    base = str(folder / file) if file.endswith(".pth") else str(folder)
    with pytest.raises(TeacherError):
        load_teacher(
            TeacherName.SAM,
            sam_settings(base_model=base),
            classes=("a",),
            prompts={},
            storage=Storage(),
            cache=tmp_path / "cache",
        )


@pytest.mark.parametrize("shard", ["evil.bin", "../outside.safetensors", "/outside.safetensors", "model.bin", 7])
def test_an_index_that_names_what_is_no_shard_is_refused(tmp_path: Path, trace: Path, shard: object) -> None:
    folder = shutil.copytree(TINY_SAM, tmp_path / "base")
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    write_pickles(folder, trace, "evil.bin", "model.bin")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(TeacherError, match="which is not a file model"):
        load_teacher(
            TeacherName.SAM,
            sam_settings(base_model=str(folder)),
            classes=("a",),
            prompts={},
            storage=Storage(),
            cache=tmp_path / "cache",
        )


def test_a_base_model_that_brings_code_of_its_own_is_not_run(tmp_path: Path, trace: Path) -> None:
    folder = write_toy_base(tmp_path / "base")
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    brings = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoProcessor": "evil.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": brings}))
    for name in ("preprocessor_config.json", "tokenizer_config.json"):
        (folder / name).write_text(json.dumps({"auto_map": brings}))
    for name, settings in ((TeacherName.SAM, sam_settings), (TeacherName.GROUNDING_DINO, grounding_dino_settings)):
        with pytest.raises(TeacherError):
            load_teacher(
                name,
                settings(base_model=str(folder)),
                classes=("a",),
                prompts={},
                storage=Storage(),
                cache=tmp_path / "cache",
            )


def test_an_adapter_that_is_a_pickle_is_refused(tmp_path: Path, trace: Path) -> None:
    run = save_run(tmp_path / "run", (TeacherName.SAM,))
    write_pickles(run / "teachers" / "sam_lora", trace, "adapter_model.safetensors", "adapter_model.bin")
    with pytest.raises(TeacherError):
        load_adapted(run)


def test_a_checkpoint_that_is_a_pickle_is_none(tmp_path: Path, trace: Path) -> None:
    write_pickles(tmp_path, trace, checkpoint_name(3))
    assert load_checkpoint(tmp_path) is None
