"""Load a teacher: a base model, or an adapter with its base."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from engine.config import TeacherSettings
from engine.dataset.types import NMS_IOU
from engine.errors import BaseModelError, ConfigError
from engine.layout import ADAPTER
from engine.models.adapter_files import find_adapters, local_adapter
from engine.models.base import Teacher
from engine.models.base_sources import LocalModel, is_hub_id, resolve_base_model
from engine.models.labeller import Labeller
from engine.models.lora import AdapterCard, load_adapter
from engine.models.measured_quality import read_category_ids, read_measured
from engine.models.registry import REGISTRY
from engine.registry import of_one_kind
from engine.spec import TeacherName
from engine.storage import Storage, default_cache
from engine.storage.base_model_identity import PARTS
from engine.storage.publication import sha256_of

LOG = logging.getLogger(__name__)
transformers_logging.disable_progress_bar()  # one per file would disturb the progress lines of the trainer


def load_teacher(
    name: TeacherName,
    settings: TeacherSettings,
    *,
    classes: Sequence[str],
    prompts: Mapping[str, str],
    storage: Storage,
    cache: Path,
) -> Teacher:
    """Load the base of a teacher, on the CPU.

    Args:
        name: Name of the teacher.
        settings: Its section of the configuration; ``base_model`` and ``revision`` select the base.
        classes: Class names in the order of class indices.
        prompts: Better phrases for some of them.
        storage: Access to object storage.
        cache: Cache folder for base models.

    Raises:
        BaseModelError: The base is unavailable, or is of another kind.
    """
    base = resolve_base_model(settings.base_model, settings.revision, storage=storage, cache=cache)
    teacher: Teacher = REGISTRY[name].load(base.folder, classes=classes, prompts=prompts, settings=settings)
    return teacher


def load_adapted(
    adapter: str | Path,
    *,
    teacher: TeacherName | str | None = None,
    base_model: str | None = None,
    storage: Storage | None = None,
    cache: Path | None = None,
    device: str | torch.device | None = None,
) -> Teacher:
    """Load a tuned teacher, ready to predict::

        import engine
        teacher = engine.load_adapted("s3://acme-models/forklifts/forklifts/4f2a90c1d3e5", teacher="Sam")
        detections = teacher.predict(samples)

    Inside ``with adapter_off(teacher):`` it predicts as its base.

    Args:
        adapter: Folder or ``s3://`` prefix of a run, or of one adapter in it.
        teacher: Name of the teacher, if the run has several.
        base_model: Current location of the base, if it was moved after training.
        storage: How object storage is reached; default: by the AWS chain and environment.
        cache: Where base models are kept; default: the user's cache folder.
        device: Default: the GPU if there is one.

    Raises:
        BaseModelError: Adapter or base is unavailable, or they do not belong together.
        ConfigError: The run has several teachers, or not the requested one.
    """
    storage = storage or Storage()
    wanted = None if teacher is None else _teacher_name(teacher)
    found = find_adapters(str(adapter), storage=storage)
    chosen = [uri for name, uri in found.items() if wanted in (None, name)]
    if len(chosen) != 1:
        names = " and ".join(found)
        advice = f"give {' or '.join(chosen)}" if chosen else f"it has none of {wanted}"
        raise ConfigError(f"{adapter} holds adapters of {names}: {advice}")
    with local_adapter(chosen[0], storage) as folder:
        return _load(folder, base_model, storage, cache or default_cache(), device)


def load_labeller(
    *adapters: str | Path,
    threshold: float | None = None,
    nms_iou: float = NMS_IOU,
    unsure_share: float = 1.0,
    base_models: Mapping[TeacherName, str] | None = None,
    storage: Storage | None = None,
    cache: Path | None = None,
    device: str | torch.device | None = None,
) -> Labeller:
    """Load the tuned teachers of a run as one pipeline, boxes first, then masks::

        from engine.teachers import load_labeller
        labeller = load_labeller("s3://acme-models/forklifts/forklifts/4f2a90c1d3e5")
        detections = labeller.label(images)  # (H, W, 3) uint8 RGB arrays

    Without an adapter of a teacher that the detector prompts, labels are boxes only.

    Args:
        adapters: A run's folder or ``s3://`` prefix, or the folders of its adapters.
        threshold: Score threshold for all classes; default: the measured threshold of each class.
        nms_iou: See :class:`Labeller`.
        unsure_share: See :class:`Labeller`.
        base_models: Current locations of bases that were moved after training.
        storage: Access to object storage; default: by the AWS chain and environment.
        cache: Cache folder for base models; default: that of the user.
        device: Device of the models; default: the GPU if there is one.

    Raises:
        BaseModelError: An adapter or its base is unavailable, or they do not belong together.
        ConfigError: No adapter finds boxes, or several adapters are of one teacher or predict the same.
    """
    storage, cache = storage or Storage(), cache or default_cache()
    found = _adapters_by_teacher(adapters, storage)
    detecting = next((name for name in found if not name.traits.needs_masks), None)
    if detecting is None:
        able = " or ".join(name for name in TeacherName if not name.traits.needs_masks)
        raise ConfigError(
            f"{' and '.join(map(str, adapters)) or 'nothing'} holds no adapter of {able}, which finds the boxes: give "
            "the folder of a run that has tuned it"
        )
    segmenting = next((name for name in found if name.traits.prompted), None)
    teachers: dict[TeacherName, Teacher] = {}
    identity: dict[str, str] = {}
    for name, uri in found.items():
        with local_adapter(uri, storage) as folder:
            teachers[name] = _load(folder, (base_models or {}).get(name), storage, cache, device)
            identity[name.slug] = sha256_of(folder / ADAPTER)
    measured = {name: read_measured(uri, storage) for name, uri in found.items()}
    detector, source = teachers[detecting], found[detecting]
    return Labeller(
        detector=detector,
        segmenter=None if segmenting is None else teachers[segmenting],
        thresholds=measured[detector.name].thresholds
        if threshold is None
        else dict.fromkeys(detector.classes, float(threshold)),
        nms_iou=nms_iou,
        unsure_share=unsure_share,
        category_ids=read_category_ids(source, detector.classes, storage),
        identity=identity,
        frame=detector.frame,
        remarks=tuple(remark for name, one in measured.items() for remark in one.remarks(name)),
    )


def _adapters_by_teacher(given: Sequence[str | Path], storage: Storage) -> dict[TeacherName, str]:
    """Return one adapter per teacher, in the order of the registry."""
    found: dict[TeacherName, str] = {}
    for folder in given:
        for name, uri in find_adapters(str(folder), storage=storage).items():
            if name in found:
                raise ConfigError(f"{found[name]} and {uri} are both adapters of {name}: give one of each teacher")
            found[name] = uri
    if alike := of_one_kind(found):
        raise ConfigError(
            f"{' and '.join(found[name] for name in alike)} are adapters of {' and '.join(alike)}, which both predict "
            f"{alike[0].traits.annotations}: give one of them"
        )
    return {name: found[name] for name in TeacherName if name in found}


def _teacher_name(name: str) -> TeacherName:
    try:
        return TeacherName(name)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _check_parts(card: AdapterCard, base: LocalModel, source: str) -> None:
    """Check that configuration, preprocessor and tokenizer of the base are those of training, besides its weights."""
    if not card.base_parts:
        LOG.info("the adapter for %s is of an earlier version: only the weights of its base are compared", source)
    changed = [part for part, digest in card.base_parts.items() if base.parts.get(part) != digest]
    if changed:
        files = ", ".join(file for part in changed for file in PARTS.get(part, ()) if (base.folder / file).is_file())
        raise BaseModelError(
            f"the adapter was made for a base model with another {' and '.join(changed)} than {source} has now, with "
            f"the same weights: bring {files or 'the missing files'} back as they were, or give the base model "
            "that it was trained on: --base-model (base_model=)"
        )


def _load(
    folder: Path, base_model: str | None, storage: Storage, cache: Path, device: str | torch.device | None
) -> Teacher:
    card = AdapterCard.read(folder)
    source = base_model or card.settings.base_model
    # From the hub, the same commit; a base that was moved to the hub since has other commits.
    revision = card.base_revision if is_hub_id(source) and source == card.settings.base_model else None
    try:
        base = resolve_base_model(source, revision, storage=storage, cache=cache)
    except BaseModelError as error:
        if base_model is not None:
            raise
        raise BaseModelError(
            f"{error}. It is the base of the adapter of {card.teacher}; if it was moved after training, give its "
            "location: --base-model (base_model=)"
        ) from error
    if base.sha256 != card.base_sha256:
        raise BaseModelError(
            f"the adapter was made for weights with sha256 {card.base_sha256}, but base model {source} has "
            f"{base.sha256}: give the base model that it was trained on: --base-model (base_model=)"
        )
    _check_parts(card, base, source)
    teacher: Teacher = REGISTRY[card.teacher].load(
        base.folder, classes=card.classes, prompts=card.prompts, settings=card.settings
    )
    load_adapter(teacher, folder)
    teacher.frame = card.frame
    teacher.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return teacher
