"""Layers that compute what the library's compute, in another order: outputs and gradients are the same."""

from typing import Any

import peft
import pytest
import torch
from tiny import BASE
from torch import nn
from transformers import GroundingDinoForObjectDetection
from transformers.models.grounding_dino.modeling_grounding_dino import MultiScaleDeformableAttention
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig
from transformers.models.sam.modeling_sam import SamAttention

from engine.models.fast import SWITCH, deformable_attention
from engine.models.fast.deformable_attention import keep_only_inputs
from engine.models.fast.lora_linear import fuse_lora_linears
from engine.spec import LoraPreset
from engine.teachers.grounding_dino.cross_attention import reorder_cross_attention as reorder_fusion
from engine.teachers.grounding_dino.lora_presets import PRESETS
from engine.teachers.sam.cross_attention import reorder_cross_attention as reorder_prompts

SHORT, LONG = 5, 60
"""Tokens: few beside the model's width, and so many that nothing is saved."""


def linears(*, dropout: float = 0.0) -> tuple[nn.Module, nn.Module]:
    """The same two adapted layers, as PEFT computes them and in one pass."""
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 7, bias=False))
        config = peft.LoraConfig(
            r=3, lora_alpha=5, lora_dropout=dropout, target_modules=["0", "2"], init_lora_weights=False
        )
        models.append(peft.get_peft_model(plain, config))
    fuse_lora_linears(models[1])
    return models[0], models[1]


def gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("of_input", [True, False])
def test_lora_in_one_pass_gives_what_peft_gives(of_input: bool) -> None:
    rows = torch.randn(2, 9, 12)
    outputs, found, inputs = [], [], []
    for model in linears():
        x = rows.clone().requires_grad_(of_input)
        y = model(x)
        outputs.append(y)
        found.append(gradients(model, (y * torch.arange(7)).sum()))
        inputs.append(x.grad)
    torch.testing.assert_close(outputs[0], outputs[1])
    assert found[0].keys() == found[1].keys()
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(inputs[0], inputs[1])


def test_16_bit_keeps_a_small_update_of_a_large_weight() -> None:
    rows = torch.randn(64, 12)
    whole, fast = linears()
    for model in (whole, fast):
        with torch.no_grad():
            layer = model.base_model.model[0]
            layer.base_layer.weight.mul_(100)
            layer.lora_B["default"].weight.mul_(1e-2)
    layer = fast.base_model.model[0]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        seen = layer(rows).float()
        with whole.disable_adapter():
            without = whole.base_model.model[0](rows).float()
        told = whole.base_model.model[0](rows).float()
    assert seen.dtype == torch.float32
    torch.testing.assert_close(seen - without, told - without, rtol=0.1, atol=4.0)  # steps of bfloat16 at 500
    with torch.no_grad():
        exact = whole.base_model.model[0](rows)
    assert (seen - exact).norm() < 1.1 * (told - exact).norm() + 1e-6


def test_the_switched_off_and_the_merged_adapter_are_those_of_peft() -> None:
    rows = torch.randn(4, 12)
    whole, fast = linears()
    with whole.disable_adapter(), fast.disable_adapter():
        torch.testing.assert_close(whole(rows), fast(rows))
    expected = whole(rows)
    torch.testing.assert_close(fast.merge_and_unload()(rows), expected)


def test_what_is_dropped_before_the_update_is_dropped_here_too() -> None:
    rows = torch.randn(4, 12)
    outputs = []
    for model in linears(dropout=0.5):
        model.train()
        torch.manual_seed(3)
        outputs.append(model(rows))
    assert torch.equal(outputs[0], outputs[1])


def detectors(preset: LoraPreset) -> tuple[nn.Module, nn.Module]:
    """The tiny Grounding DINO with an adapter, as the library computes it and faster."""
    models = []
    for _ in range(2):
        model = GroundingDinoForObjectDetection.from_pretrained(BASE).requires_grad_(False)
        model.model.get_input_embeddings = model.model.text_backbone.get_input_embeddings
        torch.manual_seed(0)
        config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=PRESETS[preset], init_lora_weights=False)
        models.append(peft.get_peft_model(model, config).eval())
        for name, parameter in model.named_parameters():
            if name.endswith(("vision_param", "text_param")):
                parameter.data.fill_(0.3)  # else image and words hardly touch
    fuse_lora_linears(models[1])
    reorder_fusion(models[1])
    keep_only_inputs(models[1])
    return models[0], models[1]


@pytest.mark.parametrize("tokens", [SHORT, LONG])
@pytest.mark.parametrize("preset", [LoraPreset.DECODER, LoraPreset.ALL])
def test_a_faster_detector_sees_and_learns_the_same(preset: LoraPreset, tokens: int) -> None:
    torch.manual_seed(1)
    pixels, mask = torch.randn(2, 3, 96, 96), torch.ones(2, 96, 96, dtype=torch.long)
    mask[0, :, 70:] = 0
    ids = torch.randint(2000, 2010, (2, tokens)) % 50 + 5
    attention = torch.ones(2, tokens, dtype=torch.long)
    attention[1, tokens // 2 :] = 0
    seen, found = [], []
    for model in detectors(preset):
        outputs = model(pixel_values=pixels, pixel_mask=mask, input_ids=ids, attention_mask=attention)
        parts = (
            outputs.encoder_last_hidden_state_vision,
            outputs.encoder_last_hidden_state_text[attention.bool()],
            outputs.intermediate_hidden_states,
        )
        seen.append([part.detach() for part in parts])
        found.append(gradients(model, sum((part * torch.linspace(-1, 1, part.shape[-1])).sum() for part in parts)))
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-4, atol=1e-4)
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert (found[1][name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-4, name


@pytest.mark.parametrize("way", [deformable_attention.read, deformable_attention.map_by_map])
def test_deformable_attention_keeps_nothing_but_its_inputs(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deformable_attention, "read", way)
    shapes, heads, width, points, queries = [(6, 9), (3, 5)], 4, 8, 3, 50
    places = sum(h * w for h, w in shapes)
    torch.manual_seed(0)
    inputs = [
        torch.randn(2, places, heads, width, dtype=torch.float32),
        torch.rand(2, queries, heads, len(shapes), points, 2) * 1.2 - 0.1,  # some outside
        torch.rand(2, queries, heads, len(shapes), points),
    ]
    outputs, found, kept = [], [], []
    plain, fast = MultiScaleDeformableAttention(), MultiScaleDeformableAttention()
    keep_only_inputs(fast)
    for layer in (plain, fast):
        value, at, weights = (part.clone().requires_grad_() for part in inputs)
        saved: dict[int, int] = {}

        def count(tensor: torch.Tensor, saved: dict[int, int] = saved) -> torch.Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            result = layer(value, torch.tensor(shapes), shapes, torch.tensor([0, 54]), at, weights, 64)
        (result * torch.linspace(-1, 1, heads * width)).sum().backward()
        outputs.append(result.detach())
        found.append([value.grad, at.grad, weights.grad])
        kept.append(sum(saved.values()))
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(found[0], found[1])
    assert kept[1] <= sum(part.numel() * 4 for part in inputs) < kept[0]


def test_places_on_the_edge_of_a_map_and_far_outside_are_read_as_the_library_reads_them() -> None:
    shapes, heads, width = [(4, 6), (1, 1), (3, 2)], 2, 5
    at = torch.tensor([-1e6, -1.0, -0.125, 0.0, 0.125, 0.5, 0.875, 1.0, 1.125, 2.0, 1e6])
    places = torch.cartesian_prod(at, at)[None, :, None, None, None].expand(3, -1, heads, len(shapes), 1, -1)
    value = torch.randn(3, sum(h * w for h, w in shapes), heads, width)
    weights = torch.rand(places.shape[:-1])
    expected = deformable_attention.map_by_map(value, places, weights, shapes)
    torch.testing.assert_close(deformable_attention.read(value, places, weights, shapes), expected)
    assert expected.abs().max() > 0.1


@pytest.mark.parametrize("heads", [1, 4])
def test_what_is_no_number_is_read_and_told(heads: int) -> None:
    value, places, weights = (
        torch.randn(1, 7, heads, 8),
        torch.rand(1, 3, heads, 1, 2, 2),
        torch.rand(1, 3, heads, 1, 2),
    )
    places[0, 1, 0, 0, 0, 0] = torch.nan
    places.requires_grad_()
    seen = deformable_attention.read(value, places, weights, [(7, 1)])
    assert seen.isnan().view(3, heads, 8)[1, 0].all()
    assert seen.isnan().sum() == 8
    seen.sum().backward()
    assert places.grad is not None
    assert places.grad[0, 1, 0].isnan().any()
    assert not places.grad[0, 0].isnan().any()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("queries", [7, 40])
def test_prompts_and_image_see_of_each_other_what_they_do_in_the_library(queries: int, dropout: float) -> None:
    layers = []
    for _ in range(2):
        torch.manual_seed(0)
        layer = nn.Sequential(
            SamAttention(SamMaskDecoderConfig(hidden_size=64, num_attention_heads=4), downsample_rate=1)
        )
        config = peft.LoraConfig(r=3, lora_dropout=dropout, target_modules=".*_proj", init_lora_weights=False)
        layers.append(peft.get_peft_model(layer, config).train())
    reorder_prompts(layers[1])
    tokens, image, shown = torch.randn(3, 1, queries, 64), torch.randn(3, 1, 30, 64), torch.randn(3, 1, 30, 64)
    for sides in ((tokens, image, shown), (image, tokens, tokens + 1)):
        seen, found = [], []
        for model in layers:
            inputs = [side.clone().requires_grad_() for side in sides]
            torch.manual_seed(5)
            output, _ = model.base_model.model[0](query=inputs[0], key=inputs[1], value=inputs[2])
            model.zero_grad()
            learned = gradients(model, (output * torch.linspace(-1, 1, 64)).sum())
            seen.append(output.detach())
            found.append({**learned, **{str(i): side.grad for i, side in enumerate(inputs)}})
        torch.testing.assert_close(seen[0], seen[1], rtol=1e-4, atol=1e-5)
        assert found[0].keys() == found[1].keys()
        torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


def test_16_bit_keeps_small_updates_where_tokens_come_first() -> None:
    """An update of a fiftieth of a percent, which the weight itself would swallow."""
    errors = []
    for fast in (False, True):
        torch.manual_seed(0)
        layer = nn.Sequential(
            SamAttention(SamMaskDecoderConfig(hidden_size=64, num_attention_heads=4), downsample_rate=1)
        )
        model = peft.get_peft_model(layer, peft.LoraConfig(r=3, target_modules=".*(q|k)_proj", init_lora_weights=False))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.mul_(2e-3)
        if fast:
            reorder_prompts(model)
        torch.manual_seed(4)
        tokens, shown = torch.randn(1, 1, 7, 64), torch.randn(1, 1, 90, 64)

        def scores(
            *, bfloat16: bool, model: nn.Module = model, a: torch.Tensor = tokens, b: torch.Tensor = shown
        ) -> torch.Tensor:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                return model.base_model.model[0](query=a, key=b, value=b)[0].float()

        errors.append(float((scores(bfloat16=True) - scores(bfloat16=False)).norm()))
    assert errors[1] <= 1.3 * errors[0]


def test_one_switch_turns_all_faster_layers_off(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = detectors(LoraPreset.ALL)
    assert {type(module).__name__ for module in fast.modules() if "forward" in vars(module)} == {
        "GroundingDinoBiMultiHeadAttention",
        "Linear",
        "MultiScaleDeformableAttention",
    }
    monkeypatch.setenv(SWITCH, "0")
    _, plain = detectors(LoraPreset.ALL)
    sam = nn.Sequential(SamAttention(SamMaskDecoderConfig(hidden_size=64, num_attention_heads=4), downsample_rate=1))
    reorder_prompts(sam)
    assert not any("forward" in vars(module) for model in (plain, sam) for module in model.modules())
