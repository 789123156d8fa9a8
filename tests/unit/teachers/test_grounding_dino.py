from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from loops import nonempty
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import (
    BASE,
    KINDS,
    grounding_dino_settings,
    noise,
    random_grounding_dino,
    random_teacher,
    save_grounding_dino,
)
from torch import nn
from transformers import AutoTokenizer, GroundingDinoConfig, GroundingDinoForObjectDetection, SamConfig

from engine.config import LoraSettings
from engine.dataset.images.preprocessing import from_cxcywh_normalized
from engine.dataset.types import Sample
from engine.errors import BaseModelError, ConfigError
from engine.models.lora import adapter_off, attach, merged, trainable_parameters
from engine.models.registry import REGISTRY
from engine.spec import LoraPreset, TeacherName
from engine.teachers.grounding_dino.batch import canvas
from engine.teachers.grounding_dino.layer_predictions import proposals, stack
from engine.teachers.grounding_dino.lora_presets import PRESETS
from engine.teachers.grounding_dino.loss import Targets, detection_losses
from engine.teachers.grounding_dino.model import GroundingDino

BOX, BOX_2 = (10.0, 10.0, 40.0, 50.0), (0.0, 20.0, 30.0, 64.0)


@pytest.fixture(scope="module")
def teacher() -> GroundingDino:
    return random_teacher()


def batch_loss(teacher: GroundingDino, samples, *, count: float = 2.0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    return teacher.loss(teacher.collate([teacher.example(s, rng) for s in samples]), count=count)


def disturb(teacher: GroundingDino) -> None:
    """Make a fresh adapter change something."""
    for name, parameter in trainable_parameters(teacher).items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)


def test_the_teacher_is_known_by_its_name() -> None:
    assert REGISTRY[TeacherName.GROUNDING_DINO] is GroundingDino


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_is_loaded_frozen_in_eval_mode_and_without_dropout(tmp_path, kind) -> None:
    folder = save_grounding_dino(tmp_path, random_grounding_dino(kind, dropout=0.1), shortest_edge=64, longest_edge=128)
    loaded = KINDS[kind][2].load(folder, classes=["a"], prompts={}, settings=grounding_dino_settings())
    assert type(loaded.model) is KINDS[kind][1]
    assert loaded.model.config.dropout == 0
    assert loaded.transform.shortest_edge == 64
    assert loaded.transform.longest_edge == 128
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert not loaded.model.training


def test_images_are_800_by_1333_where_the_base_says_nothing(tmp_path) -> None:
    folder = save_grounding_dino(tmp_path, random_grounding_dino())
    loaded = GroundingDino.load(folder, classes=["a"], prompts={}, settings=grounding_dino_settings())
    assert (loaded.transform.shortest_edge, loaded.transform.longest_edge) == (800, 1333)


def no_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def another_model(folder: Path) -> None:
    SamConfig().save_pretrained(folder)


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def broken_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\0" * 100)


def missing_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.decoder.layers.0.fc1.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (no_folder, "has no config.json"),
        (another_model, "'sam' model, not one of grounding-dino"),
        (no_weights, "no Grounding DINO that can be loaded"),
        (broken_weights, "model.safetensors cannot be read"),
        (missing_weights, "lacks 1 weights of its model, such as model.decoder.layers.0.fc1.weight"),
    ],
)
def test_a_folder_without_a_whole_grounding_dino_is_refused_in_words(tmp_path, damage, said) -> None:
    folder = save_grounding_dino(tmp_path / "base", random_grounding_dino())
    damage(folder)
    with pytest.raises(BaseModelError, match=said):
        GroundingDino.load(folder, classes=["a"], prompts={}, settings=grounding_dino_settings())


def test_an_example_has_the_image_and_its_objects_without_crowds(teacher) -> None:
    sample = replace(noise([BOX, BOX_2], [1, 0], size=(64, 96)), is_crowd=np.array([False, True]))
    example = teacher.example(sample, np.random.default_rng(0))
    assert example["pixel_values"].shape == (3, 64, 96)
    assert example["class_indices"].tolist() == [1]
    np.testing.assert_allclose(from_cxcywh_normalized(example["boxes"].numpy(), 64, 96), [BOX], atol=1e-4)
    np.testing.assert_allclose(from_cxcywh_normalized(example["crowd_boxes"].numpy(), 64, 96), [BOX_2], atol=1e-4)
    batch = teacher.collate([example])
    assert [len(batch[name][0]) for name in ("boxes", "tokens", "crowd_boxes", "crowd_tokens")] == [1, 1, 1, 1]
    assert not (batch["tokens"][0] & batch["crowd_tokens"][0]).any()


def test_a_crowd_is_no_background_in_the_loss_of_a_batch(teacher) -> None:
    whole = np.array([[0, 0, 96, 64]], np.float32)
    empty, crowd = noise(size=(64, 96)), noise(whole, [1], size=(64, 96))
    crowd = replace(crowd, image=empty.image, is_crowd=np.array([True]))
    losses = [batch_loss(teacher, [sample])["classification"] for sample in (crowd, empty)]
    assert losses[0] < losses[1]


def test_a_batch_is_padded_and_says_where_images_are(teacher) -> None:
    rng = np.random.default_rng(0)
    wide, high = noise([BOX], [1], size=(64, 96)), noise(size=(96, 64))
    batch = teacher.collate([teacher.example(s, rng) for s in (wide, high)])
    assert batch["pixel_values"].shape == (2, 3, 96, 96)
    assert batch["pixel_mask"].sum((1, 2)).tolist() == [64 * 96, 96 * 64]
    assert (batch["pixel_values"][0, :, 64:] == 0).all()
    assert [len(boxes) for boxes in batch["boxes"]] == [1, 0]
    assert batch["tokens"][0].tolist() == [[False, False, False, False, True, False, False]]  # red circle . square .
    assert teacher.count(batch) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_all_decoder_layers_and_of_the_proposals(kind) -> None:
    teacher = random_teacher(kind=kind)
    sample = noise([BOX, BOX_2], [1, 0])
    batch = teacher.collate([teacher.example(sample, np.random.default_rng(0))])
    mask = batch["attention_mask"].bool()
    target = Targets(batch["boxes"][0], batch["tokens"][0])
    with torch.no_grad():
        losses = teacher.loss(batch, count=2)
        outputs = teacher.model(pixel_values=batch["pixel_values"], input_ids=batch["input_ids"])
        layers = [*teacher._decoder_layers(outputs, mask), *proposals(outputs, mask)]
        parts = [detection_losses(stack([layer]), [target], text_mask=mask, count=2) for layer in layers]
    assert len(layers) == 3
    for name in ("classification", "l1", "giou"):
        torch.testing.assert_close(losses[name], sum(getattr(part, name) for part in parts))
    weighted = 2 * losses["classification"] + 5 * losses["l1"] + 2 * losses["giou"]
    torch.testing.assert_close(losses["loss"], weighted)


def test_our_heads_say_what_the_librarys_say(teacher) -> None:
    pixel_values, (prompt,) = torch.rand(1, 3, 64, 64), teacher.book.chunks()
    ids = torch.tensor([prompt.input_ids])
    with torch.no_grad():
        outputs = teacher.model(pixel_values=pixel_values, input_ids=ids)
        *_, last = teacher._decoder_layers(outputs, torch.ones_like(ids).bool())
    torch.testing.assert_close(last.logits, outputs.logits[..., : ids.shape[1]])
    torch.testing.assert_close(last.boxes, outputs.pred_boxes)


@pytest.mark.parametrize("limit", [256, 14])
def test_gradients_do_not_depend_on_how_a_step_is_cut(limit) -> None:
    """Nor with captions of their own, where one does not hold all classes."""
    names = ["red circle", "square", *(f"{a}{b}" for a in "abc" for b in "klm")]
    teacher = random_teacher(names, limit=limit)
    attach(teacher, LoraSettings(preset=LoraPreset.ALL, rank=2, alpha=2, dropout=0))
    disturb(teacher)
    samples = [noise([BOX, BOX_2], [1, 0], seed=1), noise(seed=2), noise([BOX], [7], seed=3)]
    examples = [teacher.example(s, np.random.default_rng(i)) for i, s in enumerate(samples)]
    captions = {tuple(ids) for ids in teacher.collate(examples)["input_ids"].tolist()}
    assert len(captions) == (1 if limit == 256 else 3)
    gradients = []
    for cut in ([examples], [examples[:1], examples[1:]], [[e] for e in examples]):
        teacher.model.zero_grad()
        for part in cut:
            teacher.loss(teacher.collate(part), count=3)["loss"].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in trainable_parameters(teacher).values()]))
    for other in nonempty(gradients[1:]):
        assert (other - gradients[0]).norm() < 1e-4 * gradients[0].norm()


def test_an_image_of_more_classes_than_a_caption_holds_is_taught_all_of_them() -> None:
    names = [f"{a}{b}" for a in "abcdef" for b in "klmnop"]
    teacher = random_teacher(names, limit=20)
    objects = range(0, 36, 3)
    crowded, empty = noise([BOX] * len(objects), objects), noise()
    batch = teacher.collate([teacher.example(s, np.random.default_rng(0)) for s in (empty, crowded)])
    assert batch["images"].tolist() == [0, 1, 1]
    assert teacher.count(batch) == len(objects)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    taught = [
        tokenizer.decode(ids[tokens])
        for ids, rows in zip(batch["input_ids"], batch["tokens"], strict=True)
        for tokens in rows
    ]
    assert sorted(taught) == sorted(names[i] for i in objects)
    assert teacher.loss(batch, count=12)["loss"].isfinite()


def test_the_loss_of_images_without_objects_is_finite_and_teaches() -> None:
    teacher = random_teacher()
    attach(teacher, LoraSettings(preset=LoraPreset.ALL, rank=2, alpha=2, dropout=0))
    losses = batch_loss(teacher, [noise(), noise(seed=1)], count=1)
    losses["loss"].backward()
    assert losses["classification"] > 0
    assert losses["l1"] == losses["giou"] == 0
    assert any(p.grad is not None and p.grad.any() for p in trainable_parameters(teacher).values())


def test_detections_lie_in_the_image_best_first(teacher) -> None:
    samples = [noise(size=(50, 200)), noise(size=(300, 100), seed=1), noise(size=(50, 200), seed=2)]
    for sample, found in zip(samples, teacher.predict(samples), strict=True):
        height, width = sample.image.shape[:2]
        assert len(found) == 20
        assert found.boxes_xyxy.dtype == found.scores.dtype == np.float32
        assert found.class_indices.dtype == np.int64
        assert (np.diff(found.scores) <= 0).all()
        assert found.boxes_xyxy.min() >= 0
        assert (found.boxes_xyxy <= [width, height, width, height]).all()
        assert found.boxes_xyxy[:, 2:].max() > 64  # pixels of the original, not of what the model sees


def test_detections_do_not_depend_on_the_images_beside(teacher) -> None:
    samples = [noise(size=(64, 96)), noise(size=(96, 64), seed=1), noise(size=(64, 96), seed=2)]
    for alone, together in zip([teacher.predict([s])[0] for s in samples], teacher.predict(samples), strict=True):
        np.testing.assert_allclose(together.scores, alone.scores, atol=1e-5)
        np.testing.assert_allclose(together.boxes_xyxy, alone.boxes_xyxy, atol=1e-3)


def test_no_images_give_no_detections(teacher) -> None:
    assert teacher.predict([]) == []


def test_a_class_scores_the_mean_of_its_tokens(teacher) -> None:
    sample = noise()
    (prompt,) = teacher.book.chunks()
    pixels = torch.from_numpy(teacher.transform.image(sample.image))[None]
    with torch.no_grad():
        logits = teacher.model(pixel_values=pixels, input_ids=torch.tensor([prompt.input_ids])).logits[0]
    red, circle, square = logits.sigmoid()[:, [1, 2, 4]].T
    expected = torch.cat([(red + circle) / 2, square]).sort(descending=True).values[:20]
    (found,) = teacher.predict([sample])
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4)


@pytest.mark.parametrize("preset", LoraPreset)
@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_adapter_is_the_applied_adapter(kind, preset) -> None:
    teacher = random_teacher(kind=kind)
    inputs = {"pixel_values": torch.rand(1, 3, 64, 64), "input_ids": torch.tensor([teacher.book.chunks()[0].input_ids])}
    with torch.no_grad():
        base = teacher.model(**inputs)
        attach(teacher, LoraSettings(preset=preset, rank=4, alpha=8, dropout=0))
        fresh = teacher.model(**inputs)
        disturb(teacher)
        applied, alone = teacher.model(**inputs), merged(teacher)(**inputs)
    tokens = inputs["input_ids"].shape[1]
    assert torch.equal(fresh.logits, base.logits)
    assert (applied.logits - base.logits)[..., :tokens].abs().max() > 0.01
    torch.testing.assert_close(alone.logits, applied.logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(alone.pred_boxes, applied.pred_boxes, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("preset", "megabytes"),
    [(LoraPreset.DECODER, 2.0), (LoraPreset.ENCODER_DECODER, 5.7), (LoraPreset.ALL, 8.3)],
)
def test_adapters_have_the_published_sizes_and_no_part_of_the_tied_box_heads(preset, megabytes) -> None:
    with torch.device("meta"):
        model = GroundingDinoForObjectDetection(GroundingDinoConfig())  # Grounding DINO tiny, 172 M parameters
        model.model.get_input_embeddings = model.model.text_backbone.get_input_embeddings
        model = get_peft_model(model, LoraConfig(r=8, target_modules=PRESETS[preset]))
    adapted = {name: p for name, p in model.named_parameters() if "lora_" in name}
    assert sum(p.numel() for p in adapted.values()) * 4 / 1e6 == pytest.approx(megabytes, abs=0.06)
    assert not [name for name in adapted if "bbox_embed" in name]


def test_a_few_steps_of_an_adapter_learn_an_image() -> None:
    teacher = random_teacher()
    torch.manual_seed(0)
    attach(teacher, LoraSettings(preset=LoraPreset.ALL, rank=8, alpha=16, dropout=0))
    optimizer = torch.optim.AdamW(trainable_parameters(teacher).values(), lr=5e-3)
    losses = []
    for _ in range(20):
        loss = batch_loss(teacher, [noise([BOX, BOX_2], [1, 0])])["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_asked_for_other_classes_the_same_model_answers_as_one_made_for_them() -> None:
    teacher = random_teacher(("red circle", "square"))
    other = teacher.asking(("star", "blue ring", "cat"), {"cat": "green square"})
    made = random_teacher(("star", "blue ring", "green square"))
    (seen,), (expected,) = other.predict([noise()]), made.predict([noise()])
    assert seen.scores.tolist() == expected.scores.tolist()
    assert seen.class_indices.tolist() == expected.class_indices.tolist()
    assert other.model is teacher.model
    assert other.classes == ("star", "blue ring", "cat")
    assert teacher.classes == ("red circle", "square")
    assert {phrase.class_index for phrase in teacher.book.phrases} == {0, 1}


def test_what_is_requested_has_the_adapter_of_the_teacher_on_and_off() -> None:
    teacher = random_teacher()
    before = teacher.asking(("star",)).predict([noise()])[0].scores
    attach(teacher, LoraSettings(preset=LoraPreset.ALL, rank=4, alpha=8, dropout=0))
    for name, parameter in trainable_parameters(teacher).items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    other = teacher.asking(("star",))
    assert other.predict([noise()])[0].scores.tolist() != pytest.approx(before.tolist(), abs=1e-4)
    with adapter_off(other):
        assert other.predict([noise()])[0].scores.tolist() == pytest.approx(before.tolist(), abs=1e-6)


def test_other_classes_must_be_readable_too() -> None:
    with pytest.raises(ConfigError, match="cannot tell class"):
        random_teacher().asking(("star", "Star"))


def test_a_strip_that_has_fewer_places_than_queries_is_seen_and_learned() -> None:
    teacher = GroundingDino.load(BASE, classes=("circle",), prompts={}, settings=grounding_dino_settings())
    strip = Sample.of(np.random.default_rng(0).integers(0, 255, (40, 900, 3), np.uint8), [(10, 1, 60, 30)], [0])
    height, width = teacher.transform.image(strip.image).shape[1:]
    assert canvas(height, width, places=teacher.queries) != (height, width), "it is such a strip"
    (alone,) = teacher.predict([strip])
    assert len(alone) > 0
    assert alone.boxes_xyxy[:, 2].max() <= 900
    assert alone.boxes_xyxy[:, 3].max() <= 40
    assert torch.isfinite(batch_loss(teacher, [strip])["loss"])
