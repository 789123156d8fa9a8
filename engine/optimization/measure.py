"""Build an artifact, measure it in its own runtime, and accept or refuse it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from engine.evaluation.evaluate import evaluate
from engine.evaluation.ground_truth import GroundTruths
from engine.models.graphs import Graph
from engine.optimization.artifact import Artifact, load_artifact, prepare
from engine.optimization.benchmark import IMAGES, benchmark
from engine.optimization.card import ArtifactCard, Preprocessing, outputs_of
from engine.optimization.convert import Feeds, convert
from engine.optimization.source import MeasuringImages, Source
from engine.optimization.targets import Target
from engine.results.artifacts import ArtifactFile, ArtifactResult, Attempt, Benchmark
from engine.storage.publication import sha256_of

CALIBRATION_IMAGES = 100


@dataclass(frozen=True, eq=False)
class Workshop:
    """All that artifacts of one model are made of and measured with.

    Attributes:
        source: The model.
        graphs: Its graphs by role.
        references: Their ONNX models in float32.
        preprocessing: Description of the input.
        images: Images to measure and calibrate on.
        ap: AP of the model in torch on these images.
        mask_ap: The same by the IoU of masks; None of a model without masks.
        threads: Threads of the runtimes.
        folder: Where files are written.
        working: Is called with what is being done.
    """

    source: Source
    graphs: Mapping[str, Graph]
    references: Mapping[str, Any]
    preprocessing: Preprocessing
    images: MeasuringImages
    ap: float
    mask_ap: float | None
    threads: int
    folder: Path
    working: Callable[[str], None]
    truths: GroundTruths = field(default_factory=GroundTruths)
    _feeds: dict[str, Feeds] = field(default_factory=dict)

    def make(self, target: Target, max_ap_drop: Decimal) -> ArtifactResult:
        """Try the settings of a format until one loses at most ``max_ap_drop``, and measure its speed."""
        attempts: list[Attempt] = []
        for setting in target.settings:
            self.working(f"building {target.format} ({setting})")
            files: list[Path] = []
            try:
                files = self._build(target, setting)
                artifact = load_artifact(files[0], threads=self.threads)
                self.working(f"measuring {target.format} ({setting})")
                ap, mask_ap = self._ap(artifact)
            except Exception as error:  # noqa: BLE001 - runtimes and NNCF raise anything where a graph does not suit them
                attempts.append(Attempt(setting=setting, error=f"{type(error).__name__}: {str(error)[:300]}"))
                _delete(files)
                continue
            lost = [Decimal(self.ap) - Decimal(ap)]
            if self.mask_ap is not None:
                lost.append(Decimal(self.mask_ap) - Decimal(mask_ap or 0))
            attempts.append(Attempt(setting=setting, ap=ap, mask_ap=mask_ap, drop=float(max(lost))))
            if max(lost) <= max_ap_drop:
                speed = benchmark(artifact, self._benchmark_samples())
                return self._result(target, attempts, max_ap_drop, files, speed)
            _delete(files)
        return self._result(target, attempts, max_ap_drop, [], None)

    def _build(self, target: Target, setting: str) -> list[Path]:
        parts = {role: f"{_stem(role)}{target.suffix}" for role in self.graphs}
        written = []
        for role, graph in self.graphs.items():
            card = ArtifactCard(
                model=self.source.name,
                role=role,
                parts=parts,
                classes=self.source.model.classes,
                category_ids=self.source.category_ids,
                preprocessing=self.preprocessing,
                outputs=outputs_of(graph),
                frame=self.source.model.frame,
                precision=target.precision,
                settings=setting,
                source=self.source.digest,
            )
            feeds = self._calibration(role) if target.precision == "int8" and graph.quantized[0] else []
            file = self.folder / parts[role]
            convert(self.references[role], graph, target, setting, card=card, feeds=feeds, file=file)
            written.append(file)
        return written

    def _calibration(self, role: str) -> Feeds:
        """Return inputs of the first part, of images spread over the split."""
        if role not in self._feeds:
            names = self.graphs[role].inputs
            prepared = (prepare(self.preprocessing, one.image)[0] for one in self.images.samples(CALIBRATION_IMAGES))
            self._feeds[role] = [{name: one[name] for name in names} for one in prepared]
        return self._feeds[role]

    def _ap(self, artifact: Artifact) -> tuple[float, float | None]:
        """Return AP of boxes and of masks."""
        measured = evaluate(artifact, self.images.dataset, self.images.load, batch_size=1, truths=self.truths)
        return measured.metrics.ap, measured.metrics.mask_ap

    def _benchmark_samples(self) -> list[Any]:
        samples = self.images.samples(4 * IMAGES)
        if "decoder" in self.graphs:
            samples = [one for one in samples if len(one)] or samples
        return samples[:IMAGES]

    def _result(
        self,
        target: Target,
        attempts: list[Attempt],
        max_ap_drop: Decimal,
        files: list[Path],
        speed: Benchmark | None,
    ) -> ArtifactResult:
        every = [path for file in files for path in (file, file.with_suffix(".bin")) if path.is_file()]
        listed = tuple(
            ArtifactFile(path=path.name, sha256=sha256_of(path), size_bytes=path.stat().st_size) for path in every
        )
        return ArtifactResult(
            format=target.format,
            published=bool(files),
            setting=attempts[-1].setting,
            attempts=tuple(attempts),
            max_ap_drop=float(max_ap_drop),
            files=listed,
            size_bytes=sum(one.size_bytes for one in listed),
            benchmark=speed,
        )


def _stem(role: str) -> str:
    return "model" if role == "detector" else role


def _delete(files: list[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
        file.with_suffix(".bin").unlink(missing_ok=True)
