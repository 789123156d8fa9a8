"""activeDeadlineSeconds counts what a teacher trains over all of its Jobs, and nothing of what it waits in between."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tft_objects import MASKS, NAME, NOW, job_of, teacher_of, view_of
from tft_world import World

from teacher_operator.api.names import trainer_job
from teacher_operator.api.spec import TeacherFineTuneSpec
from teacher_operator.api.timestamps import timestamp
from teacher_operator.decide.deadlines import with_active_time
from teacher_operator.decide.job_state import JobView

JOB = trainer_job(NAME, MASKS)
LIMIT = 3600


def trains(seconds: float, **spec: object) -> World:
    """A run whose trainer has run for a while."""
    world = World(teachers=[MASKS], activeDeadlineSeconds=LIMIT, **spec)
    world.training()
    assert world.job(MASKS)["spec"]["activeDeadlineSeconds"] == LIMIT
    world.advance(seconds)
    return world


def resume(world: World) -> None:
    """Let the next pod run."""
    for _ in range(3):
        world.reconcile()
        world.controllers()
        world.reap()
    world.run(world.pod(MASKS))
    world.reconcile()


def change_settings(world: World) -> None:
    world.edit(priorityClassName="low")


def delete_by_hand(world: World) -> None:
    world.remove_job(JOB)


def delete_foreground(world: World) -> None:
    world.delete_job(JOB)


def suspend_for_a_day(world: World) -> None:
    world.edit(suspend=True)
    world.reconcile()
    world.controllers()
    world.reap()
    world.reconcile()
    world.advance(86_400)
    world.reconcile()
    world.edit(suspend=False)


MAX_REPLACEMENTS = [change_settings, delete_by_hand, delete_foreground, suspend_for_a_day]


@pytest.mark.parametrize("stop", MAX_REPLACEMENTS)
def test_a_replaced_job_gets_the_remaining_seconds(stop: Callable[[World], None]) -> None:
    world = trains(2000)
    stop(world)
    resume(world)
    assert world.teacher().active_seconds == 2000
    assert world.job(MASKS)["spec"]["activeDeadlineSeconds"] == LIMIT - 2000
    world.advance(LIMIT - 2000 - 1)
    world.controllers()
    world.reconcile()
    assert world.state == ("Unknown", "Training")
    world.advance(1)
    world.controllers()
    world.reap()
    world.reconcile()
    assert world.state == ("False", "DeadlineExceeded")
    assert f"activeDeadlineSeconds = {LIMIT}, over all of its Jobs" in world.summary[2]


def test_many_jobs_count_together() -> None:
    world = trains(1000)
    for number in range(2):
        world.edit(priorityClassName=f"low-{number}")
        resume(world)
        world.advance(1000)
    assert world.job(MASKS)["spec"]["activeDeadlineSeconds"] == LIMIT - 2000
    world.edit(priorityClassName="high")
    resume(world)
    assert world.teacher().active_seconds == 3000


def test_time_in_a_queue_does_not_count() -> None:
    world = World(teachers=[MASKS], activeDeadlineSeconds=LIMIT, queueName="team-a")
    world.inspected()
    world.advance(86_400)
    world.reconcile()
    world.kueue(admit=True)
    world.controllers()
    world.run(world.pod(MASKS))
    world.reconcile()
    world.advance(600)
    world.kueue(admit=False)
    world.controllers()
    world.reap()
    world.reconcile()
    world.advance(86_400)
    world.reconcile()
    assert (world.teacher().active_seconds, world.teacher().active_since) == (600, None)
    assert world.job(MASKS)["spec"]["activeDeadlineSeconds"] == LIMIT - 600
    world.kueue(admit=True)
    world.controllers()
    world.reconcile()
    assert world.state == ("Unknown", "Starting")
    assert world.teacher().active_since == timestamp(world.now)


def test_without_an_operator_it_counts_from_the_status() -> None:
    """Suspended and let run again while nobody looked: the stretch ends at the latest where the next one begins."""
    world = trains(2000)
    world.delete_job(JOB)
    world.controllers()
    world.reap()
    world.controllers()
    world.advance(50)
    resume(world)
    assert 2000 <= world.teacher().active_seconds <= 2050
    assert world.job(MASKS)["spec"]["activeDeadlineSeconds"] == LIMIT - world.teacher().active_seconds


@pytest.mark.parametrize("stop", [change_settings, delete_by_hand, suspend_for_a_day])
def test_a_deadline_lowered_below_the_used_time_ends_the_run(stop: Callable[[World], None]) -> None:
    world = trains(2000)
    stop(world)
    world.reconcile()
    world.edit(activeDeadlineSeconds=1800)
    for _ in range(4):
        world.reconcile()
        world.controllers()
        world.reap()
    world.reconcile()
    assert world.state == ("False", "DeadlineExceeded")
    assert "activeDeadlineSeconds = 1800" in world.summary[2]
    assert not list(world.live_pods())


def test_a_raised_deadline_applies_to_a_running_job() -> None:
    world = trains(2000)
    change_settings(world)
    resume(world)
    world.edit(activeDeadlineSeconds=7200)
    world.reconcile()
    assert world.job(MASKS)["spec"]["activeDeadlineSeconds"] == 5200
    world.edit(activeDeadlineSeconds=None)
    world.reconcile()
    assert "activeDeadlineSeconds" not in world.job(MASKS)["spec"]


def test_a_suspended_run_without_time_left_fails_when_resumed() -> None:
    world = trains(2000)
    world.edit(suspend=True)
    for _ in range(3):
        world.reconcile()
        world.controllers()
        world.reap()
        world.edit(activeDeadlineSeconds=1000)
    assert world.state == ("Unknown", "Suspended")
    world.edit(suspend=False)
    world.reconcile()
    assert world.state == ("False", "DeadlineExceeded")


def test_a_job_of_an_earlier_version_counts_from_its_start() -> None:
    world = trains(2000)
    teachers = world.body["status"]["teachers"]
    for name in ("activeSeconds", "activeSince"):
        teachers[0].pop(name, None)
    world._touch("TeacherFineTune", world.body)
    world.reconcile()
    assert world.teacher().active_since == timestamp(NOW)
    assert world.job(MASKS)["spec"]["activeDeadlineSeconds"] == LIMIT
    change_settings(world)
    resume(world)
    assert world.teacher().active_seconds == 2000


def test_active_time_of_a_running_job_is_not_rewritten() -> None:
    teacher = with_active_time(teacher_of(MASKS, "Training"), view_of(), now=NOW + 10)
    assert with_active_time(teacher, view_of(), now=NOW + 9999) is teacher


@pytest.mark.parametrize(
    ("view", "seconds"),
    [
        (JobView(job_of(started=NOW + 500)), 500),
        (JobView(job_of(deleting=True)), 0),
        (None, 700),
        (JobView(job_of(complete=True)), 700),
    ],
)
def test_an_active_interval_ends_at_the_time_in_the_job_status(view: JobView | None, seconds: int) -> None:
    teacher = teacher_of(MASKS, "Training", active_since=timestamp(NOW))
    assert with_active_time(teacher, view, now=NOW + 700).active_seconds == seconds


def test_a_job_that_is_only_about_to_be_suspended_still_counts() -> None:
    job = job_of()
    job["spec"]["suspend"] = True
    teacher = teacher_of(MASKS, "Training", active_since=timestamp(NOW))
    assert with_active_time(teacher, JobView(job), now=NOW + 700) is teacher


def test_the_description_of_the_deadline_says_which_time_counts() -> None:
    said = TeacherFineTuneSpec.model_fields["active_deadline_seconds"].description or ""
    assert "over all of its retries and Jobs" in said
