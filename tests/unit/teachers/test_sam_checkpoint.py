from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from loops import nonempty
from segment_anything import SamPredictor, sam_model_registry
from tiny_sam import IMAGE_SIZE, original_sam, random_sam, sam_settings, save_sam, scene
from torch import nn
from transformers import SamModel

from engine.config import LoraSettings
from engine.errors import BaseModelError
from engine.models.lora import attach, merged, trainable_parameters
from engine.spec import LoraPreset
from engine.teachers.sam.checkpoint import convert_original, export_original, original_names
from engine.teachers.sam.model import Sam


class Payload:
    """Pickled code: whoever unpickles it carelessly creates the file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


def disturb(teacher: Sam) -> None:
    """Make a fresh adapter change something."""
    for name, parameter in trainable_parameters(teacher).items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
        elif "modules_to_save" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)


def test_a_converted_checkpoint_answers_as_segment_anything_does(tmp_path: Path) -> None:
    model, original = SamModel.from_pretrained(save_sam(tmp_path)).eval(), original_sam()
    pixels = torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    boxes = torch.tensor([[5.0, 7, 40, 50], [20, 20, 60, 30]])
    points = torch.tensor([[[10.0, 12]], [[33, 60]]])
    labels = torch.tensor([[1], [0]])
    prompts = {"boxes": (None, boxes), "points": ((points, labels), None), "both": ((points, labels), boxes)}
    for point, box in prompts.values():
        for multimask in (False, True):
            with torch.no_grad():
                embedding = original.image_encoder(pixels)
                sparse, dense = original.prompt_encoder(points=point, boxes=box, masks=None)
                logits, ious = original.mask_decoder(
                    image_embeddings=embedding,
                    image_pe=original.prompt_encoder.get_dense_pe(),
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=multimask,
                )
                seen = model(
                    pixel_values=pixels,
                    input_points=None if point is None else point[0][None],
                    input_labels=None if point is None else point[1][None],
                    input_boxes=None if box is None else box[None],
                    multimask_output=multimask,
                )
            assert logits.std() > 0.01, "a model that says nothing agrees with any other"
            torch.testing.assert_close(seen.pred_masks[0], logits, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(seen.iou_scores[0], ious, atol=1e-5, rtol=1e-4)


def test_sizes_follow_from_shapes(tmp_path: Path) -> None:
    config = SamModel.from_pretrained(save_sam(tmp_path)).config
    vision, decoder = config.vision_config, config.mask_decoder_config
    assert (vision.image_size, vision.patch_size, vision.window_size) == (64, 8, 3)
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (24, 3, 2)
    assert list(vision.global_attn_indexes) == [1]
    assert (decoder.hidden_size, decoder.mlp_dim, decoder.num_hidden_layers) == (32, 40, 2)
    assert (decoder.iou_head_depth, decoder.iou_head_hidden_dim, decoder.num_multimask_outputs) == (4, 20, 3)


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_every_published_size_has_a_place_for_every_tensor(name: str) -> None:
    from engine.teachers.sam.checkpoint import _config

    with torch.device("meta"):
        tensors = sam_model_registry[name]().state_dict()
        model = SamModel(_config(tensors))
    names = original_names(model)
    assert set(names.values()) == set(tensors)
    assert all(tensor.shape == tensors[names[name]].shape for name, tensor in nonempty(model.state_dict().items()))


def test_a_tuned_teacher_exported_answers_in_sam_predictor_as_itself(tmp_path: Path) -> None:
    teacher, sample = random_sam(tmp_path), scene(4)
    before = teacher.predict([sample])[0]
    attach(teacher, LoraSettings(preset=LoraPreset.ALL, rank=4, alpha=8, dropout=0))
    disturb(teacher)
    export_original(merged(teacher), tmp_path / "tuned.pth")

    original = original_sam()
    original.load_state_dict(torch.load(tmp_path / "tuned.pth", weights_only=True))
    predictor = SamPredictor(original)
    predictor.set_image(sample.image)
    boxes = predictor.transform.apply_boxes_torch(torch.from_numpy(sample.boxes_xyxy), sample.image.shape[:2])
    masks, ious, _ = predictor.predict_torch(None, None, boxes=boxes, multimask_output=False)

    from pycocotools import mask as coco_mask

    seen = teacher.predict([sample])[0]
    assert len(seen) > 0
    assert not np.allclose(seen.scores, before.scores), "the adapter changed nothing, so the export may lack it"
    for rle, score, prompt in zip(seen.masks, seen.scores, seen.prompt_indices, strict=True):
        different = coco_mask.decode(rle).astype(bool) ^ masks[prompt, 0].numpy()
        assert different.mean() < 1e-3
        assert score == pytest.approx(float(ious[prompt, 0].clamp(0, 1)), abs=1e-4)


def test_exporting_what_was_converted_gives_back_every_tensor(tmp_path: Path) -> None:
    model = SamModel.from_pretrained(save_sam(tmp_path))
    export_original(model, tmp_path / "back.pth")
    tensors = torch.load(tmp_path / "back.pth", weights_only=True)
    expected = original_sam().state_dict()
    assert set(tensors) == set(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())


def test_a_pickle_of_code_is_refused_and_its_code_does_not_run(tmp_path: Path) -> None:
    torch.save({"weight": Payload(tmp_path / "trace")}, tmp_path / "evil.pth")
    with pytest.raises(BaseModelError, match="never run"):
        convert_original(tmp_path / "evil.pth", tmp_path / "out")
    assert not (tmp_path / "trace").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a file"])
def test_a_damaged_file_is_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.pth").write_bytes(content)
    with pytest.raises(BaseModelError, match=r"broken\.pth"):
        convert_original(tmp_path / "broken.pth", tmp_path / "out")


def without_a_tensor(tensors: dict[str, torch.Tensor]) -> object:
    del tensors["mask_decoder.iou_token.weight"]
    return tensors


def with_one_more(tensors: dict[str, torch.Tensor]) -> object:
    return tensors | {"image_encoder.extra": torch.zeros(1)}


def with_a_wrong_shape(tensors: dict[str, torch.Tensor]) -> object:
    return tensors | {"mask_decoder.mask_tokens.weight": torch.zeros(4, 7)}


def of_another_model(tensors: dict[str, torch.Tensor]) -> object:
    return {"weight": torch.zeros(3)}


def a_list(tensors: dict[str, torch.Tensor]) -> object:
    return list(tensors.values())


@pytest.mark.parametrize("change", [without_a_tensor, with_one_more, with_a_wrong_shape, of_another_model, a_list])
def test_tensors_that_are_not_those_of_a_sam_are_refused(tmp_path: Path, change) -> None:
    torch.save(change(dict(original_sam().state_dict())), tmp_path / "other.pth")
    with pytest.raises(BaseModelError, match=r"other\.pth.*segment-anything"):
        convert_original(tmp_path / "other.pth", tmp_path / "out")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"no file .*gone\.pth"):
        convert_original(tmp_path / "gone.pth", tmp_path / "out")


@pytest.mark.slow
def test_vit_b_goes_through_the_registry_and_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = sam_model_registry["vit_b"]()
    for parameter in original.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    torch.save(original.state_dict(), tmp_path / "vit_b.pth")
    convert_original(tmp_path / "vit_b.pth", tmp_path / "sam")
    teacher = Sam.load(tmp_path / "sam", classes=("a",), prompts={}, settings=sam_settings())
    export_original(teacher.model, tmp_path / "back.pth")
    predictor = SamPredictor(sam_model_registry["vit_b"](checkpoint=tmp_path / "back.pth"))

    sample = scene(2, size=(300, 400))
    predictor.set_image(sample.image)
    _, ious, low = predictor.predict(box=sample.boxes_xyxy[0], multimask_output=False)
    geometry = teacher.transform.plan(300, 400)
    boxes = torch.from_numpy(geometry.to_model(sample.boxes_xyxy[:1]))
    with torch.no_grad():
        embedding = teacher._embed({"pixel_values": torch.from_numpy(teacher.transform.image(sample.image))[None]})
        logits, seen = teacher._decode(embedding, boxes=boxes)
    assert low.std() > 0.01
    np.testing.assert_allclose(logits[0].numpy(), low, atol=1e-3)
    np.testing.assert_allclose(seen[0].numpy(), ious, atol=1e-4)
