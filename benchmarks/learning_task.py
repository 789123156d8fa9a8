"""Inputs of one training of ``learning.py``: splits as files, and the configuration that all methods share."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from learning_methods import Task

from engine.config import generate_config
from engine.dataset import CocoDataset, inspect_request, load_dataset
from engine.dataset.coco_export import to_coco
from engine.dataset.images.folder import ImageFolder
from engine.dataset.splits.groups import keep_together, open_all, split_images
from engine.dataset.splits.stratify import split_dataset
from engine.spec import DatasetSpec, FineTuneSpec, SplitFilesSpec, TeacherName, TeacherSpec
from engine.storage import Storage
from engine.training.data.annotated_splits import AnnotatedSplits
from engine.training.data.splits import Splits

BASES = Path(__file__).resolve().parents[1] / "examples" / "tiny_teachers"
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def prepare(options: argparse.Namespace, work: Path) -> Task:
    """Write the splits, and generate the configuration: that of the product, with a fixed seed."""
    folder, name = Path(options.data).resolve(), TeacherName(options.teacher)
    splits = divided(folder)
    if options.images:
        chosen = np.random.default_rng(options.seed).permutation(len(splits["train"]))[: options.images]
        splits["train"] = splits["train"].subset(sorted(int(i) for i in chosen))
    files = {}
    for part, split in splits.items():
        (work / f"{part}.json").write_text(json.dumps(to_coco(split)))
        files[part] = SplitFilesSpec(annotations=str(work / f"{part}.json"), images=str(folder / "images"))
    base = (options.base or BASES / name.slug).resolve()
    rate = {} if options.rate is None else {"learning_rate": str(options.rate)}
    dataset = DatasetSpec(train=files["train"], val=files["val"], test=files["test"])
    teacher = TeacherSpec(name=name, base_model=str(base), epochs=options.epochs, **rate)
    spec = FineTuneSpec(dataset=dataset, output=str(work / "out"), teachers=[teacher], class_prompts=options.prompts)
    settings = {"training.seed": str(options.seed), "training.workers": "0"}
    settings |= dict(one.split("=", 1) for one in options.set)
    spec = spec.model_copy(update={"settings": settings})
    storage = Storage()
    config = generate_config(inspect_request(dataset, storage=storage), spec)
    annotated = AnnotatedSplits.of(
        config.data, masks=name.traits.needs_masks, seed=0, storage=storage, cache=work / "cache"
    )
    return Task(config, name, base, Splits.of(annotated), work)


def divided(folder: Path) -> dict[str, CocoDataset]:
    """Return training, validation and test split of a set; copies of a picture stay in one split."""
    storage, images = Storage(), str(folder / "images")
    given = {part: folder / f"annotations_{part}.json" for part in SHARES}
    if all(file.is_file() for file in given.values()):
        splits = {part: load_dataset(str(file), images, storage=storage) for part, file in given.items()}
        return {part: split.with_classes(splits["train"].classes) for part, split in splits.items()}
    dataset = load_dataset(str(folder / "annotations.json"), images, storage=storage)
    names = [image.file_name for image in dataset.images]
    files = ImageFolder(images, storage=storage, cache=folder / "cache")  # a folder on disk needs no cache
    pictures = split_images(names, files, thumbnails=open_all(names, files, storage))
    split = split_dataset(dataset, SHARES, seed=0, groups=[int(group) for group in keep_together(pictures)])
    return {part: dataset.subset(getattr(split, part)) for part in SHARES}
