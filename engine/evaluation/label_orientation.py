"""Labels in the frame of the truth: images that EXIF turns may have been annotated one way and labelled the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from engine.dataset.exif_orientation import Evidence, Frames, evidence_of, turned
from engine.dataset.image_decoding import ImageHeader
from engine.dataset.predictions import Predictions
from engine.dataset.types import CocoDataset, CocoImage, Frame


def in_frame_of(
    dataset: CocoDataset, names: Sequence[str | None], predictions: Predictions
) -> tuple[Predictions, tuple[str, ...]]:
    """Turn labels of images that EXIF turns as the truth has these images.

    Args:
        dataset: The truth.
        names: Of each of its images the name in the predictions; None of one that they do not have.
        predictions: Those that tell the EXIF orientation of an image can be turned.

    Returns:
        The predictions, and in sentences what was done or is not known.
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
            f"{next(iter(turning))}: their labels were turned"
        )
    if unknown:
        remarks.append(
            f"{len(unknown):,} images have an EXIF orientation, such as {unknown[0]}, and no size shows whether the "
            "truth has it applied: it is taken to be as the labels have it"
        )
    return _turned(predictions, turning), tuple(remarks)


def _evidence(image: CocoImage, name: str, predictions: Predictions) -> Evidence:
    """Return what the size of an image in the truth shows, compared with that of its labels."""
    orientation, frame = predictions.exif[name]
    size, rotated = predictions.sizes[name], orientation >= 5
    width, height = size if frame is Frame.UPRIGHT or not rotated else size[::-1]
    return evidence_of(image, ImageHeader(width, height, "", rotated, orientation))


def _turned(predictions: Predictions, turning: Mapping[str, Frame]) -> Predictions:
    """The predictions with those of some images, by name, in the frame that is given."""
    sizes, seen = dict(predictions.sizes), dict(predictions.seen)
    for name, frame in turning.items():
        orientation = predictions.exif[name][0]
        seen[name] = turned(seen[name], orientation, sizes[name], to=frame)
        sizes[name] = sizes[name][::-1] if orientation >= 5 else sizes[name]
    return replace(predictions, sizes=sizes, seen=seen)
