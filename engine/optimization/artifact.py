"""An artifact as a predictor: images to detections, as the model in torch gives them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.dataset.images.preprocessing import Geometry
from engine.dataset.predicted_masks import masks_in_boxes
from engine.dataset.types import Detections, Frame, Sample
from engine.errors import ConfigError
from engine.optimization.card import ArtifactCard, Preprocessing
from engine.optimization.runtimes import Arrays, Session
from engine.storage import Storage, join, parent
from engine.storage import name as name_of


class Artifact:
    """Predicts with the sessions of one artifact.

    Attributes:
        card: Description of the artifact.
        sessions: Loaded parts by role.
        classes: Class names in the order of class indices.
        frame: Frame of EXIF-rotated images in training.
    """

    def __init__(self, sessions: dict[str, Session]) -> None:
        self.sessions = sessions
        self.card: ArtifactCard = next(iter(sessions.values())).card
        self.classes, self.frame = self.card.classes, Frame(self.card.frame)

    @property
    def iou_type(self) -> Literal["bbox", "segm"]:
        """``segm`` if it predicts the masks of boxes."""
        return "bbox" if "detector" in self.sessions else "segm"

    @property
    def prompted(self) -> bool:
        """Return True if it needs boxes."""
        return self.iou_type == "segm"

    def predict(self, samples: Sequence[Sample]) -> list[Detections]:
        """Detect in original images, one after the other; see :meth:`engine.models.base.Teacher.predict`."""
        return [self._segment(one) if self.prompted else self._detect(one) for one in samples]

    def _detect(self, sample: Sample) -> Detections:
        session = self.sessions["detector"]
        feeds, _ = prepare(self.card.preprocessing, sample.image)
        found = session.run({name: feeds[name] for name in session.inputs})
        height, width = sample.image.shape[:2]
        boxes = found["boxes"][0].astype(np.float64) * [width, height, width, height]
        kept = found["scores"][0] > 0  # the score of a duplicate is 0
        return Detections(
            boxes_xyxy=boxes[kept].astype(np.float32),
            scores=found["scores"][0][kept].astype(np.float32),
            class_indices=found["labels"][0][kept].astype(np.int64),
            masks=masks_in_boxes(found["masks"][0][kept], boxes[kept], (height, width)) if "masks" in found else None,
            cut=True,
        )

    def _segment(self, sample: Sample) -> Detections:
        # Masks are upscaled by torch, as for the teachers; an artifact that finds boxes needs no torch.
        import torch

        from engine.models.prompted_masks import encode, original_masks, to_detections

        feeds, geometry = prepare(self.card.preprocessing, sample.image)
        prompts = np.flatnonzero(~sample.is_crowd)
        if not len(prompts):
            return to_detections(sample, prompts, [], np.empty(0))
        encoder = self.sessions["encoder"]
        embeddings = encoder.run({name: feeds[name] for name in encoder.inputs})
        logits, ious = [], []
        for box in geometry.to_model(sample.boxes_xyxy[prompts]):
            found = self.sessions["decoder"].run({**embeddings, "box": box[None]})
            logits.append(found["logits"])
            ious.append(found["iou"][0])
        padded = self.card.preprocessing.resize != "exact"
        upscaled = original_masks(torch.from_numpy(np.concatenate(logits)), geometry, padded=padded)
        masks = [rle for part in upscaled for rle in encode(part)]
        return to_detections(sample, prompts, masks, np.clip(np.concatenate(ious), 0, 1))


def prepare(preprocessing: Preprocessing, image: NDArray[np.uint8]) -> tuple[Arrays, Geometry]:
    """Return the inputs of a model for one image (H, W, 3), and the position of the image in them.

    The inputs are ``pixel_values`` (1, 3, height, width) float32 and ``pixel_mask`` (1, height, width) int64, 1 on the
    image.
    """
    geometry = preprocessing.plan(*image.shape[:2])
    height, width = geometry.resized
    scaled = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    pixels = np.zeros((1, 3, *geometry.padded), np.float32)
    for channel, values in enumerate(pixels[0, :, :height, :width]):
        values[:] = scaled[..., channel]
        values /= 255
        values -= np.float32(preprocessing.mean[channel])
        values /= np.float32(preprocessing.std[channel])
    mask = np.zeros((1, *geometry.padded), np.int64)
    mask[0, :height, :width] = 1
    return {"pixel_values": pixels, "pixel_mask": mask}, geometry


@contextmanager
def local_artifact(uri: str, storage: Storage) -> Iterator[Path]:
    """Yield the path of an artifact's file on disk; one in a bucket is downloaded with the files next to it.

    Raises:
        ConfigError: It does not exist.
    """
    local = storage.local_path(uri)
    if local is not None:
        yield local
        return
    with tempfile.TemporaryDirectory(prefix="artifact-") as temporary:
        folder, name = parent(uri), name_of(uri)
        suffix = name[name.index(".") :] if "." in name else name
        wanted = {suffix, suffix.replace(".xml", ".bin")}
        keys = [
            item.key for item in storage.list(folder) if any(item.key.partition(".")[2] == one[1:] for one in wanted)
        ]
        storage.download_many([(join(folder, key), Path(temporary, key)) for key in keys])
        yield Path(temporary, name)


def load_artifact(file: Path, *, threads: int) -> Artifact:
    """Load an artifact from one of its files; the other parts lie next to it.

    Raises:
        ConfigError: A file is missing or no artifact, or its runtime is not installed.
    """
    if not file.is_file():
        raise ConfigError(f"{file} does not exist: give a file that `teacher optimize` wrote")
    session = Session.open(file, threads=threads)
    sessions: dict[str, Session] = {session.card.role: session}
    for role, name in session.card.parts.items():
        if role in sessions:
            continue
        other = file.with_name(Path(name).name)
        if not other.is_file():
            raise ConfigError(f"{file} is the {session.card.role} of an artifact, its {role} {other} does not exist")
        sessions[role] = Session.open(other, threads=threads)
    return Artifact({role: sessions[role] for role in session.card.parts})
