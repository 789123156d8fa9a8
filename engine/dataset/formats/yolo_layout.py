"""Find the images and classes of a YOLO dataset: ``data.yaml``, ``obj.data``, lists of images, ``classes.txt``."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.dataset.file_names import FileNames
from engine.dataset.formats.source_files import Source, by_folder, complete, identity
from engine.dataset.splits.split_files import SPLIT_ALIASES
from engine.errors import ConfigError, DataError
from engine.text.plain_yaml import read_document

NAME_FILES = ("classes.txt", "obj.names", "classes.names", "names.txt", "_darknet.labels", "predefined_classes.txt")
"""Files with one class name per line."""

SIGNATURE_BYTES = 128 << 10
"""Maximum bytes of a data.yaml; a larger file is something else."""


@dataclass(frozen=True)
class Layout:
    """Classes and splits of a YOLO dataset.

    Attributes:
        names: Class name by class index.
        splits: Image keys by split; a name that is not a key is an image that does not exist.
        described_by: The file that names the classes.
    """

    names: Mapping[int, str]
    splits: Mapping[str, list[str]]
    described_by: str


def read_yaml(text: str) -> dict[str, Any] | None:
    """Parse a YAML mapping with all scalars as text (a class may be called ``no``); None for anything else."""
    try:
        value = read_document(text, where="data.yaml", as_text=True).value
    except ConfigError:
        return None
    return value if isinstance(value, dict) else None


def data_yamls(source: Source) -> dict[str, dict[str, Any]]:
    """Return the files with the content of an Ultralytics ``data.yaml``, under any name."""
    keys = [source.chosen] if source.chosen.endswith((".yaml", ".yml")) else source.keys(".yaml", ".yml")
    found = {}
    for key in keys:
        if source.files[key] <= SIGNATURE_BYTES:
            content = read_yaml(source.text(key))
            if content is not None and "names" in content and not {"kind", "apiVersion"} & content.keys():
                found[key] = content
    return found


def read_layout(source: Source) -> Layout:
    """Read classes and splits of a YOLO dataset.

    Raises:
        DataError: Class names are missing, or files contradict each other.
    """
    yamls = data_yamls(source)
    if len(yamls) > 1:
        raise DataError(f"{source.uri} holds several YOLO datasets: {', '.join(list(yamls)[:5])}. Give one of them")
    for key, content in yamls.items():
        if "kpt_shape" in content:
            raise DataError(
                f"{key} of {source.uri} is YOLO pose (it has kpt_shape): key points are not read. Export boxes or "
                "polygons (YOLO detection or segmentation)"
            )
        return Layout(_yaml_names(content, key), _yaml_splits(source, key, content), key)
    data_files = source.keys(".data")
    names, described_by = _name_file(source, data_files)
    splits = _darknet_splits(source, data_files[0]) if len(data_files) == 1 else {}
    return Layout(names, splits or splits_by_folder(source), described_by)


def _yaml_names(content: dict[str, Any], key: str) -> dict[int, str]:
    names, count = content["names"], content.get("nc")
    if isinstance(names, list):
        found = {index: _as_name(one) for index, one in enumerate(names)}
    elif isinstance(names, dict) and all(re.fullmatch(r"\d{1,6}", index) for index in names):
        found = {int(index): _as_name(one) for index, one in names.items()}
    else:
        raise DataError(f"names of {key} must be a list of class names, or a mapping from 0, 1, 2 … to them")
    if isinstance(count, str) and count.isdigit() and int(count) != len(found):
        raise DataError(f"{key} says nc: {count}, but has {len(found)} names: correct one of them")
    return found


def _as_name(value: object) -> str:
    return value if isinstance(value, str) else ""


def _yaml_splits(source: Source, key: str, content: dict[str, Any]) -> dict[str, list[str]]:
    """Return the images of train, val and test from a data.yaml, which names folders or lists of images."""
    above = posixpath.dirname(key)
    names = FileNames(source.image_files)
    splits = {}
    for split, words in SPLIT_ALIASES.items():
        wanted = next((content[word] for word in words if content.get(word)), None)
        paths = wanted if isinstance(wanted, list) else [wanted] if isinstance(wanted, str) else []
        images: list[str] = []
        for path in paths:
            found = _images_at(source, above, content.get("path"), str(path), names)
            if found is None:  # Roboflow writes valid/, and users rename it
                found = by_folder(source.image_files).get(split)
            if found is None and split == "test":  # often left over from a template
                continue
            if found is None:
                raise DataError(
                    f"{key} of {source.uri} gives {path!r} as {split}, but {source.images} has no images "
                    "at this path: upload them, or correct the path, which is relative to the folder of the file"
                )
            images += found
        if images:
            splits[split] = list(dict.fromkeys(images))
    if not splits:
        return splits_by_folder(source)
    train, val = set(splits["train"]) if "train" in splits else set(), splits.get("val", ())
    if content.get("train") != content.get("val") and len(train.intersection(val)) > len(val) / 2:
        raise DataError(
            f"{key} of {source.uri} gives {content.get('train')!r} as train and another path as val, and both lead to "
            "the same images: correct the paths"
        )
    return complete(splits, f"{source.uri} by {key}")


def _images_at(source: Source, above: str, path: object, wanted: str, names: FileNames) -> list[str] | None:
    """Return keys of the images in a folder or list that a data.yaml names; None if it does not exist.

    Paths are relative to ``path`` or to the file, or from another machine: then the longest existing end is used.
    """
    wanted = wanted.replace("\\", "/").strip()
    base = path.replace("\\", "/").strip() if isinstance(path, str) else ""
    candidates = [posixpath.join(above, base, wanted), posixpath.join(above, wanted)]
    if wanted.startswith("../"):  # written by Roboflow, and supported by Ultralytics
        candidates.append(posixpath.join(above, wanted.removeprefix("../")))
    for candidate in dict.fromkeys(candidates):
        found = _images_below(source, posixpath.normpath(candidate), names)
        if found is not None:
            return found
    pieces = [piece for piece in posixpath.normpath(wanted).split("/") if piece not in ("", ".", "..")]
    for start in range(len(pieces)):
        found = _images_below(source, posixpath.normpath(posixpath.join(above, *pieces[start:])), names)
        if found is not None:
            return found
    return None


def _images_below(source: Source, place: str, names: FileNames) -> list[str] | None:
    if place in source.files and place.endswith(".txt"):
        return _listed_images(source, place, names)
    if place in source.image_files:
        return [place]
    prefix = "" if place == "." else f"{place}/"
    found = [key for key in source.image_files if key.startswith(prefix)]
    return found or None


def _listed_images(source: Source, key: str, names: FileNames) -> list[str]:
    """Return the images of a list with one path per line; missing images as written."""
    above = posixpath.dirname(key)
    found = []
    for line in source.text(key).splitlines():
        path = line.strip().replace("\\", "/")
        if not path:
            continue
        local = posixpath.normpath(posixpath.join(above, path))
        found.append(local if local in source.image_files else names.find(path) or _by_end(source, path) or path)
    return found


def _by_end(source: Source, path: str) -> str | None:
    """Return the image that matches the longest end of a path from another machine, including folders."""
    pieces = [piece for piece in path.split("/") if piece not in ("", ".", "..")]
    ends = ("/".join(pieces[start:]) for start in range(1, len(pieces)))
    return next((end for end in ends if end in source.image_files), None)


def _name_file(source: Source, data_files: list[str]) -> tuple[dict[int, str], str]:
    """Read class names from a file with one name per line."""
    keys = [key for key in source.files if _is_name_file(key)]
    if source.chosen in keys:
        keys = [source.chosen]
    texts = {tuple(line.strip() for line in source.text(key).strip().splitlines()): key for key in keys}
    if len(texts) > 1:
        raise DataError(f"{', '.join(texts.values())} of {source.uri} name different classes: keep one of them")
    for lines, key in texts.items():
        if any(lines):
            return dict(enumerate(lines)), key
    place = f" (next to {data_files[0]})" if data_files else ""
    unread = next((f" ({key} is not plain YAML with names)" for key in source.keys(".yaml", ".yml")), "")
    raise DataError(
        f"{source.uri} contains YOLO labels without class names{unread}: put a data.yaml with names, or a "
        f"classes.txt with one name a line, in the order of the class numbers, into it{place}"
    )


def _is_name_file(key: str) -> bool:
    return posixpath.basename(key).lower() in NAME_FILES or key.lower().endswith(".names")


def _darknet_splits(source: Source, key: str) -> dict[str, list[str]]:
    """Return the splits of Darknet's ``obj.data``: ``train = data/train.txt``."""
    names = FileNames(source.image_files)
    texts = FileNames(source.files)
    splits = {}
    for line in source.text(key).splitlines():
        word, equals, value = line.partition("=")
        split = next((split for split, words in SPLIT_ALIASES.items() if word.strip().lower() in words), None)
        listed = texts.find(value.strip().replace("\\", "/")) if equals and value.strip() else None
        if split is not None and listed is not None:
            images = _listed_images(source, listed, names)
            if images:
                splits[split] = images
    return complete(splits, f"{source.uri} by {key}") if splits else {}


def splits_by_folder(source: Source) -> dict[str, list[str]]:
    """Group all images by split if folders such as ``train/`` and ``valid/`` contain all images with labels.

    Raises:
        DataError: The folders are not usable splits.
    """
    splits = by_folder(source.image_files)
    if len(splits) > 1 and "all" in splits:  # plots of results, for example
        labelled = {identity(key) for key in source.keys(".txt")}
        splits["all"] = [key for key in splits["all"] if identity(key) in labelled]
    return complete(splits, source.uri)
