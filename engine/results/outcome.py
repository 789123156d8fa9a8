"""The outcome of a process of a run, for its parent: exit code, reason and result, as one short JSON text.

The text fits into a termination message of Kubernetes, so it is a summary; all details are in object storage. Fields
may be added, but are never removed; a reader ignores unknown fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_core import from_json

from engine.dataset.dataset_summary import short_info, size_of
from engine.dataset.types import DatasetInfo
from engine.errors import ConfigError, StorageError, TeacherError
from engine.plan import TrainingRun
from engine.registry import ModelName
from engine.results.metric_table import DIGITS, Change, headline_changes
from engine.results.metrics import Result
from engine.results.run_files import RunMetadata
from engine.results.trials import selection_sentence
from engine.results.types import AdapterFile, CrossValidation, MemoryNeed, TeacherResult
from engine.text.safe_text import NEUTRAL

LIMIT = 4096
"""Maximum bytes of an outcome."""

MESSAGE_LENGTH = 1500
"""Maximum characters of its message."""

IN_LOG = "… (the log has all of it)"
"""The end of a message that is cut."""

CUTS = tuple(3 * LIMIT // containers for containers in range(4, 65))
"""Bytes at which kubelets cut messages: the containers of a pod, injected ones too, share 12 KiB."""


class FoldSummary(Result):
    """AP of the adapters of a cross-validation."""

    folds: int
    ap_mean: float
    ap_sigma: float = Field(description="Standard deviation over the folds.")

    @classmethod
    def of(cls, result: CrossValidation | None) -> FoldSummary | None:
        """Return the summary of a cross-validation; None if there was none."""
        if result is None:
            return None
        mean, sigma = round(result.ap_mean, DIGITS), round(result.ap_sigma, DIGITS)
        return cls(folds=len(result.folds), ap_mean=mean, ap_sigma=sigma)


class TeacherOutcome(Result):
    """One teacher or student of a run, in short."""

    teacher: ModelName
    base_model: str
    metrics: dict[str, Change] = Field(default={}, description="Headline metrics by name: engine.results.metric_table.")
    improved: bool | None = Field(default=None, description="Better than its base; None: not measured.")
    strength: float = Field(default=1.0, description="Scale of the update; 0: it gives the base's results.")
    retention: float | None = Field(
        default=None, description="Share of the base's zero-shot AP that is kept; None: not measured."
    )
    adapter: AdapterFile
    epochs: float = Field(description="Passes over the training split that were made.")
    seconds: float = Field(description="Wall-clock time of training and its evaluations.")
    peak_memory_bytes: int
    selection: str = Field(default="", description="How it was chosen among trials, or what estimates it; or empty.")
    cross_validation: FoldSummary | None = Field(default=None, description="AP over the folds, if there are any.")
    images_skipped: int = Field(default=0, description="Images that cannot be decoded, and so were left out.")
    objects_skipped: int = Field(default=0, description="Objects of these, and those outside their image.")

    @classmethod
    def of(cls, result: TeacherResult) -> TeacherOutcome:
        """The outcome of a teacher that was published."""
        return cls(
            teacher=result.teacher,
            base_model=result.base_model,
            metrics=headline_changes(result.before, result.after),
            improved=result.improved,
            strength=result.strength,
            retention=_retention(result),
            adapter=result.adapter,
            epochs=result.epochs,
            seconds=result.seconds,
            peak_memory_bytes=result.peak_memory_bytes,
            selection=selection_sentence(result),
            cross_validation=FoldSummary.of(result.cross_validation),
            images_skipped=result.images_skipped,
            objects_skipped=result.objects_skipped,
        )


def _retention(result: TeacherResult) -> float | None:
    measured = result.retention is not None and result.retention.share >= 0
    return round(result.retention.share, DIGITS) if result.retention is not None and measured else None


class Prepared(Result):
    """A run that can be trained: its data is inspected, its configuration in storage."""

    run_id: str
    uri: str = Field(description="The run's folder.")
    config_uri: str = Field(description="Its teacher_config.yaml, which trainers read.")
    teachers: tuple[ModelName, ...] = Field(description="One process is to train each.")
    needs: tuple[MemoryNeed, ...] = Field(default=(), description="GPU memory of the teachers whose bases are known.")
    published: tuple[TeacherOutcome, ...] = Field(default=(), description="Not empty if this very run is published.")
    problem_count: int = Field(default=0, description="Kinds of problems that inspection found.")
    class_count: int = Field(default=0, description="Classes of the dataset.")
    info: DatasetInfo = Field(description="What inspection found; `dataset.json` in the run's folder has all of it.")

    @classmethod
    def of(
        cls,
        info: DatasetInfo,
        runs: Sequence[TrainingRun],
        *,
        published: RunMetadata | None,
        needs: Iterable[MemoryNeed] = (),
    ) -> Prepared:
        """Return the summary of the prepared training runs of one request."""
        config, layout = runs[0].config, runs[0].layout
        return cls(
            info=info,
            run_id=config.run_id,
            uri=layout.root,
            config_uri=layout.config,
            teachers=tuple(run.teacher for run in runs),
            needs=tuple(needs),
            published=tuple(map(TeacherOutcome.of, published.teachers)) if published is not None else (),
            problem_count=len(info.problems),
            class_count=len(info.classes),
        )


class Outcome(Result):
    """The end of a process, and what came of it.

    The fields stand in the order of what matters most, here and in :class:`Prepared`, so that of a text whose end is
    lost the beginning can be read.
    """

    exit_code: int = Field(default=0, description="That of the process: see engine.errors.")
    reason: str = Field(
        default="", description="CamelCase kind of the failure, such as LossNotFinite; empty: it is done."
    )
    message: str = Field(default="", description="The failure as a sentence.")
    trained: TeacherOutcome | None = None
    finished: dict[str, str] | None = Field(default=None, description="Short results of a stage of another kind.")
    prepared: Prepared | None = None

    @property
    def has_result(self) -> bool:
        """Return True if the process left the result of its stage, with any exit code."""
        return any(result is not None for result in (self.trained, self.finished, self.prepared))

    @classmethod
    def failure(
        cls,
        error: Exception,
        *,
        trained: TeacherOutcome | None = None,
        finished: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Return the outcome of a process that ended with an error; an unexpected error is described by its type.

        Args:
            error: The error that ended the process.
            trained: The teacher that it had published before.
            finished: Short results of a stage of another kind, which it had published before.
        """
        foreseen = isinstance(error, TeacherError)
        message = str(error) if foreseen else f"{type(error).__name__}: {error}"
        message = message.encode(errors="replace").decode()  # file names may contain invalid Unicode
        if len(message) > MESSAGE_LENGTH:
            message = f"{message[: MESSAGE_LENGTH - len(IN_LOG)]}{IN_LOG}"
        kind = error if isinstance(error, TeacherError) else TeacherError
        done = None if finished is None else dict(finished)
        return cls(exit_code=kind.exit_code, reason=kind.reason, message=message, trained=trained, finished=done)

    def to_message(self, limit: int = LIMIT) -> str:
        """The outcome as JSON of at most ``limit`` bytes, a few hundred at least; it can be read back.

        Details of the data are removed first (see :func:`engine.dataset.dataset_summary.short_info`), with the end of
        the message; then earlier publications, then the location of the data. If the rest does not fit either, it is
        replaced by a failure that says so.
        """
        for shortened in (_as_it_is, _nothing_published, _no_source, _failure_to_tell):
            outcome = _short_message(_short_info(shortened(self, limit), limit), limit)
            if outcome._bytes() <= limit:
                break
        return outcome.model_dump_json()

    def _bytes(self) -> int:
        return len(self.model_dump_json().encode())


def parse_outcome(text: str) -> Outcome | None:
    """Parse the outcome of a process; None if the text is not one. A killed process writes none."""
    try:
        outcome = Outcome.model_validate_json(text, extra="ignore")
    except ValidationError:
        return _parse_cut(text)
    always = {"exit_code", "prepared", "trained"}  # progress lines have an exit code too
    return outcome if outcome.model_fields_set >= always else None


def _parse_cut(text: str) -> Outcome | None:
    """Parse an outcome that a kubelet has truncated; count the missing problems and classes as left out."""
    lengths = [len(text.encode())]
    while text.endswith(NEUTRAL) and len(lengths) < 4:  # bytes of a character that was cut through
        text = text.removesuffix(NEUTRAL)
        lengths.append(len(text.encode()))
    if not any(cut - 4 < length <= cut for cut in CUTS for length in lengths):
        return None
    try:
        value = from_json(text, allow_partial="trailing-strings")
        if not isinstance(value, dict) or not isinstance(value.get("message"), str):
            return None
        if isinstance(value.get("prepared"), dict):
            _repair_truncated_info(value["prepared"])
        elif not value.get("exit_code"):
            return None
        else:
            value = {**value, "message": f"{value['message']}{IN_LOG}", "prepared": None, "trained": None}
        return Outcome.model_validate(value, extra="ignore", strict=False)
    except (ValueError, TypeError, KeyError):
        return None


def _repair_truncated_info(prepared: dict[str, Any]) -> None:
    """Drop the item at which the text was cut, and count what is left out."""
    info = prepared["info"]
    last = "classes" if "classes" in info else "problems"
    info[last] = info.get(last, [])[:-1]
    for name, count in (("problems", "problem_count"), ("classes", "class_count")):
        info.setdefault(name, [])
        info[f"{name}_left_out"] = max(0, prepared[count] - len(info[name]))


def write_outcome(path: Path, outcome: Outcome) -> None:
    """Write an outcome to a file. An existing file is overwritten in place, since it may be a mount.

    Raises:
        StorageError: The file cannot be written.
    """
    try:
        path.write_text(outcome.to_message(), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"the outcome cannot be written to {path}: {error.strerror}") from None


def _as_it_is(outcome: Outcome, limit: int) -> Outcome:
    return outcome


def _short_info(outcome: Outcome, limit: int) -> Outcome:
    prepared = outcome.prepared
    if prepared is None:
        return outcome
    others = outcome._bytes() - size_of(prepared.info)
    return _with_prepared(outcome, info=short_info(prepared.info, limit - others))


def _short_message(outcome: Outcome, limit: int) -> Outcome:
    message = outcome.message
    while message and outcome._bytes() > limit:
        message = message[: len(message) * 9 // 10]
        outcome = outcome.model_copy(update={"message": f"{message}{IN_LOG}"})
    return outcome


def _nothing_published(outcome: Outcome, limit: int) -> Outcome:
    return _with_prepared(outcome, published=())  # trainers will find what is published


def _no_source(outcome: Outcome, limit: int) -> Outcome:
    if outcome.prepared is None:
        return outcome
    info = outcome.prepared.info.model_copy(update={"source": ""})
    return _with_prepared(outcome, published=(), info=info)


def _failure_to_tell(outcome: Outcome, limit: int) -> Outcome:
    return Outcome.failure(
        ConfigError(
            f"what came of this does not fit into {limit} bytes: give dataset, output and base model shorter URIs"
        )
    )


def _with_prepared(outcome: Outcome, **changes: object) -> Outcome:
    if outcome.prepared is None:
        return outcome
    return outcome.model_copy(update={"prepared": outcome.prepared.model_copy(update=changes)})
