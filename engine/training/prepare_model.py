"""Prepare a teacher for training: fetch and load its base, plan micro-batches, attach the adapter."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.dataset.types import CocoDataset
from engine.models.activation_checkpointing import recompute
from engine.models.base_sources import LocalModel, is_hub_id, random_base, resolve_base_model
from engine.models.model import Model
from engine.models.registry import REGISTRY
from engine.training.checkpoint import Checkpoint
from engine.training.context import TrainingContext
from engine.training.device import autocast, choose_device, give_back_memory, keep_memory, resident_bytes, seed_all
from engine.training.micro_batch import MicroBatchPlan, describe_plan, plan_micro_batch
from engine.training.resume import check_planned_base


@dataclass(frozen=True, eq=False)
class PreparedModel:
    """A teacher with its adapter, on its device.

    Attributes:
        teacher: Base model and adapter.
        base: Files of the base model.
        micro_batch: Division of a step into micro-batches.
        resident_limit: Resident bytes above which freed memory is returned to the system; None: no limit.
    """

    teacher: Model
    base: LocalModel
    micro_batch: MicroBatchPlan
    resident_limit: int | None

    def release_memory(self) -> None:
        """Return freed memory to the system if the process holds more than the limit."""
        if self.resident_limit is not None:
            give_back_memory(above=self.resident_limit)


def fetch_base(context: TrainingContext, checkpoint: Checkpoint | None) -> LocalModel:
    """Fetch the base model; a resumed run uses the same commit as before."""
    name, revision = context.settings.base_model, context.settings.revision
    if name is None:
        return random_base(context.settings.model_dump_json(), seed=context.config.training.seed)
    if checkpoint is not None and is_hub_id(name):
        revision = checkpoint.settings["base_revision"]
    check_planned_base(name, context.settings.base_digest, storage=context.storage)
    return resolve_base_model(name, revision, storage=context.storage, cache=context.cache)


def load_base(context: TrainingContext, base: LocalModel) -> Model:
    """Load the base model with the classes of the run, on the CPU."""
    data, settings = context.config.data, context.settings
    folder = None if settings.base_model is None else base.folder
    seed_all(context.config.training.seed)  # random weights and heads
    prompts = {"prompts": data.prompts} if context.name.traits.adapts_base else {}
    model: Model = REGISTRY[context.name].load(folder, classes=data.classes, settings=settings, **prompts)
    return model


def prepare_model(
    context: TrainingContext, teacher: Model, base: LocalModel, train: CocoDataset, checkpoint: Checkpoint | None
) -> PreparedModel:
    """Place the teacher on its device, plan its micro-batches and attach its adapter.

    Args:
        context: The run.
        teacher: The loaded base.
        base: Its files.
        train: Training split; images that turn out to be unreadable may be among it.
        checkpoint: Checkpoint to resume; None for a new run.
    """
    training, settings = context.config.training, context.settings
    teacher.model.to(choose_device())
    micro_batch = plan_micro_batch(
        teacher,
        settings,
        train,
        bfloat16=isinstance(autocast(teacher.device, training.precision), torch.autocast),
        begun=None if checkpoint is None else checkpoint.progress,
        processes=context.processes,
    )
    plan, kept_bytes = micro_batch.plan, micro_batch.kept_bytes
    if plan is not None:
        available = micro_batch.available_memory
        context.note(
            describe_plan(plan, batch_size=settings.batch_size, available_memory=available, kept_bytes=kept_bytes)
        )
    resident_limit = None
    if kept_bytes:
        keep_memory()
        resident_limit = resident_bytes() + kept_bytes * 3 // 4  # the next step adds to what is held
    seed_all(training.seed)
    teacher.begin_training(settings)
    chosen = () if settings.checkpointing == "auto" else settings.checkpointing
    recompute(teacher, chosen if plan is None else plan.checkpointing)
    return PreparedModel(teacher, base, micro_batch, resident_limit)
