"""Dividing a COCO file into files: :func:`split_file`.

Whatever an element holds is copied as it stands, byte for byte. The file is held in memory while it is divided.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.dataset.layouts import find_single_part
from engine.dataset.records import record
from engine.dataset.split import PARTS, split_dataset
from engine.dataset.types import ImageId
from engine.errors import DataError
from engine.storage import Storage
from engine.storage.files import failures, replacing


@dataclass(frozen=True)
class PartFile:
    """One file that was written."""

    part: str
    path: Path
    images: int
    annotations: int
    without: tuple[str, ...]
    """Names of classes that occur in the dataset, but not in this part."""

    def __str__(self) -> str:
        text = f"{self.path}: {self.images:,} images, {self.annotations:,} annotations"
        return text + (f"; none of {', '.join(self.without)}" if self.without else "")


def split_file(
    annotations: str,
    output: Path,
    fractions: Mapping[str, float],
    *,
    seed: int,
    stratify: bool = True,
    storage: Storage | None = None,
) -> list[PartFile]:
    """Divide a COCO file into ``train.json``, ``val.json`` and ``test.json``.

    Every part holds all categories and whatever else the file has (info, licenses …). Images that share an id stay
    together. Annotations of images that are not listed belong nowhere and are left out.

    Args:
        annotations: COCO instances JSON, or the folder of an export that is not divided; s3:// or path.
        output: Folder to write to.
        fractions: Share of the images of train, val and test; a part without a share is not written.
        seed: The same seed on the same file gives the same files.
        stratify: Keep the share of every class in every part.
        storage: How s3:// is reached; default: as the environment says.

    Raises:
        ConfigError: The fractions are negative or do not add up to 1.
        DataError: The file is no COCO dataset, or is divided already.
        StorageError: Something cannot be read or written.
    """
    store = storage or Storage()
    source = find_single_part(annotations, None, storage=store).annotations
    sections = _sections(store.read_bytes(source), source)
    images, objects = sections.pop("images"), sections.pop("annotations")
    image_ids = [image.id for image in (record("images", raw) for raw in images)]
    places = list(dict.fromkeys(image_ids))
    index = {image_id: i for i, image_id in enumerate(places)}
    labels: list[list[int]] = [[] for _ in places]
    names = _names(sections.get("categories"))
    class_of = {class_id: i for i, class_id in enumerate(names)}
    of_image: list[int] = []
    for annotation in (record("annotations", raw) for raw in objects):
        image, label = index.get(annotation.image_id, -1), class_of.get(annotation.category_id)
        of_image.append(image)
        if image >= 0 and label is not None and not annotation.iscrowd:
            labels[image].append(label)
    split = split_dataset(labels, fractions, seed=seed, stratify=stratify)
    written = []
    for part in PARTS:
        members = set(getattr(split, part))
        if not fractions.get(part):
            continue
        own_images = [raw for raw, image_id in zip(images, image_ids, strict=True) if index[image_id] in members]
        own_objects = [raw for raw, image in zip(objects, of_image, strict=True) if image in members]
        path = output / f"{part}.json"
        _write(path, {**sections, "images": own_images, "annotations": own_objects})
        without = tuple(list(names.values())[label] for label, parts in split.rare.items() if part not in parts)
        written.append(PartFile(part, path, len(own_images), len(own_objects), without))
    return written


def _sections(data: bytes, source: str) -> dict[str, Any]:
    """The file's top level: images and annotations as lists of raw elements, all else raw."""
    try:
        sections: dict[str, Any] = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"), type=dict[str, msgspec.Raw])
        for name in ("images", "annotations"):
            sections[name] = msgspec.json.decode(sections[name], type=list[msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
        sections = _lenient_sections(data, source)
    return sections


def _lenient_sections(data: bytes, source: str) -> dict[str, Any]:
    """The same of a file with NaN and the like, which some tools write."""
    try:
        whole = json.loads(data)
        raw: dict[str, Any] = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in whole.items()}
        for name in ("images", "annotations"):
            raw[name] = [msgspec.Raw(json.dumps(value).encode()) for value in list.copy(whole[name])]
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        raise DataError(f"{source} is no COCO dataset: `teacher inspect` says what is wrong with it") from None
    return raw


def _names(categories: msgspec.Raw | None) -> dict[ImageId | None, str]:
    """From category id to name, in the order of the file."""
    try:
        elements = msgspec.json.decode(categories or b"[]", type=list[msgspec.Raw])
    except msgspec.MsgspecError:
        return {}
    return {category.id: category.name or "" for category in (record("categories", element) for element in elements)}


def _write(path: Path, sections: Mapping[str, msgspec.Raw | list[msgspec.Raw]]) -> None:
    with failures(str(path), "written"), replacing(path) as temporary, temporary.open("wb") as file:
        for count, (name, value) in enumerate(sections.items()):
            file.write(b",\n" if count else b"{\n")
            file.write(json.dumps(name).encode() + b": ")
            if isinstance(value, list):
                file.write(b"[\n" + b",\n".join(value) + b"\n]")
            else:
                file.write(value)
        file.write(b"\n}\n")
