"""What a run needs of others, on the disk: the images to learn from come last, and others need not wait for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engine.config import RunConfig
from engine.dataset.readable import Unreadable
from engine.spec import TeacherName
from engine.storage import Storage
from engine.teachers import REGISTRY, LocalModel
from engine.training.beside import Beside
from engine.training.parts import Data, Parts
from engine.training.probe import Probe, prepare_probe
from engine.training.processes import Processes
from engine.training.said import left_out

NO_PROBE = "what is left of the base's skill is not measured: training.retention shows nothing that the data does not"


@dataclass(frozen=True)
class Fetched:
    """What is on the disk, but for the images to learn from.

    Attributes:
        base: The base model.
        data: Of the run.
        unreadable: What cannot be used of its other parts.
        probe: Other things to ask for.
    """

    base: LocalModel
    data: Data
    unreadable: Mapping[str, Unreadable]
    probe: Probe | None


def fetch(
    config: RunConfig,
    name: TeacherName,
    base: Callable[[], LocalModel],
    *,
    arriving: Beside[Parts],
    storage: Storage,
    cache: Path,
    processes: Processes,
    say: Callable[[str], None],
) -> Fetched:
    """Fetch the base model, annotations and the images to measure by; those to learn from are on their way then.

    Args:
        config: Of the run.
        name: Of its teacher.
        base: Fetches the base model.
        arriving: Brings the images to learn from, in one process of each machine: the others will find them there.
        storage: Where data comes from.
        cache: Where it is kept.
        processes: Those that train together.
        say: Is told what is done.

    Raises:
        TeacherError: Something cannot be had or used.
    """
    masks, training = REGISTRY[name].needs_masks, config.training
    with processes.one_here_first(), ThreadPoolExecutor(1) as thread:
        fetching = thread.submit(base)
        say("fetching the data; every image is decoded once, to see that it can be")
        data = Data.of(config.data, masks=masks, seed=training.seed, storage=storage, cache=cache)
        unreadable = {part: data.bring(part) for part in data.whole if part != "train"}
        if data.undecided(unreadable):
            say("waiting for the images to learn from: they may show whether EXIF was applied when annotating")
            unreadable["train"] = data.bring("train")
        unreadable = data.settled(unreadable)
        probe = prepare_probe(training.retention, config.data, masks=masks, storage=storage, cache=cache)
        if processes.place.local_rank == 0:
            arriving.begin(partial(Parts.of, data, unreadable))
        for message in (NO_PROBE,) if probe is None else left_out(probe.unreadable):
            say(message)
        return Fetched(fetching.result(), data, unreadable, probe)


def arrived(fetched: Fetched, arriving: Beside[Parts], processes: Processes) -> Parts:
    """Wait for the images to learn from, in all processes."""
    with processes.one_here_first():
        parts = arriving.result()
        return Parts.of(fetched.data, fetched.unreadable) if parts is None else parts
