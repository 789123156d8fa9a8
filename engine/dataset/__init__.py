"""COCO datasets: inspect, validate, split, load. Never imports torch."""

from engine.dataset.checks.validate import validate_dataset
from engine.dataset.coco_export import folder_dataset, to_coco
from engine.dataset.export_layouts import find_splits
from engine.dataset.images.folder import ImageFolder
from engine.dataset.inspect import inspect_dataset, inspect_request
from engine.dataset.load import load_dataset, load_split
from engine.dataset.masks import decode_masks, encode_mask
from engine.dataset.sample_loader import load_sample
from engine.dataset.splits.coco_file import split_file
from engine.dataset.splits.split_files import SplitFiles
from engine.dataset.splits.stratify import Split, split_dataset
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
    "Problem",
    "Sample",
    "Severity",
    "Split",
    "SplitFiles",
    "decode_masks",
    "encode_mask",
    "find_splits",
    "folder_dataset",
    "inspect_dataset",
    "inspect_request",
    "load_dataset",
    "load_sample",
    "load_split",
    "split_dataset",
    "split_file",
    "to_coco",
    "validate_dataset",
]
