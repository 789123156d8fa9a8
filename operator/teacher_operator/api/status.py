"""The status of an object, as it stands in the API: what is true now, early, and bounded in size."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from engine.spec import TeacherName

MESSAGE_MAX = 4096
LOG_LINES = 20
ATTEMPTS = 16
PROBLEMS = 20
CLASSES = 64
METRICS = 32

Text = Annotated[str, StringConstraints(max_length=512)]
Message = Annotated[str, StringConstraints(max_length=MESSAGE_MAX)]
REASON = r"^[A-Za-z][A-Za-z0-9]*$"
Reason = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=REASON)]
Timestamp = Annotated[str, StringConstraints(max_length=32, pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
"""UTC, as Kubernetes writes it: ``2026-01-31T12:00:00Z``."""
Decimal = Annotated[str, StringConstraints(max_length=32)]
"""A decimal number as text: there are no floats in the API."""

AP = "ap"
"""Name of the metric AP."""

LOST = 32
LostJobs = list[Annotated[str, StringConstraints(max_length=64)]]
WERE_LOST = "that ended without an outcome and were made again, by their uids."


def clip(text: str, limit: int = MESSAGE_MAX) -> str:
    """A text that has room in the status: of one that is too long, its beginning."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class StatusModel(BaseModel):
    """Base of all parts of the status. Unknown fields are passed over: an older operator reads a newer status."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(StatusModel):
    """One thing that is true of the object, or not, or not known yet."""

    type: Annotated[str, StringConstraints(max_length=64)] = Field(
        description="DatasetInspected, Improved, Reconciling, Responding, Stalled or Succeeded (the summary)."
    )
    status: ConditionStatus = Field(description="True, False or Unknown.")
    reason: Reason = Field(description="One CamelCase word.")
    message: Message = Field(default="", description="A sentence for people that says what to do.")
    observed_generation: int = Field(default=0, ge=0, description="Generation of the object that was looked at.")
    last_transition_time: Timestamp = Field(description="When the status of the condition changed.")


class ProblemStatus(StatusModel):
    """One kind of thing that is wrong with the dataset."""

    code: Text = Field(description="Name of the kind, such as missing_image.")
    severity: Text = Field(description="error, warning or info.")
    count: int = Field(ge=1, description="How often it occurs.")
    message: Message = Field(default="", description="What was found.")
    advice: Message = Field(default="", description="What to do about it.")


class DatasetStatus(StatusModel):
    """What inspection found."""

    digest: Text = Field(description="sha256 of the annotations.")
    images: int = Field(ge=0, description="Usable images in all parts.")
    images_read: int = Field(default=0, ge=0, description="Images that the annotations list, usable or not.")
    annotations: int = Field(ge=0, description="Usable annotations.")
    annotations_read: int = Field(default=0, ge=0, description="Annotations, usable or not.")
    masks: int = Field(ge=0, description="Usable annotations with a mask.")
    has_boxes: bool = Field(description="Objects have boxes, given or derived from masks.")
    has_masks: bool = Field(description="Objects have masks.")
    class_count: int = Field(ge=0, description="Classes in all.")
    classes: list[Text] = Field(
        default=[], max_length=CLASSES, description="Names of classes; of many, the most frequent that fit."
    )
    classes_left_out: int = Field(default=0, ge=0, description="Classes that are only in the file at uri.")
    problems: list[ProblemStatus] = Field(default=[], max_length=PROBLEMS, description="What is wrong, worst first.")
    problems_left_out: int = Field(default=0, ge=0, description="Problems that are only in the file at uri.")
    uri: Annotated[str, StringConstraints(max_length=2048)] = Field(
        default="", description="dataset.json: all that inspection found, every class and problem with examples."
    )


class AdapterStatus(StatusModel):
    """The published adapter."""

    uri: Annotated[str, StringConstraints(max_length=2048)] = Field(description="Of adapter_model.safetensors.")
    sha256: Annotated[str, StringConstraints(max_length=64)] = Field(description="Of the file, in hex.")
    size_bytes: int = Field(ge=0, description="Of the file.")


class ProgressStatus(StatusModel):
    """How far training is, from the trainer's progress lines."""

    percent: int = Field(ge=0, le=100, description="Steps done of all steps.")
    step: int = Field(ge=0, description="Optimizer steps done.")
    steps: int = Field(ge=0, description="Optimizer steps in all.")
    epoch: Decimal = Field(default="", description="Passes over the training part so far.")
    epochs: int = Field(default=0, ge=0, description="Passes in all.")
    loss: Decimal = Field(default="", description="Mean loss of late.")
    seconds_left: int | None = Field(default=None, ge=0, description="Estimate until training ends.")
    memory_bytes: int | None = Field(default=None, ge=0, description="Peak GPU memory (of the process, on a CPU).")
    note: Message = Field(default="", description="What the trainer does beside training.")
    updated: Timestamp | None = Field(default=None, description="Time of the progress line.")
    longest_gap_seconds: int = Field(default=0, ge=0, description="Longest time between two progress lines so far.")


class MemoryStatus(StatusModel):
    """GPU memory that training is expected to hold, in bfloat16."""

    bytes: int = Field(ge=0, description="With whole batches at a time and all activations kept: the fastest.")
    least_bytes: int = Field(ge=0, description="With one image at a time and activations computed again.")


class AttemptStatus(StatusModel):
    """One pod of a trainer; over several nodes the first stands for all."""

    pod: Text = Field(description="Its name.")
    node: Text = Field(default="", description="Where it ran.")
    start_time: Timestamp | None = Field(default=None, description="When its container started.")
    end_time: Timestamp | None = Field(default=None, description="When its container ended.")
    exit_code: int | None = Field(default=None, description="Of its container.")
    reason: Text = Field(default="", description="Why it ended.")
    gpu_seconds: int = Field(
        default=0, ge=0, description="GPUs times seconds of all its pods, while the one that is named held its own."
    )


class FailureStatus(StatusModel):
    """The cause of a failure, all of it."""

    reason: Reason = Field(description="One CamelCase word.")
    message: Message = Field(description="What happened and what to do, in sentences.")
    exit_code: int | None = Field(default=None, description="Of the container.")
    pod: Text = Field(default="", description="Which pod.")
    node: Text = Field(default="", description="Where it ran.")
    log_tail: list[Text] = Field(default=[], max_length=LOG_LINES, description="The last lines of its log.")


class UnresponsiveStatus(StatusModel):
    """Why nothing is heard from a trainer that runs, as far as the API server knows."""

    reason: Reason = Field(description="NodeNotReady or ProgressStale.")
    since: Timestamp = Field(description="Since when.")
    message: Message = Field(description="What is known, and what to do.")


class MetricStatus(StatusModel):
    """One metric before and after training."""

    name: Annotated[str, StringConstraints(max_length=64)] = Field(description="Name as in metrics.json, such as ap.")
    before: Decimal = Field(default="", description="Metric of the base, 0..1; empty where it could not be measured.")
    after: Decimal = Field(
        default="",
        description="Metric of the best adapter, 0..1; during training, only if it is better than the base.",
    )


class StageStatus(StatusModel):
    """One stage of the run."""

    name: Text = Field(description="Which stage.")
    state: Annotated[str, StringConstraints(max_length=128)] = Field(
        default="Pending", description="Pending, Queued, Starting, Running, Suspended, Succeeded or Failed."
    )
    message: Message = Field(default="", description="Why it is so.")
    job: Text = Field(default="", description="Its Job.")
    start_time: Timestamp | None = Field(default=None, description="When its first pod ran.")
    completion_time: Timestamp | None = Field(default=None, description="When it ended.")
    gpu_seconds: int = Field(
        default=0,
        ge=0,
        description="GPUs times seconds, of each pod from when it was bound to a node until its container ended.",
    )
    gpu_seconds_until: Timestamp | None = Field(default=None, description="Until when GPU seconds are counted.")
    dispatched: bool = Field(
        default=False, description="Its Job ended in another cluster: a Job here reads what it published."
    )
    releases: int = Field(
        default=0,
        ge=0,
        description="How often some of its pods gave their GPUs back since not all could start; 0 once all run.",
    )
    refused_since: Timestamp | None = Field(default=None, description="Since when its Job cannot be made.")
    last_ran: Timestamp | None = Field(
        default=None, description="When all of its pods last ran before it had to wait again; none if it never had to."
    )
    active_seconds: int = Field(
        default=0, ge=0, description="Seconds in which its Jobs were allowed to run, until `activeSince`."
    )
    active_since: Timestamp | None = Field(
        default=None, description="Since when its Job is allowed to run; none while it is suspended or in a queue."
    )
    attempts: list[AttemptStatus] = Field(default=[], max_length=ATTEMPTS, description="Its pods, oldest first.")
    attempt_count: int = Field(default=0, ge=0, description="How many there were.")
    lost_jobs: LostJobs = Field(default=[], max_length=LOST, description=f"Its Jobs {WERE_LOST}")
    progress: ProgressStatus | None = Field(default=None, description="How far it is.")
    unresponsive: UnresponsiveStatus | None = Field(default=None, description="Why its pods are not heard from.")
    results: dict[str, Text] = Field(default={}, max_length=16, description="Its results, by name.")
    failure: FailureStatus | None = Field(default=None, description="Why it failed, for good or of late.")


class TeacherStatus(StageStatus):
    """The stage of one teacher."""

    name: TeacherName = Field(description="Which teacher.")
    state: Annotated[str, StringConstraints(max_length=128)] = Field(
        description="Pending, Queued, Starting, Training, Suspended, Succeeded or Failed."
    )
    memory: MemoryStatus | None = Field(default=None, description="What it will need, of bases that are known.")
    metrics: list[MetricStatus] = Field(
        default=[],
        max_length=METRICS,
        description="Metrics of base and adapter on the validation split; only AP while the teacher is trained.",
    )
    improved: bool | None = Field(
        default=None, description="The published adapter is better than its base; absent while that is not known."
    )
    adapter: AdapterStatus | None = Field(default=None, description="Where the adapter lies.")
    images_skipped: int = Field(default=0, ge=0, description="Images that cannot be decoded, and so were left out.")
    objects_skipped: int = Field(default=0, ge=0, description="Objects of these, and those outside their image.")

    @property
    def ap(self) -> MetricStatus:
        """AP, which selects the best adapter and decides whether it is better than its base."""
        return next((one for one in self.metrics if one.name == AP), MetricStatus(name=AP))


class SummaryStatus(StatusModel):
    """What the columns of `kubectl get` show."""

    teachers: Text = Field(default="", description="Names of the teachers.")
    progress: Text = Field(default="", description="Steps done of all teachers, in percent.")
    time_left: Text = Field(
        default="",
        description="Until the last teacher is done; empty while one has not said how long, or is not heard from.",
    )
    map: Text = Field(default="", description="AP before and after, a teacher each.")
    nodes: Text = Field(default="", description="Where the trainers run.")


class TeacherFineTuneStatus(StatusModel):
    """What the operator has seen and done."""

    observed_generation: int = Field(default=0, ge=0, description="Generation of the object that was looked at.")
    conditions: list[Condition] = Field(
        default=[],
        max_length=16,
        description="What is true of the object. The first four are always DatasetInspected, Reconciling, Stalled and "
        "Succeeded, in this order.",
    )
    summary: SummaryStatus = Field(default=SummaryStatus(), description="What the columns of `kubectl get` show.")
    run_id: Text = Field(default="", description="Digest of the configuration: the same request is the same run.")
    uri: Annotated[str, StringConstraints(max_length=2048)] = Field(
        default="", description="Folder of the run: what `teacher fetch` takes."
    )
    config_uri: Annotated[str, StringConstraints(max_length=2048)] = Field(
        default="", description="teacher_config.yaml of the run."
    )
    start_time: Timestamp | None = Field(default=None, description="When the object was first seen.")
    completion_time: Timestamp | None = Field(default=None, description="When the run ended.")
    gpu_seconds: int = Field(default=0, ge=0, description="GPUs times seconds, over all teachers.")
    dataset: DatasetStatus | None = Field(default=None, description="What inspection found.")
    stages: list[StageStatus] = Field(
        default=[], max_length=8, description="Inspection, and each other stage that trains no teacher."
    )
    teachers: list[TeacherStatus] = Field(default=[], max_length=8, description="One a teacher, boxes before masks.")
