"""Batches of augmented and preprocessed views of images.

A view is determined only by (seed, visit, index of the image): it does not depend on the worker or on earlier views.
"""

from __future__ import annotations

import copy
import shutil
import signal
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import transformers
from torch.utils.data import DataLoader, Dataset, get_worker_info

from engine.augmentation import Augmenter, Mixer
from engine.config import RunConfig
from engine.dataset.types import Sample
from engine.errors import MachineError, TeacherError
from engine.models.feature_cache import FeatureCache, held_in
from engine.models.model import Batch, Example, Model
from engine.processes.signals import STOP_SIGNALS
from engine.processes.threads import usable_cores
from engine.teachers import LocalModel
from engine.training.data.annotated_splits import SplitData
from engine.training.data.sampler import Key, Steps
from engine.training.device import SHARED_MEMORY

MAX_WORKERS = 8


class Views(Dataset[Example | TeacherError]):
    """Augmented and preprocessed views of a split's images, by (visit, index).

    An error that a user can act on is returned as a value: a worker would wrap a raised one in a traceback.
    """

    def __init__(
        self,
        split: SplitData,
        teacher: Model,
        augment: Callable[[Sample, int], Sample],
        *,
        seed: int,
        take_turns: int = 0,
    ) -> None:
        self.split, self.augment, self.seed, self.take_turns = split, augment, seed, take_turns
        self.teacher = _without_model(teacher)

    def __getitem__(self, key: Key) -> Example | TeacherError:
        visit, index = key
        view = view_shown(visit, self.take_turns)
        for_augmentation, _ = np.random.SeedSequence([self.seed, view, index]).spawn(2)
        _, for_teacher = np.random.SeedSequence([self.seed, visit, index]).spawn(2)
        try:
            chosen = self.teacher.select(self.split.dataset.annotations[index], view)
            sample = self.split.sample(index, with_masks=self.teacher.learns_masks, select=chosen)
            sample = self.augment(sample, int(for_augmentation.generate_state(1)[0]))
            example = self.teacher.example(sample, np.random.default_rng(for_teacher))
            return {**example, "slot": f"{index}/{view % self.take_turns}"} if self.take_turns else example
        except TeacherError as error:
            return error

    def collate(self, examples: Sequence[Example | TeacherError]) -> Batch | TeacherError:
        """Return the batch of the examples, or the first error among them."""
        for example in examples:
            if isinstance(example, TeacherError):
                return example
        batch: Batch = self.teacher.collate([example for example in examples if not isinstance(example, TeacherError)])
        if get_worker_info() is None:
            return batch
        try:
            _share_memory(batch)
        except RuntimeError as error:
            return MachineError(f"{SHARED_MEMORY} ({str(error).splitlines()[0]})")
        return batch


def changes_images(config: RunConfig, teacher: Model) -> bool:
    """Return whether the views of an image differ."""
    mixes = config.augmentation.mixes and not teacher.needs_masks
    return mixes or bool(Augmenter(config.augmentation).chosen)


def augmentation_of(config: RunConfig, split: SplitData, teacher: Model) -> Callable[[Sample, int], Sample]:
    """Return the augmentation of a run's training split for a teacher; only teachers of boxes get mixed images.

    A teacher of masks is prompted by the objects of one image, of which it selects some before the image is decoded.
    """
    augmenter, spec = Augmenter(config.augmentation), config.augmentation
    if not spec.mixes or teacher.needs_masks:
        return augmenter
    annotations = split.dataset.annotations
    masks = any(one.segmentation for objects in annotations for one in objects)
    return Mixer(
        spec,
        load=partial(split.sample, with_masks=teacher.learns_masks),
        load_objects=partial(split.sample, with_masks=masks),
        images=len(annotations),
        shown=tuple(i for i, objects in enumerate(annotations) if not all(one.iscrowd for one in objects)),
        augment=augmenter,
    )


def view_shown(visit: int, take_turns: int) -> int:
    """Return the number of the view for the visit ``visit`` of an image, counted from 0.

    ``take_turns`` views are used in turn. After the first rounds one view per round is replaced: each round then has
    one new view and ``take_turns - 1`` known ones. 0: a new view each time.

    >>> [view_shown(visit, 3) for visit in range(15)], view_shown(7, 0)
    ([0, 1, 2, 0, 1, 5, 0, 4, 5, 3, 4, 5, 3, 4, 8], 7)
    """
    if not take_turns:
        return visit
    turn, slot = divmod(visit, take_turns)
    return slot + take_turns * ((turn + slot) // take_turns)


def batches_from(
    step: int, steps: Steps, views: Views, *, workers: int | None, pin_memory: bool
) -> Generator[Batch, None, None]:
    """Yield all batches of a run from a step on, prepared by ``workers`` processes.

    0: by this process; None: one worker per core, divided by the training processes of this machine. Close the
    generator: workers ignore the SIGTERM by which Python ends remaining processes.
    """
    cores = max(1, usable_cores() // steps.rank.local_size)
    count = min(MAX_WORKERS, cores) if workers is None else workers
    loader: DataLoader[Example | TeacherError] = DataLoader(
        views,
        batch_sampler=steps.batches_from(step),
        collate_fn=views.collate,
        num_workers=count,
        worker_init_fn=_start_worker,
        pin_memory=pin_memory,
    )
    for batch in loader:
        if isinstance(batch, TeacherError):
            raise batch
        yield batch


def _start_worker(number: int) -> None:
    """Use one thread per worker, and leave signals to the group, such as Ctrl-C, to the main process."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _share_memory(value: Any) -> None:
    """Move a batch to shared memory.

    If the queue did this, a batch that does not fit would be lost without an error, and the training process would wait
    indefinitely.
    """
    if isinstance(value, torch.Tensor):
        value.share_memory_()  # type: ignore[no-untyped-call]
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            _share_memory(item)


def _without_model(teacher: Model) -> Model:
    """Return a copy of the teacher without its weights, for preprocessing."""
    light = copy.copy(teacher)
    del light.model
    return light


FOLDER = "features"


def features_of(teacher: Model, config: RunConfig, *, base: LocalModel, cache: Path) -> FeatureCache | None:
    """Return the feature cache of a teacher with its adapter, if any image is used twice.

    Args:
        teacher: Teacher with its adapter: layers before the first adapted one are cached.
        config: Configuration of the run.
        base: Base model of the teacher.
        cache: Cache folder shared by runs.
    """
    settings = config.models.of(teacher.name)
    seen_again = (settings is not None and settings.views > 0) or not changes_images(config, teacher)
    frozen = teacher.frozen()
    if frozen is None or not seen_again or not config.training.features_gb:
        return None
    folder = cache / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    limit = min(int(config.training.features_gb * 1e9), (shutil.disk_usage(folder).free + held_in(folder)) // 2)
    identity = {"base": base.digest, "teacher": teacher.name, "transformers": transformers.__version__, **frozen}
    return FeatureCache(folder, identity=identity, limit=limit)
