"""Simulate runs over several nodes that compete for GPUs without Kueue: GPU time lost until all have ended.

    python benchmarks/gang_wait.py --runs 2 3 5 10 20

Two GPUs, runs of two nodes with one GPU each and an hour of training. The scheduler binds waiting pods in random order.
When a Job gives its GPUs back, and for how long, is the operator's own rule: ``teacher_operator.decide.gang``.
GPU time lost: GPUs times the time until the last run has ended, minus the hours of training.
"""

from __future__ import annotations

import argparse
import random
import statistics
import uuid
from dataclasses import dataclass, field
from typing import Any

from teacher_operator.api.names import GANG, SUSPENDED
from teacher_operator.api.timestamps import seconds
from teacher_operator.decide import gang
from teacher_operator.decide.job_state import JobView

GPUS, NODES, TRAINING_SECONDS, TIMEOUT, STEP = 2, 2, 3600.0, 300.0, 5.0


@dataclass
class Run:
    """A Job over two nodes."""

    uid: str
    bound: int = 0
    since: float = 0.0
    trained: float | None = None
    annotations: dict[str, Any] = field(default_factory=dict)
    paused_until: float = 0.0

    @property
    def view(self) -> JobView:
        """The Job as the operator sees it."""
        metadata = {"name": self.uid, "namespace": "", "uid": self.uid, "annotations": self.annotations}
        return JobView({"metadata": metadata, "spec": {}})


def lost_seconds(count: int, rng: random.Random) -> float:
    """Simulate ``count`` runs; return the GPU seconds lost until all have ended."""
    runs = [Run(str(uuid.UUID(int=rng.getrandbits(128)))) for _ in range(count)]
    now = 0.0
    while any(run.trained is None or now < run.trained for run in runs):
        active = [run for run in runs if run.trained is None and now >= run.paused_until]
        free = GPUS - sum(run.bound for run in runs if run.trained is None or now < run.trained)
        waiting = [run for run in active for _ in range(NODES - run.bound)]
        for run in rng.sample(waiting, min(free, len(waiting))):
            run.since = max(run.since, now)
            run.bound += 1
        for run in active:
            if run.bound == NODES:
                run.trained = now + TRAINING_SECONDS
            elif run.bound and now >= gang.due(gang.Partial((), NODES, run.since), run.view, timeout=TIMEOUT):
                release(run, now)
        now += STEP
    return GPUS * now - count * NODES * TRAINING_SECONDS


def release(run: Run, now: float) -> None:
    """Give the GPUs of a run back, as the operator does."""
    patch = gang.release(run.view, timeout=TIMEOUT, since=run.since, now=now)
    run.annotations = {**run.annotations, **patch["metadata"]["annotations"]}
    again = gang.Rounds.of({"metadata": {"annotations": {GANG: run.annotations[GANG]}}}).again
    assert run.annotations[SUSPENDED] == "true"
    run.paused_until = seconds(again) or now
    run.bound, run.since = 0, 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[2, 3, 5, 10, 20])
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args()
    print("| runs | GPU minutes lost, median | 90th percentile |\n| --- | --- | --- |")
    for count in options.runs:
        lost = sorted(lost_seconds(count, random.Random(seed)) / 60 for seed in range(options.repeats))
        print(f"| {count} | {statistics.median(lost):.0f} | {lost[int(0.9 * len(lost))]:.0f} |")


if __name__ == "__main__":
    main()
