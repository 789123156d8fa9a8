"""Commands of the end-to-end tests, and their record for the tutorial."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "teacher-finetune"
EXAMPLES = ROOT / "examples"
SYSTEM, TEAM = "teacher-system", "vision"


@dataclass
class Walk:
    """Run commands and record them with their output."""

    path: Path | None
    lines: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Record a paragraph or a heading."""
        self.lines += [text, ""]
        self._save()

    def run(self, command: str, *, stdin: str | None = None, check: bool = True, quiet: bool = False) -> str:
        """Run a command line and return its output."""
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-c", command], input=stdin, capture_output=True, text=True, check=False, env=environment, cwd=ROOT
        )
        if not quiet:
            self.lines += ["```console", f"$ {command}", *(done.stdout + done.stderr).rstrip().splitlines(), "```", ""]
            self._save()
        if check:
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _save(self) -> None:
        if self.path is not None:
            self.path.write_text("\n".join(self.lines).rstrip() + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Cluster:
    """Asks the cluster without writing it down."""

    walk: Walk

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """An object of the team's."""
        text = self.walk.run(f"kubectl -n {TEAM} get {kind} {name} -o json", quiet=True)
        found: dict[str, Any] = json.loads(text)
        return found

    def condition(self, name: str, kind: str = "Succeeded") -> dict[str, Any]:
        """A condition of a TeacherFineTune; empty before there is one."""
        conditions = self.get("tft", name).get("status", {}).get("conditions", [])
        return next((one for one in conditions if one["type"] == kind), {})

    def until(self, name: str, holds: Callable[[dict[str, Any]], bool], *, seconds: float) -> dict[str, Any]:
        """Wait until the summary of a TeacherFineTune is so."""
        deadline = time.monotonic() + seconds
        while True:
            condition = self.condition(name)
            if condition and holds(condition):
                return condition
            if time.monotonic() > deadline:
                describe = self.walk.run(
                    f"kubectl -n {TEAM} describe tft {name}; kubectl -n {TEAM} get pods", quiet=True
                )
                raise AssertionError(f"{name} does not get there: {condition}\n{describe}")
            time.sleep(2)

    def refuses(self, command: str, saying: str, *, seconds: float) -> None:
        """Wait until a command is refused with some words: a policy takes a moment to be in force."""
        deadline = time.monotonic() + seconds
        while saying not in (said := self.walk.run(f"{command} 2>&1", quiet=True, check=False)):
            assert time.monotonic() < deadline, said
            time.sleep(1)
