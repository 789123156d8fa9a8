"""The training loop: steps, evaluations, checkpoints. It sends events to listeners.

Everything random in a step is seeded by (seed, step), and its images and learning rate are functions of the step too:
so step number, adapter and optimizer are enough to resume a run exactly.

Several processes execute the same loop, each with its share of a step's images. Their gradients and losses are summed,
so that all have the same adapter and make the same decisions; only the first writes checkpoints.
Not supported: identical dropout noise in the adapter for different numbers of processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.config import ModelSettings, TrainingConfig
from engine.errors import InterruptedTrainingError, LossNotFiniteError, StorageError
from engine.models.activation_checkpointing import recompute
from engine.models.model import Batch, Model
from engine.results.events import Event, better_than
from engine.training.checkpoint import EXPECTED_COST, Checkpoint, Progress, checkpoint_interval, save_checkpoint
from engine.training.data.sampler import Steps, learning_rate
from engine.training.device import Stop, autocast, memory_error, memory_errors, peak_memory_bytes, seed_all
from engine.training.distributed import ALONE, Processes
from engine.training.hooks import Hooks
from engine.training.messages import early_stop
from engine.training.micro_batch import StepMemory
from engine.training.optimizer import apply_gradients, build_optimizer, gradients, optimizer_tensors, restore_optimizer
from engine.training.pace import Pace


class Loop:
    """One run of one model, from a checkpoint to the end.

    Args:
        teacher: The model to train, on its device.
        settings: Its section of the configuration.
        training: Settings common to all models.
        steps: The steps of the run.
        start: Checkpoint to start from; for a new run without steps, optimizer state and best adapter.
        folder: Folder of the checkpoints.
        hooks: Callbacks.
        stop: Set by SIGTERM and Ctrl-C.
        processes: All processes of the run.
    """

    def __init__(
        self,
        teacher: Model,
        *,
        settings: ModelSettings,
        training: TrainingConfig,
        steps: Steps,
        start: Checkpoint,
        folder: Path,
        hooks: Hooks,
        stop: Stop,
        processes: Processes = ALONE,
    ) -> None:
        self.teacher, self.settings, self.training = teacher, settings, training
        halved = start.progress.micro_batch_size
        self.steps = replace(steps, stopped_at=start.progress.stopped_at)
        if halved is not None:
            self.steps = replace(self.steps, micro_batch_size=min(halved, steps.largest_batch))
        self.memory = StepMemory(start.progress.step_memory_bytes)
        self.folder, self.hooks, self.stop, self.processes = folder, hooks, stop, processes
        self.interval = checkpoint_interval(EXPECTED_COST)
        self.start = start
        self.progress = start.progress
        self.best: dict[str, Tensor] = start.best
        self.parameters = teacher.trained_parameters()
        self.optimizer = build_optimizer(self.parameters, settings, teacher.rate_share)
        teacher.load_training_tensors(start.adapter, what="the checkpoint does not fit its teacher")
        restore_optimizer(self.optimizer, self.parameters, start.optimizer)
        self.precision: AbstractContextManager[Any] = autocast(teacher.device, training.precision)
        self.pace = Pace()
        self.started = self.saved = time.monotonic()
        if start.progress.micro_batch_size is not None:
            self._keep_less()

    def run(self) -> Progress:
        """Train to the end, which is near after ``patience`` evaluations without improvement.

        Raises:
            InterruptedTrainingError: SIGTERM or Ctrl-C arrived; a checkpoint is written.
            LossNotFiniteError: The loss became NaN or infinite.
            OutOfGpuMemoryError: The GPU has too little memory even for half a batch; a checkpoint is written.
        """
        while True:
            with closing(self.hooks.batches(self.steps, self.progress.step)) as batches:  # the block ends its workers
                if self._to_the_end(batches):
                    return self.progress
            self._halve()

    def _to_the_end(self, batches: Iterator[Batch]) -> bool:
        """Train to the end and return True; False if a batch does not fit into memory."""
        while True:
            done = self.progress.step
            if self.progress.evaluated_step < done and self.steps.evaluated_after(done):
                self._evaluate()
            if self.training.patience and self.progress.waited >= self.training.patience:
                self._stop_early()
            if done >= self.steps.total:
                return True
            if not self._step(batches):
                return False
            self.stop.alive()
            if self.processes.any(self.stop.requested):
                raise self._interrupted()
            if time.monotonic() - self.saved >= self.interval:
                self._checkpoint()

    def _stop_early(self) -> None:
        """Shorten the rest of the run, unless it is as short already."""
        planned, steps = self.steps, replace(self.steps, stopped_at=self.progress.step)
        if planned.stopped_at is None and steps.total < planned.total:
            self._emit("note", message=early_stop(self.progress, steps, planned))
            self.steps, self.progress = steps, self._updated(stopped_at=self.progress.step)

    def _step(self, batches: Iterator[Batch]) -> bool:
        """Take a step and return True; False if a batch does not fit into memory."""
        begin, done = time.monotonic(), self.progress.step
        losses = self._gradients(self.steps, batches)
        if losses is None:
            return False
        rate = learning_rate(self.steps.scheduled_at(done), self.steps.planned, self.settings)
        try:
            with memory_errors(self.teacher, self.settings):
                apply_gradients(self.optimizer, learning_rate=rate, clip_norm=self.settings.clip_norm, losses=losses)
        except LossNotFiniteError as error:
            self._checkpoint_at_the_end()
            raise LossNotFiniteError(
                f"at step {done + 1} of {self.steps.total} {error}: lower the learning rate "
                f"({self.settings.learning_rate:g}), or set training.precision to float32; "
                + ("the best adapter so far is kept" if self.best else "there is no adapter yet")
            ) from None
        self.processes.average(self.teacher.statistics())
        self.teacher.after_step(done + 1)
        self.pace.step(time.monotonic() - begin, images=len(self.steps.views(done)))
        epoch = self.steps.epochs_at(done + 1)
        self.progress = self._updated(self.progress.after_step(losses["loss"], steps=self.steps.total, epoch=epoch))
        self._emit(
            "step",
            loss=losses["loss"],
            losses={name: value for name, value in losses.items() if name != "loss"},
            learning_rate=rate,
            images_per_second=self.pace.images_per_second,
            seconds_left=self.pace.seconds_left(self.steps, self.progress.step),
        )
        return True

    def _gradients(self, steps: Steps, batches: Iterator[Batch]) -> dict[str, float] | None:
        """Compute gradients of the next step and return its losses; None if a batch does not fit into memory."""
        done = self.progress.step
        micro_batches = [next(batches) for _ in steps.batches(done)]
        # After the batches: a loader draws a number when it starts.
        seed_all(self.training.seed, done, self.processes.rank.index)
        self.teacher.set_training(True)
        self.progress = self._updated()  # saves the device's peak memory, which is reset next
        try:
            with self.memory.measured(self.teacher.model):
                return gradients(self.teacher, micro_batches, self.precision, self.processes)
        except torch.OutOfMemoryError:
            self.optimizer.zero_grad(set_to_none=True)
            if self.teacher.device.type == "cuda":
                torch.cuda.empty_cache()
            return None

    def _halve(self) -> None:
        """Halve the micro-batch size, once in a run; the batch size of a step stays the same.

        All activations that can be recomputed are from now on, unless the settings choose them.

        Raises:
            OutOfGpuMemoryError: It was done before, or there is nothing to halve.
        """
        size = self.steps.largest_batch
        if size == 1 or self.progress.micro_batch_size is not None:
            fits = self._what_fits(size)
            self._checkpoint_at_the_end()
            raise memory_error(self.teacher, self.settings, fits=fits)
        half = math.ceil(size / 2)
        self._keep_less()
        self.steps, self.progress = replace(self.steps, micro_batch_size=half), self._updated(micro_batch_size=half)
        why = f"micro-batches of {size} images do not fit into the memory of the GPU"
        self._emit("note", message=f"{why}: continuing with {half} at a time and the same batch size")
        self._checkpoint()

    def _keep_less(self) -> None:
        if self.settings.checkpointing == "auto":
            recompute(self.teacher, tuple(self.teacher.recomputable))

    def _what_fits(self, size: int) -> int:
        """Return the largest batch that fits, halving ``size``; 0 if not even one image fits."""
        while size > 1:
            size //= 2
            steps = replace(self.steps, micro_batch_size=size)
            with closing(self.hooks.batches(steps, self.progress.step)) as batches:
                fits = self._gradients(steps, batches) is not None
            self.optimizer.zero_grad(set_to_none=True)
            if fits:
                return size
        return 0

    def _evaluate(self) -> None:
        begin, progress = time.monotonic(), self.progress
        self.teacher.set_training(False)
        try:
            ap = self.hooks.evaluate().ap
        except InterruptedTrainingError:
            raise self._interrupted() from None
        self.pace.evaluation_seconds = time.monotonic() - begin
        better = progress.best_ap is None or ap > progress.best_ap
        if better:
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.teacher.result_tensors().items()}
        self.progress = self._updated(progress.after_evaluation(ap, epoch=self.steps.epochs_at(progress.step)))
        self._emit("evaluation", ap=ap, best=better and self._best_ap() is not None, phase="adapted")
        if better:
            self.hooks.keep_best()
        self._checkpoint()

    def _checkpoint(self) -> None:
        if not self.processes.first:
            return
        self.progress = self._updated()
        checkpoint = replace(
            self.start,
            progress=self.progress,
            adapter=self.teacher.training_tensors(),
            optimizer=optimizer_tensors(self.optimizer, self.parameters),
            best=self.best,
        )
        begin = time.monotonic()
        self.hooks.on_checkpoint(save_checkpoint(checkpoint, self.folder))
        self.saved = time.monotonic()
        self.interval = checkpoint_interval(self.saved - begin)
        self.stop.alive()
        self._emit("checkpoint")

    def _checkpoint_at_the_end(self) -> None:
        """Write a checkpoint of a run that stops here; an unreachable store must not hide the reason."""
        try:
            self._checkpoint()
        except StorageError as error:
            self._emit("note", message=f"the last checkpoint was not uploaded and exists on this disk only: {error}")

    def _updated(self, progress: Progress | None = None, **changes: Any) -> Progress:
        """Return the progress with ``changes``, and current time and memory."""
        progress = progress or self.progress
        return progress.model_copy(
            update={
                "seconds": self.start.progress.seconds + time.monotonic() - self.started,
                "step_memory_bytes": self.memory.peak,
                "peak_memory_bytes": max(progress.peak_memory_bytes, peak_memory_bytes(self.teacher.device)),
                **changes,
            }
        )

    def _emit(self, kind: Any, **values: Any) -> None:
        step, before = self.progress.step, self.start.before.get("val")
        self.hooks.listen(
            Event(
                event=kind,
                teacher=self.teacher.name.slug,
                step=step,
                steps=self.steps.total,
                epoch=self.steps.epochs_at(step),
                epochs=self.steps.epochs,
                memory_bytes=self.progress.peak_memory_bytes,
                ap_before=None if before is None else before.ap,
                best_ap=self._best_ap(),
                **values,
            )
        )

    def _best_ap(self) -> float | None:
        """Return the AP of the best adapter so far, if it is better than the base."""
        before = self.start.before.get("val")
        return better_than(None if before is None else before.ap, self.progress.best_ap)

    def _interrupted(self) -> InterruptedTrainingError:
        """Write a checkpoint, and return the error that ends the run."""
        self._checkpoint_at_the_end()
        return InterruptedTrainingError(
            f"{self.stop.name} arrived: {self.teacher.name} stopped after step {self.progress.step} of "
            f"{self.steps.total}; the same command resumes training"
        )
