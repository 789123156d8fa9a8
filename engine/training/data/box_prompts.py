"""Box prompts of a teacher, detected by another tuned teacher of the same run, as in later use.

The boxes are detected once, before SAM is trained, and stored next to its checkpoint: a resumed run uses the same
boxes on any machine. If they do not exist when training starts (Grounding DINO is not tuned, or has failed), SAM is
trained on jittered true boxes alone, until its end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from engine.config import RunConfig, TeacherSettings
from engine.dataset.types import CocoAnnotation, Detections, Sample
from engine.errors import StorageError
from engine.evaluation.evaluate import predict_images
from engine.evaluation.matching import match
from engine.layout import DETECTED_BOXES, RunLayout
from engine.models.detected_boxes import with_detected
from engine.models.model import Model
from engine.registry import ModelName, prompters
from engine.results.run_files import read_result
from engine.storage import Storage
from engine.teachers import load_adapted
from engine.training.data.annotated_splits import SplitData
from engine.training.data.splits import Splits
from engine.training.device import memory_errors
from engine.training.distributed import Processes

"""File name, with the digest of the boxes: several attempts of one run may have detected different boxes."""

DETECTION_BATCH = 4
"""Maximum images per forward pass without training."""

MOST_BOXES = 100
"""Boxes per validation image with the highest scores: as many as COCO counts."""

DETECTOR = "detector"
"""Key of the digest in the fingerprint of a run."""


LAYOUT: Mapping[str, tuple[type, tuple[int, ...]]] = {
    "train": (np.float32, (4,)),
    "train_counts": (np.int64, ()),
    "val": (np.float32, (4,)),
    "val_scores": (np.float32, ()),
    "val_classes": (np.int64, ()),
    "val_counts": (np.int64, ()),
}
"""Types of the arrays in the file, and their sides after the first."""


@dataclass(frozen=True, eq=False)
class DetectedBoxes:
    """Boxes that another teacher detected.

    Attributes:
        train: (N, 4) float32 xyxy in pixels for the N objects of each training image, NaN for undetected objects.
        val: Detections in each validation image.
        content: All boxes as a safetensors file.
    """

    train: tuple[NDArray[np.float32], ...]
    val: tuple[Detections, ...]
    content: bytes

    @property
    def digest(self) -> str:
        """sha256 in hex."""
        return hashlib.sha256(self.content).hexdigest()

    @classmethod
    def of(cls, train: Sequence[NDArray[np.float32]], val: Sequence[Detections]) -> Self:
        """Create with the file content that :meth:`read` takes."""
        tensors = {
            "train": np.concatenate([np.empty((0, 4), np.float32), *train]),
            "train_counts": np.array([len(boxes) for boxes in train], np.int64),
            "val": np.concatenate([np.empty((0, 4), np.float32), *(seen.boxes_xyxy for seen in val)]),
            "val_scores": np.concatenate([np.empty(0, np.float32), *(seen.scores for seen in val)]),
            "val_classes": np.concatenate([np.empty(0, np.int64), *(seen.class_indices for seen in val)]),
            "val_counts": np.array([len(seen) for seen in val], np.int64),
        }
        return cls(tuple(train), tuple(val), safetensors.numpy.save(tensors))

    @classmethod
    def read(cls, content: bytes) -> Self:
        """Read such a file.

        Raises:
            StorageError: The file is damaged or of another version.
        """
        try:
            tensors = safetensors.numpy.load(content)
            for name, (kind, sides) in LAYOUT.items():
                if tensors[name].dtype != kind or tensors[name].shape[1:] != sides or not tensors[name].ndim:
                    raise ValueError(f"{name} is of another type or shape")
            for name, counts in (("train", "train_counts"), ("val", "val_counts")):
                if (tensors[counts] < 0).any() or tensors[counts].sum() != len(tensors[name]):
                    raise ValueError(f"{counts} do not add up")
            ends = np.cumsum(tensors["val_counts"])[:-1]
            parts = [np.split(tensors[name], ends) for name in ("val", "val_scores", "val_classes")]
            if not np.isfinite(tensors["val"]).all() or not np.isfinite(tensors["val_scores"]).all():
                raise ValueError("there are values that are not finite")
            if {len(tensors[name]) for name in ("val_scores", "val_classes")} != {len(tensors["val"])}:
                raise ValueError("boxes, scores and classes differ in number")
            return cls(
                tuple(np.split(tensors["train"], np.cumsum(tensors["train_counts"])[:-1])),
                tuple(Detections(*of_image) for of_image in zip(*parts, strict=True)),
                content,
            )
        except (SafetensorError, LookupError, ValueError, TypeError) as error:
            raise StorageError(
                f"the detected boxes stored with the checkpoint are unusable ({str(error)[:200]}): `teacher run "
                "--again` (again=True) detects them again"
            ) from None


@dataclass(frozen=True)
class Prompted(SplitData):
    """A split whose samples carry detected boxes for their objects: see :func:`with_detected`."""

    boxes: tuple[NDArray[np.float32], ...] = ()

    def sample(self, index: int, *, with_masks: bool, select: NDArray[np.int64] | None = None) -> Sample:
        """See :meth:`SplitData.sample`."""
        sample = super().sample(index, with_masks=with_masks, select=select)
        return with_detected(sample, self.boxes[index][sample.annotation_indices])


def detect_box_prompts(
    config: RunConfig,
    name: ModelName,
    splits: Splits,
    *,
    begun: Mapping[str, Any] | None,
    folder: Path,
    storage: Storage,
    cache: Path,
    processes: Processes,
    note: Callable[[str], None],
) -> DetectedBoxes | None:
    """Detect objects of the training and validation split with the teacher that prompts ``name``.

    All processes participate.

    Args:
        config: Resolved configuration of the run.
        name: The teacher to train.
        splits: Training and validation images.
        begun: Fingerprint of the run to resume: without boxes then, it gets none now.
        folder: Folder of the checkpoint, where the boxes are stored.
        storage: Where the run is published.
        cache: Folder for base models.
        processes: All processes of the run.
        note: Receives progress messages.

    Returns:
        None if no teacher prompts it, or the run has no adapter of that one.
    """
    prompting = next(iter(prompters(name, config.teachers.names)), None)
    detector = None if prompting is None else config.teachers.of(prompting)
    learner = config.teachers.of(name)
    if prompting is None or detector is None or learner is None or (begun is not None and DETECTOR not in begun):
        return None
    title, asked = prompting.traits.title, name.traits.title
    stored = processes.decided(lambda: _stored_boxes(folder, begun))
    if stored is not None:
        return DetectedBoxes.read(stored)
    layout = RunLayout.of(config)
    if processes.decided(lambda: read_result(layout, prompting, storage)) is None:
        note(f"this run has no {title} adapter: {asked} is prompted by jittered true boxes alone")
        return None
    note(f"detecting objects with the tuned {title}: its boxes will prompt {asked}")
    # Without a share of the prompts, boxes of training images would not be used.
    wanted = ((splits.train, learner.prompt_share() > 0), (splits.val, True))
    train, val = _detect(layout.teacher(prompting), detector, wanted, storage=storage, cache=cache, processes=processes)

    def store() -> bytes:
        objects = splits.train.dataset.annotations
        boxes = [_undetected(of_image) for of_image in objects]
        if train:
            boxes = [match_boxes(*pair) for pair in zip(objects, train, strict=True)]
            found = sum(int((~np.isnan(some[:, 0])).sum()) for some in boxes)
            note(f"{title} found {found} of {sum(map(len, boxes))} training objects")
        return _store(DetectedBoxes.of(boxes, [_top_boxes(found) for found in val]), folder)

    return DetectedBoxes.read(processes.decided(store))


def _store(detected: DetectedBoxes, folder: Path) -> bytes:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DETECTED_BOXES.format(detected.digest)).write_bytes(detected.content)
    return detected.content


def _detect(
    adapter: str,
    settings: TeacherSettings,
    splits: Sequence[tuple[SplitData, bool]],
    *,
    storage: Storage,
    cache: Path,
    processes: Processes,
) -> list[list[Detections]]:
    """Return the detections of each wanted split; complete in the first process only."""
    with processes.first_on_machine():
        teacher = load_adapted(adapter, storage=storage, cache=cache)
    seen: list[list[Detections]] = []
    for split, wanted in splits:
        with memory_errors(teacher, settings):
            mine = predict_images(
                teacher,
                split.dataset,
                partial(split.sample, with_masks=False),
                indices=processes.rank.share(range(len(split.dataset) if wanted else 0)),
                batch_size=min(settings.batch_size, DETECTION_BATCH),
            )
        seen.append([found for _, found in processes.gather(mine)])
    return seen


def match_boxes(annotations: Sequence[CocoAnnotation], seen: Detections) -> NDArray[np.float32]:
    """Return the (N, 4) detection of each object: same class, IoU of at least 0.5, highest score first; else NaN."""
    boxes = _undetected(annotations)
    objects = np.array([i for i, one in enumerate(annotations) if not one.iscrowd], np.int64)
    corners = np.array([annotations[i].box_xyxy for i in objects], np.float32).reshape(-1, 4)
    classes = np.array([annotations[i].class_index for i in objects], np.int64)
    truth = Detections(corners, np.ones(len(objects), np.float32), classes)
    nothing = Detections(corners[:0], np.empty(0, np.float32), classes[:0])
    found = match(truth, seen, crowds=nothing).object_of
    boxes[objects[found[found >= 0]]] = seen.boxes_xyxy[found >= 0]
    return boxes


def predict_masks(teacher: Model, samples: Sequence[Sample], boxes: Sequence[Detections]) -> list[Detections]:
    """Predict masks for a detector's boxes, with its scores and classes, as in later use of both teachers."""
    prompted = [
        Sample.of(sample.image, found.boxes_xyxy, found.class_indices)
        for sample, found in zip(samples, boxes, strict=True)
    ]
    masks = []
    for found, seen in zip(boxes, teacher.predict(prompted), strict=True):
        assert seen.prompt_indices is not None  # noqa: S101 - a teacher of masks says what prompted them
        scores = found.scores[seen.prompt_indices]
        masks.append(replace(seen, scores=scores).select(np.argsort(-scores, kind="stable")))
    return masks


def _stored_boxes(folder: Path, begun: Mapping[str, Any] | None) -> bytes | None:
    """Return the content of the file that the run started with."""
    if begun is None:
        return None
    file = folder / DETECTED_BOXES.format(begun[DETECTOR])
    if not file.is_file():
        return None
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != begun[DETECTOR]:
        return None
    return content


def _undetected(annotations: Sequence[CocoAnnotation]) -> NDArray[np.float32]:
    return np.full((len(annotations), 4), np.nan, np.float32)


def _top_boxes(seen: Detections) -> Detections:
    return seen.select(np.arange(min(MOST_BOXES, len(seen))))
