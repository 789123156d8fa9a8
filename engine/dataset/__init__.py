"""COCO datasets: inspect, validate, split, load. Never imports torch."""

from engine.dataset.coco import folder_dataset, to_coco
from engine.dataset.folder import ImageFolder
from engine.dataset.inspect import inspect_dataset, inspect_request
from engine.dataset.layouts import PartFiles, find_parts
from engine.dataset.load import load_dataset, load_part
from engine.dataset.masks import decode_masks, encode_mask
from engine.dataset.samples import load_sample
from engine.dataset.types import (
    ClassInfo,
    CocoAnnotation,
    CocoDataset,
    CocoImage,
    DatasetInfo,
    Detections,
    Problem,
    Sample,
    Severity,
)

__all__ = [
    "ClassInfo",
    "CocoAnnotation",
    "CocoDataset",
    "CocoImage",
    "DatasetInfo",
    "Detections",
    "ImageFolder",
    "PartFiles",
    "Problem",
    "Sample",
    "Severity",
    "decode_masks",
    "encode_mask",
    "find_parts",
    "folder_dataset",
    "inspect_dataset",
    "inspect_request",
    "load_dataset",
    "load_part",
    "load_sample",
    "to_coco",
]
