"""Runs one stage of a run as a child process, with the same command and outcome file as on a cluster."""

from __future__ import annotations

import signal
from pathlib import Path

from engine.errors import EXIT_ERRORS, InterruptedTrainingError, TeacherError
from engine.processes import child_process
from engine.processes.signals import KILLED_BY_CTRL_C
from engine.processes.supervisor import SIGNALLED, Child, supervise
from engine.results.events import Listener, parse_line
from engine.results.outcome import Outcome, parse_outcome
from engine.stages import Stage, StageInput

USAGE = 2
"""Exit code of a command that was given an option or argument that it does not have."""

STOPPED = (*(SIGNALLED + number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)), KILLED_BY_CTRL_C)


def run_stage(stage: Stage, given: StageInput, *, listener: Listener, work_dir: Path) -> Outcome:
    """Execute a stage as a child process and pass its events to ``listener``.

    SIGTERM and Ctrl-C let it take a checkpoint. It ends with this process.

    Args:
        stage: The stage.
        given: What its command reads.
        listener: Receives the progress events.
        work_dir: Scratch folder, which has the outcome afterwards.

    Returns:
        The outcome, with the result of the stage.

    Raises:
        TeacherError: The subclass that its exit code stands for, with the message of its outcome.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    file = outcome_file(stage, work_dir)
    file.unlink(missing_ok=True)
    scratch = ("--work-dir", str(work_dir), "--progress", "json") if stage.uses_gpu else ()
    words = (*stage.arguments(given), *scratch, "--outcome", str(file))

    def read(line: str) -> None:
        event = parse_line(line)
        if event is not None:
            listener(event)

    child = Child(child_process.command(*words), child_process.environment(), file)
    ended = supervise([child], on_line=read)
    outcome = read_outcome(stage, work_dir)
    if ended.exit_code != 0:
        raise _failure_of(stage, ended.exit_code, outcome)
    if outcome is None or stage.result(outcome) is None:
        raise TeacherError(
            f"{stage.title} ended with exit code 0 and left no result in {file}: its command "
            "must write an Outcome there"
        )
    return outcome


def outcome_file(stage: Stage, work_dir: Path) -> Path:
    """Return the file with the outcome of a stage."""
    return work_dir / f"{stage.slug}.outcome.json"


def read_outcome(stage: Stage, work_dir: Path) -> Outcome | None:
    """Return the outcome that the last process of a stage left; None if it left none."""
    try:
        return parse_outcome(outcome_file(stage, work_dir).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def _failure_of(stage: Stage, code: int, outcome: Outcome | None) -> TeacherError:
    """Return the error of an exit code, with the message of the outcome if there is one."""
    error = InterruptedTrainingError if code in STOPPED else EXIT_ERRORS.get(code, TeacherError)
    if outcome is not None and outcome.message:
        return error(outcome.message)
    if code == SIGNALLED + signal.SIGKILL:
        return error(
            f"the process of {stage.title} was killed: most likely this machine ran out of memory. The same command "
            "resumes from the last checkpoint"
        )
    if code == USAGE:
        scratch = "--work-dir, --progress and " if stage.uses_gpu else ""
        return error(
            f"the process of {stage.title} ended with exit code {code}: its command refused its options, see the log. "
            f"The command of a stage must accept {scratch}--outcome FILE, and write an Outcome to that file"
        )
    signals = {SIGNALLED + number: number.name for number in signal.Signals}
    return error(f"the process of {stage.title} ended with {signals.get(code) or f'exit code {code}'}")
