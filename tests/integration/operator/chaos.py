"""Many runs with everything that can befall them, and what has to be true of them at every moment and at the end."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
import outcomes
from world import Body, RefusedError, World, condition, part_of

from engine.spec import TeacherName

DINO, SAM = TeacherName.GROUNDING_DINO, TeacherName.SAM
INSPECT = "inspect"
SECONDS = 2.0
"""Longest life of a pod, and longest wait for a node."""

USER_SECONDS = 900.0
"""Longest wait of a user for a state: an operator that is killed all the time, on a busy machine, takes long."""

AWAY = (RefusedError, OSError, aiohttp.ClientError)
"""What a request comes to while the API server is away."""


@dataclass(frozen=True)
class Script:
    """What befalls a run, and how it has to end.

    Attributes:
        teachers: What its data calls for.
        codes: Of each part the exit codes of its first attempts; later ones end well.
        end: Reason of the summary in the end; empty if the object is deleted.
        pods: How many pods are made in all.
        suspended: It is suspended while it trains, and let go on.
    """

    teachers: Sequence[TeacherName]
    end: str = "Succeeded"
    codes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    pods: int = 2
    suspended: bool = False


SCRIPTS = {
    "boxes": Script(outcomes.BOXES),
    "both": Script(outcomes.BOTH, pods=3),
    "nan": Script(outcomes.BOXES, "LossNotFinite", {part_of(DINO): (45,)}),
    "bad": Script(outcomes.BOXES, "DataInvalid", {INSPECT: (41,)}, pods=1),
    "again": Script(outcomes.BOXES, codes={part_of(DINO): (43,)}, pods=3),
    "moved": Script(outcomes.BOTH, codes={part_of(SAM): (143,)}, pods=4),
    "paused": Script(outcomes.BOXES, suspended=True, pods=3),
    "gone": Script(outcomes.BOTH, ""),
}


class Chaos:
    """Users, kubelets and a witness of one world.

    Args:
        world: Where it all happens.
        count: How many runs.
        seed: Of what happens when.
        every: Seconds between two new runs.

    Attributes:
        wrong: What must not be, one sentence each.
        late: Jobs that outlived their object for a moment, or were made when it had just gone.
    """

    def __init__(self, world: World, *, count: int, seed: int, every: float = 0.5) -> None:
        self.world, self.every, self.random = world, every, random.Random(seed)
        names = list(SCRIPTS)
        self.runs = {f"{names[i % len(names)]}-{i:03}": SCRIPTS[names[i % len(names)]] for i in range(count)}
        self.created: set[str] = set()
        self.wrong: list[str] = []
        self.late: set[str] = set()
        self._begun: set[str] = set()
        self._stopping: set[str] = set()
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._jobs: dict[str, set[str]] = defaultdict(set)
        self._pods: dict[str, set[str]] = defaultdict(set)
        self._ends: dict[str, tuple[str, str]] = {}

    async def play(self, *more: Callable[[], Awaitable[None]], patience: float = 600) -> None:
        """All of it, to the end; ``more`` is what breaks things, and is over before the end is looked at."""
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            kubelets, witness = group.create_task(self._kubelets(over)), group.create_task(self._watch(over))
            users = [group.create_task(self._user(run, number)) for number, run in enumerate(self.runs)]
            try:
                await asyncio.gather(*users, *(one() for one in more))
                await self.world.until(self._all_ended, "all runs have ended", seconds=patience)
                await self.world.until(self._nothing_left, "nothing is left of what was deleted", seconds=120)
            finally:
                over.set()
            await asyncio.gather(kubelets, witness)
        await self._judge()

    def summary(self) -> str:
        """What came of it."""
        ends = Counter(reason for _, reason in self._ends.values())
        gone = sum(not script.end for script in self.runs.values())
        made = sum(map(len, self._jobs.values())), sum(map(len, self._pods.values()))
        ended = f"deleted {gone}, {dict(ends)}; wrong {len(self.wrong)}"
        return f"{len(self.runs)} runs, {made[0]} Jobs, {made[1]} pods; {ended}"

    async def _user(self, run: str, number: int) -> None:
        await asyncio.sleep(number * self.every)
        await self._insist(lambda: self.world.create(run, backoffLimit=3))
        self.created.add(run)
        script = self.runs[run]
        if not script.end:
            await asyncio.sleep(self.random.uniform(0, 12))
            how = self.random.choice(["Background", "Foreground"])
            await self._insist(lambda: self.world.delete("teacherfinetunes", run, propagationPolicy=how))
        elif script.suspended:
            await self._insist(lambda: self.world.reaches(run, "Training", seconds=USER_SECONDS))
            await self._insist(lambda: self.world.edit(run, suspend=True))
            await self._insist(lambda: self.world.reaches(run, "Suspended", seconds=USER_SECONDS))
            await self._insist(lambda: self.world.edit(run, suspend=False))

    async def _insist(self, ask: Callable[[], Awaitable[object]]) -> None:
        """As a user would whose kubectl was told to try again."""
        while True:
            try:
                await ask()
            except RefusedError as error:
                if error.code in {404, 409}:
                    return  # it had arrived
                await asyncio.sleep(0.5)
            except (OSError, aiohttp.ClientError):
                await asyncio.sleep(0.5)
            else:
                return

    async def _kubelets(self, over: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            while not over.is_set():
                for pod in await self._all("pods"):
                    name, ends = pod["metadata"]["uid"], "deletionTimestamp" in pod["metadata"]
                    if ends and name not in self._stopping:
                        self._stopping.add(name)
                        group.create_task(self._quietly(self.world.stops(pod)))
                    elif not ends and pod["status"].get("phase") == "Pending" and name not in self._begun:
                        self._begun.add(name)
                        group.create_task(self._quietly(self._run(pod)))
                await asyncio.sleep(0.3)

    async def _quietly(self, work: Awaitable[None]) -> None:
        """What happens to a pod that is gone, or while the API server is, is no failure of a kubelet."""
        with contextlib.suppress(*AWAY):
            await work

    async def _run(self, pod: Body) -> None:
        labels, uid = pod["metadata"]["labels"], pod["metadata"]["uid"]
        run = labels["finetune.dev/run"]
        part = labels["batch.kubernetes.io/job-name"].removeprefix(f"{run}-")
        script = self.runs[run]
        await asyncio.sleep(self.random.uniform(0, SECONDS))
        await self._insist(lambda: self.world.runs(pod))
        waits_for_user = script.suspended and part != INSPECT and not self._attempts[run, part]
        if waits_for_user:  # until its run is suspended, however long the operator takes to see it train
            while uid not in self._stopping:
                await asyncio.sleep(0.2)
        await asyncio.sleep(self.random.uniform(0, SECONDS))
        if uid in self._stopping:
            self._attempts[run, part] += 1
            return
        number = self._attempts[run, part]
        self._attempts[run, part] += 1
        codes = script.codes.get(part, ())
        if number < len(codes):
            code = codes[number]
            if code == 143:
                await self._insist(lambda: self.world.disrupted(pod, "PreemptionByScheduler", "preempted"))
            left = outcomes.failure(code, f"ended with {code}")
            await self._insist(lambda: self.world.fails(pod, code, message=left))
        elif part == INSPECT:
            await self._insist(lambda: self.world.succeeds(pod, outcomes.prepared(run, script.teachers)))
        else:
            teacher = DINO if part == part_of(DINO) else SAM
            await self._insist(lambda: self.world.succeeds(pod, outcomes.trained(run, teacher)))

    async def _all(self, plural: str) -> list[Body]:
        while True:
            try:
                return await self.world.all(plural)
            except AWAY:
                await asyncio.sleep(0.3)

    async def _watch(self, over: asyncio.Event) -> None:
        while not over.is_set():
            self._see(await self._all("jobs"), await self._all("pods"), await self._all("teacherfinetunes"))
            await asyncio.sleep(0.2)

    def _see(self, jobs: list[Body], pods: list[Body], objects: list[Body]) -> None:
        there = {body["metadata"]["name"] for body in objects}
        for job in jobs:
            name, uid, run = (
                job["metadata"]["name"],
                job["metadata"]["uid"],
                job["metadata"]["labels"]["finetune.dev/run"],
            )
            if run in self.created and run not in there:
                self.late.add(uid)  # the garbage collector takes it away
            elif self._jobs[name] and uid not in self._jobs[name]:
                self._say(f"doubled: Job {name} was made twice")
            self._jobs[name].add(uid)
        trains: dict[str, set[str]] = defaultdict(set)
        for pod in pods:
            labels = pod["metadata"]["labels"]
            self._pods[labels["finetune.dev/run"]].add(pod["metadata"]["uid"])
            if pod["status"].get("phase") == "Running" and labels["finetune.dev/component"] != INSPECT:
                trains[labels["finetune.dev/run"]].add(pod["metadata"]["name"])
        for run, names in trains.items():
            if len(names) > 1:
                self._say(f"doubled: {', '.join(sorted(names))} of {run} train at once")
        for body in objects:
            summary = condition(body.get("status") or {}, "Succeeded")
            if summary.get("status") in {"True", "False"}:
                run, end = body["metadata"]["name"], (summary["status"], summary["reason"])
                if self._ends.setdefault(run, end) != end:
                    self._say(f"ended twice: {run}, {self._ends[run]} and {end}")

    def _say(self, sentence: str) -> None:
        if sentence not in self.wrong:
            self.wrong.append(sentence)

    async def _all_ended(self) -> bool:
        there = {body["metadata"]["name"]: body.get("status") or {} for body in await self._all("teacherfinetunes")}
        alive = {run for run, script in self.runs.items() if script.end}
        ended = {run for run in alive if condition(there.get(run, {}), "Succeeded").get("status") in {"True", "False"}}
        return ended == alive

    async def _nothing_left(self) -> bool:
        gone = {run for run, script in self.runs.items() if not script.end}
        for plural in ("teacherfinetunes", "jobs", "pods", "configmaps"):
            for body in await self._all(plural):
                name = body["metadata"].get("labels", {}).get("finetune.dev/run") or body["metadata"]["name"]
                if name in gone:
                    return False
        return True

    async def _judge(self) -> None:
        for body in await self._all("teacherfinetunes"):
            run, status = body["metadata"]["name"], body["status"]
            script, summary = self.runs[run], condition(status, "Succeeded")
            if summary["reason"] != script.end:
                self._say(f"wrong end: {run} is {summary['reason']}, not {script.end}: {summary['message']}")
            if script.end == "Succeeded":
                uris = {one["name"]: (one.get("adapter") or {}).get("uri") for one in status["teachers"]}
                if uris != {name.value: outcomes.adapter_uri(run, name) for name in script.teachers}:
                    self._say(f"lost: the adapters of {run} are {uris}")
            if len(self._pods[run]) != script.pods:
                self._say(f"in vain: {run} had {len(self._pods[run])} pods, not {script.pods}")
