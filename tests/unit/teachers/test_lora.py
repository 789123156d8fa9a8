from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import safetensors.torch
import torch
from torch import nn
from toy import ToyModel, ToyTeacher, settings

from engine.config import LoraSettings
from engine.errors import BaseModelError
from engine.layout import ADAPTER_CARD
from engine.models.base import LoraTargets
from engine.models.lora import (
    AdapterCard,
    adapter_off,
    adapter_tensors,
    attach,
    load_adapter,
    load_adapter_tensors,
    merged,
    save_adapter,
    set_strength,
    set_training,
    trainable_parameters,
)
from engine.models.trained_modules import blend_trained_modules
from engine.spec import LoraPreset, TeacherName

INPUTS = torch.rand(5, 192, generator=torch.Generator().manual_seed(1))


def adapted(preset: LoraPreset = LoraPreset.ALL, rank: int = 4, dropout: float = 0.5) -> ToyTeacher:
    """A toy teacher whose adapter changes its outputs."""
    teacher = ToyTeacher()
    attach(teacher, LoraSettings(preset=preset, rank=rank, alpha=8, dropout=dropout))
    for name, parameter in trainable_parameters(teacher).items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return teacher


def card() -> AdapterCard:
    return AdapterCard(
        teacher=TeacherName.GROUNDING_DINO,
        base_revision="abc",
        base_sha256="0" * 64,
        classes=("red", "green"),
        prompts={},
        settings=settings(base_model="org/toy", lora=LoraSettings(preset=LoraPreset.ALL, rank=4, alpha=8, dropout=0.5)),
    )


def outputs(teacher: ToyTeacher) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat(teacher.model(INPUTS), dim=1)


def test_a_fresh_adapter_changes_nothing_and_only_it_can_be_trained() -> None:
    teacher = ToyTeacher()
    before = outputs(teacher)
    attach(teacher, LoraSettings(preset=LoraPreset.DECODER, rank=4, alpha=8, dropout=0))
    assert torch.equal(outputs(teacher), before)
    parameters = trainable_parameters(teacher)
    assert len(parameters) == 4  # A and B of box and label; the body is of another preset
    assert all("lora_" in name for name in parameters)
    assert sum(p.numel() for p in parameters.values()) == 4 * (64 + 4) + 4 * (64 + 2)


def test_saved_and_loaded_gives_the_same_outputs(tmp_path: Path) -> None:
    teacher, fresh = adapted(), ToyTeacher()
    save_adapter(teacher, tmp_path, card=card())
    load_adapter(fresh, tmp_path)
    assert torch.equal(outputs(fresh), outputs(teacher))
    other = adapted()
    load_adapter(other, tmp_path)
    assert torch.equal(outputs(other), outputs(teacher))


def test_peft_itself_loads_what_is_saved(tmp_path: Path) -> None:
    teacher = adapted()
    save_adapter(teacher, tmp_path, card=card())
    loaded = peft.PeftModel.from_pretrained(ToyTeacher().model, str(tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(loaded(INPUTS), dim=1), outputs(teacher), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_the_strength_is_part_of_the_files_and_the_same_for_all_who_read_them(tmp_path: Path, strength: float) -> None:
    teacher = adapted()
    with adapter_off(teacher):
        base = outputs(teacher)
    whole = outputs(teacher)
    set_strength(teacher, strength)
    save_adapter(teacher, tmp_path, card=card().model_copy(update={"strength": strength}))
    loaded = ToyTeacher()
    load_adapter(loaded, tmp_path)
    assert torch.equal(outputs(loaded), outputs(teacher))
    assert torch.equal(outputs(loaded), base) == (strength == 0)
    assert torch.equal(outputs(loaded), whole) == (strength == 1)
    read = peft.PeftModel.from_pretrained(ToyTeacher().model, str(tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(read(INPUTS), dim=1), outputs(teacher), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(torch.cat(merged(loaded)(INPUTS), dim=1), outputs(teacher), rtol=1e-5, atol=1e-5)
    again = adapted()
    load_adapter(again, tmp_path)
    assert torch.equal(outputs(again), outputs(teacher)), "into a teacher that has an adapter"


def test_an_alpha_that_contradicts_the_strength_is_refused(tmp_path: Path) -> None:
    save_adapter(adapted(), tmp_path, card=card().model_copy(update={"strength": 0.5}))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["lora_alpha"] == 4
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 8}))
    with pytest.raises(BaseModelError, match=r"lora_alpha is 8, and 4 in teacher\.json"):
        load_adapter(ToyTeacher(), tmp_path)


def test_files_hold_no_pickle_and_name_the_base_as_the_settings_do(tmp_path: Path) -> None:
    teacher = adapted()
    teacher.model.name_or_path = "/scratch/of/this/machine"
    save_adapter(teacher, tmp_path, card=card())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        ADAPTER_CARD,
    ]
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/toy"
    assert config["inference_mode"] is True
    assert "/scratch" not in (tmp_path / "adapter_config.json").read_text()
    safetensors.torch.load_file(tmp_path / "adapter_model.safetensors")
    assert AdapterCard.read(tmp_path) == card()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("base_model.model.box.lora_A.weight"), "the file has no tensor for .*box.lora_A.weight"),
        (lambda t: t.update({"base_model.model.old.lora_A.weight": torch.ones(2, 2)}), "no place for .*old.lora_A"),
        (
            lambda t: t.update({"base_model.model.box.lora_A.weight": torch.ones(4, 63)}),
            r"box.lora_A.weight has shape \(4, 63\), the model \(4, 64\)",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_by_name(tmp_path: Path, change: object, sentence: str) -> None:
    save_adapter(adapted(), tmp_path, card=card())
    tensors = safetensors.torch.load_file(tmp_path / "adapter_model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(BaseModelError, match=sentence) as refused:
        load_adapter(ToyTeacher(), tmp_path)
    assert peft.__version__ in str(refused.value)


def test_nothing_is_loaded_of_an_adapter_that_fits_in_part(tmp_path: Path) -> None:
    save_adapter(adapted(), tmp_path, card=card())
    tensors = safetensors.torch.load_file(tmp_path / "adapter_model.safetensors")
    del tensors["base_model.model.label.lora_B.weight"]
    safetensors.torch.save_file(tensors, tmp_path / "adapter_model.safetensors")
    teacher = adapted()
    before = outputs(teacher)
    with pytest.raises(BaseModelError):
        load_adapter(teacher, tmp_path)
    assert torch.equal(outputs(teacher), before)


def test_an_adapter_for_another_architecture_is_refused(tmp_path: Path) -> None:
    save_adapter(adapted(), tmp_path, card=card())
    teacher = ToyTeacher()
    teacher.model = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(BaseModelError, match="does not fit its base"):
        load_adapter(teacher, tmp_path)


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors", ADAPTER_CARD])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[1, 2]"])
def test_broken_files_are_a_sentence(tmp_path: Path, file: str, content: bytes | None) -> None:
    save_adapter(adapted(), tmp_path, card=card())
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(BaseModelError, match=str(tmp_path)):
        load_adapter(ToyTeacher(), tmp_path)


def test_merged_gives_what_the_adapter_gives_and_leaves_the_teacher_alone() -> None:
    teacher = adapted()
    before = outputs(teacher)
    model = merged(teacher)
    assert isinstance(model, ToyModel)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(model(INPUTS), dim=1), before)
    assert torch.equal(outputs(teacher), before)
    assert not torch.allclose(before, outputs(ToyTeacher()))


def test_switched_off_the_teacher_is_its_base() -> None:
    teacher = adapted()
    with adapter_off(teacher):
        assert torch.equal(outputs(teacher), outputs(ToyTeacher()))
    assert not torch.allclose(outputs(teacher), outputs(ToyTeacher()))


class PartlyWhole(ToyTeacher):
    """A teacher with one module that is trained completely."""

    def lora_targets(self, lora: LoraSettings) -> LoraTargets:
        return LoraTargets("body|label", trained_modules="box")


def partly_whole() -> PartlyWhole:
    teacher = PartlyWhole()
    attach(teacher, LoraSettings(preset=LoraPreset.ALL, rank=4, alpha=8, dropout=0.5))
    assert torch.equal(outputs(teacher), outputs(ToyTeacher())), "a copy changes nothing yet"
    trained = trainable_parameters(teacher)
    assert {name for name in trained if "lora_" not in name} == {
        f"base_model.model.box.modules_to_save.default.{one}" for one in ("weight", "bias")
    }
    for name, parameter in trained.items():
        if "lora_A" not in name:
            nn.init.normal_(parameter, std=0.3)
    return teacher


def test_a_completely_trained_module_is_saved_loaded_merged_and_switched_off(tmp_path: Path) -> None:
    teacher, fresh = partly_whole(), PartlyWhole()
    save_adapter(teacher, tmp_path, card=card())
    assert json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"] == ["box"]
    load_adapter(fresh, tmp_path)
    assert torch.equal(outputs(fresh), outputs(teacher))
    plain = peft.PeftModel.from_pretrained(ToyTeacher().model, str(tmp_path)).eval()
    for model in (merged(teacher), plain):
        with torch.no_grad():
            torch.testing.assert_close(torch.cat(model(INPUTS), dim=1), outputs(teacher), rtol=1e-5, atol=1e-5)
    with adapter_off(teacher):
        assert torch.equal(outputs(teacher), outputs(ToyTeacher()))
    names = json.loads((tmp_path / "adapter_config.json").read_text()) | {"target_modules": ["body", "label"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(names))
    with pytest.raises(BaseModelError, match="modules_to_save has 'box'"):
        load_adapter(ToyTeacher(), tmp_path)


def test_a_completely_trained_module_of_half_strength_is_saved_and_loaded(tmp_path: Path) -> None:
    teacher, fresh = partly_whole(), PartlyWhole()
    whole = outputs(teacher)
    set_strength(teacher, 0.5)
    assert not torch.allclose(outputs(teacher), whole)
    save_adapter(teacher, tmp_path, card=card().model_copy(update={"strength": 0.5}))
    load_adapter(fresh, tmp_path)
    assert torch.equal(outputs(fresh), outputs(teacher))
    plain = peft.PeftModel.from_pretrained(ToyTeacher().model, str(tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(plain(INPUTS), dim=1), outputs(teacher), rtol=1e-5, atol=1e-5)
    set_strength(teacher, 0)
    assert torch.equal(outputs(teacher), outputs(ToyTeacher()))
    set_strength(teacher, 1)
    assert torch.equal(outputs(teacher), whole)


def test_a_completely_trained_module_is_blended_with_its_base() -> None:
    teacher = partly_whole()
    trained = {name: tensor.clone() for name, tensor in adapter_tensors(teacher).items() if "lora_" not in name}
    base = {f"base_model.model.{name}": tensor for name, tensor in ToyTeacher().model.state_dict().items()}
    for strength in (0.25, 0.0, 1.0):
        blend_trained_modules(teacher.model, strength)
        for name, tensor in trained.items():
            expected = strength * tensor + (1 - strength) * base[name]
            torch.testing.assert_close(adapter_tensors(teacher)[name], expected)
    tensors = {name: tensor + 1 for name, tensor in adapter_tensors(teacher).items()}
    blend_trained_modules(teacher.model, 0.0)
    load_adapter_tensors(teacher, tensors, what="")
    blend_trained_modules(teacher.model, 1.0)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in adapter_tensors(teacher).items())


def test_in_training_only_the_adapter_drops_out() -> None:
    """The toy's own dropout is of 0.5: outputs that repeat show that it is off."""
    teacher = adapted(dropout=0)
    set_training(teacher, True)
    assert torch.equal(outputs(teacher), outputs(teacher))
    teacher = adapted(dropout=0.5)
    set_training(teacher, True)
    assert not torch.equal(outputs(teacher), outputs(teacher))
    set_training(teacher, False)
    assert torch.equal(outputs(teacher), outputs(teacher))


def test_tensors_share_memory_with_the_model() -> None:
    teacher = adapted()
    tensors = adapter_tensors(teacher)
    with torch.no_grad():
        trainable_parameters(teacher)["base_model.model.box.lora_A.default.weight"].fill_(7)
    assert (tensors["base_model.model.box.lora_A.weight"] == 7).all()
