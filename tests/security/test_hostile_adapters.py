"""An adapter of others is loaded as what it says it is, or refused by the name of what it cannot be."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from loops import nonempty
from safetensors.torch import load_file, save_file
from tiny_run import save_run
from transformers import SamModel

from engine.errors import BaseModelError
from engine.spec import TeacherName
from engine.teachers import adapter_off, load_adapted

TINY_SAM = Path(__file__).parents[2] / "examples" / "tiny_teachers" / "sam"
CONFIG, TENSORS, CARD = "adapter_config.json", "adapter_model.safetensors", "teacher.json"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("run"), (TeacherName.SAM,)) / "teachers" / "sam_lora"


@pytest.fixture
def copied(adapter: Path, tmp_path: Path) -> Path:
    return shutil.copytree(adapter, tmp_path / "sam_lora")


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_adapted(folder).model.state_dict()


@pytest.mark.parametrize(
    "changes",
    [
        *({"init_lora_weights": one} for one in ("olora", "pissa", "pissa_niter_4", "corda", "loftq", "eva", 1)),
        {"peft_type": "PREFIX_TUNING"},
        {"peft_type": "NOPE"},
        {"peft_type": ["LORA"]},
        {"arrow_config": {"top_k": 1}},
        {"use_dora": True},
        {"use_rslora": True},
        {"bias": "all"},
        {"lora_bias": True},
        {"fan_in_fan_out": True},
        {"modules_to_save": ["mask_decoder"]},
        {"modules_to_save": ["mask_decoder.transformer.layers.0.self_attn.q_proj"]},
        {"modules_to_save": ["upscale_conv1"]},
        {"modules_to_save": "mask_decoder.upscale_conv1"},
        {"modules_to_save": [["mask_decoder.upscale_conv1"]]},
        {"modules_to_save": {"mask_decoder.upscale_conv1": 1}},
        {"trainable_token_indices": [1]},
        {"rank_pattern": {"(.*)*!": 8}},
        {"alpha_pattern": {".*": 800}},
        {"layers_pattern": "(.*)*!"},
        {"layers_to_transform": [0]},
        {"exclude_modules": "(.*)*!"},
        {"target_parameters": ["a"]},
        {"megatron_config": {"a": 1}},
        {"megatron_core": "evil"},
        {"layer_replication": [[0, 4]]},
        {"loftq_config": {"loftq_bits": 4}},
        {"task_type": "CAUSAL_LM"},
        {"auto_mapping": {"base_model_class": "Evil", "parent_library": "evil"}},
        {"runtime_config": {"ephemeral_gpu_offload": True}},
        {"a_field_of_tomorrow": 1},
        {"target_modules": "(.*(.*(.*(.*(.*(.*(.*)*)*)*)*)*)*)*!"},
        {"target_modules": "all-linear"},
        {"target_modules": ".*"},
        {"target_modules": []},
        {"target_modules": None},
        {"target_modules": [["q_proj"]]},
        {"r": 8},
        {"r": 10**9},
        {"r": "4"},
        {"r": True},
        {"lora_alpha": 800},
        {"lora_alpha": "8"},
        {"lora_dropout": "x"},
        {"lora_dropout": 1},
        {"base_model_name_or_path": 7},
        {"revision": "x" * 5000},
    ],
)
def test_a_field_that_cannot_be_honoured_is_refused_by_name(copied: Path, changes: dict[str, Any]) -> None:
    edit(copied / CONFIG, **changes)
    begun = time.monotonic()
    with pytest.raises(BaseModelError, match=next(iter(changes))):
        load_adapted(copied)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"r": NaN}',
        b'{"r": 1, "r": 4}',
        b'{"a":' * 9000 + b"1" + b"}" * 9000,
        b" " * (2 << 20),
    ],
)
def test_a_configuration_that_is_no_json_object_is_refused(copied: Path, content: bytes) -> None:
    (copied / CONFIG).write_bytes(content)
    with pytest.raises(BaseModelError, match=CONFIG):
        load_adapted(copied)


def test_one_field_that_is_not_there_is_no_adapter(copied: Path) -> None:
    values = json.loads((copied / CONFIG).read_text())
    for name in ("r", "lora_alpha", "target_modules"):
        (copied / CONFIG).write_text(json.dumps({k: v for k, v in values.items() if k != name}))
        with pytest.raises(BaseModelError, match=name):
            load_adapted(copied)


def test_with_the_adapter_off_the_teacher_is_its_base(copied: Path) -> None:
    base = SamModel.from_pretrained(TINY_SAM).state_dict()
    teacher = load_adapted(copied)
    with adapter_off(teacher):
        for name, tensor in nonempty(teacher.model.get_base_model().state_dict().items()):
            if "lora_" not in name and "modules_to_save" not in name:
                assert torch.equal(tensor, base[name.replace(".base_layer", "").replace(".original_module", "")]), name


def test_names_of_modules_or_of_their_ends_are_taken_as_names(adapter: Path, copied: Path) -> None:
    names = {
        name.removeprefix("base_model.model.").partition(".lora_")[0]
        for name in load_file(adapter / TENSORS)
        if ".lora_" in name
    }
    expected = weights(adapter)
    ends = ["q_proj", "k_proj", "v_proj", "out_proj", "qkv", "attn.proj", "lin1", "lin2", "proj_in", "proj_out"]
    ends += ["neck.conv1", "neck.conv2", "iou_prediction_head.layers.0"]
    for targets in (sorted(names), ends):
        edit(copied / CONFIG, target_modules=targets)
        if targets is not None and "proj_in" in targets:
            targets = [one for one in targets if not one.startswith("proj_")]
            whole = (n for n in names if n.endswith(("proj_in", "proj_out")) or "hypernetworks" in n)
            edit(copied / CONFIG, target_modules=[*targets, *whole])
        found = weights(copied)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    edit(copied / CONFIG, target_modules=sorted(names)[1:])
    with pytest.raises(BaseModelError, match="no place for"):
        load_adapted(copied)


def test_what_plain_peft_has_saved_again_is_loaded(adapter: Path, copied: Path) -> None:
    plain = peft.PeftModel.from_pretrained(SamModel.from_pretrained(TINY_SAM), str(adapter))
    plain.save_pretrained(str(copied))
    assert json.loads((copied / CONFIG).read_text())["auto_mapping"]["base_model_class"] == "SamModel"
    expected, found = weights(adapter), weights(copied)
    assert all(torch.equal(found[name], expected[name]) for name in nonempty(expected))


def test_an_adapter_of_an_earlier_version_is_loaded(copied: Path) -> None:
    """It adapted only the transformers: neither heads nor neck, and no module completely."""
    config = json.loads((copied / CONFIG).read_text())
    earlier = (
        r"mask_decoder\.transformer\.(\w+\.)*(q|k|v|out)_proj|vision_encoder\.layers\.\d+\.attn\.qkv"
        r"|vision_encoder\.layers\.\d+\.(attn\.proj|mlp\.lin[12])|mask_decoder\.transformer\.layers\.\d+\.mlp\.lin[12]"
    )
    assert earlier != config["target_modules"]
    edit(copied / CONFIG, target_modules=earlier, modules_to_save=None)
    later = ("iou_prediction_head", "hypernetworks", "neck", "layer_norm", "upscale", "mask_tokens", "iou_token")
    tensors = {name: one for name, one in load_file(copied / TENSORS).items() if not any(one in name for one in later)}
    save_file(tensors, copied / TENSORS)
    adapted = {name for name in weights(copied) if "lora_" in name or "modules_to_save" in name}
    assert adapted
    assert not any(one in name for name in adapted for one in later)


def header(size: int, content: bytes = b"{}") -> bytes:
    return size.to_bytes(8, "little") + content


def change(**tensors: torch.Tensor | None) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        found = load_file(file)
        first = next(name for name in found if "lora_A" in name)
        for kind, tensor in tensors.items():
            key = {"first": first}.get(kind, kind)
            if tensor is None:
                del found[key]
            else:
                found[key] = tensor.expand_as(found[key]).contiguous() if key in found else tensor
        save_file(found, file)

    return write


HUGE = json.dumps({"a": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(header(2**63)),
        lambda file: file.write_bytes(header(200 << 20)),
        lambda file: file.write_bytes(header(2, b"[]")),
        lambda file: file.write_bytes(header(len(HUGE), HUGE + b"0000")),
        lambda file: file.write_bytes(file.read_bytes()[:-100]),
        lambda file: file.write_bytes(file.read_bytes() + b"0"),
        lambda file: file.unlink(),
        change(first=torch.tensor(float("nan"))),
        change(first=torch.tensor(float("inf"))),
        change(first=torch.tensor(1, dtype=torch.int64)),
        change(first=None),
        change(more=torch.zeros(3)),
    ],
)
def test_tensors_that_are_not_those_of_an_adapter_are_refused(copied: Path, damage: Callable[[Path], None]) -> None:
    damage(copied / TENSORS)
    with pytest.raises(BaseModelError):
        load_adapted(copied)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"teacher": "Dino"}, "'Dino' is not allowed"),
        ({"teacher": "GroundingDino"}, "settings are not those of GroundingDino"),
        ({"classes": "a"}, "classes"),
        ({"classes": [1]}, r"classes.0"),
        ({"base_sha256": None}, "base_sha256"),
        ({"settings": {}}, "settings"),
        ({"prompts": []}, "prompts"),
    ],
)
def test_a_card_that_says_nothing_of_use_is_refused_by_field(
    copied: Path, changes: dict[str, Any], complaint: str
) -> None:
    edit(copied / CARD, **changes)
    with pytest.raises(BaseModelError, match=complaint) as refused:
        load_adapted(copied)
    assert "pydantic" not in str(refused.value)


def test_a_card_without_end_is_not_read_whole(copied: Path) -> None:
    with (copied / CARD).open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(BaseModelError, match="is it another file"):
        load_adapted(copied)
