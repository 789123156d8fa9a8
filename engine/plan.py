"""Plans one training run per teacher from a request and its inspected data, for all backends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.config import RunConfig, generate_config
from engine.config.distill import LabelsFile, generate_distill_config
from engine.dataset.types import DatasetInfo
from engine.layout import RunLayout
from engine.manifest import DistillManifest, Manifest
from engine.registry import ModelName


@dataclass(frozen=True)
class TrainingRun:
    """One process (or one Job) that tunes one teacher."""

    teacher: ModelName
    config: RunConfig

    @property
    def layout(self) -> RunLayout:
        """Layout of its artifacts."""
        return RunLayout.of(self.config)


def plan(
    manifest: Manifest | DistillManifest,
    info: DatasetInfo,
    *,
    base_digest: Callable[[str], str | None] = lambda base_model: None,
    labels: LabelsFile | None = None,
) -> tuple[TrainingRun, ...]:
    """Return one training run per teacher that the data needs, boxes before masks, or that of a student. Pure.

    All of them share one configuration and one run id, and so one folder in object storage.

    Raises:
        ConfigError: The request contradicts itself or the data.
        DataError: The data cannot be trained on.
    """
    config: RunConfig
    if isinstance(manifest, DistillManifest):
        config = generate_distill_config(
            info, manifest.spec, name=manifest.name, base_digest=base_digest, labels=labels
        )
    else:
        config = generate_config(info, manifest.spec, name=manifest.name, base_digest=base_digest)
    return tuple(TrainingRun(teacher, config) for teacher in config.models.names)
