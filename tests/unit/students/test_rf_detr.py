"""RF-DETR as a student: its objective against the library's terms, sizes, saving and loading, prediction, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from artifacts import artifact_of, assert_same, predictions, scene
from random_targets import CLASSES, boxes, targets
from tiny_student import learn_one_image, rf_detr_settings
from torch import Tensor
from transformers import AutoModelForObjectDetection
from transformers.loss.loss_lw_detr import LwDetrHungarianMatcher, LwDetrImageLoss

from engine.dataset.types import Frame, Sample
from engine.errors import ConfigError
from engine.models.model import Origin
from engine.registry import StudentName
from engine.students import load_student
from engine.students.rf_detr.criterion import detection_losses
from engine.students.rf_detr.model import RfDetr

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
LAYERS, GROUPS, QUERIES = 3, 2, 7
IMAGE = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
SAMPLE = Sample.of(IMAGE, [[10, 10, 50, 40], [60, 30, 80, 55]], [0, 1])
SIDES = (128, 128)


def student(seed: int = 0, classes: tuple[str, ...] = ("red", "green"), **changes: Any) -> RfDetr:
    torch.manual_seed(seed)
    return RfDetr.load(None, classes=classes, settings=rf_detr_settings(**changes))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[RfDetr, Path]:
    one, folder = student(), tmp_path_factory.mktemp("students") / "rf_detr"
    one.save(folder, Origin("random", "0" * 64, {}, one.classes, {}, one.settings, Frame.UPRIGHT))
    return one, folder


class Case:
    """Random predictions of the proposals and two decoder layers for images with these numbers of objects."""

    def __init__(self, *objects: int) -> None:
        generator = torch.Generator().manual_seed(1)
        shape = (LAYERS, len(objects), GROUPS * QUERIES)
        self.logits = torch.randn(*shape, CLASSES, generator=generator).requires_grad_()
        self.boxes = boxes(*shape, generator=generator).requires_grad_()
        self.targets = [targets(number, generator) for number in objects]
        self.count = float(max(1, sum(objects)))

    def losses(self) -> dict[str, Tensor]:
        return detection_losses(self.logits, self.boxes, self.targets, groups=GROUPS, count=self.count)

    def library(self, term: str) -> Tensor:
        matcher = LwDetrHungarianMatcher(class_cost=2, bbox_cost=5, giou_cost=2)
        criterion = LwDetrImageLoss(matcher, CLASSES, 0.25, ["labels", "boxes"], GROUPS)
        wanted = [{"class_labels": one.labels, "boxes": one.boxes} for one in self.targets]
        layers = [{"logits": logits, "pred_boxes": seen} for logits, seen in zip(self.logits, self.boxes, strict=True)]
        found = criterion(layers[-1] | {"auxiliary_outputs": layers[1:-1], "enc_outputs": layers[0]}, wanted)
        return torch.stack([value for name, value in found.items() if name.startswith(term)]).sum()


@pytest.mark.parametrize(("mine", "term"), [("ce", "loss_ce"), ("l1", "loss_bbox"), ("giou", "loss_giou")])
def test_each_term_is_that_of_the_library_over_all_layers_and_groups(mine: str, term: str) -> None:
    case = Case(2, 4)
    own, other = case.losses()[mine], case.library(term)
    torch.testing.assert_close(own, other, **CLOSE)
    for leaf in (case.logits, case.boxes):
        gradients = [
            torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)[0] for value in (own, other)
        ]
        assert (gradients[0] is None) == (gradients[1] is None)
        if gradients[0] is not None:
            torch.testing.assert_close(gradients[0], gradients[1], **CLOSE)


def test_confident_queries_have_a_finite_loss_unlike_the_librarys() -> None:
    case = Case(1)
    case.logits = torch.full_like(case.logits, 200.0).requires_grad_()
    own = case.losses()["ce"]
    own.backward()
    assert own.isfinite()
    assert case.logits.grad is not None
    assert case.logits.grad.isfinite().all()
    assert not case.library("loss_ce").isfinite()


def test_images_without_objects_have_only_a_class_loss() -> None:
    losses = Case(0, 0).losses()
    assert float(losses["ce"]) > 0
    assert float(losses["l1"]) == float(losses["giou"]) == 0


def test_a_score_lowers_the_target_and_ignored_regions_have_no_loss() -> None:
    generator = torch.Generator().manual_seed(2)
    logits, seen = torch.full((1, 1, 2, CLASSES), 3.0), boxes(1, 1, 2, generator=generator)
    sure, unsure = (
        detection_losses(logits, seen, [targets(1, torch.Generator().manual_seed(3), score=score)], groups=1, count=1)
        for score in (1.0, 0.2)
    )
    assert float(unsure["ce"]) > float(sure["ce"])
    assert float(unsure["l1"]) == float(sure["l1"])
    crowd = targets(0, generator, ignored=1)
    crowd.ignored_boxes[:] = torch.tensor([0.5, 0.5, 1.0, 1.0])
    plain = detection_losses(logits, seen, [targets(0, generator)], groups=1, count=1)["ce"]
    without = detection_losses(logits, seen, [crowd], groups=1, count=1)["ce"]
    assert float(without) == pytest.approx(float(plain) * (CLASSES - 1) / CLASSES)


def test_the_smallest_size_has_the_parameters_that_its_traits_say() -> None:
    parameters = sum(parameter.numel() for parameter in student(image_size=None).model.parameters())
    assert parameters == pytest.approx(StudentName.RF_DETR.traits.sizes["tiny"], rel=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "giant"}, "no size 'giant': there are tiny, nano, small, medium, large"),
        ({"image_size": [64, 64]}, "64 x 64 has 16 positions, and RF-DETR chooses 60 queries"),
    ],
)
def test_wrong_sizes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        student(**changes)


def test_loaded_from_its_folder_it_predicts_the_same(saved: tuple[RfDetr, Path]) -> None:
    one, folder = saved
    (before,), (after,) = one.predict([SAMPLE]), load_student(folder, device="cpu").predict([SAMPLE])
    np.testing.assert_array_equal(before.scores, after.scores)
    np.testing.assert_array_equal(before.boxes_xyxy, after.boxes_xyxy)


def test_transformers_alone_gives_the_same_boxes(saved: tuple[RfDetr, Path]) -> None:
    one, folder = saved
    model, pixels = AutoModelForObjectDetection.from_pretrained(folder), one.transform.image(SAMPLE.image)
    with torch.no_grad():
        torch.testing.assert_close(
            model(torch.from_numpy(pixels)[None]).pred_boxes, one.model(torch.from_numpy(pixels)[None]).pred_boxes
        )


def test_a_base_of_other_classes_keeps_all_but_its_heads(saved: tuple[RfDetr, Path]) -> None:
    one, folder = saved
    other = RfDetr.load(folder, classes=("a", "b", "c"), settings=rf_detr_settings(size=None))
    own, new = one.result_tensors(), other.result_tensors()
    changed = {name for name in own if own[name].shape != new[name].shape or not torch.equal(own[name], new[name])}
    assert changed
    assert all("class_embed" in name for name in changed)


def test_it_learns_one_image_and_its_average_follows() -> None:
    one = student(ema_decay=0.5)
    losses = learn_one_image(one, SAMPLE, 25)
    assert losses[-1] < 0.8 * losses[0]
    assert len(one.predict([SAMPLE])[0]) > 0


def test_onnx_gives_the_boxes_of_torch(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    one = student(classes=("a", "b", "c"))
    for parameter in one.model.parameters():  # with its own initialization queries tie
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    images = [scene(seed, SIDES) for seed in range(2)] + [scene(9, (60, 50))]
    artifact = artifact_of(one, tmp_path, [SIDES])
    for image, *pair in zip(images, predictions(artifact, images), predictions(one, images), strict=True):
        assert_same(*pair, size=image.shape[:2], tolerance=1e-3)
