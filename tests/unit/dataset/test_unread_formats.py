"""Formats that are not read are named, with what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from coco_files import changed, small_coco, write_images
from other_formats import labelme, text, voc, yolo

from engine.dataset import inspect_dataset
from engine.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("annotations.xml", "<annotations><version>1.1</version></annotations>", "CVAT for images XML"),
        ("a.json", {"info": {}, "categories": {"label": {}}, "items": []}, "Datumaro"),
        ("a.json", [{"image": "a.jpg", "annotations": [{"label": "x", "coordinates": {}}]}], "CreateML"),
        ("a.json", [{"id": 1, "annotations": [], "data": {"image": "a.jpg"}}], "Label Studio's own JSON"),
        ("a.json", [{"image": "a", "id": 1, "annotator": 1, "annotation_id": 2}], "JSON_MIN"),
        ("a.json", [{"name": "a.jpg", "labels": []}], "BDD100K"),
        ("a.json", {"description": "", "tags": [], "size": {}, "objects": []}, "Supervisely"),
        ("a.ndjson", {"data_row": {"id": "x"}, "projects": {}}, "NDJSON"),
        ("a.json", {"data_row": {"id": "x"}, "projects": {}}, "Labelbox"),
        ("a.json", {"asset": {}, "regions": []}, "VoTT"),
        ("a.json", {"version": "2.0", "item": {}, "annotations": []}, "V7 Darwin"),
        ("a.json", {"project": {}, "config": {}, "metadata": {}, "file": {}, "view": {}}, "VIA 3"),
        ("a.json", {"image": {}, "annotations": []}, "SA-1B"),
        ("a.csv", "filename,file_size,file_attributes,region_count,region_id\n", "a CSV of VIA"),
        ("a.csv", "ImageID,Source,LabelName,Confidence,XMin\n", "Open Images"),
        ("a.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n", "TensorFlow"),
        ("a.tfrecord", b"\x00\x01", "TFRecord"),
        ("a.txt", "Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59", "KITTI"),
        ("a.parquet", b"PAR1", "Parquet"),
    ],
)
def test_unsupported_formats_are_named_with_a_remedy(name: str, content: object, kind: str, tmp_path: Path) -> None:
    raw = content if isinstance(content, str | bytes) else json.dumps(content)
    write_images(tmp_path, ["img.png"])
    text(tmp_path / name, raw)
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(DataError, match=rf"is .*{kind}.*, which is not read .*: "):
            inspect_dataset(source)


def test_single_label_file_error_names_the_folder(tmp_path: Path) -> None:
    coco = changed(small_coco(1, 1), lambda _: None)
    files = {
        "YOLO": yolo(tmp_path / "y", coco) / "labels" / "001.txt",
        "Pascal VOC": voc(tmp_path / "v", coco) / "Annotations" / "001.xml",
        "LabelMe": labelme(tmp_path / "l", coco) / "001.json",
    }
    for kind, file in files.items():
        with pytest.raises(DataError, match=f"is the {kind} file of one image: give the folder"):
            inspect_dataset(file)
