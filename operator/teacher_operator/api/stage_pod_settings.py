"""Settings of the pods of one stage, merged from the installation, the run and the stage. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.stages import Stage
from teacher_operator.api.pod_settings import PodSettings, PodSpec, StageSpec
from teacher_operator.api.settings import Settings
from teacher_operator.api.spec import TeacherFineTuneSpec

KEYS: Mapping[str, str] = {
    "env": "name",
    "volumes": "name",
    "volume_mounts": "mount_path",
}
"""Lists that are merged by a key of their items: the field with the key, by field of the settings."""

ADDED = frozenset({"labels", "annotations"})
"""Maps that are merged; any other setting replaces the one of the previous layer."""


def stage_spec(spec: TeacherFineTuneSpec, stage: Stage) -> StageSpec:
    """Return the object's own settings of a stage."""
    name: Any = stage.name
    given = (one for one in spec.stages if one.name.value == name)
    return next(given, StageSpec.model_construct(name=name))


def stage_settings(spec: TeacherFineTuneSpec, stage: Stage, settings: Settings) -> PodSettings:
    """Return the merged settings of a stage's pods.

    Settings of the run override those of the installation, and settings of the stage override both. A stage without
    GPU has the placement of the run, but not its resource claims.
    """
    own = stage_spec(spec, stage)
    merged = _merged(settings.pods, spec.pod, _placement(spec), own)
    if not stage.uses_gpu:
        return merged.model_copy(update={"resource_claims": own.resource_claims})
    return merged


def gpus_of(spec: TeacherFineTuneSpec, pods: PodSettings) -> int:
    """Return the number of GPUs of one trainer pod: from the extended resource, and from its resource claims."""
    return spec.gpus + sum(claim.gpus for claim in pods.resource_claims or ())


def _placement(spec: TeacherFineTuneSpec) -> PodSettings:
    """Return the placement at the top level of the spec. An empty field counts as unset."""
    return PodSettings(
        node_selector=spec.node_selector or None,
        affinity=spec.affinity or None,
        tolerations=spec.tolerations or None,
        runtime_class_name=spec.runtime_class_name,
        priority_class_name=spec.priority_class_name,
    )


def _merged(*layers: PodSpec) -> PodSettings:
    result: dict[str, Any] = {}
    for layer in layers:
        for name in PodSettings.model_fields:
            value = getattr(layer, name, None)
            if value is None:
                continue
            if name in ADDED:
                value = {**result.get(name, {}), **value}
            elif name in KEYS:
                by_key = {getattr(one, KEYS[name]): one for one in (*result.get(name, ()), *value)}
                value = list(by_key.values())
            result[name] = value
    return PodSettings.model_construct(**result)
