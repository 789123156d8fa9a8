"""Find the images of a dataset that an adapter was trained on, by the lists in ``splits.json`` of its run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from engine.dataset.images.folder import ImageFolder
from engine.dataset.splits.comparison import sure
from engine.dataset.types import CocoDataset
from engine.errors import StorageError
from engine.layout import SPLITS
from engine.storage import NotFoundError, Storage, join


def trained_images(adapter: str, dataset: CocoDataset, folder: ImageFolder, storage: Storage) -> list[str] | None:
    """Return the images of a dataset that an adapter was trained on; see :func:`images_of_split`."""
    return images_of_split(adapter, "train", dataset, folder, storage)


def images_of_split(
    adapter: str, split: str, dataset: CocoDataset, folder: ImageFolder, storage: Storage
) -> list[str] | None:
    """Return the images of a dataset that were in a split, by their bytes, or by name if these are unknown.

    Args:
        adapter: Folder of the adapter or student, which contains ``splits.json``.
        split: ``train``, ``val`` or ``test``.
        dataset: Dataset to evaluate on.
        folder: Folder of its images.
        storage: Access to the adapter.

    Returns:
        File names; None if the adapter has no lists.

    Raises:
        StorageError: The lists are invalid, or cannot be read.
    """
    listed = listed_images(adapter, split, storage)
    if listed is None:
        return None
    own = folder.marks([folder.names.find(image.file_name) for image in dataset.images])
    return [
        image.file_name for image, mark in zip(dataset.images, own, strict=True) if listed.has(image.file_name, mark)
    ]


@dataclass(frozen=True)
class ListedImages:
    """Images of a split, as the lists of a run name them.

    Attributes:
        names: File names of images whose bytes are unknown.
        marks: Marks of the bytes of all others.
    """

    names: frozenset[str]
    marks: frozenset[str]

    def has(self, name: str, mark: str) -> bool:
        """Return True if an image is in the split: by its bytes, or by name if these are unknown."""
        return (sure(mark) and mark in self.marks) or name in self.names


def listed_images(adapter: str, split: str, storage: Storage) -> ListedImages | None:
    """Return the images of a split of a run; None if it has no lists. Arguments are those of :func:`images_of_split`.

    Raises:
        StorageError: The lists are invalid, or cannot be read.
    """
    uri = join(adapter, SPLITS)
    try:
        content: Any = json.loads(storage.read_bytes(uri))
        listed = [(str(one["file_name"]), str(one["content"])) for one in content["splits"].get(split, ())]
    except NotFoundError:
        return None
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise StorageError(f"{uri} is not what a run writes ({error}): fetch the adapter again") from None
    return ListedImages(
        frozenset(name for name, mark in listed if not sure(mark)), frozenset(mark for _, mark in listed if sure(mark))
    )
