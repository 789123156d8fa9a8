"""Latency of the exported students of both families, at their real sizes with random weights: one image at a time.

python benchmarks/student_speed.py --size nano --threads 1
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from measurements import Measurement, report

from engine.config.resolve import teacher_defaults
from engine.dataset.types import Sample
from engine.optimization.artifact import load_artifact
from engine.optimization.benchmark import benchmark
from engine.optimization.card import Preprocessing
from engine.optimization.export import to_onnx
from engine.optimization.measure import Workshop
from engine.optimization.source import Source
from engine.optimization.targets import TARGETS
from engine.registry import StudentName
from engine.results.artifacts import Benchmark
from engine.spec import ArtifactFormat

FORMATS = (ArtifactFormat.ONNX, ArtifactFormat.OPENVINO)
DFINE, RF_DETR = StudentName.DFINE, StudentName("RfDetr")
CLASSES = [f"class {number}" for number in range(80)]
IMAGE = (480, 640)


def measured(name: StudentName, *, size: str, threads: int, folder: Path) -> dict[ArtifactFormat, Benchmark]:
    """Export a student with random weights and measure it in each runtime."""
    torch.manual_seed(0)
    chosen: dict[str, Any] = {"size": size, "masks": False, "epochs": 1, "batch_size": 1, "warmup_fraction": 0.0}
    settings = name.traits.settings.model_validate(teacher_defaults(name) | chosen)
    student: Any = name.traits.load_class().load(None, classes=CLASSES, settings=settings)
    (graph,) = student.graphs(None, [IMAGE])
    height, width = graph.inputs["pixel_values"].shape[2:]
    workshop = Workshop(
        source=Source(student, "", str(name), name.slug, "0" * 64, tuple(range(len(CLASSES)))),
        graphs={graph.role: graph},
        references={graph.role: to_onnx(graph)},
        preprocessing=Preprocessing.of(student.transform, height=height, width=width),
        images=cast(Any, None),  # nothing is calibrated
        ap=0.0,
        mask_ap=None,
        threads=threads,
        folder=folder,
        working=print,
    )
    samples = [Sample.of(np.random.default_rng(i).integers(0, 256, (*IMAGE, 3), np.uint8)) for i in range(8)]
    result = {}
    for wanted in FORMATS:
        (file,) = workshop._build(TARGETS[wanted], "fp32")
        result[wanted] = benchmark(load_artifact(file, threads=threads), samples)
    return result


def main() -> None:
    """Measure both families and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="nano")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        both = {}
        for name in (DFINE, RF_DETR):
            (own := Path(folder, name.slug)).mkdir()
            both[name] = measured(name, size=options.size, threads=options.threads, folder=own)
    figures = []
    for wanted in FORMATS:
        ours, theirs = (sum(part.p50 for part in one[wanted].engine.values()) for one in both.values())
        figures.append(
            Measurement(
                f"D-FINE {options.size}, {both[DFINE][wanted].runtime}",
                f"RF-DETR {options.size}",
                ours,
                theirs,
                "ms",
                theirs / ours,
                aim=">= 3",
                note=f"p50, batch 1, {options.threads} thread(s), float32",
            )
        )
    report(figures)


if __name__ == "__main__":
    main()
