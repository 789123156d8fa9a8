"""Models of the status of an object. Every text and list has a maximum size."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from engine.spec import TeacherName

MESSAGE_MAX = 4096
"""Maximum length of a message, in characters."""

LOG_LINES = 20
ATTEMPTS = 16
PROBLEMS = 20
CLASSES = 64
METRICS = 32
"""Maximum number of items of a list in the status."""

Text = Annotated[str, StringConstraints(max_length=512)]
Message = Annotated[str, StringConstraints(max_length=MESSAGE_MAX)]
REASON = r"^[A-Za-z][A-Za-z0-9]*$"
Reason = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=REASON)]
Timestamp = Annotated[str, StringConstraints(max_length=32, pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
"""UTC, as Kubernetes writes it: ``2026-01-31T12:00:00Z``."""
Decimal = Annotated[str, StringConstraints(max_length=32)]
"""Decimal number as text: the API has no floats."""

AP = "ap"
"""Name of the metric AP."""

LOST = 32
"""Maximum number of lost Jobs in the status of a stage."""

LostJobs = list[Annotated[str, StringConstraints(max_length=64)]]
WERE_LOST = "that ended without an outcome and were replaced, by their uids."


def clip(text: str, limit: int = MESSAGE_MAX) -> str:
    """Return a text of at most ``limit`` characters; a longer one is cut off and ends with ``…``."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class StatusModel(BaseModel):
    """Base of all models of the status. Unknown fields are ignored: an older operator can read a newer status."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)


class ConditionStatus(StrEnum):
    """Status of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(StatusModel):
    """Condition of an object, as in the API conventions of Kubernetes."""

    type: Annotated[str, StringConstraints(max_length=64)] = Field(
        description="DatasetInspected, Improved, Reconciling, Responding, Stalled or Succeeded (the summary)."
    )
    status: ConditionStatus = Field(description="True, False or Unknown.")
    reason: Reason = Field(description="One CamelCase word.")
    message: Message = Field(default="", description="Sentence for users, with the remedy if one is needed.")
    observed_generation: int = Field(default=0, ge=0, description="Generation of the object that was reconciled last.")
    last_transition_time: Timestamp = Field(description="Time of the last change of the condition's status.")


class ProblemStatus(StatusModel):
    """One kind of problem in the dataset."""

    code: Text = Field(description="Name of the kind, such as missing_image.")
    severity: Text = Field(description="error, warning or info.")
    count: int = Field(ge=1, description="Number of occurrences.")
    message: Message = Field(default="", description="Meaning of the problem.")
    advice: Message = Field(default="", description="Remedy.")


class DatasetStatus(StatusModel):
    """Result of inspection."""

    digest: Text = Field(description="sha256 of the annotations.")
    images: int = Field(ge=0, description="Usable images in all splits.")
    images_read: int = Field(default=0, ge=0, description="Images that the annotations list, usable or not.")
    annotations: int = Field(ge=0, description="Usable annotations.")
    annotations_read: int = Field(default=0, ge=0, description="Annotations, usable or not.")
    masks: int = Field(ge=0, description="Usable annotations with a mask.")
    has_boxes: bool = Field(description="Objects have boxes, given or derived from masks.")
    has_masks: bool = Field(description="Objects have masks.")
    class_count: int = Field(ge=0, description="Number of classes.")
    classes: list[Text] = Field(
        default=[], max_length=CLASSES, description="Names of classes; if not all fit, the most frequent ones."
    )
    classes_left_out: int = Field(default=0, ge=0, description="Number of classes that only the file at uri contains.")
    problems: list[ProblemStatus] = Field(default=[], max_length=PROBLEMS, description="Problems, most severe first.")
    problems_left_out: int = Field(
        default=0, ge=0, description="Number of problems that only the file at uri contains."
    )
    uri: Annotated[str, StringConstraints(max_length=2048)] = Field(
        default="",
        description="URI of dataset.json: the complete result of inspection, with all classes, and "
        "problems with examples.",
    )


class AdapterStatus(StatusModel):
    """The published adapter."""

    uri: Annotated[str, StringConstraints(max_length=2048)] = Field(description="URI of adapter_model.safetensors.")
    sha256: Annotated[str, StringConstraints(max_length=64)] = Field(description="sha256 of the file, in hexadecimal.")
    size_bytes: int = Field(ge=0, description="Size of the file in bytes.")
    strength: Decimal = Field(
        default="",
        description="Scale of the adapter's update, 0 to 1; 0: none was better than the base, whose results it gives.",
    )
    retention: Decimal = Field(
        default="", description="Share of the base's zero-shot AP that is kept; empty: not measured."
    )


class ProgressStatus(StatusModel):
    """Progress of training, from the trainer's progress lines."""

    percent: int = Field(ge=0, le=100, description="Finished share of all steps.")
    step: int = Field(ge=0, description="Finished optimizer steps.")
    steps: int = Field(ge=0, description="Total number of optimizer steps.")
    trial: int = Field(default=0, ge=0, description="Number of the current training, from 1; 0: there is only one.")
    trials: int = Field(
        default=0, ge=0, description="Number of trainings: trials of a sweep, or folds and the last training."
    )
    epoch: Decimal = Field(default="", description="Finished passes over the training split.")
    epochs: int = Field(default=0, ge=0, description="Total number of passes.")
    loss: Decimal = Field(default="", description="Mean loss of recent steps.")
    seconds_left: int | None = Field(default=None, ge=0, description="Estimated seconds until training ends.")
    memory_bytes: int | None = Field(default=None, ge=0, description="Peak GPU memory (of the process, on a CPU).")
    note: Message = Field(default="", description="Current activity of the trainer other than training.")
    updated: Timestamp | None = Field(default=None, description="Time of the progress line.")
    longest_gap_seconds: int = Field(default=0, ge=0, description="Longest time between two progress lines so far.")


class MemoryStatus(StatusModel):
    """Estimated GPU memory for training in bfloat16."""

    bytes: int = Field(
        ge=0, description="Memory with whole batches at a time and all activations kept: the fastest choice."
    )
    least_bytes: int = Field(ge=0, description="Memory with one image at a time and activation checkpointing.")


class AttemptStatus(StatusModel):
    """One attempt at a stage: its pod, or the first pod of a Job over several nodes."""

    pod: Text = Field(description="Name of the pod.")
    node: Text = Field(default="", description="Node of the pod.")
    start_time: Timestamp | None = Field(default=None, description="Start of its container.")
    end_time: Timestamp | None = Field(default=None, description="End of its container.")
    exit_code: int | None = Field(default=None, description="Exit code of its container.")
    reason: Text = Field(default="", description="Reason for its end.")
    gpu_seconds: int = Field(
        default=0, ge=0, description="GPU seconds of all pods of the Job, while the named pod held its GPUs."
    )


class FailureStatus(StatusModel):
    """Cause of a failure."""

    reason: Reason = Field(description="One CamelCase word.")
    message: Message = Field(description="Cause and remedy, in sentences.")
    exit_code: int | None = Field(default=None, description="Exit code of the container.")
    pod: Text = Field(default="", description="Name of the pod.")
    node: Text = Field(default="", description="Node of the pod.")
    log_tail: list[Text] = Field(default=[], max_length=LOG_LINES, description="Last lines of its log.")


class UnresponsiveStatus(StatusModel):
    """Reason why a trainer is silent although its pods run."""

    reason: Reason = Field(description="NodeNotReady or ProgressStale.")
    since: Timestamp = Field(description="Start of the silence.")
    message: Message = Field(description="Known facts and remedy.")


class MetricStatus(StatusModel):
    """One metric before and after training."""

    name: Annotated[str, StringConstraints(max_length=64)] = Field(description="Name as in metrics.json, such as ap.")
    before: Decimal = Field(default="", description="Metric of the base, 0..1; empty if it could not be measured.")
    after: Decimal = Field(
        default="",
        description="Metric of the best adapter, 0..1; during training, only if it is better than the base.",
    )


class StageStatus(StatusModel):
    """One stage of the run."""

    name: Text = Field(description="Name of the stage.")
    state: Annotated[str, StringConstraints(max_length=128)] = Field(
        default="Pending", description="Pending, Queued, Starting, Running, Suspended, Succeeded or Failed."
    )
    message: Message = Field(default="", description="Reason for the state.")
    job: Text = Field(default="", description="Name of its Job.")
    start_time: Timestamp | None = Field(default=None, description="Start of its first pod.")
    completion_time: Timestamp | None = Field(default=None, description="End of the stage.")
    gpu_seconds: int = Field(
        default=0,
        ge=0,
        description="GPU seconds of all pods, each from its binding to a node to the end of its container.",
    )
    gpu_seconds_until: Timestamp | None = Field(default=None, description="Time up to which GPU seconds are counted.")
    dispatched: bool = Field(
        default=False,
        description="Its Job ended in another cluster, and a Job in this cluster reads the published result.",
    )
    releases: int = Field(
        default=0,
        ge=0,
        description="Number of times that some of its pods released their GPUs because not all could start; 0 once "
        "all run.",
    )
    refused_since: Timestamp | None = Field(default=None, description="Time since which its Job cannot be created.")
    last_ran: Timestamp | None = Field(
        default=None, description="Last time at which all of its pods ran before a new wait; absent without one."
    )
    active_seconds: int = Field(
        default=0, ge=0, description="Seconds in which its Jobs were allowed to run, until `activeSince`."
    )
    active_since: Timestamp | None = Field(
        default=None, description="Time since which its Job is allowed to run; absent while it is suspended or queued."
    )
    attempts: list[AttemptStatus] = Field(default=[], max_length=ATTEMPTS, description="One per pod, oldest first.")
    attempt_count: int = Field(default=0, ge=0, description="Total number of attempts.")
    lost_jobs: LostJobs = Field(default=[], max_length=LOST, description=f"Its Jobs {WERE_LOST}")
    progress: ProgressStatus | None = Field(default=None, description="Progress of the stage.")
    unresponsive: UnresponsiveStatus | None = Field(default=None, description="Reason why its pods are silent.")
    results: dict[str, Text] = Field(default={}, max_length=16, description="Its results, by name.")
    failure: FailureStatus | None = Field(default=None, description="Cause of its final or most recent failure.")


class CrossValidationStatus(StatusModel):
    """AP of the adapters of the folds, which estimates the published adapter."""

    folds: int = Field(ge=0, description="Number of folds.")
    ap_mean: Decimal = Field(description="Mean AP over the folds.")
    ap_sigma: Decimal = Field(description="Standard deviation of AP over the folds.")


class TeacherStatus(StageStatus):
    """The stage of one teacher."""

    name: TeacherName = Field(description="Name of the teacher.")
    state: Annotated[str, StringConstraints(max_length=128)] = Field(
        description="Pending, Queued, Starting, Training, Suspended, Succeeded or Failed."
    )
    memory: MemoryStatus | None = Field(default=None, description="Estimated memory, for known bases.")
    metrics: list[MetricStatus] = Field(
        default=[],
        max_length=METRICS,
        description="Metrics of base and adapter on the validation split; only AP while the teacher is trained.",
    )
    improved: bool | None = Field(
        default=None, description="The published adapter is better than its base; absent while it is unknown."
    )
    adapter: AdapterStatus | None = Field(default=None, description="The published adapter.")
    selection: Text = Field(
        default="", description="How the adapter was chosen among the trials of a sweep, or estimated by folds."
    )
    cross_validation: CrossValidationStatus | None = Field(
        default=None, description="AP over the folds of a cross-validation."
    )
    images_skipped: int = Field(
        default=0, ge=0, description="Images that were left out because they cannot be decoded."
    )
    objects_skipped: int = Field(
        default=0, ge=0, description="Left-out objects: those of left-out images, and those outside their image."
    )

    @property
    def ap(self) -> MetricStatus:
        """AP, which selects the best adapter and decides whether it is better than its base."""
        return next((one for one in self.metrics if one.name == AP), MetricStatus(name=AP))


class SummaryStatus(StatusModel):
    """Values of the columns of `kubectl get`."""

    teachers: Text = Field(default="", description="Names of the teachers.")
    progress: Text = Field(default="", description="Finished share of the steps of all teachers, in percent.")
    time_left: Text = Field(
        default="",
        description="Time until the last teacher is finished; empty while a teacher has no estimate or is silent.",
    )
    map: Text = Field(default="", description="AP before and after, per teacher.")
    nodes: Text = Field(default="", description="Nodes of the trainers.")


class TeacherFineTuneStatus(StatusModel):
    """Status of a TeacherFineTune object."""

    observed_generation: int = Field(default=0, ge=0, description="Generation of the object that was reconciled last.")
    conditions: list[Condition] = Field(
        default=[],
        max_length=16,
        description="Conditions of the object. The first four are always DatasetInspected, Reconciling, Stalled and "
        "Succeeded, in this order.",
    )
    summary: SummaryStatus = Field(default=SummaryStatus(), description="Values of the columns of `kubectl get`.")
    run_id: Text = Field(default="", description="Digest of the configuration: the same request is the same run.")
    uri: Annotated[str, StringConstraints(max_length=2048)] = Field(
        default="", description="Folder of the run, for `teacher fetch`."
    )
    config_uri: Annotated[str, StringConstraints(max_length=2048)] = Field(
        default="", description="teacher_config.yaml of the run."
    )
    start_time: Timestamp | None = Field(default=None, description="Time of the first reconciliation.")
    completion_time: Timestamp | None = Field(default=None, description="End of the run.")
    gpu_seconds: int = Field(default=0, ge=0, description="GPU seconds of all teachers.")
    dataset: DatasetStatus | None = Field(default=None, description="Result of the inspection.")
    stages: list[StageStatus] = Field(
        default=[], max_length=8, description="Inspection, and every other stage that does not train a teacher."
    )
    teachers: list[TeacherStatus] = Field(
        default=[], max_length=8, description="One entry per teacher, in the order of training."
    )
