"""Inputs of the decision on one stage. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.stages import Stage
from teacher_operator.api.names import component_of
from teacher_operator.api.settings import Settings
from teacher_operator.api.spec import TeacherFineTuneSpec
from teacher_operator.api.status import FailureStatus
from teacher_operator.decide import jobs
from teacher_operator.decide.actions import Actions
from teacher_operator.decide.deadlines import active_deadline
from teacher_operator.decide.job_state import JobView

Body = Mapping[str, Any]
Manifest = dict[str, Any]


@dataclass(frozen=True)
class Observed:
    """Children of an object.

    Attributes:
        jobs: The Job of each stage, by the name of the stage.
        refused: Children that the API server has refused, by name, with the reason.
        orphans: Pods with the object's label whose Job no longer exists.
    """

    jobs: Mapping[str, JobView] = field(default_factory=dict)
    refused: Mapping[str, FailureStatus] = field(default_factory=dict)
    orphans: Sequence[Body] = ()


@dataclass(frozen=True)
class StageContext:
    """Stage with its run, as input of one decision.

    Attributes:
        stage: The stage.
        body: The object.
        spec: Spec of the object.
        settings: Settings of the installation.
        config_uri: Configuration of the run; empty before inspection has written it.
        written: True if the written status has the result of inspection.
        refused: Reason why the API server or the installation refuses a Job of the stage, else None.
        waits_for: Stages that must end before this one begins, as text; empty if there are none.
        actions: Receives the actions of the decision.
        now: Seconds since the epoch.
    """

    stage: Stage
    body: Body
    spec: TeacherFineTuneSpec
    settings: Settings
    config_uri: str
    written: bool
    refused: FailureStatus | None
    waits_for: str
    actions: Actions
    now: float

    @property
    def container(self) -> str:
        """Name of the main container in the stage's pods."""
        return component_of(self.stage)

    @property
    def deadline(self) -> int | None:
        """Longest time in seconds for which the Jobs of the stage are allowed to run; None without a limit."""
        return active_deadline(self.stage, self.spec)

    def children(self, *, dispatched: bool, seconds_left: int | None) -> list[Manifest]:
        """Return the children of the stage, its Job the last."""
        given = (self.body, self.spec, self.settings, self.stage)
        if dispatched:
            return [jobs.result_job(*given, config_uri=self.config_uri, seconds_left=seconds_left)]
        return jobs.stage_children(*given, config_uri=self.config_uri, seconds_left=seconds_left)
