"""Where a run keeps what the part of its teacher makes of images that is not adapted."""

from __future__ import annotations

import shutil
from pathlib import Path

import transformers

from engine.augmentation import Augmenter
from engine.config import RunConfig
from engine.teachers import LocalModel, Teacher
from engine.teachers.features import FeatureCache, held_in

FOLDER = "features"


def features_of(teacher: Teacher, config: RunConfig, *, base: LocalModel, cache: Path) -> FeatureCache | None:
    """The cache of a teacher with its adapter, if an image is ever seen twice.

    Args:
        teacher: What is kept ends before its first adapted layer.
        config: Of the run.
        base: The teacher's.
        cache: The folder that runs share.
    """
    settings = config.teachers.of(teacher.name)
    seen_again = (settings is not None and settings.views > 0) or not Augmenter(config.augmentation).chosen
    frozen = teacher.frozen()
    if frozen is None or not seen_again or not config.training.features_gb:
        return None
    folder = cache / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    limit = min(int(config.training.features_gb * 1e9), (shutil.disk_usage(folder).free + held_in(folder)) // 2)
    identity = {"base": base.digest, "teacher": teacher.name, "transformers": transformers.__version__, **frozen}
    return FeatureCache(folder, identity=identity, limit=limit)
