"""The command label, and the evaluation of labels."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli import options
from engine.cli.display import console, is_terminal, note, show_metrics, warn
from engine.dataset.file_listing import list_files
from engine.dataset.splits.split_files import is_image
from engine.dataset.types import NMS_IOU, Frame
from engine.errors import ConfigError, DataError
from engine.results.metrics import Confusion
from engine.spec import Crowds, TeacherName
from engine.spec.bounds import BATCH_SIZE, IOU, SCORE
from engine.storage import default_cache
from engine.text.safe_text import listed

if TYPE_CHECKING:
    from engine.labelling import Labelled, Progress
    from engine.models.labeller import Labeller

EVERY = 10.0
"""Seconds between two progress lines without a terminal."""


Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        min=SCORE.low,
        max=SCORE.high,
        help="Lowest score to keep; default: per class, as the run measured.",
    ),
]
BaseModels = Annotated[
    list[str] | None,
    typer.Option(
        "--base-model", metavar="TEACHER=WHERE", help="Location of a base model, if it has moved since training."
    ),
]


def label(
    adapters: Annotated[
        list[str],
        typer.Option("--adapters", help="A run's folder, or one adapter's; repeatable for adapters of two runs."),
    ],
    images: Annotated[str, typer.Option("--images", help="Folder of the images; s3:// or path.")],
    output: Annotated[str, typer.Option("--output", help="COCO JSON to write, with scores; s3:// or path.")],
    threshold: Threshold = None,
    nms: Annotated[
        float,
        typer.Option(
            "--nms",
            min=IOU.low,
            max=IOU.high,
            help="NMS: of two boxes of a class with more IoU, keep the higher score.",
        ),
    ] = NMS_IOU,
    unsure: Annotated[
        float,
        typer.Option(
            "--unsure",
            min=SCORE.low,
            max=SCORE.high,
            help='Share of the threshold from which boxes below it are kept too, with "ignore": 1: a student learns '
            "them neither as objects nor as background. 1: none.",
        ),
    ] = 1.0,
    overlays: Annotated[str | None, typer.Option("--overlays", help="Folder for pictures; s3:// or path.")] = None,
    overlay_count: Annotated[int, typer.Option("--overlay-count", min=1, help="Pictures, over all images.")] = 20,
    base_models: BaseModels = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=BATCH_SIZE.low, help="Images per forward pass.")] = 4,
    again: Annotated[bool, typer.Option("--again", help="Start again and replace existing labels.")] = False,
    endpoint_url: options.Endpoint = None,
    as_json: options.Json = False,
) -> None:
    """Label a folder of images: boxes from an adapted detector, masks from the adapted teacher that it prompts.

    Streams the images, and resumes after an interruption. Unreadable images are skipped and listed.
    """
    storage = options.storage(endpoint_url)
    options.check_writable(output, storage)
    if not any(is_image(item.key) for item in list_files(images, storage)):
        raise DataError(f"{images} holds no images: give the folder that they are in")
    from engine.labelling import Overlays, label_folder
    from engine.teachers import load_labeller

    labeller = load_labeller(
        *adapters,
        threshold=threshold,
        nms_iou=nms,
        unsure_share=unsure,
        base_models=_by_teacher(base_models or []),
        storage=storage,
        cache=default_cache(),
    )
    _show_labeller(labeller)
    done = label_folder(
        labeller,
        images,
        output,
        storage=storage,
        batch_size=batch_size,
        again=again,
        overlays=None if overlays is None else Overlays(overlays, overlay_count),
        on_progress=_teller(),
        on_note=note,
    )
    if done is None:
        console.print("these labels exist already; --again replaces them", style="dim")
    else:
        _show_labelled(done, as_json=as_json)
    if not as_json:
        typer.echo(output)


def _show_labeller(labeller: Labeller) -> None:
    """Print what limits the labels, before the first image."""
    from engine.models.labeller import DEFAULT_THRESHOLD

    if unmeasured := [name for name in labeller.classes if name not in labeller.thresholds]:
        console.print(
            f"no threshold was measured for {listed(unmeasured)}: {DEFAULT_THRESHOLD} is used; --threshold sets it",
            markup=False,
            soft_wrap=True,
        )
    for remark in labeller.remarks:
        console.print(remark, markup=False, soft_wrap=True, style="yellow")
    if labeller.frame is Frame.STORED:
        note("images that EXIF turns are labelled as they are stored, as the adapter was trained on them")
    if labeller.segmenter is None:
        console.print("no adapter that predicts masks was given: labels are boxes without masks", style="dim")


def _show_labelled(done: Labelled, *, as_json: bool) -> None:
    console.print(f"{done.objects:,} objects in {done.images:,} images")
    if done.skipped:
        console.print(
            f"{len(done.skipped):,} images could not be read; {done.skipped_uri} lists them. The first: "
            f"{done.skipped[0]}",
            markup=False,
            soft_wrap=True,
        )
    if done.images_cut:
        warn(cut_sentence(done.images_cut, done.cut))
    if as_json:
        facts = {"images": done.images, "objects": done.objects, "skipped": len(done.skipped)}
        typer.echo(json.dumps(facts | {"images_cut": done.images_cut}))


def cut_sentence(images: int, examples: Sequence[str]) -> str:
    """Return the warning that images have more objects than an adapter returns."""
    return (
        f"in {images:,} image{'s' if images > 1 else ''} more objects were seen than an adapter gives for one image "
        f"(max_detections, 300 by default): those with the lowest scores are missing. Cut such images into tiles, "
        f"or raise the threshold. The first: {', '.join(examples)}"
    )


def evaluate_predictions(
    predictions: str, data: str, images: str | None, *, crowds: Crowds, endpoint_url: str | None, as_json: bool
) -> None:
    """Evaluate labels with scores against the ground truth by COCO AP."""
    from engine.dataset import load_dataset
    from engine.dataset.predictions import load_predictions
    from engine.evaluation.evaluate_predictions import evaluate_predictions

    storage = options.storage(endpoint_url)
    found = load_predictions(predictions, storage=storage)
    measured = evaluate_predictions(load_dataset(data, images, storage=storage, crowds=crowds), found)
    notes = {
        "images of the truth are not in the predictions and count as ones where nothing was seen": measured.unlabelled,
        "images of the predictions are not in the truth and do not count": measured.unknown,
        "classes of the predictions are not in the truth and do not count": measured.other_classes,
        "classes of the truth are not in the predictions and count as not found": measured.missed_classes,
    }
    for sentence, names in notes.items():
        if names:
            warn(f"{len(names):,} {sentence}: {listed(names)}")
    for remark in measured.remarks:
        warn(remark)
    columns = [("boxes", measured.boxes)] + ([] if measured.masks is None else [("masks", measured.masks)])
    show_metrics(columns)
    console.print(mistakes_line(measured.mistakes), soft_wrap=True)
    if as_json:
        told = {title: metrics.model_dump() for title, metrics in columns}
        typer.echo(json.dumps(told | {"mistakes": measured.mistakes.model_dump()}, indent=2))


def mistakes_line(counts: Confusion) -> str:
    """Return the counts of correct and wrong labels in one line."""
    return (
        f"{counts.found:,} of {counts.objects:,} objects have a correct label, {counts.missed:,} are missed; other "
        f"labels: {counts.false:,} false, {counts.wrong_class:,} misclassified, {counts.badly_localised:,} badly "
        f"localised, {counts.duplicates:,} duplicate"
    )


def progress_line(progress: Progress) -> str:
    """Return the progress, speed and remaining time of labelling."""
    left = progress.seconds_left
    minutes = None if left is None else round(left / 60)
    time_left = (
        ""
        if left is None or minutes is None
        else f", {left:.0f} s left"
        if left < 100
        else f", {minutes} min left"
        if minutes < 100
        else f", {minutes // 60} h {minutes % 60:02} min left"
    )
    skipped = f", {progress.skipped:,} unreadable" if progress.skipped else ""
    return (
        f"{progress.done:,} of {progress.total:,} images, {progress.images_per_second:.1f}/s{time_left}; "
        f"{progress.objects:,} objects{skipped}"
    )


def _teller() -> Callable[[Progress], None]:
    """Return a printer of progress: one line that is updated on a terminal, else a line from time to time."""
    last = time.monotonic()

    def tell(progress: Progress) -> None:
        nonlocal last
        ended = progress.done == progress.total
        if is_terminal():
            console.print(progress_line(progress) + " " * 10, end="\n" if ended else "\r", markup=False)
        elif time.monotonic() - last >= EVERY or ended:
            last = time.monotonic()
            console.print(progress_line(progress), markup=False, soft_wrap=True)

    return tell


def _by_teacher(assignments: list[str]) -> dict[TeacherName, str]:
    """Parse ``["Sam=s3://…"]`` into URIs by teacher."""
    found = {}
    for assignment in assignments:
        name, equals, where = assignment.partition("=")
        if not equals or name not in set(TeacherName):
            raise ConfigError(f"--base-model takes TEACHER=WHERE with {' or '.join(TeacherName)}, found {assignment!r}")
        found[TeacherName(name)] = where
    return found
