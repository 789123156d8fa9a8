"""Which base inspection recommends, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from coco_files import small_coco, write, write_images

from engine import registry
from engine.config.resolve import generate_config
from engine.dataset import DatasetInfo, inspect_dataset
from engine.estimate.base_recommendation import BaseRecommendation, recommend_bases
from engine.estimate.cost_model import base_of
from engine.spec import DatasetSpec, FineTuneSpec, TeacherName, TeacherSpec

SPEC = FineTuneSpec(dataset=DatasetSpec(annotations="data.json"), output="out")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "images", [f"{i:03d}.png" for i in range(1, 13)])
    return inspect_dataset(write(folder / "annotations.json", small_coco(12, 3, masks=True)), folder / "images")


def recommended(info: DatasetInfo, *, gpu: str = "H100", spec: FineTuneSpec = SPEC) -> dict[str, BaseRecommendation]:
    return {one.teacher.slug: one for one in recommend_bases(info, spec, generate_config(info, spec), gpu=gpu)}


def with_images(info: DatasetInfo, count: int, **changes: Any) -> DatasetInfo:
    return info.model_copy(update={"images": count, "splits": {"all": count}, **changes})


def test_small_data_get_the_smallest_base_with_its_licence(data: DatasetInfo) -> None:
    sam = recommended(data)["sam"]
    assert (sam.recommended, sam.licence, sam.planned) == ("facebook/sam-vit-base", "Apache-2.0", True)
    assert sam.memory_bytes is not None
    assert sam.reason == "9 training images of 2 classes are served by the smallest base, which trains fastest"


@pytest.mark.parametrize(("images", "base"), [(1_300, "large"), (10_000, "huge")])
def test_more_images_ask_for_a_larger_base(data: DatasetInfo, images: int, base: str) -> None:
    sam = recommended(with_images(data, images))["sam"]
    assert sam.recommended == f"facebook/sam-vit-{base}"
    assert f"{images * 8 // 10:,} training images" in sam.reason


def test_many_classes_ask_for_a_larger_base(data: DatasetInfo) -> None:
    classes = tuple(data.classes[0].model_copy(update={"name": f"kind {i}", "id": i}) for i in range(25))
    dino = recommended(data.model_copy(update={"classes": classes}))["grounding_dino"]
    assert dino.recommended == "IDEA-Research/grounding-dino-base"
    assert "25 classes" in dino.reason


def test_a_base_that_does_not_fit_the_gpu_is_named_in_the_reason(data: DatasetInfo) -> None:
    spec = SPEC.model_copy(update={"settings": {"teachers.*.checkpointing": "[]", "training.precision": "float32"}})
    sam = recommended(with_images(data, 10_000), gpu="T4", spec=spec)["sam"]
    assert sam.recommended != "facebook/sam-vit-huge"
    assert "facebook/sam-vit-huge" in sam.reason
    assert "would not fit T4 (16 GiB)" in sam.reason


def test_a_teacher_that_is_not_tuned_is_marked(data: DatasetInfo) -> None:
    spec = SPEC.model_copy(update={"teachers": [TeacherSpec(name=TeacherName.SAM)]})
    found = recommended(data, spec=spec)
    assert (found["sam"].planned, found["grounding_dino"].planned) == (True, False)


def test_candidates_are_those_of_the_registry(data: DatasetInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    traits = TeacherName.SAM.traits
    monkeypatch.setitem(registry.TRAITS, "Sam", replace(traits, published=traits.published[1:2]))
    assert recommended(data)["sam"].recommended == "facebook/sam-vit-large"
    monkeypatch.setitem(registry.TRAITS, "Sam", replace(traits, published=()))
    assert "sam" not in recommended(data)


def test_the_cost_of_every_published_base_is_known() -> None:
    published = [base for name in TeacherName for base in name.traits.published]
    assert published
    assert [base.name for base in published if base_of(base.name) is None] == []
    assert all(base.licence for base in published)
