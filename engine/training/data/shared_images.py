"""Find images that several splits of a run share, and write the image lists of the splits."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from engine.config import DataConfig
from engine.dataset import CocoDataset, ImageFolder, SplitFiles
from engine.dataset.images.thumbnail_cache import thumbnails_of
from engine.dataset.splits.groups import field_values, keep_together, split_images
from engine.dataset.splits.leaks import Grouping, Kind, Leak, SplitImages, find_leaks, refuse_leaks
from engine.errors import DataError
from engine.layout import SPLITS
from engine.results.types import SplitCheck
from engine.storage import Storage

EXAMPLES = 3


def identify_images(
    dataset: CocoDataset,
    folder: ImageFolder,
    file: SplitFiles,
    config: DataConfig,
    *,
    storage: Storage,
    cache: Path,
    check: Callable[[], None] = lambda: None,
) -> SplitImages:
    """Open the images of a dataset and return the properties that identify equal images."""
    grouping = Grouping.optional(config.group_by)
    values = dict(field_values(file.annotations, grouping, storage=storage))
    names = [image.file_name for image in dataset.images]
    return split_images(
        names,
        folder,
        thumbnails=thumbnails_of(dataset.images, folder, cache=cache, check=check),
        grouping=grouping,
        fields=[values.get(name, "") for name in names],
    )


def groups(images: SplitImages) -> list[int]:
    """Return a group number for each image: images of one group must stay in one split."""
    return [int(group) for group in keep_together(images)]


def check_shared_images(splits: Mapping[str, SplitImages], *, max_percent: int) -> SplitCheck:
    """Check the splits of a run for shared images.

    Raises:
        DataError: More images of val or test are in train than allowed.
    """
    leaks = find_leaks(splits)
    faults = list(refuse_leaks(leaks, {n: len(p.names) for n, p in splits.items()}, max_percent=max_percent))
    if faults:
        raise DataError("; ".join(faults))
    return SplitCheck(
        val=_count(leaks, "val"),
        test=_count(leaks, "test"),
        versions=sum(leak.kind is Kind.VERSION for leak in leaks),
        examples=tuple(map(str, leaks[:EXAMPLES])),
    )


def _count(leaks: list[Leak], split: str) -> int:
    return sum(leak.split == split and leak.kind is not Kind.VERSION for leak in leaks)


def write_lists(folder: Path, datasets: Mapping[str, CocoDataset], marks: Mapping[str, Mapping[str, str]]) -> None:
    """Write ``splits.json``: the images of each split with id, and MD5 or ETag and size of each file."""
    splits = {
        name: [
            {"file_name": image.file_name, "id": image.id, "content": marks.get(name, {}).get(image.file_name, "")}
            for image in dataset.images
        ]
        for name, dataset in datasets.items()
    }
    (folder / SPLITS).write_text(json.dumps({"format_version": 1, "splits": splits}, indent=1) + "\n", encoding="utf-8")
