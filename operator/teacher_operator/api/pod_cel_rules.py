"""CEL rules of the CRD for the settings of pods, and the keys of their lists. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from teacher_operator.api.pod_settings import (
    ANNOTATIONS_MESSAGE,
    ENV_MESSAGE,
    LABELS_MESSAGE,
    RESERVED_ENV,
    RESERVED_LABELS,
)
from teacher_operator.api.pod_volumes import (
    ONE_SOURCE,
    PATH_MESSAGE,
    RESERVED_PATHS,
    RESERVED_VOLUMES,
    SOURCES,
    VOLUME_MESSAGE,
)

Rule = tuple[str, str]

_SETTINGS: tuple[Rule, ...] = (
    (f"!has(self.labels) || self.labels.all(name, !name.matches(r'{RESERVED_LABELS}'))", LABELS_MESSAGE),
    (
        "!has(self.annotations) || self.annotations.all(name, !name.startsWith('finetune.dev/'))",
        ANNOTATIONS_MESSAGE,
    ),
    (f"!has(self.env) || self.env.all(one, !one.name.matches(r'{RESERVED_ENV}'))", ENV_MESSAGE),
    (
        f"!has(self.volumes) || self.volumes.all(one, !one.name.matches(r'{RESERVED_VOLUMES}'))",
        VOLUME_MESSAGE,
    ),
    (
        f"!has(self.volumeMounts) || self.volumeMounts.all(one, !one.mountPath.matches(r'{RESERVED_PATHS}'))",
        PATH_MESSAGE,
    ),
)

_CLAIMED = "has(%s.resourceClaims) && %s.resourceClaims.exists(one, one.gpus > 0)"

POD_RULES: Mapping[str, tuple[Rule, ...]] = {
    "PodSpec": _SETTINGS,
    "StageSpec": _SETTINGS,
    "EnvVar": (("!(has(self.value) && has(self.valueFrom))", "give either the value of a variable or valueFrom"),),
    "EnvSource": (
        (
            "has(self.secretKeyRef) != has(self.configMapKeyRef)",
            "valueFrom has exactly one of secretKeyRef and configMapKeyRef",
        ),
    ),
    "Volume": ((f"[{', '.join(f'has(self.{source})' for source in SOURCES)}].exists_one(given, given)", ONE_SOURCE),),
    "ResourceClaim": (
        (
            "has(self.resourceClaimName) != has(self.resourceClaimTemplateName)",
            "a claim has exactly one of resourceClaimName and resourceClaimTemplateName",
        ),
    ),
    "TeacherFineTuneSpec": (
        (
            "!has(self.workloadPriorityClassName) || has(self.queueName)",
            "workloadPriorityClassName is a setting of Kueue and requires queueName",
        ),
        ("!has(self.managedBy) || has(self.queueName)", "managedBy hands Jobs to Kueue and requires queueName"),
        (
            "!has(self.managedBy) || self.nodes == 1",
            "managedBy requires nodes: 1, since the Service that connects several nodes exists only in this cluster",
        ),
        (
            "self.nodes == 1 || self.gpus > 0"
            f" || (has(self.pod) && {_CLAIMED % (('self.pod',) * 2)})"
            f" || (has(self.stages) && self.stages.exists(stage, {_CLAIMED % (('stage',) * 2)}))",
            "several nodes need GPUs: set gpus to at least 1, or nodes to 1",
        ),
    ),
}
"""Rules and messages by name of the model, as in :mod:`teacher_operator.api.crd_rules`."""

POD_LIST_KEYS: Mapping[str, tuple[str, str]] = {
    "TeacherFineTuneSpec.stages": ("map", "name"),
    **{
        f"{model}.{field}": ("map", key)
        for model in ("PodSpec", "StageSpec")
        for field, key in {
            "env": "name",
            "volumes": "name",
            "volumeMounts": "mountPath",
            "resourceClaims": "name",
        }.items()
    },
}
