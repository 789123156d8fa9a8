"""Measure the operator with many objects on a real API server.

    python benchmarks/operator_scale.py --objects 1000 5000 10000

Starts etcd and an API server (``KUBEBUILDER_ASSETS``), or uses the cluster of KUBECONFIG. There are no nodes and no
other controllers: the time from an object to its first Job is measured. For each size, in this order:

- *backlog*: most objects are created before the operator starts: Jobs created per second;
- *arrivals*: the other objects are created at a rate, the same for all sizes: time from the request to the Job in a
  watch;
- *restart*: the operator restarts with all objects: seconds until each is reconciled, and the number of writes.

At the end all objects have succeeded, and their cost per minute is measured. Writes and requests are counted by the API
server, without those of this script; memory and CPU are those of the operator's process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "integration" / "operator"))

from control_plane import assets  # noqa: E402
from measurements import Measurement, report  # noqa: E402
from scale_api_server import Api, cluster, connected, writes  # noqa: E402
from scale_operator_process import Running, Subject, ours  # noqa: E402

CREATORS = 16
MEMORY_MB = 400
SETTLE_MAX = 30

Result = dict[str, Any]


async def each(names: Sequence[str], work: Callable[[str], Awaitable[None]]) -> None:
    """Run ``work`` for every name, with limited concurrency."""
    left = iter(names)

    async def worker() -> None:
        for name in left:
            await work(name)

    await asyncio.gather(*(worker() for _ in range(CREATORS)))


async def until(condition: Callable[[], Any], seconds: float = 300) -> float:
    """Wait for a condition and return the time at which it became true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = condition()
        if await result if asyncio.iscoroutine(result) else result:
            return time.monotonic()
        await asyncio.sleep(0.1)
    raise TimeoutError(f"the condition was not met within {seconds:g} s")


class SubjectMeasurement:
    """Measurements of one controller; objects are never deleted, so each size includes the earlier ones."""

    def __init__(self, subject: Subject, api: Api, launch: Callable[[], Running], options: argparse.Namespace) -> None:
        self.subject, self.api, self.launch, self.options = subject, api, launch, options
        self.names: list[str] = []

    async def run(self) -> Result:
        """Run all measurements."""
        await self.api.served(self.subject.objects, self.subject.children[0])
        watching = asyncio.create_task(self.api.watch(*self.subject.children))
        result: Result = {"subject": self.subject.name, "rate": self.options.rate, "sizes": {}}
        for size in sorted(self.options.objects):
            told = result["sizes"][size] = {}
            late = min(self.options.arrivals, size - len(self.names))
            running, told["backlog"] = await self.backlog(size - late - len(self.names))
            told["arrivals"] = await self.arrivals(running, late)
            running.stop()
            told["restart"] = await self.restart()
            print(json.dumps({self.subject.name: {size: told}}), file=sys.stderr, flush=True)
        if self.subject.ended and self.options.steady:
            result["ended"] = await self.ended()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        return result

    async def backlog(self, count: int) -> tuple[Running, Result]:
        """Create objects, start the controller and wait for their children; the controller keeps running."""
        waiting = self.more(count)
        await each(waiting, self.create)
        running = self.launch()
        await self.children_of(waiting, running)
        times = sorted(self.api.seen[name] for name in waiting)
        told = {"objects": count, **running.memory_mb()}
        if count > 1:
            told |= {"per_s": (count - 1) / (times[-1] - times[0]), "from_start_s": times[-1] - running.begun}
        await self.settled(running)
        return running, told

    async def arrivals(self, running: Running, count: int) -> Result:
        """Create objects at a rate; measure the delay until each has its child, and the cost."""
        names, before, cpu = self.more(count), await self.api.requests(), running.cpu_seconds()
        begun, asked = time.monotonic(), {}
        async with asyncio.TaskGroup() as tasks:
            for index, name in enumerate(names):
                await asyncio.sleep(max(0.0, begun + index / self.options.rate - time.monotonic()))
                asked[name] = time.monotonic()
                tasks.create_task(self.create(name))
        await self.children_of(names, running)
        delays = sorted(self.api.seen[name] - asked[name] for name in names)
        await self.settled(running)
        counts = writes(await self.api.requests() - before)
        counts[f"POST {self.subject.resource}"] -= count
        return {
            "objects": count,
            **{f"p{part}_s": delays[min(count - 1, count * part // 100)] for part in (50, 95, 99)},
            "max_s": delays[-1],
            "per_s": (count - 1) / (max(map(self.api.seen.__getitem__, names)) - asked[names[0]]),
            "writes_per_object": {kind: number / count for kind, number in counts.items() if number},
            "cpu_ms_per_object": 1000 * (running.cpu_seconds() - cpu) / count,
            **running.memory_mb(),
        }

    async def restart(self) -> Result:
        """Restart with all objects; measure the time until each is reconciled, and the writes."""
        before = await self.api.requests()
        running = self.launch()
        looks = len(self.names)
        caught_up = await until(lambda: running.idle_after(looks)) - running.begun
        await self.settled(running)
        told = {"caught_up_s": caught_up, "cpu_s": running.cpu_seconds()}
        told |= {"writes": writes(await self.api.requests() - before), **running.memory_mb()}
        running.stop()
        return told

    async def ended(self) -> Result:
        """Mark all objects as succeeded and measure their cost per minute."""
        patch, content = {"status": self.subject.ended}, "application/merge-patch+json"

        async def end(name: str) -> None:
            await self.api.call("PATCH", f"{self.subject.objects}/{name}/status", patch, content)

        await each(self.names, end)
        running = self.launch()
        await self.settled(running)
        before, cpu, minutes = await self.api.requests(), running.cpu_seconds(), self.options.steady / 60
        await asyncio.sleep(self.options.steady)
        told = {
            "objects": len(self.names),
            "cpu_s_per_minute": (running.cpu_seconds() - cpu) / minutes,
            "requests_per_minute": {
                kind: count / minutes for kind, count in (await self.api.requests() - before).items()
            },
            **running.memory_mb(),
        }
        running.stop()
        return told

    def more(self, count: int) -> list[str]:
        """Return ``count`` names of new objects."""
        new = [f"o{len(self.names) + number}" for number in range(count)]
        self.names += new
        return new

    async def create(self, name: str) -> None:
        """Create an object."""
        await self.api.call("POST", self.subject.objects, self.subject.body(name))

    async def children_of(self, names: Sequence[str], running: Running) -> None:
        """Wait until every object has its child."""

        def all_seen() -> bool:
            running.check()
            return all(name in self.api.seen for name in names)

        await until(all_seen, self.options.patience)

    async def settled(self, running: Running) -> None:
        """Wait until all objects are reconciled and the controller is idle, including its delayed work."""
        looks = len(self.names)
        await until(lambda: running.idle_after(looks))
        quiet = 0.0
        for _ in range(SETTLE_MAX):
            cpu = running.cpu_seconds()
            await asyncio.sleep(1)
            quiet = quiet + 1 if running.cpu_seconds() - cpu < 0.2 else 0.0
            if quiet >= self.options.settle:
                break


def install(subject: Subject, kubeconfig: Path, folder: Path) -> None:
    """Apply the manifests that a subject needs."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in subject.needs:
        command = [str(assets() / "kubectl"), f"--kubeconfig={kubeconfig}", "apply", "--server-side", "-f"]
        for _ in range(50):
            done = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                break
            time.sleep(0.2)  # a new CRD may not be served yet
        else:
            raise RuntimeError(done.stderr)


def measure(subject: Subject, folder: Path, options: argparse.Namespace) -> Result:
    """Measure one subject, in its own cluster unless KUBECONFIG is set."""

    async def inside(kubeconfig: Path) -> Result:
        async with connected(kubeconfig) as api:
            run = folder / "run"
            install(subject, kubeconfig, run)
            return await SubjectMeasurement(subject, api, lambda: Running(subject, kubeconfig, run), options).run()

    with cluster(folder / "cluster", controllers=options.controllers) as kubeconfig:
        return asyncio.run(inside(kubeconfig))


def figures(result: Result) -> list[Measurement]:
    """Compare the largest number of objects with the smallest."""
    small, large = min(result["sizes"]), max(result["sizes"])
    first, last = result["sizes"][small], result["sizes"][large]
    lines, many, at = [], f"{large:,} objects", f"{result['rate']:g} a second arrive"

    def line(what: str, against: str, mine: float, other: float, unit: str, aim: str = "", note: str = "") -> None:
        lines.append(Measurement(what, against, mine, other, unit, mine / other if other else 0.0, aim, note))

    for part in ("p50_s", "p95_s", "p99_s"):
        mine, other = last["arrivals"][part], first["arrivals"][part]
        line(f"object to Job, {part[:3]}, {many}", f"{small:,} objects", mine, other, "s", "about 1", at)
    peak = max(one["peak_mb"] for one in last.values())
    line(f"peak memory, {many}", "limit", peak, MEMORY_MB, "MB", "<= 1")
    mine, other = (one["restart"]["caught_up_s"] for one in (last, first))
    line(f"restart until all are reconciled, {many}", f"{small:,} objects", mine, other, "s")
    if "ended" in result:
        mine = result["ended"]["cpu_s_per_minute"]
        line(f"CPU a minute, {many} that have ended", "one core", mine, 60, "s")
    return lines


def main() -> None:
    """Measure, print a table, and write all measurements as JSON to the file of ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="+", default=[1000], help="total numbers of objects")
    parser.add_argument("--arrivals", type=int, default=1000, help="number of objects created at the rate")
    parser.add_argument("--rate", type=float, default=20, help="arrivals per second")
    parser.add_argument("--settle", type=float, default=3, help="idle seconds between measurements")
    parser.add_argument("--steady", type=float, default=60, help="seconds to measure with succeeded objects; 0: skip")
    parser.add_argument("--patience", type=float, default=1200, help="maximum seconds until every object has its child")
    parser.add_argument("--controllers", action="store_true", help="also run the Job controller, which creates pods")
    parser.add_argument("--json", type=Path, help="file for all measurements")
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        result = measure(ours(), Path(temporary), options)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2))
    report(figures(result))


if __name__ == "__main__":
    main()
