"""Commands that inspect, validate, split and augment data. None of them needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.markup import escape

from engine.cli import options
from engine.cli.display import console, note, show_info
from engine.errors import ConfigError, DataError
from engine.registry import class_reader
from engine.spec import (
    AugmentationSpec,
    Background,
    Characteristic,
    Crowds,
    DatasetSpec,
    ExifOrientation,
    FineTuneSpec,
    Intensity,
    Lighting,
    Motion,
    Viewpoint,
    Weather,
)
from engine.storage import Storage, default_cache, join
from engine.text.pydantic_errors import parse

ANNOTATIONS = typer.Argument(
    help="COCO JSON, or the folder or zip file of an export: COCO, YOLO, Pascal VOC, LabelMe or VIA; s3:// or path."
)


def inspect(
    annotations: Annotated[str | None, ANNOTATIONS] = None,
    manifest: Annotated[str | None, options.MANIFEST_FILE] = None,
    images: options.Images = None,
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", help="Base of the detector to estimate for; default: as in training."),
    ] = None,
    lora_preset: options.Preset = None,
    set_: options.Set = None,
    crowds: options.CrowdChoice = Crowds.IGNORE,
    gpu: Annotated[str, typer.Option("--gpu", help="GPU to estimate the training time for, such as L4.")] = "A100",
    endpoint_url: options.Endpoint = None,
    json: options.Json = False,
) -> None:
    """Show the content and the problems of a dataset, or of a manifest's (-f), and what training needs.

    Images are not read, and nothing is written. With -f the exit code is 41 if training would refuse the dataset.
    """
    from engine.cli.estimate_table import show_outlook
    from engine.config.data_checks import check_pieces
    from engine.config.generate import generate_config, teacher_defaults
    from engine.dataset import inspect_dataset, inspect_request
    from engine.dataset.checks.class_name_checks import find_vocabulary, judge_names, of_language
    from engine.estimate.forecast import Inspected, check_layers, outlook
    from engine.estimate.training_time import GPUS

    named = {known.lower(): known for known in GPUS}.get(gpu.lower())
    if named is None:
        raise ConfigError(f"--gpu {gpu} is not known: there are {', '.join(GPUS)}")
    flags = {"--images": images, "--base-model": base_model, "--endpoint-url": endpoint_url}
    if crowds is not Crowds.IGNORE:
        flags["--crowds"] = crowds.value
    spec, storage = _request(annotations, manifest, flags)
    overrides = {"teachers.*.lora.preset": lora_preset.value} if lora_preset is not None else {}
    overrides |= options.overrides(set_)
    asked = manifest is not None or bool(overrides)
    if annotations is not None:
        info = inspect_dataset(annotations, images, storage=storage, crowds=crowds)
    else:
        info = inspect_request(spec.dataset, storage=storage, fingerprint=False)
    reading = class_reader()
    if base_model is not None and info.has_boxes and reading is not None:
        overrides = {f"teachers.{reading.slug}.base_model": base_model} | overrides
    config, failure = None, None
    try:
        config = generate_config(info, spec, overrides=overrides)
        check_layers(config, storage)
    except (ConfigError, DataError) as error:
        if asked and isinstance(error, ConfigError):
            raise
        config, failure = None, error  # an error of the data: the other results are shown anyway
    reader = config.teachers.of(reading) if config is not None and reading is not None else None
    if reading is not None and (reader is not None or (config is None and info.has_boxes)):
        base = reader.base_model if reader is not None else base_model or teacher_defaults(reading)["base_model"]
        revision = reader.revision if reader is not None else None
        vocabulary = find_vocabulary(base, revision, storage=storage, hub=False)
        if vocabulary is not None and config is not None:
            try:
                check_pieces(config.data.classes, config.data.prompts, vocabulary, reader=reading.traits.title)
            except DataError as error:
                config, failure = None, error
        info = judge_names(info, spec.class_prompts, of_language(vocabulary))
    show_info(info)
    found = outlook(config, info, storage, gpu=named) if config is not None else ()
    show_outlook(found)
    if failure is not None and manifest is None:
        note(f"what training needs is not said: {failure}")
    if json:
        typer.echo(Inspected(**dict(info), outlook=found).model_dump_json(indent=2))
    if failure is not None and manifest is not None:
        raise failure


def _request(
    annotations: str | None, manifest: str | None, flags: Mapping[str, str | None]
) -> tuple[FineTuneSpec, Storage]:
    """Return the request of a manifest, or else of flags, and the storage of its data."""
    if manifest is not None:
        given = [name for name, value in ({"ANNOTATIONS": annotations} | dict(flags)).items() if value is not None]
        if given:
            raise ConfigError(f"-f {manifest} says what the data is, and what is trained: leave out {', '.join(given)}")
        request = options.read_manifest(manifest)
        return request.spec, options.storage_of(request)
    if annotations is None:
        raise ConfigError("give ANNOTATIONS, or a manifest with -f")
    dataset = {"annotations": annotations, "images": flags["--images"]}
    if "--crowds" in flags:
        dataset["crowds"] = flags["--crowds"]
    spec = parse(FineTuneSpec, {"dataset": dataset, "output": "out"}, where="the command line")
    return spec, options.storage(flags["--endpoint-url"])


def validate(
    annotations: Annotated[str | None, ANNOTATIONS] = None,
    manifest: Annotated[str | None, options.MANIFEST_FILE] = None,
    images: options.Images = None,
    crowds: options.CrowdChoice = Crowds.IGNORE,
    exif_orientation: options.ExifChoice = ExifOrientation.AUTO,
    endpoint_url: options.Endpoint = None,
    json: options.Json = False,
) -> None:
    """Inspect a dataset, or that of a manifest (-f), and open every image; exit code 41 if training would refuse it."""
    from engine.config.data_checks import check_pieces
    from engine.config.generate import generate_config
    from engine.dataset.checks.class_name_checks import find_vocabulary
    from engine.dataset.checks.validate import validate_request

    flags = {"--images": images, "--endpoint-url": endpoint_url}
    if crowds is not Crowds.IGNORE:
        flags["--crowds"] = crowds.value
    spec, storage = _request(annotations, manifest, flags)
    if exif_orientation is not ExifOrientation.AUTO:
        dataset = spec.dataset.model_copy(update={"exif_orientation": exif_orientation})
        spec = spec.model_copy(update={"dataset": dataset})
    info = validate_request(spec.dataset, storage=storage)
    show_info(info)
    if json:
        typer.echo(info.model_dump_json(indent=2))
    try:
        config = generate_config(info, spec)
        reading = config.teachers.reader
        if reading is not None and (reader := config.teachers.of(reading)) is not None:
            vocabulary = find_vocabulary(reader.base_model, reader.revision, storage=storage, hub=False)
            if vocabulary is not None:
                check_pieces(config.data.classes, config.data.prompts, vocabulary, reader=reading.traits.title)
    except ConfigError as error:
        if manifest is not None:
            raise
        raise DataError(str(error)) from None  # without a manifest, only the data can be wrong
    shown = manifest or annotations
    console.print(f"[green]{escape(str(shown))} can be trained on[/]" + (", with warnings" if info.problems else ""))


def split(
    annotations: Annotated[str, ANNOTATIONS],
    output: Annotated[
        str, typer.Option("--output", help="Folder for train.json, val.json and test.json; s3:// or path.")
    ],
    train: Annotated[float, typer.Option(min=0, max=1, help="Share of the images.")] = 0.8,
    val: Annotated[float, typer.Option(min=0, max=1, help="Share of the images.")] = 0.2,
    test: Annotated[float, typer.Option(min=0, max=1, help="Share of the images.")] = 0.0,
    stratify: Annotated[bool, typer.Option(help="Keep the share of every class in every part.")] = True,
    crowds: options.CrowdChoice = Crowds.IGNORE,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same split.")] = 0,
    images: options.Images = None,
    group_by: Annotated[
        str | None,
        typer.Option("--group-by", help="Keep images together: Folder, Prefix:_ (of names) or Field:video_id."),
    ] = None,
    overwrite: options.Overwrite = False,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Divide a dataset by image, stratified over classes, without losing or doubling an annotation.

    Copies and versions of a picture stay on one side. For that images on disk are opened, and those in S3 if --images
    is given.
    """
    from engine.dataset import split_file

    if abs(train + val + test - 1) > 1e-6:
        raise ConfigError(f"--train {train:g}, --val {val:g} and --test {test:g} make {train + val + test:g}, not 1")
    fractions = {"train": train, "val": val, "test": test}
    storage = options.storage(endpoint_url)
    usual = parse(DatasetSpec, {"annotations": annotations, "groupBy": group_by}, where="the command line")
    with TemporaryDirectory() as temporary:
        parts = split_file(
            annotations,
            Path(temporary),
            fractions,
            seed=seed,
            stratify=stratify,
            storage=storage,
            images=images,
            group_by=usual.group_by,
            crowds=crowds,
        )
        targets = [(part, join(output, part.path.name)) for part in parts]
        for part, uri in targets:
            options.refuse_other(uri, storage, overwrite=overwrite, content=part.path)
        for part, uri in targets:
            storage.upload(part.path, uri)
            console.print(str(part).replace(str(part.path), uri), markup=False, soft_wrap=True)
            typer.echo(uri)


def augment(
    data: Annotated[str, typer.Option("--data", help="COCO JSON; s3:// or path.")],
    preview: Annotated[
        Path, typer.Option("--preview", help="Contact sheet to write: .jpg or .png.", callback=options.only_local)
    ],
    images: options.Images = None,
    characteristics: Annotated[
        list[Characteristic] | None, typer.Option("--characteristic", help="What the objects are like; repeatable.")
    ] = None,
    lighting: Lighting | None = None,
    weather: Weather | None = None,
    motion: Motion | None = None,
    viewpoint: Viewpoint | None = None,
    background: Background | None = None,
    intensity: Intensity = Intensity.MEDIUM,
    count: Annotated[int, typer.Option(min=1, max=16, help="Images to show.")] = 4,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    exif_orientation: options.ExifChoice = ExifOrientation.AUTO,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Show what training images will look like: a contact sheet of originals and augmented views."""
    from PIL import Image

    from engine.augmentation import Augmenter, contact_sheet, describe, left_out, select
    from engine.dataset import ImageFolder, load_dataset, load_sample
    from engine.dataset.sample_loader import with_frame

    if preview.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise ConfigError(f"--preview {preview} must end in .jpg or .png")
    environment = {
        "lighting": lighting,
        "weather": weather,
        "motion": motion,
        "viewpoint": viewpoint,
        "background": background,
    }
    asked = {"characteristics": characteristics or [], "environment": environment, "intensity": intensity}
    spec = parse(AugmentationSpec, asked, where="the augmentation")
    storage = options.storage(endpoint_url)
    dataset = load_dataset(data, images, storage=storage)
    chosen = [i for i, objects in enumerate(dataset.annotations) if objects][:count]
    folder = ImageFolder.of(data, images, storage=storage, cache=default_cache())
    shown = dataset.subset(chosen)
    folder.sync(shown.images)
    paths = [folder.path(image) for image in shown.images]
    shown, _ = with_frame(shown, paths, asked=exif_orientation)
    samples = [load_sample(shown, i, path, with_masks=True) for i, path in enumerate(paths)]
    console.print(describe(select(spec), left_out(spec)), markup=False, soft_wrap=True)
    sheet = contact_sheet(samples, Augmenter(spec), seed=seed, columns=4)
    preview.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(preview)
    typer.echo(str(preview))
