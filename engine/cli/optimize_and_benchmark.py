"""Commands that export models and measure what was exported: optimize, benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli import options
from engine.cli.display import console, note, show_artifacts, show_metrics
from engine.cli.outcome_file import OutcomeFile, failures_in
from engine.cli.spec_options import spec_option
from engine.config import DistillConfig, from_yaml
from engine.errors import ConfigError
from engine.processes.threads import usable_cores
from engine.results.artifacts import refuse_lossy
from engine.results.outcome import Outcome, write_outcome
from engine.spec import ArtifactFormat, ArtifactSpec, Crowds, ExifOrientation, TeacherName
from engine.spec.bounds import THREADS
from engine.storage import Storage, default_cache, join
from engine.storage.bounded_read import MANIFEST_BYTES, read_bounded
from engine.text.pydantic_errors import parse

if TYPE_CHECKING:
    from engine.models.predictor import Predictor

ARTIFACT = typer.Option("--artifact", help="File that optimize wrote, such as model.onnx; s3:// or path.")
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", min=THREADS.low, max=THREADS.high, help="Threads of the runtime; default: all usable cores."
    ),
]


def optimize(
    data: Annotated[
        str | None, typer.Option("--data", help="COCO JSON; the validation images of the run are measured.")
    ] = None,
    output: Annotated[str | None, typer.Option("--output", help="Folder for the artifacts; s3:// or path.")] = None,
    student: Annotated[str | None, typer.Option("--student", help="Student to export; s3:// or path.")] = None,
    adapters: Annotated[
        str | None, typer.Option("--adapters", help="Run or adapter whose tuned teacher is exported; s3:// or path.")
    ] = None,
    teacher: Annotated[TeacherName | None, typer.Option("--teacher", help="Teacher of a run with several.")] = None,
    formats: Annotated[
        list[ArtifactFormat] | None, typer.Option("--format", help="Format to build; repeatable; default: onnx.")
    ] = None,
    max_ap_drop: Annotated[str | None, spec_option(ArtifactSpec, "max_ap_drop")] = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            "--image-size",
            metavar="HEIGHTxWIDTH",
            help="Input of the exported model in pixels; default: no image is smaller than in torch.",
        ),
    ] = None,
    images: options.Images = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="Location of the base model, if it has moved since training.")
    ] = None,
    threads: Threads = None,
    crowds: options.CrowdChoice = Crowds.IGNORE,
    exif_orientation: options.ExifChoice = ExifOrientation.AUTO,
    config: Annotated[
        str | None,
        typer.Option("--config", help="teacher_config.yaml of a distillation with optimize, instead of all others."),
    ] = None,
    endpoint_url: options.Endpoint = None,
    as_json: options.Json = False,
    outcome: OutcomeFile = None,
) -> None:
    """Export a student or a tuned teacher, measure each file in its runtime, and refuse what loses AP."""
    if config is not None:
        if any(one is not None for one in (data, output, student, adapters, teacher, formats, image_size)):
            raise ConfigError("--config names the student, its data and the formats: leave out the other options")
        optimize_run(config, threads=threads, storage=options.storage(endpoint_url), outcome=outcome)
        return
    if data is None or output is None:
        raise ConfigError("give --data and --output with --student or --adapters, or --config of a distillation")
    wanted = [
        parse(ArtifactSpec, {"format": one.value, "maxApDrop": max_ap_drop}, where=f"--format {one}")
        for one in formats or [ArtifactFormat.ONNX]
    ]
    shape = None if image_size is None else size_of(image_size)
    storage = options.storage(endpoint_url)
    from engine.optimization.optimize import check_formats
    from engine.optimization.optimize import optimize as build
    from engine.optimization.source import measuring_images, open_source

    check_formats(wanted)
    source = open_source(
        student=student,
        adapters=adapters,
        teacher=teacher,
        base_model=base_model,
        storage=storage,
        cache=default_cache(),
    )
    measured_on = measuring_images(
        source.model,
        data,
        images,
        uri=source.uri,
        crowds=crowds,
        exif_orientation=exif_orientation,
        storage=storage,
        cache=default_cache(),
    )
    made = build(
        source,
        measured_on,
        wanted,
        output,
        shape=shape,
        threads=threads or usable_cores(),
        storage=storage,
        working=note,
    )
    show_artifacts(made)
    if as_json:
        typer.echo(made.model_dump_json(indent=2))
    refuse_lossy(made)
    if not as_json:
        typer.echo(join(output, source.slug))


def optimize_run(config: str, *, threads: int | None, storage: Storage, outcome: Path | None) -> None:
    """Export the student of a run to the formats of its configuration. A Job runs this.

    Raises:
        ArtifactRefusedError: A format loses too much AP; the run is published.
    """
    finished: dict[str, str] = {}
    with failures_in(outcome, finished=finished):
        planned = from_yaml(read_bounded(storage, config, limit=MANIFEST_BYTES, error=ConfigError), where=config)
        if not isinstance(planned, DistillConfig) or not planned.optimize:
            raise ConfigError(f"{config} asks for no artifacts: it has no optimize")
        from engine.training.publish_artifacts import publish_artifacts

        every = publish_artifacts(
            planned,
            storage=options.storage_of(planned),
            cache=default_cache(),
            threads=threads or usable_cores(),
            working=note,
        )
        for made in every:
            finished |= {one.format.value: one.summary() for one in made.artifacts}
        for made in every:
            refuse_lossy(made)
    if outcome is not None:
        write_outcome(outcome, Outcome(finished=finished))


def size_of(text: str) -> tuple[int, int]:
    """Return height and width of ``480x640``.

    Raises:
        ConfigError: It is not a size from 32 to 8192 pixels.
    """
    numbers = text.lower().split("x")
    if len(numbers) == 2 and all(one.isdecimal() and 32 <= int(one) <= 8192 for one in numbers):
        return int(numbers[0]), int(numbers[1])
    raise ConfigError(f"--image-size {text}: give height and width from 32 to 8192 pixels, such as 480x640")


def benchmark(
    artifact: Annotated[str, ARTIFACT],
    images: Annotated[
        str | None, typer.Option("--images", help="Folder with images to run; default: images of noise.")
    ] = None,
    threads: Threads = None,
    endpoint_url: options.Endpoint = None,
    as_json: options.Json = False,
) -> None:
    """Measure the latency of an exported model on this machine, one image at a time."""
    from engine.optimization.artifact import load_artifact, local_artifact
    from engine.optimization.benchmark import benchmark as measure
    from engine.optimization.benchmark import benchmark_samples

    storage = options.storage(endpoint_url)
    with local_artifact(artifact, storage) as file:
        loaded = load_artifact(file, threads=threads or usable_cores())
        samples = benchmark_samples(loaded, images, storage=storage, cache=default_cache())
        speed = measure(loaded, samples)
    for role, latency in speed.engine.items():
        console.print(f"{role}: p50 {latency.p50:.2f} ms, p95 {latency.p95:.2f} ms, {latency.calls} calls")
    total = speed.end_to_end
    console.print(f"end to end: p50 {total.p50:.2f} ms, p95 {total.p95:.2f} ms, from the decoded image to detections")
    console.print(f"{speed.runtime}, threads: {speed.threads}, {speed.cpu}; computed in {speed.precisions}")
    if as_json:
        typer.echo(speed.model_dump_json(indent=2))


def evaluate_model(
    model: Predictor,
    title: str,
    data: str,
    images: str | None,
    *,
    batch_size: int,
    crowds: Crowds,
    exif_orientation: ExifOrientation,
    storage: Storage,
    as_json: bool,
) -> None:
    """Measure the AP of a student, or of an artifact in its own runtime, on all images of a dataset."""
    from engine.evaluation.evaluate import evaluate
    from engine.optimization.source import measuring_images

    measured_on = measuring_images(
        model,
        data,
        images,
        uri=None,
        crowds=crowds,
        exif_orientation=exif_orientation,
        storage=storage,
        cache=default_cache(),
    )
    with console.status(f"measuring {title}"):
        metrics = evaluate(model, measured_on.dataset, measured_on.load, batch_size=batch_size).metrics
    show_metrics([(title, metrics)])
    if as_json:
        typer.echo(json.dumps(metrics.model_dump(), indent=2))


def open_artifact(artifact: str, storage: Storage) -> Predictor:
    """Load an artifact, ready to predict."""
    from engine.optimization.artifact import load_artifact, local_artifact

    with local_artifact(artifact, storage) as file:
        return load_artifact(file, threads=usable_cores())
