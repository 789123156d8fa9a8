"""Convert Pascal VOC XML to COCO: boxes, and the polygons that Roboflow writes.

Pixels: files of the VOC challenge itself (their database is "The VOC2007 Database") count from 1 and include the last
pixel, so 1 is subtracted from ``xmin`` and ``ymin``, as in Detectron2. LabelImg, CVAT, Roboflow and Label Studio write
plain corners, which are used as they are. Objects marked ``difficult`` or ``truncated`` are normal objects.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from engine.dataset.formats.coco_writer import Classes, CocoWriter, Polygon
from engine.dataset.formats.label_xml import parse_xml
from engine.dataset.formats.source_files import Source, by_folder, complete, identity
from engine.dataset.splits.split_files import SPLIT_ALIASES
from engine.errors import DataError

KIND = "Pascal VOC"

_OF_ONE_CLASS = re.compile(r".*\s(-1|0|1)")
"""Line of an image list for one class."""

CHALLENGE = re.compile(r"\s*The VOC\s?20\d\d Database", re.IGNORECASE)
"""Pattern of ``source/database`` in files of the challenge."""


@dataclass(frozen=True)
class _Object:
    """One object; ``box_xyxy`` is None if its numbers cannot be read, and ``fault`` is the reason."""

    class_name: str
    place: str
    box_xyxy: tuple[float, float, float, float] | None
    polygons: tuple[Polygon, ...] = ()
    rotation: float = 0.0
    fault: str = ""


@dataclass(frozen=True)
class _File:
    """One XML file; ``fault`` is the reason if it cannot be used."""

    key: str
    file_name: str
    size: tuple[int, int] | None = None
    objects: tuple[_Object, ...] = ()
    fault: str = ""


def convert(source: Source, folder: Path) -> list[str]:
    """Write ``<split>.json`` for each split and return the names of the splits.

    Raises:
        DataError: The image sets name files that do not exist, or are not usable splits.
    """
    keys = source.keys(".xml")
    splits, classes = _splits(source, keys), Classes()
    for split, files in splits.items():
        with CocoWriter(folder / f"{split}.json") as writer:
            for file in source.each(lambda key: _read(source, key), files):
                problem = "unreadable_labels" if file.fault else None
                said = file.fault or file.key
                image_id = writer.image(file.file_name, file.size, problem=problem, converted_from=said)
                for found in file.objects:
                    _write(writer, image_id, found, classes)
            # Classes that occur only in later splits are added there.
            writer.close(classes.categories())
    return list(splits)


def _write(writer: CocoWriter, image_id: int, found: _Object, classes: Classes) -> None:
    class_id = classes.id_of(found.class_name)
    if found.fault:
        writer.bad_object(image_id, class_id, f"{found.place}: {found.fault}")
        return
    extra = {"attributes": {"rotation": found.rotation}} if found.rotation else None
    writer.object(image_id, class_id, found.place, box_xyxy=found.box_xyxy, polygons=found.polygons, extra=extra)


def _read(source: Source, key: str) -> _File:
    try:
        root = parse_xml(source.read(key), key)
        if root.tag != "annotation":
            raise DataError(f"{key} is not a Pascal VOC file: its first element is <{root.tag[:40]}>, not <annotation>")
        if root.find("imagesize") is not None or root.find("object/polygon/pt") is not None:
            raise DataError(f"{key} is XML of the old, online LabelMe: save it as LabelMe JSON, or export COCO")
        file_name = _image_of(source, key, root)
    except DataError as error:
        beside = source.images_by_identity.get(identity(key), [posixpath.splitext(key)[0]])
        return _File(key, beside[0], fault=str(error))
    one_based = _is_one_based(root)
    objects = tuple(_object(key, number, found, one_based) for number, found in enumerate(root.iterfind("object"), 1))
    return _File(key, file_name, _size(root) or source.known_size(file_name), objects)


def _image_of(source: Source, key: str, root: Element) -> str:
    """Return the key of an XML file's image: the one in ``filename``, or the one with the name of the XML file.

    Raises:
        DataError: These are two different images.
    """
    same_stem = source.images_by_identity.get(identity(key), [])
    said = (root.findtext("filename") or "").strip().replace("\\", "/")
    above = posixpath.dirname(identity(key))
    named = source.images_by_identity.get(identity(posixpath.join(above, posixpath.basename(said))), []) if said else []
    exact = [one for one in named if posixpath.basename(one) == posixpath.basename(said)]
    if not exact and said:
        # CVAT writes a path with folders.
        whole = source.images_by_identity.get(identity(said), [])
        exact = [one for one in whole if posixpath.basename(one) == posixpath.basename(said)]
    if exact and same_stem and exact[0] not in same_stem:
        raise DataError(f"{key} says filename {said!r}, but {same_stem[0]} has its name: rename one, or correct it")
    candidates = exact or same_stem
    if len(candidates) > 1:
        raise DataError(f"{key} may mean {' or '.join(candidates[:3])}: keep one of them")
    return candidates[0] if candidates else said or posixpath.splitext(key)[0]


def _size(root: Element) -> tuple[int, int] | None:
    """Return width and height in pixels; None if missing or 0."""
    try:
        width, height = (_number(root.findtext(f"size/{side}")) for side in ("width", "height"))
    except ValueError:
        return None
    return (int(width), int(height)) if min(width, height) >= 1 and max(width, height) < 1e6 else None


def _is_one_based(root: Element) -> bool:
    if not CHALLENGE.match(root.findtext("source/database") or ""):
        return False
    corners = [root.iterfind("object/bndbox/xmin"), root.iterfind("object/bndbox/ymin")]
    return not any((one.text or "").strip() in ("0", "0.0") for found in corners for one in found)


def _object(key: str, number: int, element: Element, one_based: bool) -> _Object:
    class_name = (element.findtext("name") or "").strip()
    place = f"{key} object {number}"
    box = element.find("bndbox")
    if box is None:
        if element.find("robndbox") is not None:
            return _Object(class_name, f"{place} (a turned box, which is not read)", None)
        return _Object(class_name, f"{place} (no bndbox)", None)
    try:
        left, top, right, bottom = (_number(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax"))
        polygons = _polygons(element)
        rotation = _rotation(element)
    except ValueError as error:
        return _Object(class_name, place, None, fault=str(error))
    start = 1.0 if one_based else 0.0
    return _Object(class_name, place, (left - start, top - start, right, bottom), polygons, rotation)


def _polygons(element: Element) -> tuple[Polygon, ...]:
    """Return the polygon of a Roboflow export: ``<polygon><x1>…</x1><y1>…</y1><x2>…``."""
    outline = element.find("polygon")
    if outline is None:
        return ()
    points: dict[int, dict[str, float]] = defaultdict(dict)
    for child in outline:
        match = re.fullmatch(r"([xy])(\d{1,6})", child.tag)
        if match:
            points[int(match[2])][match[1]] = _number(child.text)
    whole = [point for _, point in sorted(points.items()) if len(point) == 2]
    return ([value for point in whole for value in (point["x"], point["y"])],) if len(whole) >= 3 else ()


def _rotation(element: Element) -> float:
    """Return the rotation of a CVAT box in degrees."""
    for attribute in element.iterfind("attributes/attribute"):
        if (attribute.findtext("name") or "").strip() == "rotation":
            return _number(attribute.findtext("value"))
    return 0.0


def _number(text: Any) -> float:
    """Return a finite number.

    Raises:
        ValueError: It is not a number; the message shows the text.
    """
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or "_" in text:
        raise ValueError(f"{(text or 'nothing').strip()[:30]!r} is not a number")
    return number


def _splits(source: Source, keys: list[str]) -> dict[str, list[str]]:
    """Group XML files by split: by ``ImageSets/Main``, else by folders such as ``train/`` and ``valid/``."""
    known = {identity(key): key for key in keys}
    sets: dict[str, dict[str, str | None]] = {split: {} for split in ("all", *SPLIT_ALIASES)}
    for key in source.keys(".txt"):
        folder, _, last = key.rpartition("/")
        if not f"/{folder}".lower().endswith("/imagesets/main"):
            continue
        base = posixpath.dirname(posixpath.dirname(folder))
        split = next((split for split, words in SPLIT_ALIASES.items() if last[:-4].lower() in words), "all")
        lines = (line.strip().replace("\\", "/") for line in source.text(key).splitlines())
        names = [line for line in lines if line and not line.startswith("#")]
        found = {name: _listed(posixpath.join(base, name), known) for name in names}
        missing = [name for name, xml in found.items() if not xml]
        if all(_OF_ONE_CLASS.fullmatch(name) for name in missing) and len(missing) == len(names):
            continue
        if missing and split != "test":  # the challenge does not publish its test annotations
            raise DataError(
                f"{key} of {source.uri} lists {len(missing):,} images without an XML file, such as "
                f"{missing[0][:80]!r}: add them to Annotations/, or take them out of the list"
            )
        sets[split] |= dict.fromkeys(xml for xml in found.values() if xml)
    if sets["train"] and sets["val"]:  # trainval is the union
        sets["all"] = {}
    elif sets["train"] and sets["all"].keys() >= sets["train"].keys():
        sets["train"] = {}
    listed = {split: list(files) for split, files in sets.items()}
    return complete(listed if any(listed.values()) else by_folder(keys), source.uri)


def _listed(path: str, known: dict[str, str]) -> str:
    """Return the XML file of an image in a list, named with or without a suffix; empty if there is none."""
    return known.get(path) or known.get(identity(path)) or ""
