"""Divide a dataset into training, validation and test split, each with objects to learn or to find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.dataset.splits.stratify import split_dataset
from engine.dataset.types import CocoDataset


def images_with_objects(dataset: CocoDataset, *, masks: bool) -> list[int]:
    """Return the indices of images with an object that can be learned or found; crowds do not count.

    Args:
        dataset: Images with annotations.
        masks: Count only objects with a mask.
    """
    return [
        index
        for index, objects in enumerate(dataset.annotations)
        if any(not found.iscrowd and (not masks or found.segmentation) for found in objects)
    ]


def divide(
    dataset: CocoDataset, shares: Mapping[str, float], *, seed: int, groups: Sequence[int]
) -> dict[str, CocoDataset]:
    """Divide a dataset by image; a split without images is left out.

    Args:
        dataset: All images.
        shares: Share of the images of each split, together 1.
        seed: Seed of the split.
        groups: Group number of each image; images of one group stay in one split.
    """
    split = split_dataset(dataset, shares, seed=seed, groups=groups)
    indices = {name: list(getattr(split, name)) for name in shares}
    for masks in (False, True):
        balance_wanted(indices, set(images_with_objects(dataset, masks=masks)), groups)
    return {name: dataset.subset(chosen) for name, chosen in indices.items() if chosen}


def balance_wanted(indices: dict[str, list[int]], wanted: set[int], groups: Sequence[int]) -> None:
    """Move images so that both the training and the validation split have a wanted one, if there are enough.

    By chance, a few wanted images may all be in one split: the smallest group with one of them moves, in exchange for a
    group that is not larger. Groups stay together.

    Args:
        indices: Image indices of each split; changed in place.
        wanted: Images of which both splits need one.
        groups: Group of each image.
    """
    for name, others in (("val", ("test", "train")), ("train", ("test", "val"))):
        if any(image in wanted for image in indices[name]):
            continue
        for other in others:
            spare = _grouped([image for image in indices[other] if image in wanted], groups)
            if len(spare) > (other != "test"):
                moved = min(reversed(spare), key=lambda group: sum(groups[image] == group for image in indices[other]))
                size = _move(moved, indices[other], indices[name], groups)
                others_of_name = _grouped([image for image in indices[name] if groups[image] != moved], groups)
                fits = [one for one in others_of_name if sum(groups[image] == one for image in indices[name]) <= size]
                if fits:
                    _move(fits[-1], indices[name], indices[other], groups)
                break
    for chosen in indices.values():
        chosen.sort()


def _grouped(images: Sequence[int], groups: Sequence[int]) -> list[int]:
    """Return the groups of some images, each once, in the order of their last image."""
    return list(dict.fromkeys(groups[image] for image in reversed(images)))[::-1]


def _move(group: int, source: list[int], target: list[int], groups: Sequence[int]) -> int:
    """Move a group from one split to another and return its number of images."""
    moved = [image for image in source if groups[image] == group]
    source[:] = [image for image in source if groups[image] != group]
    target += moved
    return len(moved)
