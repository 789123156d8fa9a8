"""Interface of a student: a small model whose weights are all trained."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import safetensors.torch
import torch
from torch import Tensor, nn

from engine.config.students import StudentSettings
from engine.errors import BaseModelError, ConfigError
from engine.layout import STUDENT_CARD
from engine.models.atomic_write import write_atomically
from engine.models.base_sources import WEIGHTS
from engine.models.graphs import Graph, query_detector_graph
from engine.models.model import Model, Origin
from engine.models.safetensors_files import not_finite, read_header, read_tensors
from engine.models.student_card import StudentCard
from engine.registry import StudentName
from engine.traits import StudentTraits

EMA, RAW = "ema/", "raw/"
"""Prefixes of the tensors of a checkpoint: of the moving average, and of the weights that are trained."""

EMA_WARMUP = 100
"""Steps after which two thirds of the decay of the moving average are reached."""


class Student(Model):
    """A detector of a fixed list of classes, whose weights are all trained.

    In training ``model`` has the trained weights, and ``averaged`` their exponential moving average, which predicts.
    The published folder is one of transformers, with ``student.json``.
    """

    traits: ClassVar[StudentTraits]
    name: ClassVar[StudentName]
    weights_file: ClassVar[str] = WEIGHTS

    settings: StudentSettings
    image_size: tuple[int, int]
    averaged: nn.Module | None = None
    silent = False
    """Predict nothing: a student before its training."""

    @classmethod
    def name_of(cls, traits: Any) -> StudentName:
        """See :meth:`Model.name_of`."""
        return StudentName(traits.name)

    @property
    def learns_masks(self) -> bool:
        """See :attr:`Model.learns_masks`: by its settings, which follow from the data."""
        return bool(self.settings.masks)

    @classmethod
    @abstractmethod
    def load(cls, folder: Path | None, *, classes: Sequence[str], settings: Any) -> Self:
        """Return the student on the CPU, in 32 bit, in eval mode.

        Args:
            folder: A transformers model folder; heads of other classes are replaced by random ones. None: all weights
                are random, from torch's global generator.
            classes: Class names in the order of class indices.
            settings: The student's section of the configuration.

        Raises:
            BaseModelError: The folder does not hold a model of this kind.
        """

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """Return the contents of configuration and preprocessor, by file name."""

    def graphs(self, shape: tuple[int, int] | None, sizes: Sequence[tuple[int, int]]) -> list[Graph]:
        """See :meth:`Model.graphs`: one graph of the size that it was trained for."""
        if shape not in (None, self.image_size):
            height, width = self.image_size
            raise ConfigError(
                f"the student was trained for inputs of {height}x{width} pixels: leave the image size out"
            )
        limit: int = getattr(self.settings, "max_detections")  # noqa: B009 - of the detectors
        return [query_detector_graph(self.predictor, shape=self.image_size, limit=limit, masks=self.learns_masks)]

    @property
    def predictor(self) -> Any:
        """The model that predicts: the moving average in training, if there is one."""
        return self.model if self.averaged is None else self.averaged

    def begin_training(self, settings: StudentSettings) -> None:
        """Make all weights trainable, and begin their moving average."""
        self.model.requires_grad_(True)
        for name, parameter in self.model.named_parameters():
            if not self.is_trained(name):
                parameter.requires_grad_(False)
        if settings.ema_decay:
            self.averaged = copy.deepcopy(self.model).requires_grad_(False).eval()

    def is_trained(self, parameter: str) -> bool:
        """Return whether a parameter is trained."""
        return True

    def set_training(self, training: bool) -> None:
        """Switch batch normalization between the statistics of batches and those of training."""
        self.model.train(training)

    def statistics(self) -> list[Tensor]:
        """Return the running means and variances of batch normalization."""
        return [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Update the moving average; early averages forget the random weights faster."""
        if self.averaged is None:
            return
        decay = self.settings.ema_decay * (1 - math.exp(-step / EMA_WARMUP))
        own = self._own
        for name, average in _tensors(self.averaged).items():
            value = own[name]
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)

    def training_tensors(self) -> dict[str, Tensor]:
        """Return the weights and their moving average, with all statistics."""
        averaged = {} if self.averaged is None else _tensors(self.averaged)
        return {f"{RAW}{name}": tensor for name, tensor in self._own.items()} | {
            f"{EMA}{name}": tensor for name, tensor in averaged.items()
        }

    def load_training_tensors(self, tensors: dict[str, Tensor], *, what: str) -> None:
        """See :meth:`Model.load_training_tensors`."""
        _overwrite(self.training_tensors(), tensors, what=what)

    def result_tensors(self) -> dict[str, Tensor]:
        """Return the moving average, or without one the weights."""
        return _tensors(self.predictor)

    def load_result_tensors(self, tensors: dict[str, Tensor], *, what: str) -> None:
        """See :meth:`Model.load_result_tensors`."""
        _overwrite(self.result_tensors(), tensors, what=what)

    def save(self, folder: Path, origin: Origin) -> None:
        """Write ``config.json``, ``preprocessor_config.json``, ``student.json`` and, last, ``model.safetensors``."""
        card = StudentCard(
            student=self.name,
            base_revision=origin.base_revision,
            base_sha256=origin.base_sha256,
            classes=origin.classes,
            settings=self.settings,
            image_size=self.image_size,
            frame=origin.frame,
            licence=self.traits.licence,
        )
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.result_tensors().items()}
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
            write_atomically(folder / name, content)
        write_atomically(folder / STUDENT_CARD, (card.model_dump_json(indent=2) + "\n").encode())
        write_atomically(folder / WEIGHTS, safetensors.torch.save(tensors, metadata={"format": "pt"}))

    def restore(self, folder: Path) -> None:
        """Load the weights that :meth:`save` wrote."""
        read_header(folder / WEIGHTS)
        self.load_result_tensors(read_tensors(folder / WEIGHTS), what=f"{folder} does not fit the student")

    @contextmanager
    def untrained(self) -> Iterator[None]:
        """Predict nothing inside the block: before training the student has not learned any class."""
        self.silent = True
        try:
            yield
        finally:
            self.silent = False

    @property
    def _own(self) -> dict[str, Tensor]:
        return _tensors(self.model)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name; those that modules share have the first name only."""
    persistent = model.state_dict(keep_vars=True)
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor for name, tensor in named.items() if name in persistent}


def _overwrite(places: dict[str, Tensor], tensors: dict[str, Tensor], *, what: str) -> None:
    """Copy tensors to the places of the same names; nothing changes unless all of them fit.

    Raises:
        BaseModelError: Names, shapes or kinds of numbers differ, or values are not finite.
    """
    faults = [
        *(f"the model has no place for {name[:200]}" for name in tensors if name not in places),
        *(f"the file has no tensor for {name}" for name in places if name not in tensors),
        *(
            f"{name} has shape {tuple(tensors[name].shape)}, the model {tuple(place.shape)}"
            for name, place in places.items()
            if name in tensors and tensors[name].shape != place.shape
        ),
        *(
            f"{name} has numbers of type {tensors[name].dtype}, the model {place.dtype}"
            for name, place in places.items()
            if name in tensors and tensors[name].is_floating_point() != place.is_floating_point()
        ),
        *(f"{name} holds values that are not finite numbers" for name in not_finite(tensors)),
    ]
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise BaseModelError(f"{what}: {'; '.join(faults[:3])}{more}")
    with torch.no_grad():
        for name, place in places.items():
            place.copy_(tensors[name])
