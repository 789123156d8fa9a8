"""The operator as measured by ``operator_scale.py``: a process with a kubeconfig, its objects, and its metrics."""

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
from control_plane import die_with_parent, free_port

ROOT = Path(__file__).resolve().parents[1]

MEMORY = {"resident_mb": "VmRSS", "peak_mb": "VmHWM"}

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A controller that creates a child for each of its objects.

    Attributes:
        name: Name in the table.
        objects: API path of its kind, with ``{namespace}``.
        children: API path of the kind of the children, and a label selector.
        manifest: Minimal object without metadata.
        ended: Status of a succeeded object.
        needs: Manifests that are applied before it starts.
        command: Command line of the controller.
        looked: Pattern of the metric that counts reconciliations.
        waiting: Pattern of the metric with the number of queued objects.
        environment: Environment variables of the controller.

    ``command`` and ``environment`` may contain ``{port}``.
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

    @property
    def resource(self) -> str:
        """Plural name of the kind."""
        return self.objects.rsplit("/", 1)[1]

    def body(self, name: str) -> Manifest:
        """Return the manifest of an object."""
        return {**self.manifest, "metadata": {"name": name}}


def ours() -> Subject:
    """Return the operator of this repository with its defaults."""
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


def _ended() -> Manifest:
    """Return the status of an object whose adapter is published."""
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
        "metrics": [{"name": "ap", "before": "0.310", "after": "0.520"}],
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
    """Process of a subject."""

    def __init__(self, subject: Subject, kubeconfig: Path, folder: Path) -> None:
        self.subject, self.port = subject, free_port()
        words = {"port": self.port}
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
        """Raise RuntimeError with the end of the log if the process has exited."""
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.subject.name} has exited:\n{self.log.read_text()[-3000:]}")

    async def idle_after(self, looks: int) -> bool:
        """Test if it has reconciled at least ``looks`` times and its queue is empty."""
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
        """Return current and peak resident memory."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = {name: re.search(rf"{field}:\s+(\d+)", status) for name, field in MEMORY.items()}
        return {name: int(number[1]) / 1024 for name, number in found.items() if number}

    def cpu_seconds(self) -> float:
        """Return the CPU time used so far."""
        times = self._seen.cpu_times()
        return times.user + times.system

    def stop(self) -> None:
        """Terminate the process."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def total(text: str, pattern: str) -> float:
    """Sum the metrics whose name and labels match a pattern."""
    return sum(float(value) for value in re.findall(rf"^{pattern} (\S+)$", text, re.MULTILINE))


def _filled(text: str, words: Mapping[str, Any]) -> str:
    for name, value in words.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text
