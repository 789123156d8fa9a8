"""Stands in for the scheduler and the kubelets where GPUs are few: what is bound holds its GPU until it has ended."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import outcomes
from world import Body, RefusedError, World

from engine.spec import TeacherName

INDEX = "batch.kubernetes.io/job-completion-index"
COMPONENT, RUN = "finetune.dev/component", "finetune.dev/run"


class Scheduler:
    """Binds the pods of trainers, each of which needs one GPU, and lets those train whose run is complete.

    It places the first pods of all runs before any second one: the order in which runs block each other.

    Args:
        world: Where the pods are.
        gpus: How many there are.
        nodes: Pods of each run.
    """

    def __init__(self, world: World, *, gpus: int, nodes: int) -> None:
        self.world, self.gpus, self.nodes = world, gpus, nodes
        self.trainers_end = True
        """Trainers of a complete run end; else they run on."""
        self.most_held = 0
        self.partial: set[str] = set()
        """Runs some of whose pods held a GPU while others had none."""
        self._refused: set[str] = set()

    async def step(self) -> None:
        """Whatever scheduler, kubelets and trainers have to do now."""
        pods = [pod for pod in await self.world.all("pods") if pod["metadata"]["labels"].get(COMPONENT) == "trainer"]
        for pod in pods:
            if "deletionTimestamp" in pod["metadata"] and not _over(pod):
                await self.world.stops(pod)
        live = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and not _over(pod)]
        held = sum(bool(pod["spec"].get("nodeName")) for pod in live)
        free = self.gpus - held
        for pod in sorted(live, key=lambda pod: (pod["metadata"]["labels"].get(INDEX, "0"), pod["metadata"]["name"])):
            if pod["spec"].get("nodeName"):
                continue
            if free > 0:
                free -= 1
                await self.world.runs(pod)
            elif pod["metadata"]["name"] not in self._refused:
                self._refused.add(pod["metadata"]["name"])
                await self.world.unschedulable(pod, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
        self.most_held = max(self.most_held, self.gpus - free)
        await self._train()

    async def _train(self) -> None:
        runs: dict[str, list[Body]] = defaultdict(list)
        for pod in await self.world.all("pods"):
            labels = pod["metadata"]["labels"]
            if labels.get(COMPONENT) == "trainer" and pod["status"].get("phase") == "Running":
                runs[labels[RUN]].append(pod)
        for run, pods in runs.items():
            if len(pods) == self.nodes and not any("deletionTimestamp" in pod["metadata"] for pod in pods):
                for pod in pods if self.trainers_end else ():
                    await self.world.succeeds(pod, outcomes.trained(run, TeacherName.GROUNDING_DINO))
            else:
                self.partial.add(run)

    async def work(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self.step()
            except RefusedError as error:  # a pod was taken away meanwhile: the next look shows it
                if error.code not in (404, 409):
                    raise
            await asyncio.sleep(0.05)


def _over(pod: Body) -> bool:
    phase: Any = pod["status"].get("phase")
    return phase in ("Succeeded", "Failed")
