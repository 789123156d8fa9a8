"""Where annotations and images lie: one file, or the folder of an export.

Known are the exports of Roboflow (``train/_annotations.coco.json`` beside the images), CVAT
(``annotations/instances_default.json``, ``images/`` or ``images/<subset>/``) and Label Studio (``result.json``,
``images/``), and COCO's own layout (``annotations/instances_train2017.json``, ``train2017/``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from engine.dataset.listing import list_files
from engine.errors import DataError
from engine.storage import NotFoundError, Storage, join, name, parent

PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}
"""What tools call the parts."""

LOOKED_FOR = (
    "_annotations.coco.json in train/, valid/ and test/ (Roboflow), annotations/instances_*.json (CVAT, COCO), "
    "result.json (Label Studio), or one other .json file"
)

_USUAL = frozenset({"annotations", "result", "coco", "labels", "dataset"})
_OTHER_TASKS = ("captions", "image_info", "panoptic", "stuff", "labels_")
_IMAGE_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "png", "bmp", "gif", "tif", "tiff", "webp", "jp2", "ppm", "pgm", "pbm", "avif"}
)
_GLANCE = 1000
"""How many objects of a folder are looked at to know whether it holds images."""


@dataclass(frozen=True)
class PartFiles:
    """One part of a dataset: its annotation file and the folder of its images, as URIs."""

    annotations: str
    images: str
    images_expected: bool = False
    """The images must be there: each that is not is left out. Otherwise only if at least one is there."""


def find_parts(annotations: str, images: str | None, *, storage: Storage) -> dict[str, PartFiles]:
    """The parts of a dataset: ``all``, or ``train``, ``val`` and perhaps ``test``.

    Args:
        annotations: A COCO file, or the folder of a Roboflow, CVAT, Label Studio or plain COCO export.
        images: Folder of the images; None to look for it.
        storage: Where both lie.

    Raises:
        NotFoundError: There is nothing at ``annotations``.
        DataError: The folder holds no COCO file, or several that are no parts of one dataset.
    """
    if not annotations.endswith("/") and storage.exists(annotations):
        if images is None:
            images = _images_of(annotations, lambda folder: folder if _holds_images(folder, storage) else None)
            return {"all": PartFiles(annotations, images)}
        return {"all": PartFiles(annotations, images, images_expected=True)}
    jsons, folders = _contents(annotations, storage)
    if not jsons:
        raise DataError(f"{annotations} is no export that is known: looked for {LOOKED_FOR}")
    files = {part: join(annotations, key) for part, key in _annotation_files(annotations, jsons).items()}
    if images is None:
        known = {join(annotations, folder).lower(): join(annotations, folder) for folder in folders}
        return {part: PartFiles(uri, _images_of(uri, lambda f: known.get(f.lower()))) for part, uri in files.items()}
    given = images
    known = {join(given, folder).lower(): join(given, folder) for folder in _contents(given, storage)[1]}
    return {
        part: PartFiles(
            uri,
            next((known[f.lower()] for f in _subfolders(given, uri) if f.lower() in known), given),
            images_expected=True,
        )
        for part, uri in files.items()
    }


def find_single_part(annotations: str, images: str | None, *, storage: Storage) -> PartFiles:
    """The same for data that is not divided.

    Raises:
        DataError: It comes in several parts.
    """
    parts = find_parts(annotations, images, storage=storage)
    if len(parts) > 1:
        files = ", ".join(part.annotations for part in parts.values())
        raise DataError(f"{annotations} comes in several parts: give one of {files}")
    return next(iter(parts.values()))


def _contents(folder: str, storage: Storage) -> tuple[list[str], set[str]]:
    """Keys of the JSON files below a folder, and the folders below it that hold images at any depth."""
    jsons: list[str] = []
    folders: set[str] = set()
    empty = True
    for item in list_files(folder, storage):
        empty = False
        if item.key.lower().endswith(".json"):
            jsons.append(item.key)
        elif is_image(item.key):
            above = item.key.rpartition("/")[0]
            while above and above not in folders:
                folders.add(above)
                above = above.rpartition("/")[0]
    if empty:
        raise NotFoundError(f"{folder} is not there, or empty: give a COCO JSON file or the folder of an export")
    return jsons, folders


def _annotation_files(root: str, jsons: list[str]) -> dict[str, str]:
    """From part to the key of its annotation file."""
    likely = [key for key in jsons if not _stem(key).lower().startswith(_OTHER_TASKS)]
    best: dict[str, list[str]] = {}
    for key in sorted(likely or jsons, key=_unlikeliness):
        same = best.setdefault(_part_of(key), [])
        if not same or _unlikeliness(same[0]) == _unlikeliness(key):
            same.append(key)
    if "train" in best and not ("all" in best and best.keys().isdisjoint({"val", "test"})):
        best.pop("all", None)
    elif "all" in best:
        best = {"all": best["all"]}
    found = ", ".join(key for keys in best.values() for key in keys)
    if any(len(keys) > 1 for keys in best.values()):
        raise DataError(
            f"{root} holds several annotation files that may be meant: {found}. Give one of them, or "
            "dataset.train and dataset.val"
        )
    if len(best) > 1 and not best.keys() >= {"train", "val"}:
        raise DataError(
            f"{root} comes split into {found}, but training needs a train and a val part: give dataset.train and "
            "dataset.val, or one of the files as dataset.annotations"
        )
    if len(best) == 1:
        return {"all": next(iter(best.values()))[0]}
    return {part: best[part][0] for part in PARTS if part in best}


def _unlikeliness(key: str) -> tuple[int, int]:
    """How unlikely it is that a JSON file holds the boxes and masks: by its name, then by its depth."""
    stem = _stem(key).lower()
    if stem == "_annotations.coco" or stem.startswith("instances"):
        kind = 0
    elif stem in _USUAL:
        kind = 1
    else:
        kind = 3 if stem.startswith("person_keypoints") else 2
    return kind, key.count("/")


def _part_of(key: str) -> str:
    """``train`` of ``train/_annotations.coco.json`` and of ``annotations/instances_train2017.json``; else ``all``."""
    for word in (_stem(key), *reversed(key.split("/")[:-1])):
        tokens = {token.rstrip("0123456789") for token in re.split(r"[^a-z0-9]+", word.lower())}
        for part, names in PARTS.items():
            if not tokens.isdisjoint(names):
                return part
    return "all"


def _images_of(annotations: str, existing: Callable[[str], str | None]) -> str:
    """The folder that most likely holds the images of an annotation file.

    Args:
        annotations: The file.
        existing: Gives a folder as it is written, if it is there and holds images.
    """
    above = parent(annotations)
    if name(above) == "annotations":
        above = parent(above)
    candidates = [*_subfolders(join(above, "images"), annotations), *_subfolders(above, annotations)]
    found = (existing(folder) for folder in [*candidates, join(above, "images"), join(above, "data")])
    return next((folder for folder in found if folder is not None), above)


def _subfolders(folder: str, annotations: str) -> list[str]:
    """Where below ``folder`` the images of one part may lie."""
    subset = _stem(annotations).removeprefix("instances_")
    names = [subset] if subset not in _USUAL else []
    names += PARTS.get(_part_of(name(annotations)), ())
    return [join(folder, one) for one in names]


def _holds_images(folder: str, storage: Storage) -> bool:
    return any(is_image(item.key) for item in islice(list_files(folder, storage), _GLANCE))


def _stem(key: str) -> str:
    return name(key).rpartition(".")[0]


def is_image(key: str) -> bool:
    """Whether a name is that of an image file."""
    stem, _, suffix = key.rpartition(".")
    return stem != "" and suffix.lower() in _IMAGE_SUFFIXES
