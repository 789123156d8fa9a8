"""The command distill: train a student, from a manifest or flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from engine.cli import options
from engine.cli.complete_run import complete_run
from engine.cli.display import console, show_artifacts, show_results
from engine.cli.progress_style import Progress, ProgressStyle
from engine.cli.request_options import (
    CROWDS,
    DATA,
    ENDPOINT,
    EXIF,
    FORMATS,
    IMAGES,
    MAX_AP_DROP,
    SETTINGS,
    Flag,
    Request,
    takes_request,
)
from engine.manifest import DistillManifest
from engine.results.artifacts import refuse_lossy
from engine.spec import ArtifactSpec
from engine.spec.distill import DistillSpec, DistillTrainingSpec, StudentSpec, UnlabelledSpec

SPLITS = tuple(flag for flag in DATA if flag.flag in ("--data", "--train", "--val", "--test", "--group-by"))

FLAGS = (
    *SPLITS,
    IMAGES,
    CROWDS,
    EXIF,
    Flag("--output", DistillSpec, "output", "output"),
    Flag("--name", DistillManifest, "name", "name"),
    Flag("--teacher", DistillSpec, "teacher", "teacher"),
    Flag("--unlabelled", UnlabelledSpec, "images", "unlabelled.images"),
    Flag("--labels", UnlabelledSpec, "labels", "unlabelled.labels"),
    Flag("--human-share", UnlabelledSpec, "human_share", "unlabelled.humanShare"),
    Flag("--min-score", UnlabelledSpec, "min_score", "unlabelled.minScore"),
    Flag("--unsure-share", UnlabelledSpec, "unsure_share", "unlabelled.unsureShare"),
    Flag("--student", StudentSpec, "name", "student.name", "Default: the first."),
    Flag("--size", StudentSpec, "size", "student.size"),
    Flag("--base-model", StudentSpec, "base_model", "student.baseModel"),
    Flag("--format", ArtifactSpec, "format", FORMATS, "Repeatable: export the trained student to it."),
    Flag("--max-ap-drop", ArtifactSpec, "max_ap_drop", MAX_AP_DROP),
    ENDPOINT,
    Flag("--epochs", StudentSpec, "epochs", f"{SETTINGS}students.*.epochs"),
    Flag("--batch-size", StudentSpec, "batch_size", f"{SETTINGS}students.*.batch_size"),
    Flag("--learning-rate", StudentSpec, "learning_rate", f"{SETTINGS}students.*.learning_rate"),
    Flag("--masks", StudentSpec, "masks", f"{SETTINGS}students.*.masks"),
    Flag("--seed", DistillTrainingSpec, "seed", f"{SETTINGS}training.seed"),
)


@takes_request(*FLAGS, kind=DistillManifest)
def distill(
    read_request: Callable[[], Request[DistillManifest]],
    again: Annotated[bool, typer.Option("--again", help="Train even if this very run is published.")] = False,
    progress: Progress = ProgressStyle.AUTO,
    work_dir: options.WorkDir = None,
) -> None:
    """Train a student on human labels, and on those of teachers, by a manifest (-f) or by flags."""
    from engine import runner

    manifest = read_request().manifest
    runner.check_artifact_formats(manifest)
    manifest = runner.label_unlabelled(manifest, options.storage_of(manifest))
    layout, done, _ = complete_run(manifest, again=again, progress=progress, work_dir=work_dir)
    show_results(done.teachers)
    for made in done.artifacts:
        show_artifacts(made)
    console.print(layout.report, markup=False, soft_wrap=True)
    typer.echo(layout.root)
    for made in done.artifacts:
        refuse_lossy(made)
