"""Datasets in formats other than COCO, written for tests by the formats' own documented rules."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from coco_files import Coco, write, write_images
from PIL import Image

Writer = Callable[[Path, Coco], Path]


def objects_of(coco: Coco) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in coco["images"]}
    for annotation in coco["annotations"]:
        found[annotation["image_id"]].append(annotation)
    return found


def names_of(coco: Coco) -> dict[int, str]:
    return {category["id"]: category["name"] for category in coco["categories"]}


def text(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def yolo_lines(coco: Coco, image: dict[str, Any]) -> str:
    index = {category["id"]: i for i, category in enumerate(coco["categories"])}
    lines = []
    for found in objects_of(coco)[image["id"]]:
        width, height = image["width"], image["height"]
        if found.get("segmentation"):
            points = found["segmentation"][0]
            shares = [value / (width, height)[k % 2] for k, value in enumerate(points)]
        else:
            x, y, w, h = found["bbox"]
            shares = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
        lines.append(" ".join([str(index[found["category_id"]]), *(f"{share:.8f}" for share in shares)]))
    return "".join(f"{line}\n" for line in lines)


def yolo(folder: Path, coco: Coco, *, split: str = "", config: bool = True) -> Path:
    """``images/<split>/``, ``labels/<split>/`` and ``data.yaml``."""
    write_images(folder / "images" / split, [image["file_name"] for image in coco["images"]])
    for image in coco["images"]:
        text(folder / "labels" / split / f"{image['file_name'].rpartition('.')[0]}.txt", yolo_lines(coco, image))
    if config:
        names = "".join(f"  {i}: {one['name']}\n" for i, one in enumerate(coco["categories"]))
        text(folder / "data.yaml", f"path: .\ntrain: images\nnames:\n{names}")
    return folder


def voc(folder: Path, coco: Coco, *, one_based: bool = False) -> Path:
    """``Annotations/``, ``JPEGImages/`` and an image set."""
    write_images(folder / "JPEGImages", [image["file_name"] for image in coco["images"]])
    for image in coco["images"]:
        objects = ""
        for found in objects_of(coco)[image["id"]]:
            x, y, w, h = found["bbox"]
            start = 1 if one_based else 0
            objects += (
                f"<object><name>{escape(names_of(coco)[found['category_id']])}</name><difficult>0</difficult><bndbox>"
                f"<xmin>{x + start}</xmin><ymin>{y + start}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
                "</bndbox></object>"
            )
        database = "The VOC2007 Database" if one_based else "Unknown"
        text(
            folder / "Annotations" / f"{image['file_name'].rpartition('.')[0]}.xml",
            f"<annotation><folder>JPEGImages</folder><filename>{image['file_name']}</filename>"
            f"<source><database>{database}</database></source><size><width>{image['width']}</width>"
            f"<height>{image['height']}</height><depth>3</depth></size>{objects}</annotation>",
        )
    text(folder / "ImageSets" / "Main" / "default.txt", "".join(f"{i['file_name'][:-4]}\n" for i in coco["images"]))
    return folder


def labelme_file(coco: Coco, image: dict[str, Any], **more: Any) -> dict[str, Any]:
    shapes = []
    for found in objects_of(coco)[image["id"]]:
        shape: dict[str, Any] = {"label": names_of(coco)[found["category_id"]], "group_id": None, "flags": {}}
        if found.get("segmentation"):
            points = found["segmentation"][0]
            shape |= {"shape_type": "polygon", "points": [points[k : k + 2] for k in range(0, len(points), 2)]}
        else:
            x, y, w, h = found["bbox"]
            shape |= {"shape_type": "rectangle", "points": [[x + w, y], [x, y + h]]}
        shapes.append(shape)
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": image["file_name"],
        "imageData": None,
        "imageHeight": image["height"],
        "imageWidth": image["width"],
    } | more


def labelme(folder: Path, coco: Coco) -> Path:
    """A JSON file beside each image."""
    write_images(folder, [image["file_name"] for image in coco["images"]])
    for image in coco["images"]:
        write(folder / f"{image['file_name'].rpartition('.')[0]}.json", labelme_file(coco, image))
    return folder


def labelme_mask(mask: np.ndarray, label: str) -> dict[str, Any]:
    """A mask shape: the PNG of its box, both corners included."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])
    file = io.BytesIO()
    Image.fromarray(mask[y0 : y1 + 1, x0 : x1 + 1]).convert("1").save(file, "PNG")
    return {
        "label": label,
        "shape_type": "mask",
        "points": [[x0, y0], [x1, y1]],
        "mask": base64.b64encode(file.getvalue()).decode(),
    }


def via_metadata(coco: Coco) -> dict[str, Any]:
    entries = {}
    for image in coco["images"]:
        regions = []
        for found in objects_of(coco)[image["id"]]:
            if found.get("segmentation"):
                points = found["segmentation"][0]
                shape = {"name": "polygon", "all_points_x": points[0::2], "all_points_y": points[1::2]}
            else:
                x, y, w, h = found["bbox"]
                shape = {"name": "rect", "x": x, "y": y, "width": w, "height": h}
            attributes = {"class": names_of(coco)[found["category_id"]]}
            regions.append({"shape_attributes": shape, "region_attributes": attributes})
        name = image["file_name"]
        entries[f"{name}100"] = {"filename": name, "size": 100, "regions": regions, "file_attributes": {}}
    return entries


def via(folder: Path, coco: Coco) -> Path:
    """A project of VIA 2 beside the images."""
    write_images(folder, [image["file_name"] for image in coco["images"]])
    project = {
        "_via_settings": {"ui": {}, "core": {}, "project": {"name": "p"}},
        "_via_img_metadata": via_metadata(coco),
        "_via_attributes": {"region": {"class": {"type": "text"}}, "file": {}},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": [],
    }
    write(folder / "via_project_1Jan2026.json", project)
    return folder


def via_export(folder: Path, coco: Coco) -> Path:
    """The exported annotations alone."""
    write_images(folder, [image["file_name"] for image in coco["images"]])
    write(folder / "via_region_data.json", via_metadata(coco))
    return folder


def coco_export(folder: Path, coco: Coco) -> Path:
    """COCO as CVAT writes it."""
    write_images(folder / "images" / "default", [image["file_name"] for image in coco["images"]])
    write(folder / "annotations" / "instances_default.json", coco)
    return folder


WRITERS: Mapping[str, Writer] = {
    "YOLO": yolo,
    "Pascal VOC": voc,
    "LabelMe": labelme,
    "VIA": via,
    "VIA export": via_export,
    "COCO": coco_export,
}
WITH_MASKS = ("YOLO", "LabelMe", "VIA", "VIA export", "COCO")


def zipped(folder: Path, archive: Path, *, top: str = "") -> Path:
    """A folder as a zip file, perhaps within a folder of its own."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                file.write(path, f"{top}{path.relative_to(folder).as_posix()}")
    return archive


def coco_again(coco: Coco) -> dict[str, list[tuple[str, tuple[float, ...], int]]]:
    """By file name: class, box (x, y, width, height) and number of polygon points of each object."""
    names, files = names_of(coco), {image["id"]: image["file_name"] for image in coco["images"]}
    found: dict[str, list[Any]] = {name: [] for name in files.values()}
    for one in coco["annotations"]:
        points = sum(len(polygon) for polygon in one.get("segmentation") or []) // 2
        found[files[one["image_id"]]].append((names[one["category_id"]], tuple(one["bbox"]), points))
    return {name: sorted(objects) for name, objects in found.items()}


def loads(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
