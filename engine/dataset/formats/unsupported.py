"""Recognise unsupported formats, so that the error names the format and the remedy."""

from __future__ import annotations

import re

from engine.dataset.formats.label_json import outline

EXPORT = "export it as COCO, YOLO or Pascal VOC"

READ = "COCO, YOLO, Pascal VOC, LabelMe, VIA, and zip files of these"
"""Supported formats, for messages."""

_JSON: tuple[tuple[str, str, str, str, str], ...] = (
    ("VIA 3", "{", "metadata file view", "", "export it as COCO in VIA 2"),
    ("Datumaro", "{", "items categories", "", "run `datum convert -f coco`"),
    ("V7 Darwin", "{", "item annotations", "", "export it as COCO in V7"),
    ("Supervisely", "{", "size objects", "", "export it as COCO in Supervisely"),
    ("a Supervisely project", "{", "classes tags", "", "export it as COCO in Supervisely"),
    ("Cityscapes", "{", "imgHeight imgWidth", "", "convert it to COCO"),
    ("SA-1B (Segment Anything)", "{", "image annotations", "", "convert it to COCO"),
    ("VoTT", "{", "asset regions", "", "export it as Pascal VOC in VoTT"),
    ("VoTT", "{", "assets tags", "", "export it as Pascal VOC in VoTT"),
    ("FiftyOne", "{", "samples", "", "export it as COCODetectionDataset"),
    ("FiftyOne", "{", "classes labels", "", "export it as COCODetectionDataset"),
    ("OpenLABEL", "{", "openlabel", "", "convert it to COCO"),
    ("a SageMaker manifest", "{", "source-ref", "", "convert it to COCO"),
    ("Labelbox NDJSON", "{", "data_row", "", "convert it to COCO with Labelbox's own converter"),
    ("Labelbox JSON", "[", "", "data_row", "convert it to COCO with Labelbox's own converter"),
    ("Labelbox JSON", "[", "", "Labeled", "convert it to COCO with Labelbox's own converter"),
    ("Label Studio's own JSON", "[", "", "data annotations", "export it as COCO in Label Studio"),
    ("Label Studio's own JSON", "[", "", "data completions", "export it as COCO in Label Studio"),
    ("Label Studio's JSON_MIN", "[", "", "annotator annotation_id", "export it as COCO in Label Studio"),
    ("CreateML", "[", "", "image annotations", EXPORT),
    ("CreateML", "[", "", "imagefilename annotations", EXPORT),
    ("CreateML", "[", "", "imagefilename annotation", EXPORT),
    ("BDD100K (Scalabel)", "[", "", "name labels", "run `python -m scalabel.label.to_coco`"),
    ("BDD100K (Scalabel)", "[", "", "name frames", "run `python -m scalabel.label.to_coco`"),
    ("BDD100K (Scalabel)", "{", "frames", "", "run `python -m scalabel.label.to_coco`"),
    ("JSON of CVAT's server", "[", "", "shapes tags", "export it as COCO in CVAT"),
)
"""Name, first bracket, keys of the outer object, keys of the first object in it, and the remedy."""

_CSV: tuple[tuple[str, str, str], ...] = (
    ("a CSV of VIA", r"#?filename,file_size,file_attributes,region_count", "export the annotations as JSON in VIA"),
    ("a CSV of Open Images", r"ImageID,(Source|LabelName|Confidence)", "convert it to COCO, with fiftyone for example"),
    ("a CSV for TensorFlow", r"filename,width,height,class,xmin", EXPORT),
    ("a CSV of boxes", r".*\b(xmin|x_min|x1|bbox)\b.*", EXPORT),
)

_SUFFIXES: dict[str, tuple[str, str]] = {
    ".tfrecord": ("TFRecord", EXPORT),
    ".tfrecords": ("TFRecord", EXPORT),
    ".record": ("TFRecord", EXPORT),
    ".ndjson": ("NDJSON (Labelbox)", EXPORT),
    ".jsonl": ("JSON lines", EXPORT),
    ".parquet": ("Parquet", "write it as COCO JSON"),
    ".mat": ("MATLAB", EXPORT),
    ".h5": ("HDF5", EXPORT),
    ".pkl": ("pickle, which can run code and is never read", EXPORT),
    ".zip": ("a zip file in another", "unpack the outer one, and give one of the inner"),
    ".tar": ("a tar archive", "unpack it, or make it a zip file"),
    ".tgz": ("a tar archive", "unpack it, or make it a zip file"),
    ".gz": ("compressed by gzip", "unpack it"),
    ".7z": ("a 7z archive", "unpack it, or make it a zip file"),
    ".rar": ("a RAR archive", "unpack it, or make it a zip file"),
}

_XML = {
    "annotations": ("CVAT for images XML", "export it as COCO or Pascal VOC in CVAT"),
    "dataset": ("dlib's XML (imglab)", EXPORT),
    "tagset": ("ICDAR's XML", EXPORT),
    "html": ("a web page", "download the file itself"),
    "svg": ("SVG", EXPORT),
}

_NUMBER = r"-?\d+(\.\d+)?(e-?\d+)?"
_KITTI = re.compile(rf"[A-Za-z_]\w*( {_NUMBER}){{14,15}}\s*")
_DOTA = re.compile(rf"(imagesource:.*|({_NUMBER}\s+){{8}}[A-Za-z][\w-]*\s+[0-3])\s*", re.IGNORECASE)
_MOT = re.compile(rf"\d+,-?\d+(,{_NUMBER}){{4,8}}\s*")


def json_format(text: str) -> tuple[str, str] | None:
    """Return name and remedy of an unsupported format by the beginning of a JSON text; None for others."""
    opening, outer, inner = outline(text)
    if {"images", "annotations"} <= outer:
        return None
    return next(
        (
            (name, advice)
            for name, bracket, of_outer, of_inner, advice in _JSON
            if bracket == opening and set(of_outer.split()) <= outer and set(of_inner.split()) <= inner
        ),
        None,
    )


def unread_format(name: str, head: bytes, *, root_tag: str = "") -> tuple[str, str] | None:
    """Return name and remedy of an unsupported format by the name and first bytes of a file; None for others."""
    lower = name.lower()
    text = head.decode("utf-8-sig", errors="replace")
    line = text.lstrip().partition("\n")[0]
    if root_tag:
        return _XML.get(root_tag.lower(), (f"XML of another kind (<{root_tag[:30]}>)", EXPORT))
    found = next((known for suffix, known in _SUFFIXES.items() if lower.endswith(suffix)), None)
    if found is not None:
        return found
    if lower.endswith((".csv", ".tsv")):
        csv = next(((kind, advice) for kind, header, advice in _CSV if re.match(header, line, re.IGNORECASE)), None)
        return csv or ("CSV", EXPORT)
    if lower.endswith(".txt"):
        if _KITTI.fullmatch(line):
            return "KITTI", EXPORT
        if _DOTA.fullmatch(line):
            return "DOTA (turned boxes)", EXPORT
        if _MOT.fullmatch(line):
            return "MOT", EXPORT
        return None
    return json_format(text)
