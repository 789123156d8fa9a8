"""Why a pod or a Job failed, from what clusters show of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tft_objects import MASKS, NOW, disrupted, failed_message, failed_pod, job_of, pod_of, prepared_of, trained_of

from engine.errors import (
    ArtifactRefusedError,
    BaseModelError,
    ConfigError,
    DataError,
    InterruptedTrainingError,
    LossNotFiniteError,
    MachineError,
    NoProgressError,
    NotBetterThanBaseError,
    OutOfGpuMemoryError,
    StorageError,
    TeacherError,
)
from engine.results.outcome import Outcome
from teacher_operator.api.names import INSPECT, TRAINER
from teacher_operator.api.status import LOG_LINES, MESSAGE_MAX, FailureStatus
from teacher_operator.decide.failures import job_failure, outcome_of, pod_failure

ENGINE: dict[type[TeacherError], str] = {
    ConfigError: "ConfigurationInvalid",
    DataError: "DataInvalid",
    BaseModelError: "BaseModelUnavailable",
    StorageError: "StorageUnavailable",
    OutOfGpuMemoryError: "OutOfGpuMemory",
    LossNotFiniteError: "LossNotFinite",
    NoProgressError: "NoProgress",
    MachineError: "MachineUnfit",
    NotBetterThanBaseError: "NotBetterThanBase",
    ArtifactRefusedError: "ArtifactRefused",
    InterruptedTrainingError: "Interrupted",
}


def cause(pod: dict[str, Any], *, container: str = TRAINER, log: tuple[str, ...] = ()) -> FailureStatus:
    return pod_failure(pod, container, log)


# What the engine foresaw.


@pytest.mark.parametrize(("error", "reason"), ENGINE.items(), ids=lambda value: getattr(value, "__name__", value))
def test_a_failure_that_the_engine_foresaw_is_reported_in_its_words(error: type[TeacherError], reason: str) -> None:
    message = Outcome.failure(error("The annotations are no JSON: give a COCO file.")).to_message()
    found = cause(failed_pod(error.exit_code, message=message))
    assert (found.reason, found.message) == (reason, "The annotations are no JSON: give a COCO file.")
    assert found.exit_code == error.exit_code
    assert found.log_tail == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [(error, reason) for error, reason in ENGINE.items() if error is not ConfigError],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_without_a_word_of_the_engine_the_exit_code_speaks(error: type[TeacherError], reason: str) -> None:
    found = cause(failed_pod(error.exit_code, message="Traceback:\n  ...\nlast line"), log=("one", "two"))
    assert found.reason == reason
    assert f"exit code {error.exit_code}" in found.message
    assert found.log_tail == ["one", "two"]


def test_exit_codes_of_container_runtimes_are_not_taken_for_a_configuration_error() -> None:
    """As of a container that is stopped in the second in which it starts."""
    found = cause(failed_pod(2))
    assert found.reason == "Crashed"
    assert "exit code 2 and left no outcome" in found.message


def test_every_exit_code_of_the_engine_has_a_reason() -> None:
    assert set(ENGINE) == set(TeacherError.__subclasses__())


def test_a_failure_that_nobody_foresaw_keeps_its_type() -> None:
    message = Outcome.failure(KeyError("image_id")).to_message()
    found = cause(failed_pod(1, message=message))
    assert (found.reason, found.message) == ("Unexpected", "KeyError: 'image_id'")


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_reason_becomes_one_that_a_condition_may_have(reason: str) -> None:
    message = Outcome(exit_code=1, reason=reason.encode(errors="replace").decode(), message="x").to_message()
    assert cause(failed_pod(1, message=message)).message == "x"


# What the node says.


def test_a_crash_without_a_word_points_to_the_log() -> None:
    found = cause(failed_pod(1), log=("Traceback (most recent call last):", "ValueError: x"))
    assert found.reason == "Crashed"
    assert found.message == "ended on node gpu-node-1 with exit code 1; the last lines of its log say why"
    assert found.log_tail == ["Traceback (most recent call last):", "ValueError: x"]
    assert (found.pod, found.node) == ("forklifts-sam-x7k2p", "gpu-node-1")


def test_the_termination_message_replaces_an_unreadable_log() -> None:
    found = cause(failed_pod(1, message="first\n\nsecond\n"))
    assert found.log_tail == ["first", "second"]


@pytest.mark.parametrize("exit_code", [1, 137])
def test_out_of_memory_names_the_limit_and_the_setting_to_raise(exit_code: int) -> None:
    """The kernel may kill a worker of the data loader, so that the trainer itself ends with 1."""
    message = failed_message(1, "Unexpected", "RuntimeError: DataLoader worker is killed by signal: Killed")
    for text in ("", message):
        found = cause(failed_pod(exit_code, reason="OOMKilled", message=text))
        assert found.reason == "OutOfMemory"
        assert found.message == (
            "killed on node gpu-node-1 for using more than its limit of 32Gi: raise spec.resources.limits.memory, "
            "or lower the batch size"
        )


def test_out_of_memory_without_a_limit() -> None:
    found = cause(failed_pod(137, reason="OOMKilled", limits={}))
    assert "more memory than available" in found.message


def test_out_of_memory_in_inspection_is_the_installations() -> None:
    found = cause(failed_pod(137, reason="OOMKilled", container=INSPECT), container=INSPECT)
    assert "inspectResources" in found.message
    assert "batch size" not in found.message


def test_a_kill_without_a_word() -> None:
    found = cause(failed_pod(137))
    assert (found.reason, found.exit_code) == ("Killed", 137)
    assert "the node ran out of memory" in found.message


def test_an_eviction_names_the_exhausted_resource() -> None:
    said = "The node was low on resource: ephemeral-storage. Threshold quantity: 10Gi, available: 2Gi."
    pod = failed_pod(
        137,
        conditions=disrupted("TerminationByKubelet", said),
    )
    pod["status"] |= {"reason": "Evicted", "message": said}
    found = cause(pod)
    assert found.reason == "Evicted"
    assert found.message.startswith(f"evicted on node gpu-node-1: {said} To fix it, ")
    assert "spec.resources.requests" in found.message


@pytest.mark.parametrize(
    ("said", "trainer", "inspection"),
    [
        ('Usage of EmptyDir volume "scratch" exceeds the limit "1Gi". ', "spec.scratch.size", "spec.scratch.size"),
        ('Usage of EmptyDir volume "shm" exceeds the limit "2Gi". ', "spec.sharedMemory", ""),
        ('Usage of EmptyDir volume "cache" exceeds the limit "2Gi". ', "sizeLimit", "sizeLimit"),
        (
            'Container trainer exceeded its local ephemeral storage limit "1Gi". ',
            "spec.resources.limits",
            "inspectResources",
        ),
        (
            "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
            "spec.resources.limits",
            "inspectResources",
        ),
        (
            "The node was low on resource: inodes. Threshold quantity: 1, available: 0. ",
            "ephemeral-storage",
            "inspectResources",
        ),
        ("The node was low on resource: memory. ", "spec.resources.requests", "inspectResources"),
        ("The node had condition: [DiskPressure]. ", "ephemeral-storage", "inspectResources"),
        ("Something that no kubelet writes yet", "", ""),
    ],
)
def test_an_eviction_names_the_setting_to_change(said: str, trainer: str, inspection: str) -> None:
    for container, setting in ((TRAINER, trainer), (INSPECT, inspection)):
        pod = failed_pod(137)
        pod["status"] |= {"reason": "Evicted", "message": said}
        message = pod_failure(pod, container, ()).message
        assert said.strip() in message
        assert ("To fix it, " in message) == bool(setting)
        assert setting in message


def test_an_eviction_before_the_container_ran() -> None:
    pod = pod_of(phase="Failed", reason="Evicted", message="The node had condition: [DiskPressure].")
    found = cause(pod)
    assert found.reason == "Evicted"
    assert "DiskPressure" in found.message
    assert found.exit_code is None


@pytest.mark.parametrize("exit_code", [137, 143])
@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod"),
        ("EvictionByEvictionAPI", "Eviction API: evicting"),
        ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"),
    ],
)
def test_a_disruption_names_its_cause(exit_code: int, reason: str, said: str) -> None:
    """Also when the trainer had the time to say that it was interrupted: that much is known, who did it is not."""
    interrupted = failed_message(143, "Interrupted", "SIGTERM arrived: Sam stopped after step 7 of 90")
    found = cause(
        failed_pod(exit_code, message=interrupted if exit_code == 143 else "", conditions=disrupted(reason, said))
    )
    assert found.reason == "Disrupted"
    assert said in found.message
    assert "gpu-node-1" in found.message


def test_a_disruption_does_not_hide_the_failure_of_the_trainer() -> None:
    message = failed_message(41, "DataInvalid", "Image 7 is broken.")
    found = cause(failed_pod(41, message=message, conditions=disrupted("PreemptionByScheduler", "preempted")))
    assert (found.reason, found.message) == ("DataInvalid", "Image 7 is broken.")


def test_a_disruption_condition_with_status_false_is_ignored() -> None:
    pod = failed_pod(1, conditions=[{"type": "DisruptionTarget", "status": "False", "reason": "X"}])
    assert cause(pod).reason == "Crashed"


def test_a_container_that_cannot_start_reports_the_reason() -> None:
    said = 'exec: "teacher": executable file not found in $PATH'
    found = cause(failed_pod(127, reason="ContainerCannotRun", message=said))
    assert found.reason == "StartError"
    assert said in found.message


def test_a_pod_that_failed_before_its_container_ran_has_the_message_of_the_kubelet() -> None:
    pod = pod_of(phase="Failed", reason="UnexpectedAdmissionError", message="Allocate failed due to no GPU available")
    found = cause(pod)
    assert (found.reason, found.message) == ("PodFailed", "Allocate failed due to no GPU available")


def test_a_pod_without_any_reason() -> None:
    found = cause(pod_of(phase="Failed", conditions=[]))
    assert found.reason == "PodFailed"
    assert found.message


# Bounds.


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50), st.integers(0, 3000))
def test_any_message_of_a_node_fits_into_the_status(text: str, times: int) -> None:
    long = text * times
    pods = [
        failed_pod(1, message=long),
        failed_pod(128, reason="StartError", message=long),
        pod_of(phase="Failed", reason="Evicted", message=long),
        pod_of(phase="Failed", reason=long, message=""),
        failed_pod(143, conditions=disrupted("X", long)),
    ]
    job = job_of(failed=("BackoffLimitExceeded", long))
    for pod in pods:
        found = pod_failure(pod, TRAINER, [long] * 100)
        assert len(found.message) <= MESSAGE_MAX
        assert len(found.log_tail) <= LOG_LINES
        assert len(job_failure(job, [pod, pod], TRAINER, ()).message) <= MESSAGE_MAX
    assert len(job_failure(job, [], TRAINER, ()).message) <= MESSAGE_MAX


# Jobs.


def test_a_job_without_retries_left_reports_the_number_of_attempts() -> None:
    job = job_of(failed=("BackoffLimitExceeded", "Job has reached the specified backoff limit"))
    pods = [failed_pod(1, name=name) for name in "abcd"]
    found = job_failure(job, pods, TRAINER, ["line"])
    assert (found.reason, found.pod, found.log_tail) == ("Crashed", "d", ["line"])
    assert found.message.endswith("(attempt 4, the last)")


def test_a_failure_that_is_not_retried_has_no_number_of_attempts() -> None:
    job = job_of(failed=("PodFailurePolicy", "Container trainer for pod vision/x failed with exit code 41 ..."))
    pods = [
        failed_pod(43, name="a"),
        failed_pod(41, name="b", message=failed_message(41, "DataInvalid", "No objects.")),
    ]
    found = job_failure(job, pods, TRAINER, ())
    assert (found.reason, found.message) == ("DataInvalid", "No objects.")


def test_the_pods_of_several_nodes_are_one_attempt() -> None:
    job = job_of(failed=("BackoffLimitExceeded", "Job has reached the specified backoff limit"))
    pods = [failed_pod(1, name=f"{name}-{index}") for name in "ab" for index in range(2)]
    for pod in pods:
        pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] = pod["metadata"]["name"][-1]
    assert job_failure(job, pods, TRAINER, ()).message.endswith("(attempt 2, the last)")
    assert "attempt" not in job_failure(job, pods[:2], TRAINER, ()).message


def test_the_only_attempt_is_not_counted() -> None:
    job = job_of(failed=("BackoffLimitExceeded", "Job has reached the specified backoff limit"))
    assert "attempt" not in job_failure(job, [failed_pod(1)], TRAINER, ()).message


def test_the_root_cause_is_the_pod_that_would_fail_again() -> None:
    job = job_of(failed=("PodFailurePolicy", "x"))
    pods = [failed_pod(45, name="a", message=failed_message(45, "LossNotFinite", "NaN.")), failed_pod(143, name="b")]
    pods += [failed_pod(1, name="c")]
    assert job_failure(job, pods, TRAINER, ()).pod == "a"
    assert job_failure(job, pods[1:], TRAINER, ()).pod == "c"


def test_the_deadline_of_inspection_speaks_of_no_checkpoint() -> None:
    job = job_of(
        failed=("DeadlineExceeded", "Job was active longer than specified deadline"), activeDeadlineSeconds=600
    )
    found = job_failure(job, [], INSPECT, ())
    assert found.reason == "DeadlineExceeded"
    assert "checkpoint" not in found.message
    assert "600" in found.message


def test_a_failed_job_without_pods_has_the_message_of_its_condition() -> None:
    found = job_failure(job_of(failed=("BackoffLimitExceeded", "Job has reached the limit")), [], TRAINER, ())
    assert (found.reason, found.message) == ("BackoffLimitExceeded", "Job has reached the limit")
    assert job_failure(job_of(failed=("PodFailurePolicy", "")), [], TRAINER, ()).message


def test_a_pod_that_succeeded_is_not_why_a_job_failed() -> None:
    job = job_of(failed=("DeadlineExceeded", "x"))
    job["status"]["conditions"][-1]["reason"] = "PodFailurePolicy"
    pods = [failed_pod(41, name="a"), pod_of("b", phase="Running", started=NOW)]
    assert job_failure(job, pods, TRAINER, ()).pod == "a"


# Outcomes.


def test_the_newest_pod_that_left_word_is_believed() -> None:
    old = failed_pod(43, name="a", message=failed_message(43, "StorageUnavailable", "gone"))
    new = pod_of("b", phase="Succeeded", ended={"exitCode": 0, "message": Outcome(trained=trained_of()).to_message()})
    silent = failed_pod(137, name="c")
    assert outcome_of([old, new], TRAINER) == outcome_of([old, new, silent], TRAINER) == Outcome(trained=trained_of())
    assert outcome_of([new, old], TRAINER) == Outcome(trained=trained_of()), "made in one second, pods have no order"
    assert outcome_of([silent], TRAINER) is None
    assert outcome_of([], TRAINER) is None


def test_pods_of_other_nodes_do_not_hide_the_outcome_of_the_first() -> None:
    """Over several nodes each pod leaves word, and only the first says what was trained."""
    first = pod_of("a", phase="Succeeded", ended={"exitCode": 0, "message": Outcome(trained=trained_of()).to_message()})
    beside = pod_of("b", phase="Succeeded", ended={"exitCode": 0, "message": Outcome().to_message()})
    assert outcome_of([first, beside], TRAINER) == Outcome(trained=trained_of())


def test_a_pod_that_runs_has_left_no_word() -> None:
    assert outcome_of([pod_of(phase="Running", started=NOW)], TRAINER) is None


def test_word_is_taken_of_the_right_container() -> None:
    message = Outcome(prepared=prepared_of(MASKS)).to_message()
    pod = pod_of(container=INSPECT, phase="Succeeded", ended={"exitCode": 0, "message": message})
    assert outcome_of([pod], TRAINER) is None
    assert outcome_of([pod], INSPECT) == Outcome(prepared=prepared_of(MASKS))
