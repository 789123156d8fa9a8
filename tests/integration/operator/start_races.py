"""Pods that are stopped in their first seconds, each at another moment, and kubelets that end them in any way.

``START_RACES=1000 python -m pytest tests/integration/operator/test_start_races.py -m slow`` plays a thousand of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import outcomes
from world import Body, RefusedError, World, condition, moment

from engine.spec import TeacherName

STEP_SECONDS, SPAN_SECONDS = 0.1, 5.0
MOMENTS = round(SPAN_SECONDS / STEP_SECONDS)
BOUND, CREATING, RUNNING, DONE = 0.5, 1.0, 2.0, 8.0
"""The life of a pod, in seconds since it was made: it has a node, its container is made, runs, and ends well."""

INSPECT, TRAINER = "inspect", "grounding-dino"
WAYS = ("suspend", "delete", "drain", "preempt")
CODES = (0, 1, 2, 128, 137, 143, 255)
LEFT = ("nothing", "log", "outcome")
ENDS = [(code, left) for left in LEFT for code in CODES]


@dataclass(frozen=True)
class Race:
    """One run, one of whose pods is stopped once.

    Attributes:
        number: All else follows from it.
        part: The pod of inspection or of the trainer.
        way: How it is stopped.
        at: Seconds since the pod was made.
        code: Exit code of its container.
        left: Nothing, a log, or an outcome, which for exit code 0 is the result.
        told: The node reports how the container ended; else only that the pod has failed.
        retries: ``spec.backoffLimit``.
    """

    number: int
    part: str
    way: str
    at: float
    code: int
    left: str
    told: bool
    retries: int

    @classmethod
    def of(cls, number: int) -> Race:
        """Return one of a thousand: each moment has each way five times, with other ends."""
        moment, cell = number % MOMENTS, number // MOMENTS
        code, left = ENDS[(number * 8 + cell) % len(ENDS)]
        return cls(
            number=number,
            part=(INSPECT, TRAINER)[(number + cell // len(WAYS)) % 2],
            way=WAYS[cell % len(WAYS)],
            at=moment * STEP_SECONDS,
            code=code,
            left=left,
            told=number % 7 != 0,
            retries=3 * (cell // 2 % 2),
        )

    @property
    def run(self) -> str:
        return f"race-{self.number:04}"


class Races:
    """Plays some of them at a time.

    Args:
        world: Where.
        races: Which.
        scale: A second of the stop's moment, and of a pod's life, takes so many.

    Attributes:
        lost: Runs that have ended otherwise than well, with the reason.
        asked: How many pods somebody set out to stop.
        stopped: How many pods were being deleted or disrupted before they ended.
    """

    def __init__(self, world: World, races: Sequence[Race], *, scale: float = 1.0) -> None:
        self.world, self.scale = world, scale
        self.races = {race.run: race for race in races}
        self.lost: dict[str, str] = {}
        self.asked = self.stopped = 0
        self._born: dict[str, float] = {}
        self._first: dict[str, str] = {}
        """The pods that are stopped, by runs."""
        self._busy: set[str] = set()
        self._reached: dict[str, float] = defaultdict(float)

    async def play(self, *, seconds: float) -> None:
        """Make the objects and play until each has ended, then delete them."""
        world = self.world
        await asyncio.gather(*(world.create(race.run, backoffLimit=race.retries) for race in self.races.values()))
        left, deadline = set(self.races), time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            while left:
                for pod in await world.all("pods"):
                    self._meet(pod, group)
                for body in await world.all("teacherfinetunes"):
                    run, summary = body["metadata"]["name"], condition(body.get("status") or {}, "Succeeded")
                    if run in left and summary.get("status") in {"True", "False"}:
                        left.discard(run)
                        if summary["status"] == "False":
                            self.lost[run] = f"{self.races[run]}: {summary['reason']}: {summary['message']}"
                assert time.monotonic() < deadline, f"not ended: {[self.races[run] for run in sorted(left)]}"
                await asyncio.sleep(0.05 if self.scale < 1 else 0.1)
        for run in self.races:
            await world.delete("teacherfinetunes", run, propagationPolicy="Background")

    def _meet(self, pod: Body, group: asyncio.TaskGroup) -> None:
        """A pod as it is listed now: something is to happen to it, one thing at a time."""
        metadata, name = pod["metadata"], pod["metadata"]["name"]
        run = metadata["labels"]["finetune.dev/run"]
        if run not in self.races or name in self._busy:
            return
        race = self.races[run]
        if name not in self._born:
            self._born[name] = time.monotonic()
            if metadata["labels"]["batch.kubernetes.io/job-name"] == f"{run}-{race.part}" and run not in self._first:
                self._first[run] = name
                group.create_task(self._stop(race, pod))
        self._busy.add(name)
        group.create_task(self._act(race, pod))

    async def _stop(self, race: Race, pod: Body) -> None:
        """Stop it at the race's moment."""
        self.asked += 1
        await asyncio.sleep(race.at * self.scale)
        world, name = self.world, pod["metadata"]["name"]
        with contextlib.suppress(RefusedError):  # it may be gone, or have ended well
            if race.way == "suspend":
                await world.edit(race.run, suspend=True)
                await asyncio.sleep((0.1 + race.number % 5 * 0.3) * self.scale)
                await world.edit(race.run, suspend=False)
                return
            if race.way == "drain":
                await world.disrupted(pod, "EvictionByEvictionAPI", "Eviction API: evicting")
            if race.way == "preempt":
                await world.disrupted(pod, "PreemptionByScheduler", "preempting to accommodate a higher priority pod")
            await world.delete("pods", name)

    async def _act(self, race: Race, pod: Body) -> None:
        """Do to it what the scheduler and the kubelet would do next."""
        name = pod["metadata"]["name"]
        try:
            with contextlib.suppress(RefusedError):
                await self._next(race, pod)
        finally:
            self._busy.discard(name)

    async def _next(self, race: Race, pod: Body) -> None:
        world, name, over = self.world, pod["metadata"]["name"], pod["status"].get("phase") in ("Succeeded", "Failed")
        if "deletionTimestamp" in pod["metadata"]:
            if not over and pod["spec"].get("nodeName"):
                self.stopped += 1
                await self._end(race, pod)
            await world.vanishes(pod)
            return
        if over:
            return
        quick = self._first.get(race.run) != name
        age, stage = (time.monotonic() - self._born[name]) / self.scale, self._reached[name]
        due = max((one for one in (BOUND, CREATING, RUNNING, DONE) if quick or one <= age), default=0.0)
        if due <= stage:
            return
        self._reached[name] = due
        if due >= DONE:
            await world.succeeds(pod, self._result(race, pod))
        elif due >= RUNNING:
            await world.runs(pod)
        elif due >= CREATING:
            await world.waits(pod, "ContainerCreating", "")
        else:
            await world.schedule(pod)

    async def _end(self, race: Race, pod: Body) -> None:
        """The kubelet ends the container, as it does of a pod that is being deleted."""
        phase, message = "Failed" if race.code else "Succeeded", ""
        if race.left == "outcome":
            failed = outcomes.failure(143 if race.code == 143 else 43, "stopped as it started")
            message = failed if race.code else self._result(race, pod)
        elif race.left == "log":
            await self.world.says(pod, "standard_init_linux.go: exec user process")
            message = "standard_init_linux.go: exec user process\n" if race.code else ""
        if not race.told:
            await self.world.report(pod, phase="Failed")
            return
        end = {"exitCode": race.code, "reason": "Error" if race.code else "Completed", "message": message}
        await self.world.report(pod, {"terminated": end | {"startedAt": moment(), "finishedAt": moment()}}, phase=phase)

    def _result(self, race: Race, pod: Body) -> str:
        inspects = pod["metadata"]["labels"]["finetune.dev/component"] == INSPECT
        return outcomes.prepared(race.run) if inspects else outcomes.trained(race.run, TeacherName.GROUNDING_DINO)
