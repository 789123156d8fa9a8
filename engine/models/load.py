"""Load a teacher: a base model, or an adapter with its base."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import BaseModel, FiniteFloat, ValidationError
from transformers.utils import logging as transformers_logging

from engine.config import TeacherSettings
from engine.dataset.types import NMS_IOU, DatasetInfo
from engine.errors import BaseModelError, ConfigError, StorageError
from engine.layout import ADAPTER, ADAPTER_CARD, ADAPTER_CONFIG, METADATA, RESULT, RunLayout
from engine.models.base import Teacher
from engine.models.base_sources import LocalModel, is_hub_id, refuse_pointers, resolve_base_model
from engine.models.labeller import Labeller
from engine.models.lora import AdapterCard, load_adapter
from engine.models.registry import REGISTRY
from engine.results.run_files import read_metadata
from engine.spec import TeacherName
from engine.storage import NotFoundError, Storage, default_cache, is_remote, join, local_path, parent
from engine.storage import name as name_of
from engine.storage.base_identity import PARTS
from engine.storage.bounded_read import JSON_BYTES, read_bounded
from engine.storage.publication import sha256_of
from engine.text.plain_json import parse_json

LOG = logging.getLogger(__name__)
transformers_logging.disable_progress_bar()  # one per file would disturb the progress lines of the trainer

POOR_F1 = 0.1
"""F1 below which labels of a class are mostly wrong."""


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
    return REGISTRY[name].load(base.folder, classes=classes, prompts=prompts, settings=settings)


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

        from engine.teachers import load_adapted
        teacher = load_adapted("s3://acme-models/forklifts/forklifts/4f2a90c1d3e5", teacher="Sam")
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
        question = "say which by teacher=, or load_labeller takes both" if chosen else f"it has none of {wanted}"
        raise ConfigError(f"{adapter} holds adapters of {names}: {question}")
    with _at_hand(chosen[0], storage) as folder:
        return _load(folder, base_model, storage, cache or default_cache(), device)


def load_labeller(
    *adapters: str | Path,
    threshold: float | None = None,
    nms_iou: float = NMS_IOU,
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
        base_models: Current locations of bases that were moved after training.
        storage: How object storage is reached; default: by the AWS chain and environment.
        cache: Where base models are kept; default: the user's cache folder.
        device: Default: the GPU if there is one.

    Raises:
        BaseModelError: An adapter or its base is unavailable, or they do not belong together.
        ConfigError: There is no adapter that finds boxes, or several adapters of one teacher.
    """
    storage, cache = storage or Storage(), cache or default_cache()
    found: dict[TeacherName, str] = {}
    for given in adapters:
        for name, uri in find_adapters(str(given), storage=storage).items():
            if name in found:
                raise ConfigError(f"{found[name]} and {uri} are both adapters of {name}: give one of each teacher")
            found[name] = uri
    detecting = next((name for name in TeacherName if name in found and not name.traits.needs_masks), None)
    if detecting is None:
        able = " or ".join(name for name in TeacherName if not name.traits.needs_masks)
        raise ConfigError(
            f"{' and '.join(map(str, adapters)) or 'nothing'} holds no adapter of {able}, which finds the boxes: give "
            "the folder of a run that has tuned it"
        )
    segmenting = next((name for name in TeacherName if name in found and name.traits.prompted_by == detecting), None)
    teachers: dict[TeacherName, Teacher] = {}
    identity: dict[str, str] = {}
    for name, uri in found.items():
        with _at_hand(uri, storage) as folder:
            teachers[name] = _load(folder, (base_models or {}).get(name), storage, cache, device)
            identity[name.slug] = sha256_of(folder / ADAPTER)
    measured = {name: _measured(uri, storage) for name, uri in found.items()}
    detector, source = teachers[detecting], found[detecting]
    return Labeller(
        detector=detector,
        segmenter=None if segmenting is None else teachers[segmenting],
        thresholds=measured[detector.name].thresholds
        if threshold is None
        else dict.fromkeys(detector.classes, float(threshold)),
        nms_iou=nms_iou,
        category_ids=_category_ids(source, detector.classes, storage),
        identity=identity,
        frame=detector.frame,
        remarks=tuple(remark for name, one in measured.items() for remark in one.remarks(name)),
    )


def find_adapters(uri: str, *, storage: Storage) -> dict[TeacherName, str]:
    """Return the adapters in a run's folder, or the adapter whose own folder this is, by teacher.

    Raises:
        BaseModelError: It is neither a run nor an adapter.
    """
    if storage.exists(join(uri, ADAPTER_CARD)):
        return {_read_card(uri, storage).teacher: uri}
    folders = {name: RunLayout(uri).teacher(name) for name in TeacherName}
    found = {name: folder for name, folder in folders.items() if storage.exists(join(folder, ADAPTER_CARD))}
    if not found:
        raise BaseModelError(
            f"{uri} is not the folder of an adapter made here, nor of a run (<output>/<name>/<run id>/, with "
            "teachers/ in it): give the one that the run printed"
        )
    return found


def _read_card(uri: str, storage: Storage) -> AdapterCard:
    """Read ``teacher.json`` of an adapter, without fetching the adapter."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if is_remote(uri) else local_path(uri)
        if is_remote(uri):
            storage.download(join(uri, ADAPTER_CARD), folder / ADAPTER_CARD)
        refuse_pointers(f"{uri}: ", [folder / ADAPTER_CARD])
        return AdapterCard.read(folder)


class _Quality(BaseModel):
    f1: FiniteFloat


class _Ap(BaseModel):
    ap: FiniteFloat


class _File(BaseModel):
    sha256: str


class _Measured(BaseModel):
    """The fields needed from an adapter's ``result.json``, of any version."""

    adapter: _File | None = None
    thresholds: dict[str, FiniteFloat] = {}
    quality: dict[str, _Quality] = {}
    before: _Ap | None = None
    after: _Ap | None = None

    def remarks(self, teacher: TeacherName) -> Iterator[str]:
        """Yield warnings about labels of this adapter."""
        if self.before is not None and self.after is not None and self.after.ap < self.before.ap:
            yield (
                f"the adapter of {teacher} is worse than its base (AP {self.before.ap:.3f} -> {self.after.ap:.3f}): "
                "train it longer or on more images before you trust its labels"
            )
        poor = {name: one.f1 for name, one in self.quality.items() if 0 <= one.f1 < POOR_F1}
        if poor and not teacher.traits.needs_masks:
            named = ", ".join(f"{name} ({f1:.2f})" for name, f1 in sorted(poor.items(), key=lambda item: item[1])[:10])
            yield f"classes that are hardly found, so that most of their labels are wrong, with their F1: {named}"


def _measured(adapter: str, storage: Storage) -> _Measured:
    """Read the metrics of the run; empty if it has none."""
    uri = join(adapter, RESULT)
    try:
        content = read_bounded(storage, uri, limit=JSON_BYTES)
    except NotFoundError:
        return _Measured()
    try:
        return parse_json(_Measured, content, where=uri, error=StorageError)
    except StorageError as error:
        raise StorageError(f"{uri} cannot be read: {error}. Fetch the run again, or give a threshold") from None


def _category_ids(adapter: str, classes: Sequence[str], storage: Storage) -> tuple[int, ...]:
    """Return the dataset's own category ids if the adapter is still in its run's folder; else counted from 1."""
    uri = RunLayout(parent(parent(adapter))).dataset
    try:
        known = {
            one.name: one.id
            for one in DatasetInfo.model_validate_json(read_bounded(storage, uri, limit=JSON_BYTES)).classes
        }
    except (NotFoundError, ValidationError):
        known = {}
    ids = tuple(known.get(name, 0) for name in classes)
    return ids if all(name in known for name in classes) else tuple(range(1, len(classes) + 1))


def _teacher_name(name: str) -> TeacherName:
    try:
        return TeacherName(name)
    except ValueError as error:
        raise ConfigError(str(error)) from None


@contextmanager
def _at_hand(uri: str, storage: Storage) -> Iterator[Path]:
    """Yield a local folder of an adapter, which exists during the block."""
    if not is_remote(uri):
        yield _as_published(local_path(uri), uri, storage)
        return
    with tempfile.TemporaryDirectory() as temporary:
        try:
            storage.download_many(
                [(join(uri, file), Path(temporary, file)) for file in (ADAPTER_CARD, ADAPTER_CONFIG, ADAPTER)]
            )
        except NotFoundError as error:
            raise BaseModelError(f"{uri} is not the folder of an adapter made here: {error}") from None
        yield _as_published(Path(temporary), uri, storage)


def _as_published(folder: Path, uri: str, storage: Storage) -> Path:
    """Check a folder against ``metadata.json`` and ``result.json`` of its run, if they exist, and return it."""
    refuse_pointers(f"{uri}: ", [folder / file for file in (ADAPTER_CARD, ADAPTER_CONFIG, ADAPTER)])
    layout = RunLayout(parent(parent(uri)))
    if storage.exists(layout.metadata):
        for entry in read_metadata(layout, storage).files:
            file = folder / name_of(entry.path)
            ours = name_of(parent(entry.path)) == name_of(uri) and file.name in (ADAPTER_CARD, ADAPTER_CONFIG, ADAPTER)
            if ours and file.is_file() and sha256_of(file) != entry.sha256:
                raise BaseModelError(
                    f"{join(uri, file.name)} is not what was published: its sha256 differs from {METADATA}. Fetch the "
                    "run again, or move the adapter out of the run's folder if you have changed it yourself"
                )
    measured = _measured(uri, storage).adapter
    if measured is not None and (folder / ADAPTER).is_file() and sha256_of(folder / ADAPTER) != measured.sha256:
        raise BaseModelError(
            f"{join(uri, ADAPTER)} is not the adapter that {RESULT} next to it was written for: its sha256 differs. "
            "Fetch the run again, or delete it if you have changed the adapter yourself"
        )
    return folder


def _check_parts(card: AdapterCard, base: LocalModel, source: str) -> None:
    """Check that configuration, preprocessor and tokenizer of the base are those of training, besides its weights."""
    if not card.base_parts:
        LOG.info("the adapter for %s is of an earlier version: only the weights of its base are compared", source)
    changed = [part for part, digest in card.base_parts.items() if base.parts.get(part) != digest]
    if changed:
        files = ", ".join(file for part in changed for file in PARTS.get(part, ()) if (base.folder / file).is_file())
        raise BaseModelError(
            f"the adapter was made for a base model with another {' and '.join(changed)} than {source} has now, with "
            f"the same weights: bring {files or 'the missing files'} back as they were, or pass the base_model that "
            "it was trained on"
        )


def _load(
    folder: Path, base_model: str | None, storage: Storage, cache: Path, device: str | torch.device | None
) -> Teacher:
    card = AdapterCard.read(folder)
    source = base_model or card.settings.base_model
    # From the hub, the same commit; a base that was moved to the hub since has other commits.
    revision = card.base_revision if is_hub_id(source) and source == card.settings.base_model else None
    base = resolve_base_model(source, revision, storage=storage, cache=cache)
    if base.sha256 != card.base_sha256:
        raise BaseModelError(
            f"the adapter was made for weights with sha256 {card.base_sha256}, but base model {source} has "
            f"{base.sha256}: pass the base_model that it was trained on"
        )
    _check_parts(card, base, source)
    teacher = REGISTRY[card.teacher].load(
        base.folder, classes=card.classes, prompts=card.prompts, settings=card.settings
    )
    load_adapter(teacher, folder)
    teacher.frame = card.frame
    teacher.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return teacher
