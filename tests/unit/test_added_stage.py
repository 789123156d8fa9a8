"""A stage that is added to the list after training is run, retried, resumed, suspended and reported like any other.

Nothing but ``engine.stages.AFTER_TRAINING`` names it: neither the operator nor the local runner.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tft_objects import BOXES, MASKS, NAME, failed_message
from tft_world import World
from toy import metadata_of, result_of, write_toy_data

import engine.runner.run
from engine import stages
from engine.config import from_yaml
from engine.dataset import inspect_dataset
from engine.errors import ConfigError, DataError, InterruptedTrainingError, TeacherError
from engine.layout import RunLayout
from engine.manifest import Manifest
from engine.plan import plan
from engine.processes import child_process
from engine.results.events import Event
from engine.results.outcome import Outcome
from engine.runner import run_stage, run_stages
from engine.spec import DatasetSpec, FineTuneSpec
from engine.stages import Stage, StageInput
from engine.storage import Storage
from teacher_operator.decide.conditions import events
from teacher_operator.runtime.status_writer import without_progress

ARCHIVE = Stage(
    name="Archive",
    slug="archive",
    title="the archive",
    activity="adapters are packed",
    arguments=lambda given: ("archive", "--config", given.config),
    requires=(BOXES.value, MASKS.value),
)
JOB = f"{NAME}-archive"
DONE = Outcome(finished={"file": "adapters.zip"}).to_message()


@pytest.fixture(autouse=True)
def _added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "AFTER_TRAINING", (ARCHIVE,))


# In the operator.


def trained(**spec: Any) -> World:
    """A run whose teachers have succeeded."""
    world = World(**spec)
    world.training()
    while JOB not in world.jobs:
        for pod in world.live_pods():
            world.succeed(pod) if pod["status"]["phase"] == "Running" else world.run(pod)
        world.controllers()
        world.reconcile()
    world.controllers()
    return world


def archive(world: World) -> Any:
    """The status of the stage."""
    return next(one for one in world.status.stages if one.name == "Archive")


def pod(world: World) -> Any:
    """Its newest pod."""
    return world.pods_of(world.jobs[JOB])[-1]


def fails(world: World, code: int, reason: str, message: str) -> None:
    """Its pod runs and fails."""
    world.run(pod(world))
    world.reconcile()
    world.end(pod(world), code, message=failed_message(code, reason, message))
    world.reconcile()
    world.controllers()
    world.reconcile()


def test_it_waits_for_training_and_runs_as_a_job_without_gpu() -> None:
    world = World()
    world.training()
    assert (archive(world).state, archive(world).message) == ("Pending", "waits for Grounding DINO and SAM")
    assert JOB not in world.jobs
    world = trained(stages=[{"name": "Inspection", "nodeSelector": {"pool": "cpu"}}], nodeSelector={"pool": "gpu"})
    template = world.jobs[JOB]["spec"]["template"]["spec"]
    (container,) = template["containers"]
    assert container["command"][:3] == ["teacher", "archive", "--config"]
    assert container["command"][-2:] == ["--outcome", "/dev/termination-log"]
    assert "nvidia.com/gpu" not in str(container["resources"])
    assert template["nodeSelector"] == {"pool": "gpu"}


def test_it_is_reported_and_its_result_ends_the_run() -> None:
    world = trained()
    world.reconcile()
    assert world.state == ("Unknown", "Starting")
    world.run(pod(world))
    before = world.status
    world.reconcile()
    assert world.summary[1:] == ("Running", "Archive: adapters are packed")
    assert [(one.reason, one.message) for one in events(before, world.status)] == [
        ("Running", "Archive: adapters are packed")
    ]
    assert without_progress(world.status).stages[-1].message == "", "a message that moves is not written at once"
    world.end(pod(world), 0, message=DONE)
    world.controllers()
    world.reconcile()
    assert world.state == ("True", "Succeeded")
    assert (archive(world).state, archive(world).results) == ("Succeeded", {"file": "adapters.zip"})
    assert world.summary[2].endswith("; Archive: file: adapters.zip")
    assert [one.type for one in world.status.conditions][:4] == [
        "DatasetInspected",
        "Reconciling",
        "Stalled",
        "Succeeded",
    ]


def test_a_failure_is_retried_and_one_that_would_come_again_is_final() -> None:
    world = trained()
    assert world.jobs[JOB]["spec"]["backoffLimit"] == 2
    fails(world, 43, "StorageUnavailable", "the store does not answer")
    assert not world.terminal
    assert "attempt 2, after StorageUnavailable: the store does not answer" in world.summary[2]
    assert archive(world).attempts[0].exit_code == 43
    before = world.status
    fails(world, DataError.exit_code, "DataInvalid", "there is nothing to pack")
    world.controllers()
    world.reconcile()
    assert world.state == ("False", DataError.reason)
    assert "Archive: there is nothing to pack" in world.summary[2]
    assert archive(world).failure.message == "there is nothing to pack"
    assert any(one.kind == "Warning" for one in events(before, world.status))
    assert {one.state for one in world.status.teachers} == {"Succeeded"}


def test_it_does_not_run_if_a_stage_that_it_requires_has_failed() -> None:
    world = World(teachers=[MASKS])
    world.training()
    code = ConfigError.exit_code
    world.end(world.pod(MASKS), code, message=failed_message(code, ConfigError.reason, "no such layer"))
    for _ in range(3):
        world.controllers()
        world.reconcile()
    assert world.state == ("False", "ConfigurationInvalid")
    assert archive(world).failure.reason == "RequiredStageFailed"
    assert JOB not in world.made


def test_it_is_suspended_and_resumes() -> None:
    world = trained()
    world.run(pod(world))
    world.reconcile()
    world.edit(suspend=True)
    world.reconcile()
    assert world.jobs[JOB]["spec"]["suspend"] is True
    assert archive(world).state == "Suspended"
    assert world.state == ("Unknown", "Suspended")
    world.controllers()
    world.reap()
    world.edit(suspend=False)
    world.reconcile()
    assert not world.jobs[JOB]["spec"]["suspend"]
    world.controllers()
    world.run(pod(world))
    world.end(pod(world), 0, message=DONE)
    world.controllers()
    world.reconcile()
    assert world.state == ("True", "Succeeded")


def test_a_job_that_is_lost_is_made_again() -> None:
    world = trained()
    world.run(pod(world))
    world.reconcile()
    world.remove_job(JOB)
    world.reconcile()
    assert world.made.count(JOB) == 1, "the pod of the lost Job has not ended"
    world.reap()
    world.reconcile()
    assert world.made.count(JOB) == 2


# On one machine.

PROGRAM = """
import os, pathlib, signal, sys, time
work = pathlib.Path({work!r})
(work / "runs").open("a").write("x")
command = (work / "command").read_text() if (work / "command").exists() else ""
outcome = sys.argv[sys.argv.index("--outcome") + 1]
print('{{"event": "note", "message": "packs"}}', flush=True)
if command == "fail":
    open(outcome, "w").write({failed!r})
    sys.exit({code})
if command == "hang":
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)
open(outcome, "w").write({done!r})
"""


class Local:
    """A run on this machine whose training is a stand-in, and whose added stage is a process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.events, self.trained = folder, list[Event](), list[str]()
        file = write_toy_data(folder / "data" / "a.json", range(12), masks=True)
        spec = FineTuneSpec(dataset=DatasetSpec(annotations=str(file)), output=str(folder / "out"))
        self.info = inspect_dataset(file)
        self.runs = plan(Manifest(name="added", spec=spec), self.info)
        failed = failed_message(DataError.exit_code, "DataInvalid", "there is nothing to pack")
        program = PROGRAM.format(work=str(folder), failed=failed, done=DONE, code=DataError.exit_code)
        monkeypatch.setattr(child_process, "command", lambda *words: [sys.executable, "-c", program, *words])
        monkeypatch.setattr(engine.runner.run, "run_stage", self.run_stage)

    def run_stage(self, stage: Stage, given: StageInput, **options: Any) -> Outcome:
        """Publish instead of training; run the added stage."""
        if stage.teacher is None:
            return run_stage(stage, given, **options)
        self.trained.append(stage.name)
        config = from_yaml(Path(given.config).read_text())
        done = metadata_of(run_id=config.run_id, teachers=(result_of(BOXES), result_of(MASKS)))
        Path(RunLayout.of(config).metadata).write_text(done.model_dump_json())
        return Outcome()

    def command(self, what: str) -> None:
        """Say what the process of the stage does."""
        (self.folder / "command").write_text(what)

    def go(self, *, again: bool = False) -> str:
        """Run all stages; the id of the run."""
        storage = Storage()
        return run_stages(
            self.info, self.runs, storage, listener=self.events.append, work_dir=self.folder / "work", again=again
        ).run_id

    @property
    def processes(self) -> int:
        """Number of processes of the added stage so far."""
        return len((self.folder / "runs").read_text())


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Local:
    return Local(tmp_path, monkeypatch)


def test_it_runs_as_a_process_once(local: Local) -> None:
    assert local.go() == local.runs[0].config.run_id
    assert local.trained == [BOXES.value, MASKS.value]
    assert [one.message for one in local.events] == ["packs"]
    assert (local.folder / "work" / "archive.outcome.json").read_text() == DONE
    local.go()
    assert local.processes == 1, "it has its result"
    local.go(again=True)
    assert local.processes == 2
    Path(local.runs[0].layout.metadata).unlink()
    local.go()
    assert (len(local.trained), local.processes) == (6, 3), "it follows a training that is done again"


def test_its_failure_ends_the_run_and_the_next_call_resumes_with_it(local: Local) -> None:
    local.command("fail")
    with pytest.raises(DataError, match="there is nothing to pack"):
        local.go()
    with pytest.raises(TeacherError):
        local.go()
    local.command("")
    local.go()
    assert (len(local.trained), local.processes) == (2, 3), "what is trained is not trained again"


def test_a_request_to_stop_is_passed_on_and_the_next_call_resumes(local: Local) -> None:
    local.command("hang")
    with pytest.raises(InterruptedTrainingError):
        local.go()
    local.command("")
    local.go()
    assert local.processes == 2


def test_a_command_without_the_option_outcome_is_reported_so(tmp_path: Path) -> None:
    stage = replace(ARCHIVE, arguments=lambda given: ("doctor",))
    with pytest.raises(TeacherError, match=r"exit code 2: .* must accept --outcome FILE, and write an Outcome to"):
        run_stage(stage, StageInput(), listener=lambda event: None, work_dir=tmp_path)
