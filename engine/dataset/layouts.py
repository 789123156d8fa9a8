"""Where annotations and images lie: one file, or the folder of an export."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from engine.errors import DataError
from engine.storage import NotFoundError, Storage, join, name, parent

PART_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".jp2", ".ppm", ".pgm"})
LOOKED_FOR = (
    "_annotations.coco.json in train/, valid/ and test/ (Roboflow), annotations/instances_*.json (CVAT, COCO), "
    "result.json (Label Studio), or one .json file"
)


@dataclass(frozen=True)
class PartFiles:
    """One part of a dataset: its annotation file and the folder of its images, as URIs."""

    annotations: str
    images: str
    images_given: bool = False
    """The user named the folder; else it was found."""


def find_parts(annotations: str, images: str | None, *, storage: Storage) -> dict[str, PartFiles]:
    """The parts of a dataset: ``all``, or ``train``, ``val`` and ``test``.

    Args:
        annotations: A COCO file, or the folder of a Roboflow, CVAT, Label Studio or plain COCO export.
        images: Folder of the images; None to look for it.
        storage: Where both lie.

    Raises:
        NotFoundError: There is nothing at ``annotations``.
        DataError: The folder holds no COCO file, or several that are no parts of one dataset.
    """
    if not annotations.endswith("/") and storage.exists(annotations):
        folder = images or _images_beside(annotations, storage)
        return {"all": PartFiles(annotations, folder, images is not None)}
    keys = [item.key for item in storage.list(annotations)]
    if not keys:
        raise NotFoundError(f"{annotations} is not there: give a COCO JSON file or the folder of an export")
    files = _annotation_files(keys)
    if not files:
        raise DataError(f"{annotations} is no export that is known: looked for {LOOKED_FOR}")
    parts = {part: _in_folder(annotations, key, images, keys) for part, key in files.items()}
    if len(parts) == 1:
        return {"all": next(iter(parts.values()))}
    if set(parts) - set(PART_NAMES.values()) or not {"train", "val"} <= set(parts):
        raise DataError(
            f"{annotations} holds {', '.join(sorted(files.values()))}, of which no train and val part can be told: "
            "give dataset.train and dataset.val, or one file as dataset.annotations"
        )
    return {part: parts[part] for part in ("train", "val", "test") if part in parts}


def _annotation_files(keys: Iterable[str]) -> dict[str, str]:
    """From part to annotation file, by the first convention that has any."""
    jsons = [key for key in keys if key.lower().endswith(".json")]
    conventions = (
        [key for key in jsons if name(key) == "_annotations.coco.json"],
        [key for key in jsons if re.fullmatch(r"(.*/)?instances_[^/]+\.json", key)],
        [key for key in jsons if name(key) == "result.json"],
        jsons,
    )
    found = next((files for files in conventions if files), [])
    return (
        {_part_of(key): key for key in found}
        if len({_part_of(k) for k in found}) == len(found)
        else {key: key for key in found}
    )


def _part_of(key: str) -> str:
    """``train`` of ``train/_annotations.coco.json`` and of ``annotations/instances_train2017.json``; else the key."""
    stem = name(key).rsplit(".", 1)[0].removeprefix("instances_")
    for word in (stem, name(parent(key))):
        part = PART_NAMES.get(re.sub(r"[\d_-]+$", "", word.lower()))
        if part:
            return part
    return key


def _in_folder(root: str, key: str, images: str | None, keys: list[str]) -> PartFiles:
    """The files of a part found in a folder whose listing is at hand."""
    if images is not None:
        return PartFiles(join(root, key), images, True)
    subset = name(key).rsplit(".", 1)[0].removeprefix("instances_")
    above = parent(key) if "/" in key else ""
    if name(above) == "annotations":
        above = parent(above) if "/" in above else ""
    for candidate in (f"images/{subset}", subset, "images", f"images/{_part_of(key)}", _part_of(key)):
        folder = f"{above}/{candidate}" if above else candidate
        if any(other.startswith(f"{folder}/") and is_image(other) for other in keys):
            return PartFiles(join(root, key), join(root, folder))
    return PartFiles(join(root, key), join(root, above) if above else root)


def _images_beside(annotations: str, storage: Storage) -> str:
    """The folder that most likely holds the images of an annotation file."""
    folder = parent(annotations)
    if name(folder) == "annotations":
        subset = name(annotations).rsplit(".", 1)[0].removeprefix("instances_")
        above = parent(folder)
        candidates = [join(above, "images", subset), join(above, subset), join(above, "images")]
    else:
        candidates = [join(folder, "images")]
    return next((candidate for candidate in candidates if storage.is_prefix(candidate)), folder)


def is_image(key: str) -> bool:
    """Whether a name is that of an image file."""
    return f".{key.rsplit('.', 1)[-1].lower()}" in IMAGE_SUFFIXES and "." in key


class FileNames:
    """Finds the file that a ``file_name`` means among those that are there.

    Tools write it relative to some folder of theirs, with backslashes, quoted for a URL, or as a path of their server:
    so after the exact name its ends are tried, and at last its bare name if that is unique.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self.keys = set(keys)
        self._bare: dict[str, str | None] = {}
        for key in self.keys:
            bare = name(key)
            self._bare[bare] = None if bare in self._bare else key

    def find(self, file_name: str) -> str | None:
        """The key of the file, or None."""
        if file_name in self.keys:
            return file_name
        for candidate in (file_name.replace("\\", "/"), _of_url(file_name)):
            parts = [part for part in candidate.split("/") if part not in ("", ".")]
            for start in range(len(parts)):
                key = "/".join(parts[start:])
                if key in self.keys:
                    return key
            if parts and self._bare.get(parts[-1]):
                return self._bare[parts[-1]]
        return None


def _of_url(file_name: str) -> str:
    """The path in ``/data/local-files/?d=a%20b.jpg`` or ``http://host/data/upload/a.jpg``."""
    try:
        parts = urlsplit(file_name)
    except ValueError:
        return unquote(file_name)
    query = parse_qs(parts.query).get("d")
    return query[0] if query else unquote(parts.path)


def is_unsafe(file_name: str) -> bool:
    """Whether a name leads out of its folder."""
    return "\0" in file_name or ".." in file_name.replace("\\", "/").split("/")
