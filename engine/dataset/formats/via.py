"""Convert JSON of the VGG Image Annotator (VIA 1 and 2) to COCO: the project, or the exported annotations.

Regions are rectangles, polygons, circles and ellipses in pixels. Points and open lines have no area: they are counted
and left out. VIA does not store image sizes: they are read from the image headers.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.dataset.formats.coco_writer import Classes, CocoWriter, Polygon, ellipse
from engine.dataset.formats.label_json import number, outline, parse_json
from engine.dataset.formats.source_files import Source
from engine.dataset.splits.split_files import SPLIT_ALIASES, split_of_path
from engine.errors import DataError

KIND = "VIA"

CLASS_ATTRIBUTES = ("class", "label", "name", "category", "type", "object", "class_name")
"""Region attributes that may name the class; the first existing one is used."""


def convert(source: Source, folder: Path) -> list[str]:
    """Write ``<split>.json`` for each split and return the names of the splits.

    Raises:
        DataError: A file is not a VIA file, several files match, or the class attribute is unknown.
    """
    splits: dict[str, list[str]] = {}
    for key in _files(source):
        splits.setdefault(split_of_path(key), []).append(key)
    several = next((keys for keys in splits.values() if len(keys) > 1), None)
    if several or (len(splits) > 1 and not (splits.keys() >= {"train", "val"} and "all" not in splits)):
        listed = ", ".join(key for keys in splits.values() for key in keys)
        raise DataError(f"{source.uri} holds several VIA files that may be meant: {listed[:300]}. Give one of them")
    if len(splits) == 1:
        splits = {"all": next(iter(splits.values()))}
    splits = {split: splits[split] for split in ("all", *SPLIT_ALIASES) if split in splits}
    classes = Classes()
    for split, (key,) in splits.items():
        with CocoWriter(folder / f"{split}.json") as writer:
            _Project(source, key, classes).write(writer)
            writer.close(classes.categories() or [{"id": 1, "name": ""}])
    return list(splits)


def is_via(head: str) -> bool:
    """Test by its beginning whether a JSON text is from VIA 1 or 2."""
    opening, outer, inner = outline(head)
    return opening == "{" and (bool({"_via_img_metadata", "_via_settings"} & outer) or {"filename", "regions"} <= inner)


def _files(source: Source) -> list[str]:
    if source.chosen:
        return [source.chosen]
    keys = source.keys(".json")
    return [key for key in keys if is_via(source.head(key).decode("utf-8", errors="replace"))]


class _Project:
    """The images and regions of one file."""

    def __init__(self, source: Source, key: str, classes: Classes) -> None:
        self.source, self.key, self.classes = source, key, classes
        content = parse_json(source.read(key), key)
        content = content if isinstance(content, dict) else {}
        metadata = content.get("_via_img_metadata", content)
        if not isinstance(metadata, dict):
            raise DataError(f"{key} is not a VIA file: _via_img_metadata is not an object")
        self.entries = [entry for entry in metadata.values() if isinstance(entry, dict) and "regions" in entry]
        self.options = _options(content.get("_via_attributes"))
        self.attribute = self._class_attribute()

    def write(self, writer: CocoWriter) -> None:
        """Write all images with their objects."""
        names = [str(entry.get("filename") or "").replace("\\", "/") for entry in self.entries]
        keys = [self._image(name) for name in names]
        sizes = self.source.each(self.source.known_size, keys)
        for entry, name, key, size in zip(self.entries, names, keys, sizes, strict=True):
            image_id = writer.image(key, size, converted_from=self.key)
            for position, region in enumerate(_regions(entry), start=1):
                place = f"{self.key} {name[:80]} region {position}"
                self._object(writer, image_id, place, region if isinstance(region, dict) else {})

    def _image(self, name: str) -> str:
        """Return the key of an image: next to the file, in a folder such as ``images/``, or as VIA wrote it."""
        above = posixpath.dirname(self.key)
        local = posixpath.normpath(posixpath.join(above, name)) if name and "://" not in name else name
        if local in self.source.image_files:
            return local
        same = [
            key
            for key in self.source.images_by_identity.get(posixpath.splitext(local)[0], [])
            if posixpath.basename(key) == posixpath.basename(name)
        ]
        return same[0] if len(same) == 1 else name

    def _object(self, writer: CocoWriter, image_id: int, place: str, region: dict[str, Any]) -> None:
        class_id = self._class_of(region)
        shape = region.get("shape_attributes")
        try:
            polygons, box = _outline(shape if isinstance(shape, dict) else {})
        except (ValueError, TypeError) as error:
            writer.bad_object(image_id, class_id, f"{place}: {str(error)[:80]}")
            return
        kind = str(shape.get("name"))[:30] if isinstance(shape, dict) else "no shape"
        place = place if polygons or box else f"{place} ({kind}, which has no area)"
        writer.object(image_id, class_id, place, polygons=polygons, box_xyxy=box)

    def _class_attribute(self) -> str | None:
        """Return the attribute that names classes; None if regions have no attributes.

        Raises:
            DataError: Several attributes may name classes.
        """
        counts: set[str] = set()
        for entry in self.entries:
            for region in _regions(entry):
                attributes = region.get("region_attributes") if isinstance(region, dict) else None
                counts.update(attributes if isinstance(attributes, dict) else ())
        by_name = {name.lower(): name for name in counts}
        known = next((by_name[name] for name in CLASS_ATTRIBUTES if name in by_name), None)
        if known is not None or len(counts) <= 1:
            return known or next(iter(counts), None)
        raise DataError(
            f"regions of {self.key} have the attributes {', '.join(sorted(counts))[:200]}, and none says which is the "
            f"class: call it {' or '.join(CLASS_ATTRIBUTES[:2])}"
        )

    def _class_of(self, region: dict[str, Any]) -> int | None:
        if self.attribute is None:
            return 1  # there is one class, without a name
        attributes = region.get("region_attributes")
        value = attributes.get(self.attribute) if isinstance(attributes, dict) else None
        if isinstance(value, dict):  # a check box: {"cat": true}
            ticked = [name for name, on in value.items() if on]
            value = ticked[0] if len(ticked) == 1 else None
        if not isinstance(value, str | int) or isinstance(value, bool):
            return None
        return self.classes.id_of(self.options.get((self.attribute, str(value)), str(value)))


def _options(attributes: Any) -> dict[tuple[str, str], str]:
    """Return the displayed text of each (attribute, option id)."""
    found = {}
    regions = attributes.get("region") if isinstance(attributes, dict) else None
    for attribute, settings in (regions if isinstance(regions, dict) else {}).items():
        options = settings.get("options") if isinstance(settings, dict) else None
        for option, shown in (options if isinstance(options, dict) else {}).items():
            if isinstance(shown, str) and shown.strip():
                found[attribute, option] = shown
    return found


def _regions(entry: dict[str, Any]) -> Iterator[Any]:
    """Yield the regions: a list in VIA 2, an object with numbered keys in VIA 1."""
    regions = entry.get("regions")
    yield from regions.values() if isinstance(regions, dict) else regions if isinstance(regions, list) else ()


def _outline(shape: dict[str, Any]) -> tuple[list[Polygon], tuple[float, float, float, float] | None]:
    """Return polygons and box of a region; neither for a region without area.

    Raises:
        ValueError: A value is not a number.
    """
    kind = shape.get("name")
    if kind == "rect":
        x, y, width, height = (number(shape.get(one)) for one in ("x", "y", "width", "height"))
        return [], (x, y, x + width, y + height)
    if kind in ("circle", "ellipse"):
        radii = ("r", "r") if kind == "circle" else ("rx", "ry")
        cx, cy, rx, ry = (number(shape.get(one)) for one in ("cx", "cy", *radii))
        return [ellipse(cx, cy, rx, ry, number(shape.get("theta") or 0))], None
    if kind in ("polygon", "polyline"):
        xs, ys = shape.get("all_points_x") or [], shape.get("all_points_y") or []
        points = [(number(x), number(y)) for x, y in zip(xs, ys, strict=True)]
        closed = kind == "polygon" or points[:1] == points[-1:]
        if len(points) >= 3 and closed:
            return [[value for point in points for value in point]], None
    return [], None
