"""Where an unfinished Job stands, from Jobs and Pods as clusters show them."""

from __future__ import annotations

from typing import Any

import pytest
from tft_objects import GPU, NOW, disrupted, failed_pod, job_of, pod_of, unschedulable, view_of

from teacher_operator.api.names import INSPECT, TRAINER
from teacher_operator.api.timestamps import duration, left, seconds, timestamp
from teacher_operator.decide.job_state import EVENTS_AFTER_SECONDS, JobState, JobView, unfinished_state


def state(*pods: Any, container: str = TRAINER, now: float = NOW + 5, **values: Any) -> JobState:
    return unfinished_state(view_of(*pods, **values), container, now=now)


# Pods.


def test_a_pod_that_runs_is_running() -> None:
    assert state(pod_of(phase="Running", started=NOW)) == JobState("Running")


@pytest.mark.parametrize("resource", [GPU, "nvidia.com/mig-1g.10gb", "amd.com/gpu"])
def test_without_a_free_gpu_the_wait_names_it(resource: str) -> None:
    message = f"0/3 nodes are available: 3 Insufficient {resource}. preemption: 0/3 nodes are available"
    pod = pod_of(node=None, conditions=unschedulable(message), limits={"memory": "32Gi", resource: "1"})
    found = state(pod, now=NOW + 754)
    assert found.phase == "Pending"
    assert found.message == f"no node has a free {resource}; unschedulable for 10m: {message}"
    assert found.since == NOW


def test_a_node_that_is_too_small_is_not_reported_as_a_lack_of_gpus() -> None:
    message = "0/3 nodes are available: 1 node(s) had untolerated taint {spot: true}, 2 Insufficient memory."
    found = state(pod_of(node=None, conditions=unschedulable(message)), now=NOW + 90)
    assert found.message == f"no node fits; unschedulable for 1m: {message} Tolerate the taints with spec.tolerations"


def test_a_scheduler_without_a_message_is_reported() -> None:
    found = state(pod_of(node=None, conditions=unschedulable("")))
    assert found.message == "no node fits; unschedulable for less than a minute: the scheduler has given no reason"


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"])
def test_an_image_that_cannot_be_pulled_is_named_with_the_reason(reason: str) -> None:
    message = 'Back-off pulling image "registry.test/trainer:1": ErrImagePull: failed to\n\tresolve: 401 Unauthorized'
    found = state(pod_of(waiting=(reason, message)))
    assert found.phase == "Pending"
    assert found.message == (
        "image cannot be pulled: registry.test/trainer:1: "
        'Back-off pulling image "registry.test/trainer:1": ErrImagePull: failed to resolve: 401 Unauthorized'
    )


def test_an_image_that_cannot_be_pulled_without_a_word() -> None:
    assert state(pod_of(waiting=("ImagePullBackOff", ""))).message == "image cannot be pulled: registry.test/trainer:1"


def test_a_missing_secret_is_named() -> None:
    found = state(pod_of(waiting=("CreateContainerConfigError", 'secret "s3-keys" not found')))
    assert (found.phase, found.message) == ("Pending", 'the container cannot be created: secret "s3-keys" not found')


def test_a_volume_that_cannot_be_mounted_is_distinguished_by_its_events() -> None:
    pod = pod_of(waiting=("ContainerCreating", ""), created=NOW)
    fresh = state(pod, now=NOW + EVENTS_AFTER_SECONDS - 1)
    assert (fresh.phase, fresh.events_of) == ("Starting", None)
    found = state(pod, now=NOW + EVENTS_AFTER_SECONDS + 1)
    assert (found.phase, found.events_of) == ("Starting", ("Pod", pod["metadata"]["name"]))
    assert "gpu-node-1" in found.message
    message = 'FailedMount: MountVolume.SetUp failed for volume "models": persistentvolumeclaim "models" not found'
    found = state(pod, now=NOW + 60, warning_events=[message])
    assert (found.phase, found.events_of) == ("Pending", None)
    assert found.message == f"pod {pod['metadata']['name']} cannot start: {message}"


def test_a_claim_attached_to_another_node_has_advice() -> None:
    message = (
        'FailedAttachVolume: Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) forklifts-sam-0'
    )
    found = state(pod_of(waiting=("ContainerCreating", "")), now=NOW + 60, warning_events=[message])
    assert message in found.message
    assert "ReadWriteMany" in found.message


def test_events_without_warnings_are_not_read_again_immediately() -> None:
    found = state(pod_of(waiting=("ContainerCreating", "")), now=NOW + 60, warning_events=[])
    assert (found.phase, found.events_of) == ("Starting", None)


def test_one_pod_that_does_not_run_keeps_the_job_pending() -> None:
    running = pod_of("a", phase="Running", started=NOW)
    waits = pod_of("b", node=None, conditions=unschedulable(f"0/3 nodes are available: 3 Insufficient {GPU}."))
    assert state(running, waits).phase == "Pending"
    assert state(running, pod_of("b", phase="Running", started=NOW)).phase == "Running"


def test_several_nodes_wait_for_a_missing_pod() -> None:
    job = job_of(parallelism=2, completions=2)
    one, other = pod_of("a", phase="Running", started=NOW), pod_of("b", phase="Running", started=NOW)
    assert state(one, job=job).phase == "Pending"
    assert state(one, other, job=job).phase == "Running"
    done = pod_of("b", phase="Succeeded", ended={"exitCode": 0})
    assert state(one, done, job=job).phase == "Running"


def test_a_pod_that_has_failed_does_not_hide_the_one_that_runs() -> None:
    assert state(failed_pod(1, name="a"), pod_of("b", phase="Running", started=NOW)).phase == "Running"


def test_inspection_is_inspected_by_its_own_container() -> None:
    pod = pod_of(container=INSPECT, waiting=("ErrImagePull", "no such tag"))
    assert state(pod, container=INSPECT).message == "image cannot be pulled: registry.test/inspect:1: no such tag"


# No pods.


def test_a_job_whose_pod_was_refused_is_distinguished_by_its_events() -> None:
    job = job_of(started=NOW)
    fresh = state(job=job, now=NOW + 5)
    assert (fresh.phase, fresh.message, fresh.events_of) == ("Pending", "its pod is being created", None)
    assert state(job=job, now=NOW + 60).events_of == ("Job", job["metadata"]["name"])
    message = 'FailedCreate: Error creating: pods "x" is forbidden: exceeded quota: gpus, requested: nvidia.com/gpu=1'
    found = state(job=job, now=NOW + 60, warning_events=["older", message])
    assert (found.phase, found.message, found.events_of) == ("Pending", f"its pod cannot be created: {message}", None)
    assert found.since == NOW


def test_a_job_that_waits_in_a_queue_is_queued_and_its_wait_does_not_count() -> None:
    found = state(job=job_of(suspend=True, queue="team-a"), now=NOW + 9999)
    assert found == JobState("Queued", "queued by Kueue in team-a")
    assert found.since is None


def test_a_job_suspended_by_somebody_else_is_reported() -> None:
    found = state(job=job_of(suspend=True))
    assert found.phase == "Queued"
    assert "not by this operator" in found.message


def test_the_wait_of_a_job_admitted_by_kueue_starts_at_its_admission() -> None:
    found = state(job=job_of(queue="team-a", started=NOW + 500), now=NOW + 505)
    assert (found.phase, found.since) == ("Pending", NOW + 500)


def test_a_pod_that_is_being_stopped_is_waited_for() -> None:
    pod = pod_of(phase="Running", started=NOW, deleted=NOW + 120)
    found = state(pod, now=NOW + 10)
    assert found.phase == "Pending"
    assert found.message == f"pod {pod['metadata']['name']} on node gpu-node-1 is being stopped"


def test_a_pod_on_a_lost_node_has_advice() -> None:
    pod = pod_of(phase="Running", started=NOW, deleted=NOW + 120, node="spot-7")
    found = state(pod, now=NOW + 120 + 600)
    assert "the node has not confirmed it for 10m" in found.message
    assert "kubectl delete node spot-7" in found.message


def test_a_pod_that_has_ended_while_it_was_being_stopped_is_not_waited_for() -> None:
    pod = failed_pod(143, deleted=NOW)
    assert state(pod).message == "its pod is being created"


# Jobs.


@pytest.mark.parametrize("job", [job_of(), job_of(suspend=True), job_of(deleting=True)])
def test_a_job_without_a_last_condition_has_not_ended(job: dict[str, Any]) -> None:
    view = JobView(job)
    assert (view.complete, view.failed) == (False, False)


def test_a_job_that_is_about_to_fail_has_not_failed() -> None:
    job = job_of()
    job["status"]["conditions"] = [{"type": "FailureTarget", "status": "True", "reason": "PodFailurePolicy"}]
    assert not JobView(job).failed
    job["status"]["conditions"].append({"type": "Failed", "status": "False"})
    assert not JobView(job).failed


def test_a_job_that_was_only_just_made_has_no_status_at_all() -> None:
    job = job_of()
    job["status"] = {}
    view = JobView(job)
    assert (view.complete, view.failed, view.started) == (False, False, None)
    assert unfinished_state(view, TRAINER, now=NOW).phase == "Pending"


@pytest.mark.parametrize(
    ("pods", "unsettled"),
    [
        ([], True),
        ([pod_of(phase="Running", started=NOW)], True),
        ([failed_pod(1)], False),
        ([failed_pod(1), pod_of("b", phase="Running", started=NOW)], True),
        ([failed_pod(1), pod_of("b", phase="Succeeded", ended={"exitCode": 0})], False),
    ],
)
def test_a_job_is_settled_when_it_is_known_how_its_pods_ended(pods: list[Any], unsettled: bool) -> None:
    assert view_of(*pods, job=job_of(complete=True)).unsettled == unsettled


def test_a_job_that_counts_more_pods_than_are_seen_is_not_settled() -> None:
    job = job_of(complete=True)
    job["status"] |= {"succeeded": 1, "failed": 1}
    assert view_of(failed_pod(1), job=job).unsettled
    assert not view_of(failed_pod(1), pod_of("b", phase="Succeeded", ended={"exitCode": 0}), job=job).unsettled


def test_a_disruption_condition_does_not_end_a_running_job() -> None:
    pod = pod_of(phase="Running", started=NOW, conditions=disrupted("PreemptionByScheduler", "preempted"))
    assert state(pod).phase == "Running"


# Times.


@pytest.mark.parametrize(
    ("span", "said"),
    [
        (0, "less than a minute"),
        (59.9, "less than a minute"),
        (60, "1m"),
        (754, "10m"),
        (3600, "1h"),
        (47 * 3600 + 3599, "47h"),
        (48 * 3600, "2d"),
    ],
)
def test_a_wait_is_reported_in_words(span: float, said: str) -> None:
    assert duration(span) == said


def test_a_duration_changes_its_text_rarely_and_is_rounded_down() -> None:
    texts = [duration(60 * minutes) for minutes in range(1, 60)]
    assert len(set(texts)) <= 10
    assert all(int(text.removesuffix("m")) <= minutes for minutes, text in enumerate(texts, start=1))
    assert len({duration(3600 + 60 * minutes) for minutes in range(60)}) == 1


@pytest.mark.parametrize(
    ("span", "said"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (2460, "41m"), (7199, "119m"), (7200, "2h00m"), (9000, "2h30m")],
)
def test_the_remaining_time_is_short_text(span: float, said: str) -> None:
    assert left(span) == said


def test_times_are_read_as_they_are_written() -> None:
    assert timestamp(NOW) == "2026-03-01T12:00:00Z"
    assert seconds(timestamp(NOW)) == NOW
    assert seconds("2026-03-01T12:00:00.250000Z") == NOW + 0.25
    assert seconds("") is seconds(None) is None
