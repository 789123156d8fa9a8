"""Patterns, CEL rules and list keys of the CRD, by name of the model. The rules repeat the validators of the models."""

from __future__ import annotations

from collections.abc import Mapping

from engine.spec import StorageSpec
from engine.spec.dataset import TRAIN_PERCENT, VAL_PERCENT
from engine.spec.training import MOST_TRIALS
from teacher_operator.api.pod_cel_rules import POD_LIST_KEYS, POD_RULES
from teacher_operator.api.spec import INPUTS, KIND

ACCESS_POINT = (
    r"arn:aws[a-z-]*:(s3:[a-z0-9-]+:[0-9]{12}:accesspoint[:/][a-z0-9][a-z0-9-]{1,48}[a-z0-9]"
    r"|s3-outposts:[a-z0-9-]+:[0-9]{12}:outpost[:/][A-Za-z0-9-]{1,63}[:/]accesspoint[:/][a-z0-9][a-z0-9-]{1,62})"
)
BUCKET = rf"([a-z0-9][a-z0-9._-]{{1,61}}[a-z0-9]|{ACCESS_POINT})"
GOOGLE_URI = r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"
AZURE_URI = r"az://[a-z0-9][a-z0-9-]{1,61}[a-z0-9]"
CLAIM_URI = r"pvc://[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
LOCATION = rf"(s3://{BUCKET}|{GOOGLE_URI}|{AZURE_URI}|{CLAIM_URI})"
DATA_URI = rf"^{LOCATION}(/[^\x00-\x1f]*)?$"
MODEL_URI = rf"^({LOCATION}/[^\x00-\x1f]+|[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)?)$"

PATTERNS: Mapping[str, Mapping[str, str]] = {
    "DatasetSpec": {"annotations": DATA_URI, "images": DATA_URI},
    "SplitFilesSpec": {"annotations": DATA_URI, "images": DATA_URI},
    "RetentionSpec": {"annotations": DATA_URI, "images": DATA_URI},
    "TeacherFineTuneSpec": {"output": DATA_URI},
    "TeacherSpec": {"baseModel": MODEL_URI},
    "ClusterStorageSpec": {"caBundle": r"^/[^\x00-\x1f]+$"},
}
"""Patterns of URIs, by model and field. On a cluster data lies in object storage or on a PersistentVolumeClaim, since
pods have no other disk; base models may also come from the model hub."""

METADATA_HOST = (
    r"^https?://([^/]*@)?\\[?(169[.]254[.]|[fF][eE]80:|[fF][dD]00:[eE][cC]2:|metadata([.:/]|$)|instance-data[.])"
)
"""Pattern of common URLs of a cloud's metadata service; the operator and the pods refuse all other notations too."""

SERVICE_NAME = (
    "!has(self.spec.nodes) || self.spec.nodes == 1 || self.metadata.name.matches('^[a-z]')",
    "with several nodes the name must begin with a letter, since a Service has the same name",
)

FOLDS = "(has(self.split) && has(self.split.folds))"
SWEPT = ("learningRates", "ranks", "presets")
SWEEP_SIZES = " + ".join(f"(has(self.{name}) ? size(self.{name}) : 0)" for name in SWEPT)

RULES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "SplitSpec": (
        ("has(self.folds) || self.train + self.val + self.test == 100", "train, val and test must make 100 percent"),
        (
            f"!has(self.folds) || (self.train == {TRAIN_PERCENT} && self.val == {VAL_PERCENT})",
            "folds replaces train and val: leave them out",
        ),
    ),
    "SweepSpec": (
        (f"{SWEEP_SIZES} > 0", "a sweep needs values to try: list learningRates, ranks or presets"),
        (
            " * ".join(f"(has(self.{name}) && size(self.{name}) > 0 ? size(self.{name}) : 1)" for name in SWEPT)
            + f" <= {MOST_TRIALS}",
            f"a sweep has at most {MOST_TRIALS} trials: every combination is one",
        ),
        (
            "!has(self.learningRates) || self.learningRates.all(rate, double(rate) > 0.0 && double(rate) <= 1.0)",
            'each of learningRates must be above "0" and at most "1"',
        ),
    ),
    "DatasetSpec": (
        (
            "has(self.annotations) != has(self.train)",
            "give either dataset.annotations or dataset.train with dataset.val, not both or none",
        ),
        (
            f"!has(self.train) || has(self.val) || {FOLDS}",
            "dataset.train needs dataset.val too: the best adapter is selected on it",
        ),
        (
            "has(self.train) || !(has(self.val) || has(self.test))",
            "dataset.val and dataset.test go with dataset.train, not with dataset.annotations",
        ),
        (
            f"!(has(self.train) && has(self.split)) || ({FOLDS} && self.split.test == 0)",
            "dataset.split divides dataset.annotations; dataset.train is split already",
        ),
        (
            f"!(has(self.val) && {FOLDS})",
            "dataset.split.folds takes its validation images from dataset.train: leave out dataset.val",
        ),
    ),
    "LoraSpec": (("!has(self.dropout) || double(self.dropout) < 1.0", 'dropout must be at least "0" and below "1"'),),
    "TeacherSpec": (
        (
            "!has(self.learningRate) || (double(self.learningRate) > 0.0 && double(self.learningRate) <= 1.0)",
            'learningRate must be above "0" and at most "1"',
        ),
        (
            "!has(self.revision) || !has(self.baseModel) || !self.baseModel.contains('://')",
            "revision requires a hub id: omit it if the base model is a URI",
        ),
    ),
    "RetentionSpec": (
        ("!has(self.images) || has(self.annotations)", "images needs annotations"),
        ("!has(self.minShare) || double(self.minShare) <= 1.0", 'minShare must be at least "0" and at most "1"'),
    ),
    "ClusterStorageSpec": (
        (
            f"!has(self.endpointUrl) || (isURL(self.endpointUrl) && !self.endpointUrl.matches('{METADATA_HOST}'))",
            "endpointUrl must be a URL of an object store, not of a metadata service or a link-local address",
        ),
        (
            "!has(self.endpointUrl) || !self.endpointUrl.contains('@')",
            "endpointUrl must not hold a name or password: they belong into the Secret",
        ),
        (
            "!(has(self.caBundle) && has(self.caBundleConfigMapRef))",
            "give either storage.caBundle, a path in the image, or storage.caBundleConfigMapRef",
        ),
    ),
    "ScratchSpec": (
        ("!(has(self.size) && has(self.claimName))", "size is the limit of an emptyDir: omit it with claimName"),
    ),
    **POD_RULES,
}


def _unchanged(path: str, *, required: bool) -> str:
    """Return the CEL rule that a field of the spec is unchanged."""
    if required:
        return f"self.{path} == oldSelf.{path}"
    return f"has(self.{path}) == has(oldSelf.{path}) && (!has(self.{path}) || self.{path} == oldSelf.{path})"


def immutable_rules() -> tuple[tuple[str, str], ...]:
    """Return rules that the inputs of a run never change; in ``storage`` only the platform fields may change."""
    rules = []
    for name in INPUTS:
        if name == "storage":
            continue
        required = name in ("dataset", "output")
        why = f"{name} cannot be changed: it is an input of the run. Make a new {KIND} instead"
        rules.append((_unchanged(name, required=required), why))
    for name in (field.alias or key for key, field in StorageSpec.model_fields.items()):
        nothing = "false" if name == "requesterPays" else "''"
        there = f"has(%s.storage) && has(%s.storage.{name}) ? %s.storage.{name} : {nothing}"
        rule = f"({there % (('self',) * 3)}) == ({there % (('oldSelf',) * 3)})"
        rules.append((rule, f"storage.{name} cannot be changed: it is an input of the run. Make a new {KIND} instead"))
    return tuple(rules)


LIST_KEYS: Mapping[str, tuple[str, str]] = {
    "TeacherFineTuneSpec.teachers": ("map", "name"),
    "TeacherFineTuneSpec.imagePullSecrets": ("map", "name"),
    **POD_LIST_KEYS,
    "AugmentationSpec.characteristics": ("set", ""),
    "TeacherFineTuneStatus.conditions": ("map", "type"),
    "TeacherFineTuneStatus.teachers": ("map", "name"),
    "TeacherFineTuneStatus.stages": ("map", "name"),
    "TeacherStatus.attempts": ("map", "pod"),
    "TeacherStatus.metrics": ("map", "name"),
    "StageStatus.attempts": ("map", "pod"),
    "DatasetStatus.problems": ("map", "code"),
}
"""Type and key of lists whose items have a key: several field managers may own items. Others are atomic."""
