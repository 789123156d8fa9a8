"""Decision on an object: its new status and the actions, from its spec, status and children. Pure.

Level-based: a decision depends only on the current state, not on events, and the only memory is the object's status.
A second decision on the same state has no actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from engine.errors import ConfigError
from engine.stages import INSPECTION
from engine.storage import check_endpoint
from teacher_operator.api.settings import Settings
from teacher_operator.api.spec import PLATFORM, TeacherFineTuneSpec, parse_spec
from teacher_operator.api.status import FailureStatus, TeacherFineTuneStatus, clip
from teacher_operator.api.timestamps import seconds, timestamp
from teacher_operator.decide import allow_lists
from teacher_operator.decide.actions import Actions
from teacher_operator.decide.claim_mounts import claims
from teacher_operator.decide.conditions import SUCCEEDED, Summary, is_terminal, with_conditions
from teacher_operator.decide.job_state import JobView
from teacher_operator.decide.network_policy import run_network
from teacher_operator.decide.stage_context import Observed, StageContext
from teacher_operator.decide.stage_status import ENDED, failed_for_good
from teacher_operator.decide.walk import inspection_failure, is_planned, summary_of, walk

Body = Mapping[str, Any]

UNKNOWN = "extra_forbidden"
"""Type of pydantic's error for an unknown field."""


@dataclass(frozen=True)
class Decision:
    """New status of an object, and the actions to execute."""

    status: TeacherFineTuneStatus
    actions: Actions


def decide(body: Body, observed: Observed, settings: Settings, *, now: float) -> Decision:
    """Return the new status of an object and the actions to execute.

    Args:
        body: The object.
        observed: Its children.
        settings: Settings of the installation.
        now: Seconds since the epoch.
    """
    actions, before = Actions(), read_status(body)
    if _has_ended(body):
        actions.delete += [view.name for view in observed.jobs.values() if view.unfinished]
        if not is_terminal(before):  # the status of a newer operator, which this one cannot read: keep it
            return Decision(before, actions)
        _remove_when_due(body, before, observed, actions, now=now)
        return _decision(body, before, None, actions, now=now)
    status = before.model_copy(update={"start_time": before.start_time or timestamp(now)})
    try:
        spec = parse_spec(body)
        claims(spec)
        _check_endpoint(spec, settings)
    except (ValidationError, ConfigError) as error:
        if isinstance(error, ValidationError) and all(map(_is_fixable, error.errors())):
            invalid = _spec_failure(error)  # existing Jobs continue
            return _decision(body, status, Summary.stuck(invalid.reason, invalid.message), actions, now=now)
        actions.delete += [view.name for view in observed.jobs.values() if view.unfinished]
        return _failed(body, status, _spec_failure(error), actions, now=now)
    # If denied, no new Job is created, and existing ones continue. A suspended run creates none in any case.
    denied = None if spec.suspend else allow_lists.refusal(spec, settings, namespace=body["metadata"]["namespace"])
    run = StageContext(
        INSPECTION, body, spec, settings, status.config_uri, is_planned(status), denied, "", actions, now
    )
    status = walk(run, status, observed)
    failure = inspection_failure(status)
    if failure is not None:
        return _failed(body, status, failure, actions, now=now)
    _add_network_policy(body, settings, actions)
    summary = summary_of(status, observed.refused)
    if denied is not None and summary.reason == "Pending" and not any(map(_unfinished, observed.jobs.values())):
        summary = Summary.stuck(denied.reason, summary.message)
    return _decision(body, status, summary, actions, now=now)


def _unfinished(view: JobView) -> bool:
    return view.unfinished


def _add_network_policy(body: Body, settings: Settings, actions: Actions) -> None:
    """Add the NetworkPolicy of a run before its first new Job, if the installation requires one."""
    if settings.run_network_policy and any(child["kind"] == "Job" for child in actions.apply):
        actions.apply.insert(0, run_network(body, settings))


def _has_ended(body: Body) -> bool:
    """Return True if the status of an object says that its run has ended, whichever version wrote it."""
    conditions = (body.get("status") or {}).get("conditions")
    known = [one for one in conditions if isinstance(one, dict)] if isinstance(conditions, list) else []
    return any(one.get("type") == SUCCEEDED and one.get("status") in {"True", "False"} for one in known)


def read_status(body: Body) -> TeacherFineTuneStatus:
    """Return the status of an object; an empty one if it is invalid, as after an edit by hand."""
    try:
        return TeacherFineTuneStatus.model_validate(body.get("status") or {}, by_alias=True, by_name=False)
    except ValidationError:
        return TeacherFineTuneStatus()


def _failed(
    body: Body, status: TeacherFineTuneStatus, failure: FailureStatus, actions: Actions, *, now: float
) -> Decision:
    summary = Summary.failed(failure.reason, failure.message)
    ended = {
        field: [one if one.state in ENDED else failed_for_good(one, failure, now=now) for one in stages]
        for field, stages in (("stages", status.stages), ("teachers", status.teachers))
    }
    status = status.model_copy(update=ended)
    return _decision(body, status, summary, actions, now=now, log=failure.log_tail)


def _decision(
    body: Body,
    status: TeacherFineTuneStatus,
    summary: Summary | None,
    actions: Actions,
    *,
    now: float,
    log: Sequence[str] = (),
) -> Decision:
    generation = body["metadata"].get("generation") or 0
    status = with_conditions(status, summary, generation=generation, now=now, log=log)
    ttl = body["spec"].get("ttlSecondsAfterFinished")
    if summary is not None and is_terminal(status) and ttl is not None:
        actions.requeue(now + ttl)  # only once the status is written: until then only the Jobs show how the run ended
    return Decision(status, actions)


def _is_fixable(fault: ErrorDetails) -> bool:
    """Return True for an error in a platform field, which the user can change, or a field of a newer CRD.

    The API server adds the defaults of a newer CRD to every object.
    """
    return fault["type"] == UNKNOWN or fault["loc"][0] in PLATFORM


class EndpointError(ConfigError):
    """Raised for a refused endpoint of an object store."""


def _spec_failure(error: ValidationError | ConfigError) -> FailureStatus:
    """Return the reason why the operator cannot process a spec that the API server has accepted."""
    if isinstance(error, EndpointError):
        return FailureStatus(reason="EndpointRefused", message=clip(f"spec.storage.endpointUrl: {error}"))
    if isinstance(error, ConfigError):
        return FailureStatus(reason=ConfigError.reason, message=clip(str(error)))
    fault = error.errors()[0]
    where = f"spec.{'.'.join(str(part) for part in fault['loc'])}"
    if fault["type"] == UNKNOWN:
        message = f"{where} is unknown to this operator: the CRD is of another version; install both from one chart"
        return FailureStatus(reason="UnknownField", message=clip(message))
    message = f"{where}: {fault['msg']}"
    return FailureStatus(reason=ConfigError.reason, message=clip(message))


def _check_endpoint(spec: TeacherFineTuneSpec, settings: Settings) -> None:
    """Raise an error for an endpoint that is unsafe or not allowed. The pods check the addresses of its name."""
    url = spec.storage.endpoint_url
    if url is None:
        return
    try:
        check_endpoint(url, resolver=lambda _: ())
    except ConfigError as error:
        raise EndpointError(str(error)) from None
    allowed = settings.allowed_endpoints
    host = (urlsplit(url).hostname or "").lower()
    if allowed and not any(host == one or (one.startswith("*.") and host.endswith(one[1:])) for one in allowed):
        raise EndpointError(f"{host} is not one of the stores that this installation allows: {', '.join(allowed)}")


def _remove_when_due(
    body: Body, status: TeacherFineTuneStatus, observed: Observed, actions: Actions, *, now: float
) -> None:
    """Remove the Jobs of a run that ended long enough ago; the object itself stays, so that nothing runs again."""
    ttl = body["spec"].get("ttlSecondsAfterFinished")
    ended = seconds(status.completion_time)
    if ttl is None or ended is None or not observed.jobs:
        return
    if now >= ended + ttl:
        actions.delete += [view.name for view in observed.jobs.values() if not view.deleting]
    else:
        actions.requeue(ended + ttl)
