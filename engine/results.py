"""What a run measures and leaves behind, as values that go to ``metrics.json`` and ``metadata.json``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from engine.spec import TeacherName


class Result(BaseModel):
    """Base of all results."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ApMetrics(Result):
    """COCO's twelve numbers, 0..1, or -1 where there is nothing to measure; and AP of each class."""

    ap: float = Field(description="AP over IoU .50:.05:.95, all sizes, 100 detections an image.")
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    per_class: dict[str, float] = Field(description="AP by class name; -1 without objects of it.")
    images: int | None = Field(default=None, description="How many images were measured.")
    miou: float | None = Field(default=None, description="SAM: mean IoU of masks from ground-truth boxes.")


class HistoryPoint(Result):
    """One evaluation, or one interval of training."""

    step: int
    epoch: float
    loss: float | None = None
    ap: float | None = None


class AdapterFile(Result):
    """The published adapter."""

    uri: str
    sha256: str
    size_bytes: int


class TeacherResult(Result):
    """One teacher of a run, before and after."""

    teacher: TeacherName
    base_model: str
    base_revision: str | None = Field(description="Commit of a hub model, digest of a local one.")
    before: ApMetrics = Field(description="The base, on the validation part.")
    after: ApMetrics = Field(description="The best adapter, on the validation part.")
    test_before: ApMetrics | None = Field(default=None, description="The base, on the test part.")
    test_after: ApMetrics | None = Field(default=None, description="The best adapter, on the test part.")
    history: tuple[HistoryPoint, ...] = ()
    best_epoch: float = 0
    epochs: float = Field(description="Passes over the training part that were made.")
    steps: int
    seconds: float = Field(description="Wall-clock time of training and its evaluations.")
    peak_memory_bytes: int
    trainable_parameters: int
    adapter: AdapterFile
