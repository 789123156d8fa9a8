from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from toy import ToyTeacher, run_config, write_toy_data

from engine.augmentation import Augmenter
from engine.dataset import Sample, load_dataset
from engine.dataset.types import CocoAnnotation
from engine.errors import DataError
from engine.spec import AugmentationSpec, Intensity
from engine.training.data.annotated_splits import SplitData
from engine.training.data.batches import Views, augmentation_of, batches_from, changes_images, view_shown
from engine.training.data.sampler import Steps

STEPS = Steps(images=6, batch_size=2, epochs=2, evaluations=1, seed=5)


def brighter(sample: Sample, seed: int) -> Sample:
    """An augmentation that shows its seed."""
    return replace(sample, image=np.clip(sample.image + np.uint8(seed % 20), 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> SplitData:
    file = write_toy_data(tmp_path_factory.mktemp("data") / "all.json", range(6))
    dataset = load_dataset(file)
    return SplitData(dataset, tuple(file.parent / image.file_name for image in dataset.images))


def profiles(views: Views, *keys: tuple[int, int]) -> list[torch.Tensor]:
    return [views[key]["profiles"] for key in keys]


def test_a_view_is_determined_by_its_key_alone(split: SplitData) -> None:
    views = Views(split, ToyTeacher(), brighter, seed=1)
    first, other_epoch, other_image = profiles(views, (0, 2), (1, 2), (0, 3))
    torch.manual_seed(7)
    assert torch.equal(views[0, 2]["profiles"], first)
    assert not torch.equal(first, other_epoch)
    assert not torch.equal(first, other_image)
    assert not torch.equal(Views(split, ToyTeacher(), brighter, seed=2)[0, 2]["profiles"], first)


def test_views_that_take_turns_come_again_and_give_way_one_by_one(split: SplitData) -> None:
    views = Views(split, ToyTeacher(), brighter, seed=1, take_turns=3)
    shown = profiles(views, *((visit, 2) for visit in range(9)))
    assert torch.equal(shown[3], shown[0])
    assert torch.equal(shown[4], shown[1])
    assert not torch.equal(shown[5], shown[2])
    numbers = [view_shown(visit, 4) for visit in range(400)]
    assert numbers[:4] == [0, 1, 2, 3]
    assert len(set(numbers)) == pytest.approx(100, abs=4), "one in four is new"
    assert {number % 4 for number in numbers} == {0, 1, 2, 3}
    assert [views[visit, 2]["slot"] for visit in range(4)] == ["2/0", "2/1", "2/2", "2/0"]


def test_views_of_several_images_are_determined_by_their_key_alone(split: SplitData, tmp_path: Path) -> None:
    spec = AugmentationSpec(mosaic=60, paste=60, intensity=Intensity.NONE)
    config, plain = run_config("a.json", output=tmp_path, augmentation=spec), ToyTeacher()
    views, again = (Views(split, plain, augmentation_of(config, split, plain), seed=1) for _ in range(2))
    keys = [(visit, index) for visit in range(3) for index in range(6)]
    shown = profiles(views, *keys)
    for one, same in zip(reversed(shown), profiles(again, *reversed(keys)), strict=True):
        assert torch.equal(one, same)
    alone = profiles(Views(split, plain, lambda sample, _: sample, seed=1), *keys)
    assert 8 < sum(not torch.equal(one, other) for one, other in zip(shown, alone, strict=True)) < len(keys)
    assert changes_images(config, plain)


def test_teachers_of_masks_get_no_views_of_several_images(split: SplitData, tmp_path: Path) -> None:
    class Masks(ToyTeacher):
        needs_masks = True

    spec = AugmentationSpec(mosaic=100, intensity=Intensity.NONE)
    config = run_config("a.json", output=tmp_path, augmentation=spec)
    assert isinstance(augmentation_of(config, split, Masks()), Augmenter)
    assert not changes_images(config, Masks())


def test_a_teacher_chooses_the_objects_of_each_visit(split: SplitData) -> None:
    class Choosing(ToyTeacher):
        def select(self, annotations: Sequence[CocoAnnotation], visit: int) -> NDArray[np.int64]:
            return np.arange(visit % 2)

        def example(self, sample: Sample, rng: np.random.Generator) -> dict[str, int]:
            return {"objects": len(sample)}

    views = Views(split, Choosing(), brighter, seed=1)
    assert [views[visit, 0]["objects"] for visit in range(4)] == [0, 1, 0, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_from_a_step_are_those_of_a_run_that_came_so_far(split: SplitData, workers: int) -> None:
    views = Views(split, ToyTeacher(), brighter, seed=1)
    whole = list(batches_from(0, STEPS, views, workers=0, pin_memory=False))
    rest = list(batches_from(2, STEPS, views, workers=workers, pin_memory=False))
    assert (len(whole), len(rest)) == (6, 4)
    for ours, theirs in zip(rest, whole[2:], strict=True):
        assert torch.equal(ours["profiles"], theirs["profiles"])


def test_workers_get_no_weights(split: SplitData) -> None:
    views = pickle.loads(pickle.dumps(Views(split, ToyTeacher(), brighter, seed=1)))
    assert not hasattr(views.teacher, "model")
    assert views[0, 0]["profiles"].shape == (192,)


def test_an_image_that_is_gone_is_a_sentence_of_its_own_also_from_a_worker(split: SplitData, tmp_path: Path) -> None:
    gone = replace(split, paths=tuple(tmp_path / path.name for path in split.paths))
    views = Views(gone, ToyTeacher(), brighter, seed=1)
    with pytest.raises(DataError, match=r"^[0-5]\.png does not exist"):
        next(batches_from(0, STEPS, views, workers=1, pin_memory=False))


def test_by_default_there_is_a_worker_for_every_core(split: SplitData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})
    pids = {batch["pid"] for batch in batches_from(0, STEPS, _Pids(split), workers=None, pin_memory=False)}
    assert len(pids) == 3
    assert os.getpid() not in pids


class _Pids(Views):
    """Tells in which process a batch was made."""

    def __init__(self, split: SplitData) -> None:
        super().__init__(split, ToyTeacher(), brighter, seed=1)

    def collate(self, examples: object) -> dict[str, int]:
        return {"pid": os.getpid()}
