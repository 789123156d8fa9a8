"""Conditions, columns and events of a run, from its status. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from engine.errors import NotBetterThanBaseError
from engine.results.no_gain import ADVICE, AS_THE_BASE, has_no_gain
from engine.results.outcome import Outcome, TeacherOutcome
from engine.results.types import MemoryNeed
from engine.spec import OnNoGain, TeacherName
from engine.stages import INSPECTION
from teacher_operator.api.status import (
    Condition,
    ConditionStatus,
    FailureStatus,
    MemoryStatus,
    StageStatus,
    SummaryStatus,
    TeacherFineTuneStatus,
    TeacherStatus,
    clip,
)
from teacher_operator.api.timestamps import left, seconds, timestamp
from teacher_operator.decide.dataset_status import dataset_sentence
from teacher_operator.decide.progress import percent_text
from teacher_operator.decide.stage_results import succeeded
from teacher_operator.decide.stage_status import ENDED, failed_for_good, runs

State = Literal["active", "suspended", "stuck", "succeeded", "failed"]

RESPONDING = "Responding"
NAME_TAKEN = "NameTaken"
"""Reason of a run that waits until an object of another owner with a child's name is deleted."""

INSPECTED, RECONCILING, STALLED, SUCCEEDED = "DatasetInspected", "Reconciling", "Stalled", "Succeeded"
IMPROVED, NOT_BETTER = "Improved", NotBetterThanBaseError.reason


@dataclass(frozen=True)
class Summary:
    """State of a run as a whole, with the reason and message of its conditions."""

    state: State
    reason: str
    message: str

    @classmethod
    def active(cls, reason: str, message: str) -> Summary:
        """Return the summary of a run that works or waits."""
        return cls("active", reason, message)

    @classmethod
    def suspended(cls, message: str) -> Summary:
        """Return the summary of a run that its user has suspended."""
        return cls("suspended", "Suspended", message)

    @classmethod
    def stuck(cls, reason: str, message: str) -> Summary:
        """Return the summary of a run that continues once somebody has fixed the cause."""
        return cls("stuck", reason, message)

    @classmethod
    def succeeded(cls, message: str) -> Summary:
        """Return the summary of a run with all adapters published."""
        return cls("succeeded", "Succeeded", message)

    @classmethod
    def failed(cls, reason: str, message: str) -> Summary:
        """Return the summary of a run that has failed for good."""
        return cls("failed", reason, message)


class RunEvent(NamedTuple):
    """Kubernetes event to post for an object."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


def summary_condition(status: TeacherFineTuneStatus) -> Condition | None:
    """Return the condition Succeeded, which summarizes a run; None before the first reconciliation."""
    return next((one for one in status.conditions if one.type == SUCCEEDED), None)


def is_terminal(status: TeacherFineTuneStatus) -> bool:
    """Return True if the run has ended, successfully or not; it never runs again."""
    condition = summary_condition(status)
    return condition is not None and condition.status is not ConditionStatus.UNKNOWN


def with_conditions(
    status: TeacherFineTuneStatus,
    summary: Summary | None,
    *,
    generation: int,
    now: float,
    log: Sequence[str] = (),
) -> TeacherFineTuneStatus:
    """Return the status with conditions and columns.

    Args:
        status: Status without them, or with those of the last reconciliation.
        summary: State of the run; None: unchanged, only the observed generation is updated.
        generation: Generation of the object.
        now: Seconds since the epoch.
        log: Last lines of the log of the failed pod.
    """
    if summary is None:
        kept = [one.model_copy(update={"observed_generation": generation}) for one in status.conditions]
        return status.model_copy(update={"conditions": kept, "observed_generation": generation})
    message = summary.message
    if log:
        message = "\n".join([message, "Last lines of its log:", *log])
    before = {one.type: one for one in status.conditions}
    stalled = summary.state in {"failed", "stuck"}
    wanted = {
        INSPECTED: _inspected(status, summary),
        RECONCILING: (_boolean(summary.state == "active"), summary.reason, message),
        STALLED: (_boolean(stalled), summary.reason, message if stalled else ""),
        SUCCEEDED: (_succeeded(summary), summary.reason, message),
    }
    responding = _responding([*status.stages, *status.teachers], before.get(RESPONDING))
    if responding is not None and summary.state == "active":
        wanted[RESPONDING] = responding
    improved = _improved(status.teachers)
    if improved is not None:
        wanted[IMPROVED] = improved
    conditions = []
    for kind, (value, reason, text) in wanted.items():
        old = before.get(kind)
        changed = old is None or old.status is not value
        conditions.append(
            Condition(
                type=kind,
                status=value,
                reason=reason,
                message=clip(text),
                observed_generation=generation,
                last_transition_time=timestamp(now) if changed or old is None else old.last_transition_time,
            )
        )
    over = summary.state in {"succeeded", "failed"}
    return status.model_copy(
        update={
            "observed_generation": generation,
            "conditions": conditions,
            "summary": columns(status.teachers, now=now),
            "completion_time": timestamp(now) if over else None,
        }
    )


def columns(teachers: Sequence[TeacherStatus], *, now: float = 0.0) -> SummaryStatus:
    """Return the columns of `kubectl get`."""
    percents = [100 if one.state == "Succeeded" else one.progress.percent if one.progress else 0 for one in teachers]
    active = [one for one in teachers if one.state == "Training"]
    waits = [span for one in active if (span := _time_left(one, now=now)) is not None]
    all_say = len(waits) == sum(one.state not in ENDED for one in teachers)
    nodes = dict.fromkeys(one.attempts[-1].node for one in active if one.attempts and one.attempts[-1].node)
    return SummaryStatus(
        teachers=",".join(one.name.value for one in teachers),
        progress=percent_text(percents) if any(percents) or any(one.progress for one in teachers) else "",
        time_left=left(max(waits)) if waits and all_say else "",
        map=", ".join(_ap_change(one) for one in teachers if one.ap.before),
        nodes=",".join(nodes),
    )


def _ap_change(teacher: TeacherStatus) -> str:
    change = f"{_two_decimals(teacher.ap.before)} -> {_two_decimals(teacher.ap.after) or '…'}"
    return f"{change} (no gain)" if _lacks_gain(teacher) else change


def _time_left(teacher: TeacherStatus, *, now: float) -> float | None:
    """Return the estimated seconds until a teacher ends, as of now; None if it is unknown, silent or late."""
    progress = teacher.progress
    if progress is None or progress.seconds_left is None or teacher.unresponsive is not None:
        return None
    updated = seconds(progress.updated)
    span = progress.seconds_left - max(0.0, now - updated if updated is not None else 0.0)
    return span if span >= 0 else None


def published_teacher(
    name: TeacherName,
    result: TeacherOutcome | None,
    *,
    needs: Sequence[MemoryNeed] = (),
    on_no_gain: OnNoGain = OnNoGain.PUBLISH,
    now: float,
) -> TeacherStatus:
    """Return the initial status of a teacher; with an adapter from an earlier identical run, its final status."""
    need = next((one for one in needs if one.teacher is name), None)
    memory = need and MemoryStatus(bytes=need.memory_bytes, least_bytes=need.least_memory_bytes)
    teacher = TeacherStatus(name=name, state="Pending", memory=memory)
    if result is None:
        return teacher
    done = succeeded(teacher, Outcome(trained=result), now=now)
    if _lacks_gain(done) and on_no_gain is OnNoGain.FAIL:
        return failed_for_good(done, FailureStatus(reason=NOT_BETTER, message=_no_gain(done)), now=now)
    return done.model_copy(update={"message": f"{done.message}; published by an earlier, identical run"})


def events(before: TeacherFineTuneStatus, after: TeacherFineTuneStatus) -> Iterator[RunEvent]:
    """Yield an event for each transition that users need to know, not for progress.

    The event of the end of a run includes the end of its last stage, which has no event of its own.
    """
    old, new = summary_condition(before), summary_condition(after)
    ends = is_terminal(after) and not is_terminal(before)
    stages: dict[str, StageStatus] = {one.name: one for one in (*before.stages, *before.teachers)}
    for stage in (*after.stages, *after.teachers):
        yield from _stage_events(stages.get(stage.name), stage, ends=ends)
    if new is None or (old is not None and (old.status, old.reason) == (new.status, new.reason)):
        return
    if new.status is ConditionStatus.FALSE:
        yield RunEvent("Warning", "Failed", f"{new.reason}: {new.message}")
    elif new.status is ConditionStatus.TRUE or not after.teachers:
        yield RunEvent("Normal", new.reason, new.message)


def _stage_events(before: StageStatus | None, stage: StageStatus, *, ends: bool) -> Iterator[RunEvent]:
    """Yield the events of one stage; ``ends``: the run ends, which has an event of its own."""
    changed = before is None or before.state != stage.state
    if stage.failure is not None:
        reported = before is not None and before.failure is not None and before.failure.pod == stage.failure.pod
        ended = changed and stage.state == "Failed"
        if (ended or not reported) and not (ended and ends):
            yield RunEvent("Warning", stage.failure.reason, f"{stage.name}: {stage.failure.message}")
    # Until inspection has ended, the events of the whole run are those of inspection.
    succeeded, notable = stage.state == "Succeeded", stage.state == "Suspended" or runs(stage)
    if changed and stage.name != INSPECTION.name and (notable or (succeeded and not ends)):
        yield RunEvent("Normal", stage.state, f"{stage.name}: {stage.message}")
    if stage.releases > (before.releases if before is not None else 0):
        yield RunEvent("Warning", "GpusReleased", f"{stage.name}: {stage.message}")
    silent = before.unresponsive if before is not None else None
    if stage.unresponsive is not None and (silent is None or silent.reason != stage.unresponsive.reason):
        found = stage.unresponsive
        yield RunEvent("Warning", found.reason, f"{stage.name}: {found.message}")
    if changed and succeeded and isinstance(stage, TeacherStatus) and _lacks_gain(stage):
        yield RunEvent("Warning", NOT_BETTER, _no_gain(stage))


def _inspected(status: TeacherFineTuneStatus, summary: Summary) -> tuple[ConditionStatus, str, str]:
    data = status.dataset
    if data is None:
        return (
            _boolean(False) if summary.state == "failed" else ConditionStatus.UNKNOWN,
            summary.reason,
            summary.message,
        )
    return ConditionStatus.TRUE, "Inspected", dataset_sentence(data)


def _improved(teachers: Sequence[TeacherStatus]) -> tuple[ConditionStatus, str, str] | None:
    """Return the condition Improved: all adapters are better than their bases. None before the first is measured.

    It does not affect the end of the run: tools that wait for an object (kstatus) ignore it.
    """
    known = [teacher for teacher in teachers if teacher.improved is not None]
    if not known:
        return None
    worse = [teacher for teacher in known if not teacher.improved]
    if worse:
        return ConditionStatus.FALSE, NOT_BETTER, "; ".join(map(_no_gain, worse))
    if len(known) == len(teachers):
        gains = (f"{teacher.name}: AP {teacher.ap.before} -> {teacher.ap.after}" for teacher in known)
        return ConditionStatus.TRUE, "BetterThanBase", "; ".join(gains)
    return ConditionStatus.UNKNOWN, "NotMeasured", "not every adapter is published and measured"


def _responding(stages: Sequence[StageStatus], before: Condition | None) -> tuple[ConditionStatus, str, str] | None:
    """Return the condition Responding: all trainers report progress. None before the first silence."""
    silent = [(stage, stage.unresponsive) for stage in stages if stage.unresponsive is not None]
    if silent:
        words = (f"{stage.name}: {found.message}" for stage, found in silent)
        return ConditionStatus.FALSE, silent[0][1].reason, "; ".join(words)
    return (ConditionStatus.TRUE, "HeardFrom", "") if before is not None else None


def _lacks_gain(teacher: TeacherStatus) -> bool:
    as_base = teacher.adapter is not None and teacher.adapter.strength == "0"
    return has_no_gain(teacher.improved, as_base=as_base)


def _no_gain(teacher: TeacherStatus) -> str:
    if teacher.adapter is not None and teacher.adapter.strength == "0":
        return f"{teacher.name}: {AS_THE_BASE} (AP {teacher.ap.before} on the validation split). {ADVICE}"
    return (
        f"{teacher.name}: the adapter is not better than its base (AP {teacher.ap.before} -> {teacher.ap.after} on the "
        "validation split; result.json has the test split's): use the base, or train longer or on more images"
    )


def _succeeded(summary: Summary) -> ConditionStatus:
    return {
        "succeeded": ConditionStatus.TRUE,
        "failed": ConditionStatus.FALSE,
    }.get(summary.state, ConditionStatus.UNKNOWN)


def _boolean(value: bool) -> ConditionStatus:
    return ConditionStatus.TRUE if value else ConditionStatus.FALSE


def _two_decimals(number: str) -> str:
    return f"{float(number):.2f}" if number else ""
