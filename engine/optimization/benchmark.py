"""Latency of an artifact at batch 1, and the precision that really ran."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.dataset import ImageFolder, Sample, folder_dataset, load_sample
from engine.optimization.artifact import Artifact, prepare
from engine.results.artifacts import Benchmark, Latency
from engine.storage import Storage

WARM_UP, LEAST, MOST, SECONDS = 3, 20, 200, 5.0
"""Calls that are not measured, least and most measured calls, and seconds after which no further one is made."""


IMAGES = 8
"""Images that are measured in turn."""


def benchmark(artifact: Artifact, samples: Sequence[Sample]) -> Benchmark:
    """Measure the latency on some images, in turn.

    Args:
        artifact: A loaded artifact.
        samples: At least one image; with boxes for an artifact that is prompted by boxes.
    """
    feeds = [_feeds(artifact, sample) for sample in samples]
    sessions = artifact.sessions
    executed: dict[str, int] = {}
    for session in sessions.values():
        for name, count in session.executed().items():
            executed[name] = executed.get(name, 0) + count
    first = next(iter(sessions.values()))
    return Benchmark(
        engine={role: _latency(session.run, [one[role] for one in feeds]) for role, session in sessions.items()},
        end_to_end=_latency(lambda sample: artifact.predict([sample]), samples),
        threads=first.threads,
        executed=executed,
        runtime=first.runtime,
        cpu=cpu_name(),
    )


def benchmark_samples(artifact: Artifact, images: str | None, *, storage: Storage, cache: Path) -> list[Sample]:
    """Return samples to measure the latency on, with a prompt each if the artifact needs boxes.

    Args:
        artifact: The artifact.
        images: Folder of images, of which the first are read; None: noise of the size of the input.
        storage: Access to the images.
        cache: Where they are kept.

    Raises:
        DataError: The folder contains no images.
    """
    if images is None:
        size = artifact.card.preprocessing.height, artifact.card.preprocessing.width
        pictures = [np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)]
    else:
        dataset = folder_dataset(images, artifact.classes, storage=storage)
        dataset = dataset.subset(list(range(min(len(dataset), IMAGES))))
        folder = ImageFolder(images, storage=storage, cache=cache)
        folder.sync(dataset.images)
        paths = [folder.path(image) for image in dataset.images]
        pictures = [load_sample(dataset, i, path, with_masks=False).image for i, path in enumerate(paths)]
    return [Sample.of(one, [_middle(one)] if artifact.prompted else ()) for one in pictures]


def _middle(image: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    height, width = image.shape[:2]
    return (width / 4, height / 4, width * 3 / 4, height * 3 / 4)


def _feeds(artifact: Artifact, sample: Sample) -> dict[str, Any]:
    """Return the inputs of each part."""
    image, geometry = prepare(artifact.card.preprocessing, sample.image)
    (role, session), *others = artifact.sessions.items()
    feeds: dict[str, Any] = {role: {name: image[name] for name in session.inputs}}
    for other, _ in others:
        box = geometry.to_model(sample.boxes_xyxy[:1])
        feeds[other] = {**session.run(feeds[role]), "box": box}
    return feeds


def _latency(call: Callable[[Any], object], inputs: Sequence[Any]) -> Latency:
    for i in range(WARM_UP):
        call(inputs[i % len(inputs)])
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < LEAST or (len(times) < MOST and time.perf_counter() < end):
        start = time.perf_counter()
        call(inputs[len(times) % len(inputs)])
        times.append((time.perf_counter() - start) * 1000)
    p50, p95 = np.percentile(times, [50, 95])
    return Latency(p50=round(float(p50), 3), p95=round(float(p95), 3), calls=len(times))


def cpu_name() -> str:
    """Return the model of the CPU, as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
