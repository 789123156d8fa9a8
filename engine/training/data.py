"""From images to batches: augmented and preprocessed views.

A view is determined by (seed, visit, index of the image) alone: neither by the worker that makes it nor by what was
made before it.
"""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable, Generator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from engine.dataset.types import Sample
from engine.errors import MachineError, TeacherError
from engine.teachers.base import Batch, Example, Teacher
from engine.training.machine import SHARED_MEMORY
from engine.training.parts import Part
from engine.training.steps import Key, Steps

MAX_WORKERS = 8


class Views(Dataset[Example | TeacherError]):
    """Augmented and preprocessed views of a part's images, by (visit, index).

    An error that a user can act on is handed out as a value: a worker would wrap what it raises in a traceback.
    """

    def __init__(self, part: Part, teacher: Teacher, augment: Callable[[Sample, int], Sample], *, seed: int) -> None:
        self.part, self.augment, self.seed = part, augment, seed
        self.teacher = _without_model(teacher)

    def __getitem__(self, key: Key) -> Example | TeacherError:
        visit, index = key
        for_augmentation, for_teacher = np.random.SeedSequence([self.seed, visit, index]).spawn(2)
        try:
            chosen = self.teacher.select(self.part.dataset.annotations[index], visit)
            sample = self.part.sample(index, with_masks=self.teacher.needs_masks, select=chosen)
            sample = self.augment(sample, int(for_augmentation.generate_state(1)[0]))
            return self.teacher.example(sample, np.random.default_rng(for_teacher))
        except TeacherError as error:
            return error

    def collate(self, examples: Sequence[Example | TeacherError]) -> Batch | TeacherError:
        """The examples' batch, or the first error among them."""
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


def batches_from(
    step: int, steps: Steps, views: Views, *, workers: int | None, pin_memory: bool
) -> Generator[Batch, None, None]:
    """All batches of a run from a step on, made in ``workers`` processes (0: in this one; None: one a core, of those
    that fall to each process of the run on this machine).

    Close it: workers do not heed the SIGTERM by which Python ends processes that are left over.
    """
    cores = max(1, len(os.sched_getaffinity(0)) // steps.place.local_size)
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
    """One thread a worker; a SIGTERM to the whole group is the main process's to handle."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _share_memory(value: Any) -> None:
    """Move a batch to where the training process takes it over. Left to the queue between them, a batch for which there
    is no room would be lost without a word, and waited for for ever.
    """
    if isinstance(value, torch.Tensor):
        value.share_memory_()  # type: ignore[no-untyped-call]
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            _share_memory(item)


def _without_model(teacher: Teacher) -> Teacher:
    """What makes examples of samples; the weights stay where they are."""
    light = copy.copy(teacher)
    del light.model
    return light
