"""Who is measured at scale: our operator, and beside it any other controller of training jobs.

Each is a process against the API server of a kubeconfig, with what its objects are, and how its own metrics say that it
has looked at all of them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import yaml
from control_plane import die_with_parent, free_port, write_certificate

ROOT = Path(__file__).resolve().parents[1]

MEMORY = {"resident_mb": "VmRSS", "peak_mb": "VmHWM"}

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A controller that makes a child of each of its objects.

    Attributes:
        name: What it is called in the table.
        objects: Path of its kind in the API, with ``{namespace}``.
        children: Path of the kind that it makes of each, and a label selector.
        manifest: An object that asks for nothing special, by its name.
        ended: The status of one whose run has ended well.
        needs: Files and manifests that are applied before it starts.
        command: Starts it with a kubeconfig, a port for its metrics, and a folder of its own; with its environment.
        looked: How many looks at objects its metrics count.
        waiting: How many objects wait for one.
    """

    name: str
    objects: str
    children: tuple[str, str]
    manifest: Manifest
    ended: Manifest
    command: Sequence[str]
    looked: str
    waiting: str
    needs: Sequence[Path] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    """Written into its folder before it starts; ``{port}``, ``{other}`` and ``{folder}`` are filled in, as in words."""

    @property
    def resource(self) -> str:
        """The plural of its kind."""
        return self.objects.rsplit("/", 1)[1]

    def body(self, name: str) -> Manifest:
        """The object of a name."""
        return {**self.manifest, "metadata": {"name": name}}


def ours() -> Subject:
    """The operator of this repository, with its own defaults."""
    spec = {
        "dataset": {"annotations": "s3://bench/annotations.json", "images": "s3://bench/images/"},
        "output": "s3://bench/adapters/",
    }
    settings = {"OPERATOR_IMAGE": "operator", "TRAINER_IMAGE": "trainer", "PORT": "{port}", "LOG_LEVEL": "WARNING"}
    return Subject(
        name="teacher-finetune",
        objects="/apis/finetune.dev/v1alpha1/namespaces/{namespace}/teacherfinetunes",
        children=("/apis/batch/v1/namespaces/{namespace}/jobs", "finetune.dev/run"),
        manifest={"apiVersion": "finetune.dev/v1alpha1", "kind": "TeacherFineTune", "spec": spec},
        ended=_ended(),
        needs=sorted((ROOT / "crds").glob("*.yaml")),
        command=(sys.executable, "-m", "teacher_operator"),
        environment={f"TEACHER_{name}": value for name, value in settings.items()},
        looked=r'teacher_reconcile_seconds_count\{outcome="ok"\}',
        waiting=r"teacher_queue_depth",
    )


def trainer(binary: Path, crds: Sequence[Path], runtime: str = "bench") -> Subject:
    """Kubeflow Trainer's controller, with its own defaults, but on loopback and without certificates of its own.

    Its child of a TrainJob is a JobSet, of which another controller would make the Job: that one is not run.
    """
    group = "trainer.kubeflow.org/v1alpha1"
    config = {
        "apiVersion": "config.trainer.kubeflow.org/v1alpha1",
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": "127.0.0.1:0"},
        "metrics": {"bindAddress": "127.0.0.1:{port}", "secureServing": False},
        "webhook": {"port": "{other}", "host": "127.0.0.1"},
        "certManagement": {"enable": False},
        "controller": {"groupKindConcurrency": {"TrainJob.trainer.kubeflow.org": 5}},
    }
    pod = {"containers": [{"name": "node", "image": "trainer"}]}
    job = {
        "name": "node",
        "template": {
            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
            "spec": {"template": {"spec": pod}},
        },
    }
    training_runtime = {
        "apiVersion": group,
        "kind": "ClusterTrainingRuntime",
        "metadata": {"name": runtime},
        "spec": {
            "mlPolicy": {"numNodes": 1, "torch": {"numProcPerNode": "auto"}},
            "template": {"spec": {"replicatedJobs": [job]}},
        },
    }
    return Subject(
        name="Kubeflow Trainer",
        objects=f"/apis/{group}/namespaces/{{namespace}}/trainjobs",
        children=("/apis/jobset.x-k8s.io/v1alpha2/namespaces/{namespace}/jobsets", ""),
        manifest={"apiVersion": group, "kind": "TrainJob", "spec": {"runtimeRef": {"name": runtime}}},
        ended={},
        needs=[*crds, Path("runtime.yaml")],
        command=(str(binary), "--config", "{folder}/config.yaml", "--zap-log-level", "error"),
        environment={"TMPDIR": "{folder}"},
        files={"config.yaml": config, "runtime.yaml": training_runtime},
        looked=r'controller_runtime_reconcile_total\{controller="trainjob_controller",result="success"\}',
        waiting=r'workqueue_depth\{controller="trainjob_controller",name="trainjob_controller"[^}]*\}',
    )


def _ended() -> Manifest:
    """The status of an object whose adapter is published."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    reasons = {"DatasetInspected": "True", "Reconciling": "False", "Stalled": "False", "Succeeded": "True"}
    common = {"reason": "Succeeded", "lastTransitionTime": now, "observedGeneration": 1, "message": "AP 0.31 -> 0.52"}
    adapter = {"uri": "s3://bench/adapters/a/0123456789ab/teachers/sam_lora", "sha256": "0" * 64, "sizeBytes": 1 << 23}
    attempt = {"pod": "a-grounding-dino-x2kxj", "node": "gpu-1", "startTime": now, "endTime": now, "exitCode": 0}
    teacher = {
        "name": "GroundingDino",
        "state": "Succeeded",
        "message": "AP 0.31 -> 0.52",
        "startTime": now,
        "completionTime": now,
        "attempts": [attempt],
        "attemptCount": 1,
        "progress": {"percent": 100, "step": 900, "steps": 900, "epoch": "3.00", "epochs": 3, "loss": "0.31"},
        "apBefore": "0.310",
        "apAfter": "0.520",
        "adapter": adapter,
    }
    dataset = {
        "digest": "0" * 64,
        "images": 1000,
        "annotations": 5000,
        "masks": 0,
        "hasBoxes": True,
        "hasMasks": False,
        "classCount": 2,
        "classes": ["forklift", "pallet"],
    }
    return {
        "observedGeneration": 1,
        "conditions": [{"type": kind, "status": status, **common} for kind, status in reasons.items()],
        "runId": "0123456789ab",
        "uri": "s3://bench/adapters/a/0123456789ab",
        "configUri": "s3://bench/adapters/a/0123456789ab/teacher_config.yaml",
        "startTime": now,
        "completionTime": now,
        "dataset": dataset,
        "teachers": [teacher],
    }


class Running:
    """A subject, as a process."""

    def __init__(self, subject: Subject, kubeconfig: Path, folder: Path) -> None:
        self.subject, self.port = subject, free_port()
        words = {"port": self.port, "other": free_port(), "folder": folder}
        prepare(subject, folder, words)
        environment = os.environ | {"KUBECONFIG": str(kubeconfig)}
        environment |= {name: _filled(value, words) for name, value in subject.environment.items()}
        self.begun = time.monotonic()
        with (folder / "log").open("ab") as log:
            command = [_filled(word, words) for word in subject.command]
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, preexec_fn=die_with_parent
            )
        self.log = folder / "log"
        self._seen = psutil.Process(self._process.pid)

    def check(self) -> None:
        """RuntimeError with the end of its log if it has ended by itself."""
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.subject.name} has ended:\n{self.log.read_text()[-3000:]}")

    async def idle_after(self, looks: int) -> bool:
        """Whether it has looked at this many objects, and none waits."""
        self.check()
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{self.port}/metrics") as answer,
            ):
                text = await answer.text()
        except aiohttp.ClientError:
            return False
        return total(text, self.subject.looked) >= looks and total(text, self.subject.waiting) == 0

    def memory_mb(self) -> dict[str, float]:
        """Resident memory now, and the most that there was."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = {name: re.search(rf"{field}:\s+(\d+)", status) for name, field in MEMORY.items()}
        return {name: int(number[1]) / 1024 for name, number in found.items() if number}

    def cpu_seconds(self) -> float:
        """CPU time that it has taken."""
        times = self._seen.cpu_times()
        return times.user + times.system

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def prepare(subject: Subject, folder: Path, words: Mapping[str, Any]) -> None:
    """Write the files of a subject, and a certificate for its webhooks, where controllers look for one."""
    if not subject.files:
        return
    certificates = folder / "k8s-webhook-server" / "serving-certs"
    certificates.mkdir(parents=True, exist_ok=True)
    write_certificate(certificates / "tls.crt", certificates / "tls.key")
    for name, content in subject.files.items():
        text = _filled(yaml.safe_dump(content), words)
        (folder / name).write_text(re.sub(r"'(\d+)'", r"\1", text))


def total(text: str, pattern: str) -> float:
    """The sum of the metrics whose name and labels match a pattern."""
    return sum(float(value) for value in re.findall(rf"^{pattern} (\S+)$", text, re.MULTILINE))


def _filled(text: str, words: Mapping[str, Any]) -> str:
    for name, value in words.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text
