"""Refuse JSON files that are not COCO instances: panoptic, captions, LabelMe, manifests, other content."""

from __future__ import annotations

from engine.dataset.coco_reader import manifest_given
from engine.dataset.coco_records import RawAnnotation
from engine.errors import DataError


def check_kind(block: list[RawAnnotation], source: str) -> None:
    """Refuse files that look like COCO instances and are not."""
    if block[0].segments_info is not None:
        raise DataError(f"{source} is COCO panoptic: export the instances (boxes or masks) instead")
    if block[0].caption is not None:
        raise DataError(f"{source} holds captions, not objects: give the instances file instead")


def check_keys(keys: dict[str, str], source: str) -> None:
    """Check the top-level keys of a file, each with the first byte of its value.

    Raises:
        DataError: The file is not a COCO dataset.
    """
    if {"shapes", "imagePath"} <= keys.keys():
        raise DataError(f"{source} is the LabelMe file of one image: give the folder that holds all of them")
    if {"apiVersion", "kind", "spec"} <= keys.keys():
        raise manifest_given(source)
    wrong = [key for key in ("images", "annotations") if keys.get(key) != "["]
    if wrong:
        there = ", ".join(list(keys)[:10]) or "nothing"
        raise DataError(f"{source} is not COCO: it needs lists named images and annotations, found {there}")
