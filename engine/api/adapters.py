"""Public functions on adapters: label and evaluate with them, and load them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from engine import dataset
from engine.api.arguments import Fields, adapter_folder, choice_of, open_storage, teacher_name
from engine.dataset.types import NMS_IOU
from engine.errors import ConfigError
from engine.spec import Crowds, ExifOrientation, StorageSpec
from engine.spec.bounds import BATCH_SIZE, IOU, SCORE
from engine.storage import default_cache

if TYPE_CHECKING:
    import torch

    from engine.evaluation.adapter_evaluation import AdapterEvaluation
    from engine.evaluation.evaluate_predictions import PredictionEvaluation
    from engine.labelling import Labelled
    from engine.models.base import Teacher


def label(
    adapters: str | Path | Sequence[str | Path],
    images: str | Path,
    output: str | Path,
    *,
    threshold: float | None = None,
    nms: float = NMS_IOU,
    unsure: float = 1.0,
    overlays: str | Path | None = None,
    base_model: Mapping[str, str | Path] | None = None,
    batch_size: int = 4,
    again: bool = False,
    storage: StorageSpec | Fields | None = None,
) -> Labelled | None:
    """Label a folder of images with the teachers of a run, and write COCO with scores.

    The same call resumes a labelling that was interrupted.

    Args:
        adapters: Folder of a run, or one or several adapters.
        images: Folder of the images.
        output: COCO JSON to write.
        threshold: Lowest score to keep, 0 to 1; default: the measured threshold of each class.
        nms: Of two boxes of a class with a higher IoU than this, 0 to 1, only the one with the higher score is kept.
        unsure: Share of the threshold, 0 to 1, from which boxes below it are kept too, with ``"ignore": 1``: a student
            learns them neither as objects nor as background; 1: none.
        overlays: Folder for some images with their detections.
        base_model: Current locations of base models that were moved after training, by teacher:
            ``{"Sam": "bases/sam"}``.
        batch_size: Images per forward pass.
        again: Label all images again.
        storage: Access to object storage; default: by the environment.

    Returns:
        Counts and URIs; None if the output has the labels of this very call already.

    Raises:
        TeacherError: The kind names the cause.
    """
    if threshold is not None:
        SCORE.check("threshold", threshold)
    IOU.check("nms", nms)
    SCORE.check("unsure", unsure)
    BATCH_SIZE.check("batch_size", batch_size)
    bases = {teacher_name(name): str(where) for name, where in (base_model or {}).items()}
    from engine.labelling import Overlays, label_folder
    from engine.models.load import load_labeller

    store = open_storage(storage)
    several = [adapter_folder(one) for one in ([adapters] if isinstance(adapters, str | Path) else adapters)]
    return label_folder(
        load_labeller(
            *several, threshold=threshold, nms_iou=nms, unsure_share=unsure, base_models=bases, storage=store
        ),
        str(images),
        str(output),
        storage=store,
        batch_size=batch_size,
        again=again,
        overlays=None if overlays is None else Overlays(str(overlays)),
    )


@overload
def evaluate(
    adapter: str | Path,
    data: str | Path,
    images: str | Path | None = None,
    *,
    base_model: str | Path | None = None,
    batch_size: int = 4,
    crowds: Crowds | str = Crowds.IGNORE,
    exif_orientation: ExifOrientation | str = ExifOrientation.AUTO,
    storage: StorageSpec | Fields | None = None,
) -> AdapterEvaluation: ...


@overload
def evaluate(
    *,
    data: str | Path,
    predictions: str | Path,
    images: str | Path | None = None,
    crowds: Crowds | str = Crowds.IGNORE,
    storage: StorageSpec | Fields | None = None,
) -> PredictionEvaluation: ...


def evaluate(
    adapter: str | Path | None = None,
    data: str | Path | None = None,
    images: str | Path | None = None,
    *,
    predictions: str | Path | None = None,
    base_model: str | Path | None = None,
    batch_size: int = 4,
    crowds: Crowds | str = Crowds.IGNORE,
    exif_orientation: ExifOrientation | str = ExifOrientation.AUTO,
    storage: StorageSpec | Fields | None = None,
) -> AdapterEvaluation | PredictionEvaluation:
    """Evaluate an adapter and its base on a dataset by COCO AP, or labels with scores.

    Args:
        adapter: Folder of the adapter, or its file.
        data: Annotations, as ``fine_tune`` takes them.
        images: Folder of the images; default: next to the annotations.
        predictions: Labels with scores, such as :func:`label` wrote, to evaluate instead of an adapter.
        base_model: Current location of the base, if it was moved after training.
        batch_size: Images per forward pass.
        crowds: Meaning of annotations with ``iscrowd: 1``: ``Ignore`` or ``Objects``.
        exif_orientation: Orientation of the images during annotation: ``Auto``, ``Applied`` or ``Ignored``.
        storage: Access to object storage; default: by the environment.

    Raises:
        TeacherError: The kind names the cause.
    """
    BATCH_SIZE.check("batch_size", batch_size)
    crowds = choice_of(Crowds, crowds, "crowds")
    orientation = choice_of(ExifOrientation, exif_orientation, "exif_orientation")
    if data is None:
        raise ConfigError("data is required: annotations to evaluate on")
    if (adapter is None) == (predictions is None):
        raise ConfigError("give either adapter or predictions")
    store, folder = open_storage(storage), None if images is None else str(images)
    if predictions is not None:
        from engine.dataset.predictions import load_predictions
        from engine.evaluation.evaluate_predictions import evaluate_predictions

        found = load_predictions(str(predictions), storage=store)
        return evaluate_predictions(dataset.load_dataset(str(data), folder, storage=store, crowds=crowds), found)
    from engine.evaluation.adapter_evaluation import evaluate_adapter

    return evaluate_adapter(
        adapter_folder(str(adapter)),
        str(data),
        folder,
        base_model=None if base_model is None else str(base_model),
        batch_size=batch_size,
        crowds=crowds,
        exif_orientation=orientation,
        storage=store,
        cache=default_cache(),
    )


def load_adapted(
    adapter: str | Path,
    *,
    teacher: str | None = None,
    base_model: str | Path | None = None,
    device: str | torch.device | None = None,
    storage: StorageSpec | Fields | None = None,
) -> Teacher:
    """Load a tuned teacher, ready to predict.

    ``predict`` takes samples: ``engine.dataset.Sample.of(image)`` of an (H, W, 3) uint8 RGB array, or
    ``Sample.of(image, boxes_xyxy)`` with boxes in pixels that prompt it.

    Args:
        adapter: Folder of a run or of one adapter in it, or the file of the adapter.
        teacher: Name of the teacher, if the run has several.
        base_model: Current location of the base, if it was moved after training.
        device: Device of the model; default: the GPU if there is one.
        storage: Access to object storage; default: by the environment.

    Returns:
        The teacher with its adapter.

    Raises:
        BaseModelError: Adapter or base is unavailable, or they do not belong together.
        ConfigError: The run has several teachers, or not the requested one.
    """
    from engine.models import load

    return load.load_adapted(
        adapter_folder(adapter),
        teacher=teacher,
        base_model=None if base_model is None else str(base_model),
        device=device,
        storage=open_storage(storage),
    )
