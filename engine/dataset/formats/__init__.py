"""Other formats than COCO: YOLO, Pascal VOC, LabelMe and VIA are converted, zip files are unpacked.

Each converter writes COCO, which is read and checked as usual: the same checks find errors in a label file, and report
them with the file and line. Converted files are kept in the cache.
"""

from __future__ import annotations

from engine.dataset.formats.conversion_cache import kept_or_converted
from engine.dataset.formats.detect import (
    COCO,
    CONVERTERS,
    format_of_file,
    formats_of_folder,
    refuse_unread,
)
from engine.dataset.formats.source_files import Files, Source, list_others
from engine.dataset.splits.split_files import SplitFiles
from engine.errors import DataError
from engine.storage import Storage, name, parent

__all__ = ["convert_file", "convert_folder"]


def convert_file(uri: str, head: bytes, images: str | None, *, storage: Storage) -> dict[str, SplitFiles] | None:
    """Convert the dataset of a file and return its splits; None if the file must be read as COCO.

    Args:
        uri: URI of the file.
        head: Its first bytes.
        images: Folder of the images; None to search in the folder of the file.
        storage: Access to both.

    Raises:
        DataError: The format is not supported, or the dataset cannot be converted.
    """
    kind = format_of_file(uri, head)
    if kind is None:
        return None
    root = parent(uri)
    return _converted(Source(uri, root, list_others(root, storage), storage, images, name(uri)), kind)


def convert_folder(folder: str, files: Files, images: str | None, *, storage: Storage) -> dict[str, SplitFiles] | None:
    """Convert the dataset of a folder and return its splits; None if it is COCO.

    Args:
        folder: As the user gave it.
        files: The files below it, without images.
        images: Folder of the images; None to search in the same folder.
        storage: Access to both.

    Raises:
        DataError: It contains several formats, an unsupported one, or cannot be converted.
    """
    if not any(key.lower().endswith((".txt", ".xml", ".yaml", ".yml")) for key in files) and _is_plain_coco(files):
        return None
    source = Source(folder, folder, files, storage, images)
    found = formats_of_folder(source)
    kinds = [one.kind for one in found]
    if len(found) > 1:
        listed = " and ".join(f"{one.kind} ({one.evidence})" for one in found)
        raise DataError(
            f"{folder} holds annotations in several formats: {listed}. Give the file or folder of the one that is meant"
        )
    if not found:
        refuse_unread(source)
        return None
    if kinds == [COCO]:
        return None
    return _converted(source, kinds[0])


def _is_plain_coco(files: Files) -> bool:
    """Test whether the names of the files show that all annotations are COCO."""
    jsons = [key.rpartition("/")[2] for key in files if key.lower().endswith(".json")]
    return bool(jsons) and all(one == "_annotations.coco.json" or one.startswith("instances_") for one in jsons)


def _converted(source: Source, kind: str) -> dict[str, SplitFiles]:
    if not source.image_files:
        raise DataError(f"{source.uri} is {kind}, but has no images below {source.images}: give their folder as images")
    splits = kept_or_converted(source, kind, CONVERTERS[kind])
    return {
        split: SplitFiles(str(path), source.images, images_expected=True, origin=_origin(source, kind, split))
        for split, path in splits.items()
    }


def _origin(source: Source, kind: str, split: str) -> str:
    return f"{source.uri} ({kind}{'' if split == 'all' else f', {split}'})"
