"""Find the annotation files and image folders of a dataset: a single file, or the folder of an export.

Supported are the exports of Roboflow (``train/_annotations.coco.json`` next to the images), CVAT
(``annotations/instances_default.json``, ``images/`` or ``images/<subset>/``) and Label Studio (``result.json``,
``images/``), and COCO's own layout (``annotations/instances_train2017.json``, ``train2017/``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import islice

from engine.dataset.file_listing import list_files
from engine.dataset.formats import convert_file, convert_folder
from engine.dataset.formats.archives import ZIP, unpack
from engine.dataset.formats.detect import COCO, format_of_json
from engine.dataset.formats.source_files import Files, read_head
from engine.dataset.splits.split_files import SPLIT_ALIASES, SplitFiles, is_image, split_of_path, stem
from engine.errors import DataError
from engine.storage import Storage, join, missing, name, parent

LOOKED_FOR = (
    "_annotations.coco.json in train/, valid/ and test/ (Roboflow), annotations/instances_*.json (CVAT, COCO), "
    "result.json (Label Studio) or one other .json file, data.yaml or classes.txt with labels (YOLO), "
    ".xml files (Pascal VOC), and .json files of LabelMe or VIA"
)

_USUAL = frozenset({"annotations", "result", "coco", "labels", "dataset"})
_OTHER_TASKS = ("captions", "image_info", "panoptic", "stuff", "labels_")
_FEW = 12
"""Maximum number of other JSON files whose beginning is read."""

_GLANCE = 1000
"""Maximum number of objects to list when testing whether a folder contains images."""


def find_splits(annotations: str, images: str | None, *, storage: Storage) -> dict[str, SplitFiles]:
    """Return the splits of a dataset: ``all``, or ``train``, ``val`` and optionally ``test``.

    Args:
        annotations: A COCO file, or the folder of a Roboflow, CVAT, Label Studio or plain COCO export.
        images: Folder of the images; None to search for it.
        storage: Access to both.

    Raises:
        ConfigError: ``annotations`` is a local path that does not exist.
        NotFoundError: ``annotations`` does not exist in its bucket or on its claim.
        DataError: The folder contains no COCO file, or several that are not splits of one dataset.
    """
    if images is not None and _is_archive(images, storage):
        images = unpack(images, storage=storage)
    if not annotations.endswith("/") and storage.exists(annotations):
        return _splits_of_file(annotations, images, storage)
    others, folders = _contents(annotations, storage)
    converted = convert_folder(annotations, others, images, storage=storage)
    if converted is not None:
        return converted
    jsons = [key for key in others if key.lower().endswith(".json")]
    if not jsons:
        raise DataError(f"{annotations} is not a supported export: looked for {LOOKED_FOR}")
    chosen = _annotation_files(annotations, jsons)
    unread = _unread(annotations, jsons, set(chosen.values()), storage)
    files = {split: join(annotations, key) for split, key in chosen.items()}
    if images is None:
        known = {join(annotations, folder).lower(): join(annotations, folder) for folder in folders}
        return {
            split: SplitFiles(uri, _images_of(uri, lambda f: known.get(f.lower())), unread=unread)
            for split, uri in files.items()
        }
    given = images
    known = {join(given, folder).lower(): join(given, folder) for folder in _contents(given, storage)[1]}
    return {
        split: SplitFiles(
            uri,
            next((known[f.lower()] for f in _subfolders(given, uri) if f.lower() in known), given),
            images_expected=True,
            unread=unread,
        )
        for split, uri in files.items()
    }


def _splits_of_file(annotations: str, images: str | None, storage: Storage) -> dict[str, SplitFiles]:
    head = read_head(annotations, storage)
    if head.startswith(ZIP) or annotations.lower().endswith(".zip"):
        folder = unpack(annotations, storage=storage)
        try:
            splits = find_splits(folder, images, storage=storage)
        except DataError as error:
            raise DataError(str(error).replace(folder, annotations)) from None
        return {name: replace(split, origin=_in_archive(annotations, folder, split)) for name, split in splits.items()}
    converted = convert_file(annotations, head, images, storage=storage)
    if converted is not None:
        return converted
    if images is None:
        images = _images_of(annotations, lambda folder: folder if _holds_images(folder, storage) else None)
        return {"all": SplitFiles(annotations, images)}
    return {"all": SplitFiles(annotations, images, images_expected=True)}


def _is_archive(uri: str, storage: Storage) -> bool:
    return uri.lower().endswith(".zip") and storage.exists(uri) and read_head(uri, storage).startswith(ZIP)


def _in_archive(archive: str, folder: str, split: SplitFiles) -> str:
    """Return the path of an unpacked annotation file as a path in the archive, for messages."""
    return split.shown.replace(folder, archive, 1)


def find_single_split(annotations: str, images: str | None, *, storage: Storage) -> SplitFiles:
    """Return the files of data without splits.

    Raises:
        DataError: The data has several splits.
    """
    splits = find_splits(annotations, images, storage=storage)
    if len(splits) > 1:
        files = ", ".join(split.shown for split in splits.values())
        converted = any(split.origin for split in splits.values())
        advice = f"run `teacher convert {annotations} --output FOLDER` and give one of its files" if converted else ""
        raise DataError(f"{annotations} comes in several splits: {advice or f'give one of {files}'}")
    return next(iter(splits.values()))


def _contents(folder: str, storage: Storage) -> tuple[Files, set[str]]:
    """Return the files below a folder that are not images, by key, and the folders with images at any depth."""
    others = Files()
    folders: set[str] = set()
    empty = True
    for item in list_files(folder, storage):
        empty = False
        if not is_image(item.key):
            others.note(item)
        else:
            above = item.key.rpartition("/")[0]
            while above and above not in folders:
                folders.add(above)
                above = above.rpartition("/")[0]
    if empty:
        raise missing(
            folder,
            f"{folder} does not exist, or is empty: give a COCO JSON file, the folder of an export, or a zip file",
        )
    return others, folders


def _annotation_files(root: str, jsons: list[str]) -> dict[str, str]:
    """Return the key of the annotation file of each split."""
    likely = [key for key in jsons if not stem(key).lower().startswith(_OTHER_TASKS)]
    best: dict[str, list[str]] = {}
    for key in sorted(likely or jsons, key=_unlikeliness):
        same = best.setdefault(split_of_path(key), [])
        if not same or _unlikeliness(same[0]) == _unlikeliness(key):
            same.append(key)
    if "train" in best and not ("all" in best and best.keys().isdisjoint({"val", "test"})):
        best.pop("all", None)
    elif "all" in best:
        best = {"all": best["all"]}
    found = ", ".join(key for keys in best.values() for key in keys)
    exports = [_of_another_tool(keys[0], likely) for keys in best.values()]
    found += "".join(f", {key}" for key in exports if key)
    if any(exports) or any(len(keys) > 1 for keys in best.values()):
        raise DataError(
            f"{root} holds several annotation files that may be meant: {found}. Give one of them, or "
            "dataset.train and dataset.val"
        )
    if len(best) > 1 and not best.keys() >= {"train", "val"}:
        raise DataError(
            f"{root} comes split into {found}, but training needs a train and a val split: give dataset.train and "
            "dataset.val, or one of the files as dataset.annotations"
        )
    if len(best) == 1:
        return {"all": next(iter(best.values()))[0]}
    return {split: best[split][0] for split in SPLIT_ALIASES if split in best}


def _of_another_tool(chosen: str, jsons: list[str]) -> str:
    """Return an equally likely annotation file of the same split from another tool; empty if there is none."""
    kind, split = _unlikeliness(chosen)[0], split_of_path(chosen)
    return next((key for key in jsons if split_of_path(key) == split and {kind, _unlikeliness(key)[0]} == {0, 1}), "")


def _unread(root: str, jsons: list[str], chosen: Collection[str], storage: Storage) -> tuple[str, ...]:
    """Return keys of other COCO files with objects in a folder, among the first few."""
    others = [k for k in jsons if k not in chosen and not stem(k).lower().startswith(_OTHER_TASKS)][:_FEW]
    heads = ((key, read_head(join(root, key), storage)) for key in others)
    return tuple(key for key, head in heads if format_of_json(head.decode("utf-8-sig", errors="replace")) == COCO)


def _unlikeliness(key: str) -> tuple[int, int]:
    """Sort key of JSON files, the likeliest annotation file first: by name, then by depth."""
    word = stem(key).lower()
    if word == "_annotations.coco" or word.startswith("instances"):
        kind = 0
    elif word in _USUAL:
        kind = 1
    else:
        kind = 3 if word.startswith("person_keypoints") else 2
    return kind, key.count("/")


def _images_of(annotations: str, existing: Callable[[str], str | None]) -> str:
    """Return the most likely image folder of an annotation file.

    Args:
        annotations: The file.
        existing: Returns the existing spelling of a folder if it contains images, else None.
    """
    above = parent(annotations)
    if name(above) == "annotations":
        above = parent(above)
    candidates = [*_subfolders(join(above, "images"), annotations), *_subfolders(above, annotations)]
    found = (existing(folder) for folder in [*candidates, join(above, "images"), join(above, "data")])
    return next((folder for folder in found if folder is not None), above)


def _subfolders(folder: str, annotations: str) -> list[str]:
    """Return candidate subfolders of ``folder`` for the images of one split."""
    subset = stem(annotations).removeprefix("instances_")
    names = [subset] if subset not in _USUAL else []
    names += SPLIT_ALIASES.get(split_of_path(name(annotations)), ())
    return [join(folder, one) for one in names]


def _holds_images(folder: str, storage: Storage) -> bool:
    return any(is_image(item.key) for item in islice(list_files(folder, storage), _GLANCE))
