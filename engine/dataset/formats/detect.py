"""Detect the format of a file or folder, by its content and not only its name."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.dataset.formats import labelme, via, voc, yolo
from engine.dataset.formats.label_json import outline
from engine.dataset.formats.label_xml import root_tag
from engine.dataset.formats.source_files import Source, identity
from engine.dataset.formats.unsupported import READ, json_format, unread_format
from engine.dataset.formats.yolo import label_lines, parse_line
from engine.dataset.formats.yolo_layout import NAME_FILES, data_yamls
from engine.errors import DataError

Convert = Callable[[Source, Path], list[str]]

CONVERTERS: Mapping[str, Convert] = {
    yolo.KIND: yolo.convert,
    voc.KIND: voc.convert,
    labelme.KIND: labelme.convert,
    via.KIND: via.convert,
}

COCO = "COCO"

SAMPLES = 12
"""Maximum number of files of each kind to read."""

_CERTAINLY_COCO = ("_annotations.coco.json", "instances_")
_ONE_IMAGE = "{} is the {} file of one image: give the folder that holds all of them"


@dataclass(frozen=True)
class Found:
    """The format of a folder; ``evidence`` is a file that shows it."""

    kind: str
    evidence: str


def format_of_json(head: str) -> str | None:
    """Return COCO, LabelMe or VIA by the beginning of a JSON text; None for anything else."""
    opening, outer, _ = outline(head)
    if via.is_via(head):
        return via.KIND
    if opening == "{" and "shapes" in outer:
        return labelme.KIND
    if json_format(head) is not None:
        return None
    # Categories alone are Label Studio's notes.json, unless the text continues.
    has = {"images", "annotations"} & outer or ({"info", "licenses", "categories"} & outer and len(head) >= 1 << 16)
    return COCO if opening == "{" and has else None


def format_of_file(name: str, head: bytes) -> str | None:
    """Return the format of a dataset in one file; None if it must be read as COCO, which may refuse it.

    Raises:
        DataError: The format is not supported, or the file is one of many.
    """
    lower = posixpath.basename(name).lower()
    if lower in NAME_FILES or lower.endswith((".names", ".data")):
        return yolo.KIND
    text = head.decode("utf-8-sig", errors="replace")
    if lower.endswith((".yaml", ".yml")):
        return yolo.KIND if "names:" in text and "\nkind: TeacherFineTune" not in f"\n{text}" else None
    if head.lstrip().startswith(b"<") or lower.endswith(".xml"):
        tag = root_tag(head)
        if tag == "annotation":
            raise DataError(_ONE_IMAGE.format(name, voc.KIND))
        raise _unread(name, unread_format(name, head, root_tag=tag or "?"))
    kind = format_of_json(text)
    if kind == labelme.KIND:
        raise DataError(_ONE_IMAGE.format(name, labelme.KIND))
    if kind is not None:
        return kind if kind == via.KIND else None
    unread = unread_format(name, head)
    if unread is not None:
        raise _unread(name, unread)
    if lower.endswith(".txt") and _is_yolo(text):
        raise DataError(_ONE_IMAGE.format(name, yolo.KIND))
    return None


def _unread(name: str, found: tuple[str, str] | None) -> DataError:
    kind, advice = found or ("of an unknown format", "export it as COCO")
    return DataError(f"{name} is {kind}, which is not read ({READ} are): {advice}")


def formats_of_folder(source: Source) -> list[Found]:
    """Return the formats of the files in a folder."""
    found = []
    jsons = source.keys(".json")
    coco = next((key for key in jsons if posixpath.basename(key).startswith(_CERTAINLY_COCO)), None)
    if coco is not None:
        found.append(Found(COCO, coco))
    looked_into = [] if coco is not None and len(jsons) <= SAMPLES else _samples(jsons)
    for key in looked_into:
        kind = format_of_json(source.head(key).decode("utf-8-sig", errors="replace"))
        if kind is not None and kind not in [one.kind for one in found]:
            found.append(Found(kind, key))
    xmls = source.keys(".xml")
    voc_file = next((key for key in _samples(xmls) if root_tag(source.head(key)) == "annotation"), None)
    if voc_file is not None:
        found.append(Found(voc.KIND, voc_file))
    yolo_file = _yolo_evidence(source, is_voc=voc_file is not None)
    if yolo_file is not None:
        found.append(Found(yolo.KIND, yolo_file))
    return found


def refuse_unread(source: Source) -> None:
    """Check a folder without a supported format for known unsupported ones.

    Raises:
        DataError: It has a known unsupported format, which the message names.
    """
    keys = source.files
    suffixes: dict[str, list[str]] = {}
    for key in keys:
        suffixes.setdefault(posixpath.splitext(key)[1].lower(), []).append(key)
    found: dict[str, tuple[tuple[str, str], str]] = {}
    for group in suffixes.values():
        for key in _samples(group):
            head = source.head(key)
            tag = root_tag(head) if key.lower().endswith(".xml") else ""
            if (unread := unread_format(key, head, root_tag=tag)) is not None:
                found.setdefault(unread[0], (unread, key))
    if found:  # the generic ones are the least informative
        unread, key = next(
            (one for name, one in found.items() if not name.startswith(("CSV", "a CSV of b"))), None
        ) or (next(iter(found.values())))
        raise _unread(f"{source.uri} ({key})", unread)


def _samples(keys: list[str]) -> list[str]:
    """Return some of the keys, evenly spaced."""
    step = max(1, len(keys) // SAMPLES)
    return keys[::step][:SAMPLES]


def _yolo_evidence(source: Source, *, is_voc: bool) -> str | None:
    """Return a file that proves YOLO labels, or None."""
    yamls = data_yamls(source)
    if yamls:
        return next(iter(yamls))
    texts = source.keys(".txt")
    labels = [key for key in texts if not yolo.is_other_text(key)]
    images = source.images_by_identity
    paired = [key for key in texts if identity(key) in images] or ([] if is_voc else labels)
    for key in _samples([key for key in paired if source.files[key]]):
        if _is_yolo(source.head(key).decode("utf-8-sig", errors="replace")):
            return key
    named = [key for key in source.files if posixpath.basename(key).lower() in NAME_FILES]
    return named[0] if named and paired else None


def _is_yolo(text: str) -> bool:
    """Test whether the first lines of a text are a class and at least four numbers."""
    lines = label_lines(text[:4000])[:3]
    try:
        return bool(lines) and all(len(parse_line(line)[1]) >= 4 for _, line in lines[:2])
    except ValueError:
        return False
