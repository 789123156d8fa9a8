"""Types of ``artifacts.json``: the exported files of a model and their measurements, also of those refused."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from pydantic import Field

from engine.errors import ArtifactRefusedError
from engine.results.metrics import Result
from engine.spec import ArtifactFormat
from engine.text.format_version import FORMAT_VERSION


class Latency(Result):
    """Latency in milliseconds."""

    p50: float
    p95: float
    calls: int = Field(description="Measured calls.")


class Benchmark(Result):
    """Speed of an artifact on this machine, one image at a time."""

    engine: dict[str, Latency] = Field(description="Time of the runtime alone, by part: from input to output.")
    end_to_end: Latency = Field(description="From the decoded image to detections; masks: of all prompts of an image.")
    threads: int
    executed: dict[str, int] = Field(description="Matrix products and convolutions by the precision that really ran.")
    runtime: str = Field(description="Name and version of the runtime.")
    cpu: str

    @property
    def precisions(self) -> str:
        """Number of matrix products and convolutions in each precision, such as ``float32 98, int8 22``."""
        return ", ".join(f"{name} {count}" for name, count in sorted(self.executed.items()))


class ArtifactFile(Result):
    """One published file."""

    path: str = Field(description="Relative to the folder of the artifacts.")
    sha256: str
    size_bytes: int


class Attempt(Result):
    """Measurement of one setting."""

    setting: str = Field(description="How the numbers are stored and computed.")
    ap: float | None = Field(default=None, description="AP in the runtime; None: it could not be built or run.")
    mask_ap: float | None = Field(default=None, description="The same by the IoU of masks, of a model with masks.")
    drop: float | None = Field(
        default=None, description="AP of the model in torch minus this; with masks the larger loss of both."
    )
    error: str = Field(default="", description="Why it could not be built or run.")


class ArtifactResult(Result):
    """One artifact, or the reason why there is none."""

    format: ArtifactFormat
    published: bool
    setting: str = Field(description="Setting that was accepted, or the last one that was tried.")
    attempts: tuple[Attempt, ...] = Field(description="All settings that were tried, in order.")
    max_ap_drop: float
    files: tuple[ArtifactFile, ...] = ()
    size_bytes: int = 0
    benchmark: Benchmark | None = None

    @property
    def ap(self) -> float | None:
        """AP of the last attempt."""
        return self.attempts[-1].ap

    def settles(self, max_ap_drop: float) -> bool:
        """Return True if the result is the same with another limit of the loss of AP."""
        if self.published:
            return (self.attempts[-1].drop or 0) <= max_ap_drop
        return max_ap_drop <= self.max_ap_drop

    def sentence(self) -> str:
        """Return the reason of a refusal."""
        tried = [
            f"{one.setting}: {one.error}" if one.ap is None else f"{one.setting}: AP {one.ap:.4f}, {one.drop:+.4f} lost"
            for one in self.attempts
        ]
        return f"{self.format} loses more than {self.max_ap_drop:g} AP ({'; '.join(tried)})"

    def summary(self) -> str:
        """Return the measurements in a few words, or that it was refused."""
        if self.benchmark is None:
            return f"refused: loses more than {self.max_ap_drop:g} AP"
        latency = sum(one.p50 for one in self.benchmark.engine.values())
        return f"AP {self.ap:.3f}, {self.size_bytes / 1e6:.2f} MB, p50 {latency:.1f} ms"


class Artifacts(Result):
    """``artifacts.json``: the artifacts of a model and their measurements."""

    format_version: int = FORMAT_VERSION
    model: str = Field(description="Name of the teacher or student.")
    source: str = Field(description="Its location.")
    source_sha256: str
    licence: str = Field(default="unknown", description="SPDX id of the licence of its code.")
    classes: tuple[str, ...]
    split: str = Field(description="`val`: measured on the validation split of its run; `all`: on all given images.")
    images: int
    torch_ap: float = Field(description="AP of the model in torch on the same images.")
    torch_mask_ap: float | None = Field(default=None, description="The same by the IoU of masks.")
    input_height: int
    input_width: int
    artifacts: tuple[ArtifactResult, ...]

    def lacks(self, wanted: Sequence[tuple[ArtifactFormat, Decimal]]) -> list[ArtifactFormat]:
        """Return the formats, of those with a highest loss of AP, that were not built or judged by another limit."""
        made = {one.format: one for one in self.artifacts}
        return [form for form, drop in wanted if form not in made or not made[form].settles(float(drop))]


def refuse_lossy(made: Artifacts) -> None:
    """Raise an error if a format was refused.

    Raises:
        ArtifactRefusedError: The numbers of each refused format.
    """
    refused = [one.sentence() for one in made.artifacts if not one.published]
    if refused:
        raise ArtifactRefusedError(
            f"{made.model} has AP {made.torch_ap:.4f} in torch on {made.images} images; not published: "
            f"{'. '.join(refused)}. Use another format, or allow more: --max-ap-drop (maxApDrop)"
        )
