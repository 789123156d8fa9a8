"""Load a teacher: a base model, or an adapter with the base it was made for."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from engine.artifacts import ADAPTER, ADAPTER_CONFIG
from engine.config import TeacherSettings
from engine.errors import BaseModelError
from engine.spec import TeacherName
from engine.storage import NotFoundError, Storage, default_cache, is_remote, join, local_path
from engine.teachers.base import REGISTRY, Teacher
from engine.teachers.lora import TEACHER, AdapterCard, load_adapter
from engine.teachers.sources import is_hub_id, resolve_base_model


def load_teacher(
    name: TeacherName,
    settings: TeacherSettings,
    *,
    classes: Sequence[str],
    prompts: Mapping[str, str],
    storage: Storage,
    cache: Path,
) -> Teacher:
    """The base of a teacher, on the CPU.

    Args:
        name: Which teacher.
        settings: Its part of the configuration; ``base_model`` and ``revision`` say which base.
        classes: Class names in the order of class indices.
        prompts: Better phrases for some of them.
        storage: Where the base may come from.
        cache: Where it is kept.

    Raises:
        BaseModelError: The base cannot be had, or is of another kind.
    """
    base = resolve_base_model(settings.base_model, settings.revision, storage=storage, cache=cache)
    return REGISTRY[name].load(base.folder, classes=classes, prompts=prompts, settings=settings)


def load_adapted(
    adapter: str | Path,
    *,
    base_model: str | None = None,
    storage: Storage | None = None,
    cache: Path | None = None,
    device: str | torch.device | None = None,
) -> Teacher:
    """A tuned teacher, ready to predict::

        from engine.teachers import load_adapted
        teacher = load_adapted("s3://acme-models/forklifts/forklifts/4f2a90c1d3e5/teachers/sam_lora")
        detections = teacher.predict(samples)

    Args:
        adapter: Folder or ``s3://`` prefix of the adapter, as a run leaves it.
        base_model: Where the base lies now, if not where it lay in training.
        storage: How object storage is reached; default: by the AWS chain and environment.
        cache: Where base models are kept; default: the user's cache folder.
        device: Default: the GPU if there is one.

    Raises:
        BaseModelError: Adapter or base cannot be had, or are not made for each other.
    """
    storage = storage or Storage()
    uri = str(adapter)
    if not is_remote(uri):
        return _load(local_path(uri), base_model, storage, cache or default_cache(), device)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            storage.download_many(
                [(join(uri, file), Path(temporary, file)) for file in (TEACHER, ADAPTER_CONFIG, ADAPTER)]
            )
        except NotFoundError as error:
            raise BaseModelError(f"{uri} is not the folder of an adapter made here: {error}") from None
        return _load(Path(temporary), base_model, storage, cache or default_cache(), device)


def _load(
    folder: Path, base_model: str | None, storage: Storage, cache: Path, device: str | torch.device | None
) -> Teacher:
    card = AdapterCard.read(folder)
    source = base_model or card.settings.base_model
    # Of the hub the very commit; a base that was moved to the hub since has commits of its own.
    revision = card.base_revision if is_hub_id(source) and source == card.settings.base_model else None
    base = resolve_base_model(source, revision, storage=storage, cache=cache)
    if base.sha256 != card.base_sha256:
        raise BaseModelError(
            f"the adapter was made for weights with sha256 {card.base_sha256}, but base model {source} has "
            f"{base.sha256}: pass the base_model that it was trained on"
        )
    teacher = REGISTRY[card.teacher].load(
        base.folder, classes=card.classes, prompts=card.prompts, settings=card.settings
    )
    load_adapter(teacher, folder)
    teacher.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return teacher
