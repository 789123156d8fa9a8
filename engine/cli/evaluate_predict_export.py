"""Commands that use adapters: evaluate, predict, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli import options
from engine.cli.display import console, note, show_conclusion, show_metrics, warn
from engine.cli.labels import cut_sentence, evaluate_predictions
from engine.cli.optimize_and_benchmark import ARTIFACT, evaluate_model, open_artifact
from engine.dataset.checks.problems import EXAMPLES
from engine.errors import ConfigError, MachineError
from engine.layout import SPLITS
from engine.spec import Crowds, ExifOrientation, TeacherName
from engine.spec.bounds import BATCH_SIZE, SCORE
from engine.storage import Storage, default_cache
from engine.storage import name as name_of
from engine.text.safe_text import listed

if TYPE_CHECKING:
    from engine.evaluation.adapter_evaluation import AdapterEvaluation
    from engine.labelling.predict_folder import Predicted
    from engine.models.predictor import Predictor

ADAPTER = typer.Option("--adapter", help="Adapter folder, <run>/teachers/<teacher>_lora; s3:// or path.")
Adapter = Annotated[str, ADAPTER]
STUDENT = typer.Option("--student", help="Folder of a student, or of its run; s3:// or path.")
BaseModel = Annotated[
    str | None, typer.Option("--base-model", help="Location of the base model, if it has moved since training.")
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=BATCH_SIZE.low, help="Images per forward pass.")]


def evaluate(
    data: Annotated[str, typer.Option("--data", help="COCO JSON to measure on.")],
    adapter: Annotated[str | None, ADAPTER] = None,
    student: Annotated[str | None, STUDENT] = None,
    artifact: Annotated[str | None, ARTIFACT] = None,
    predictions: Annotated[
        str | None, typer.Option("--predictions", help="Labels with scores to measure instead of an adapter.")
    ] = None,
    images: options.Images = None,
    base_model: BaseModel = None,
    batch_size: BatchSize = 4,
    crowds: options.CrowdChoice = Crowds.IGNORE,
    exif_orientation: options.ExifChoice = ExifOrientation.AUTO,
    endpoint_url: options.Endpoint = None,
    as_json: options.Json = False,
) -> None:
    """Measure COCO AP of an adapter and of its base on a dataset, of a student, an exported model, or scored labels."""
    if sum(one is not None for one in (adapter, student, artifact, predictions)) > 1:
        raise ConfigError("give one of --adapter, --student, --artifact and --predictions: each is measured on its own")
    if predictions is not None:
        evaluate_predictions(predictions, data, images, crowds=crowds, endpoint_url=endpoint_url, as_json=as_json)
        return
    storage = options.storage(endpoint_url)
    if adapter is None:
        model = _open_model(student, artifact, storage)
        if model is None:
            raise ConfigError(
                "give --adapter, --student, --artifact such as optimize wrote, or --predictions such as label wrote"
            )
        evaluate_model(
            model,
            name_of(str(student or artifact)),
            data,
            images,
            batch_size=batch_size,
            crowds=crowds,
            exif_orientation=exif_orientation,
            storage=storage,
            as_json=as_json,
        )
        return
    from engine.evaluation.adapter_evaluation import evaluate_adapter

    measured = evaluate_adapter(
        adapter,
        data,
        images,
        base_model=base_model,
        batch_size=batch_size,
        crowds=crowds,
        exif_orientation=exif_orientation,
        storage=storage,
        cache=default_cache(),
        working=console.status,
    )
    _show_evaluation(measured, adapter)
    if as_json:
        typer.echo(json.dumps(_evaluation_json(measured), indent=2))


def _open_model(student: str | None, artifact: str | None, storage: Storage) -> Predictor | None:
    """Load a student or an artifact, whichever is given."""
    if student is not None:
        from engine.students import load_student

        return load_student(student, storage=storage)
    return None if artifact is None else open_artifact(artifact, storage)


def _show_evaluation(measured: AdapterEvaluation, adapter: str) -> None:
    for sentence in measured.remarks:
        note(sentence)
    show_metrics([("base", measured.base.metrics), ("adapted", measured.adapted.metrics)])
    show_conclusion(measured.conclusion)
    for sentence in measured.classes.sentences():
        warn(sentence)
    trained_on = measured.trained_on
    if trained_on:
        warn(
            f"{len(trained_on):,} of {measured.images:,} images are among those that the adapter was trained on: this "
            f"AP is not that of new images. The first: {listed(trained_on[:EXAMPLES])}"
        )
    elif trained_on is None:
        warn(f"{adapter} has no {SPLITS}: it is not known whether it was trained on these images")


def _evaluation_json(measured: AdapterEvaluation) -> dict[str, object]:
    return {
        "base": measured.base.metrics.model_dump(),
        "adapted": measured.adapted.metrics.model_dump(),
        "comparison": measured.comparison and measured.comparison.model_dump(),
        "conclusion": measured.conclusion.sentence,
        "images_trained_on": None if measured.trained_on is None else len(measured.trained_on),
        "classes_left_out": measured.classes.unknown,
        "classes_without_objects": measured.classes.absent,
    }


def predict(
    images: Annotated[str, typer.Option("--images", help="Folder of the images; s3:// or path.")],
    output: Annotated[str, typer.Option("--output", help="COCO JSON to write, with scores; s3:// or path.")],
    adapter: Annotated[str | None, ADAPTER] = None,
    student: Annotated[str | None, STUDENT] = None,
    artifact: Annotated[str | None, ARTIFACT] = None,
    boxes: Annotated[
        str | None, typer.Option("--boxes", help="COCO JSON of boxes that prompt the teacher, such as predict wrote.")
    ] = None,
    threshold: Annotated[
        float, typer.Option("--threshold", min=SCORE.low, max=SCORE.high, help="Lowest score to keep.")
    ] = 0.3,
    draw: Annotated[
        str | None,
        typer.Option("--draw", help="Folder for a picture of each image with its detections; s3:// or path."),
    ] = None,
    base_model: BaseModel = None,
    batch_size: BatchSize = 4,
    overwrite: options.Overwrite = False,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Run an adapted teacher, a student or an exported model on a folder of images, and write boxes or masks."""
    if sum(one is not None for one in (adapter, student, artifact)) != 1:
        raise ConfigError("give one of --adapter, --student, and --artifact such as optimize wrote")
    from engine.labelling import Overlays
    from engine.labelling.predict_folder import predict_folder, prompting_dataset
    from engine.teachers import load_adapted

    storage = options.storage(endpoint_url)
    options.check_writable(output, storage)
    options.refuse_other(output, storage, overwrite=overwrite)
    overlays = None if draw is None else Overlays(draw)
    if overlays is not None:
        overlays.refuse_inside(images, storage)
    teacher = _open_model(student, artifact, storage)
    if teacher is None:
        teacher = load_adapted(str(adapter), base_model=base_model, storage=storage, cache=default_cache())
    source = str(student or artifact or adapter)
    dataset = prompting_dataset(teacher, images, boxes, adapter=source, storage=storage, warn=warn)
    with console.status(f"predicting {len(dataset)} images"):
        predicted = predict_folder(
            teacher,
            dataset,
            images,
            threshold=threshold,
            batch_size=batch_size,
            overlays=overlays,
            storage=storage,
        )
    storage.write_bytes(output, json.dumps(predicted.coco).encode())
    _show_predicted(predicted, threshold)
    typer.echo(output)


def _show_predicted(predicted: Predicted, threshold: float) -> None:
    pairs = list(zip(predicted.images, predicted.detections, strict=True))
    cut = [image.file_name for image, seen in pairs if seen.lacks(threshold)]
    if cut:
        warn(cut_sentence(len(cut), cut[:EXAMPLES]))
    best = max((float(seen.scores.max()) for _, seen in pairs if len(seen)), default=0.0)
    objects = len(predicted.coco["annotations"])
    console.print(
        f"{objects} objects in {len(pairs)} images"
        + ("" if objects else f": the highest score is {best:.2f}, below --threshold {threshold:g}")
    )


def export(
    adapter: Adapter,
    output: Annotated[Path, typer.Option("--output", help="The .pth file to write.", callback=options.only_local)],
    base_model: BaseModel = None,
    overwrite: options.Overwrite = False,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Merge an adapter into its base, as a checkpoint that the code of the base's authors loads."""
    from engine.teachers import load_adapted

    storage = options.storage(endpoint_url)
    options.refuse_other(str(output), storage, overwrite=overwrite)
    teacher = load_adapted(adapter, base_model=base_model, storage=storage, cache=default_cache(), device="cpu")
    if not teacher.name.traits.original_suffix:
        able = " and ".join(name.traits.title for name in TeacherName if name.traits.original_suffix)
        raise ConfigError(f"{adapter} is an adapter of {teacher.name}; only {able} can be exported")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.tmp")
    try:
        code = teacher.export_original(temporary, path=output)
        temporary.replace(output)
    except RuntimeError as error:  # torch's own words for a disk that is full
        raise MachineError(f"{output} cannot be written: {str(error).splitlines()[0]}. Is the disk full?") from None
    finally:
        temporary.unlink(missing_ok=True)
    console.print(f"it is loaded by\n\n{code}", markup=False, soft_wrap=True)
    typer.echo(str(output))
