"""Rotate labels to the orientation of the ground truth, if only one of the two has the EXIF orientation applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from engine.dataset.images.decoding import ImageHeader
from engine.dataset.images.exif_orientation import Evidence, Frames, evidence_of, turned
from engine.dataset.predictions import Predictions
from engine.dataset.types import CocoDataset, CocoImage, Frame


def match_orientation(
    dataset: CocoDataset, names: Sequence[str | None], predictions: Predictions
) -> tuple[Predictions, tuple[str, ...]]:
    """Rotate the labels of images with an EXIF orientation as the ground truth has these images.

    Args:
        dataset: Ground truth.
        names: Name in the predictions of each of its images; None if it has no predictions.
        predictions: Predictions; only those that record the EXIF orientation of their image can be rotated.

    Returns:
        The predictions, and sentences about what was rotated and what is unknown.
    """
    frames, shown = Frames(), {}
    for image, name in zip(dataset.images, names, strict=True):
        if name in predictions.exif:
            shown[name] = _evidence(image, name, predictions)
            frames.add(shown[name], image.file_name)
    turning: dict[str, Frame] = {}
    unknown: list[str] = []
    for name, evidence in shown.items():
        frame = predictions.exif[name][1]
        wanted = {Evidence.APPLIED: Frame.UPRIGHT, Evidence.IGNORED: Frame.STORED}.get(evidence)
        if wanted is None and evidence is not Evidence.NONE:
            wanted = frames.frame(unknown=frame)
            unknown += [] if frames.proven else [name]
        if wanted not in (None, frame):
            turning[name] = wanted
    remarks = []
    if turning:
        remarks.append(
            f"{len(turning):,} images are labelled in another EXIF orientation than the truth has, such as "
            f"{next(iter(turning))}: their labels were rotated"
        )
    if unknown:
        remarks.append(
            f"{len(unknown):,} images have an EXIF orientation, such as {unknown[0]}, and no size shows whether the "
            "truth has it applied: it is assumed to be the same as in the labels"
        )
    return _turned(predictions, turning), tuple(remarks)


def _evidence(image: CocoImage, name: str, predictions: Predictions) -> Evidence:
    """Compare the sizes of an image in the ground truth and in its labels, as evidence of an applied orientation."""
    orientation, frame = predictions.exif[name]
    size, rotated = predictions.sizes[name], orientation >= 5
    width, height = size if frame is Frame.UPRIGHT or not rotated else size[::-1]
    return evidence_of(image, ImageHeader(width, height, "", rotated, orientation))


def _turned(predictions: Predictions, turning: Mapping[str, Frame]) -> Predictions:
    """Rotate the predictions of some images, by name, into the given frame."""
    sizes, seen = dict(predictions.sizes), dict(predictions.seen)
    for name, frame in turning.items():
        orientation = predictions.exif[name][0]
        seen[name] = turned(seen[name], orientation, sizes[name], to=frame)
        sizes[name] = sizes[name][::-1] if orientation >= 5 else sizes[name]
    return replace(predictions, sizes=sizes, seen=seen)
