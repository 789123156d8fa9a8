"""Fetch base model, annotations and evaluation images; training images are downloaded in the background."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engine.config import DistillConfig, RunConfig
from engine.config.students import StudentSettings
from engine.dataset.checks.unreadable_images import Unreadable
from engine.models.base_sources import LocalModel
from engine.registry import ModelName
from engine.storage import Storage
from engine.training.background import BackgroundTask
from engine.training.data.annotated_splits import AnnotatedSplits
from engine.training.data.retention_data import RetentionData, prepare_retention_data
from engine.training.data.splits import Splits
from engine.training.data.teacher_labelled import TeacherLabelled
from engine.training.distributed import Processes
from engine.training.messages import skipped_messages

NO_RETENTION_DATA = "retention is not measured: training.retention has no class that the dataset does not have"


@dataclass(frozen=True)
class PreparedData:
    """Data on disk, except the training images.

    Attributes:
        base: The base model.
        annotated: Splits of the run by their annotations.
        unreadable: Unusable images and objects of all splits except ``train``.
        retention: Images and classes that measure retention; None if it is not measured.
        labelled: Further training images with labels of teachers.
    """

    base: LocalModel
    annotated: AnnotatedSplits
    unreadable: Mapping[str, Unreadable]
    retention: RetentionData | None
    labelled: TeacherLabelled | None = None


def fetch(
    config: RunConfig,
    name: ModelName,
    base: Callable[[], LocalModel],
    *,
    training_images: BackgroundTask[Splits],
    storage: Storage,
    cache: Path,
    processes: Processes,
    note: Callable[[str], None],
) -> PreparedData:
    """Fetch base model, annotations and evaluation images, and start to download the training images.

    Args:
        config: Resolved configuration of the run.
        name: The model to train.
        base: Fetches the base model.
        training_images: Downloads the training images, in one process per machine: the others read the same cache.
        storage: Source of the data.
        cache: Folder for downloads.
        processes: All processes of the run.
        note: Receives progress messages.

    Raises:
        TeacherError: Something is unavailable or unusable.
    """
    masks, training = name.traits.needs_masks, config.training
    with processes.first_on_machine(), ThreadPoolExecutor(1) as thread:
        fetching = thread.submit(base)
        note("fetching the data; decoding every image once to find unreadable ones")
        data = AnnotatedSplits.of(
            config.data, masks=masks, seed=training.seed, storage=storage, cache=cache, decoded=_decodes(config, name)
        )
        unreadable = {name: data.fetch_images(name) for name in data.whole if name != "train"}
        if data.undecided(unreadable):
            note("waiting for the training images: they may show whether EXIF was applied when annotating")
            unreadable["train"] = data.fetch_images("train")
        unreadable = data.settled(unreadable)
        labels = config.labels if isinstance(config, DistillConfig) else None
        labelled = (
            None if labels is None else TeacherLabelled.of(labels, data.config.classes, storage=storage, cache=cache)
        )
        retention = None
        if measured := name.traits.adapts_base:
            retention = prepare_retention_data(
                training.retention, config.data, masks=masks, storage=storage, cache=cache
            )
        if processes.rank.local_index == 0:
            training_images.begin(partial(Splits.of, data, unreadable, labelled=labelled))
        if measured:
            for message in (NO_RETENTION_DATA,) if retention is None else skipped_messages(retention.unreadable):
                note(message)
        return PreparedData(fetching.result(), data, unreadable, retention, labelled)


def _decodes(config: RunConfig, name: ModelName) -> bool:
    settings = config.models.of(name)
    return isinstance(settings, StudentSettings) and bool(settings.masks)


def wait_for_training_images(
    prepared: PreparedData, training_images: BackgroundTask[Splits], processes: Processes
) -> Splits:
    """Wait for the training images, in all processes."""
    with processes.first_on_machine():
        splits = training_images.result()
        if splits is None:
            splits = Splits.of(prepared.annotated, prepared.unreadable, labelled=prepared.labelled)
        return splits
