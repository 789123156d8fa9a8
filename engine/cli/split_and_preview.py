"""Commands that split data and preview its augmentation. Neither needs torch."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from engine.cli import options
from engine.cli.display import console
from engine.cli.spec_options import spec_option
from engine.errors import ConfigError
from engine.spec import (
    AugmentationSpec,
    Background,
    Characteristic,
    Crowds,
    DatasetSpec,
    EnvironmentSpec,
    ExifOrientation,
    Intensity,
    Lighting,
    Motion,
    Viewpoint,
    Weather,
)
from engine.storage import default_cache, join
from engine.text.pydantic_errors import parse

ANNOTATIONS = typer.Argument(
    help="COCO JSON, or the folder or zip file of an export: COCO, YOLO, Pascal VOC, LabelMe or VIA; s3:// or path."
)


def split(
    annotations: Annotated[str, ANNOTATIONS],
    output: Annotated[
        str, typer.Option("--output", help="Folder for train.json, val.json and test.json; s3:// or path.")
    ],
    train: Annotated[float, typer.Option(min=0, max=1, help="Share of the images.")] = 0.8,
    val: Annotated[float, typer.Option(min=0, max=1, help="Share of the images.")] = 0.2,
    test: Annotated[float, typer.Option(min=0, max=1, help="Share of the images.")] = 0.0,
    stratify: Annotated[bool, typer.Option(help="Keep the share of every class in every split.")] = True,
    crowds: options.CrowdChoice = Crowds.IGNORE,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same split.")] = 0,
    images: options.Images = None,
    group_by: Annotated[str | None, spec_option(DatasetSpec, "group_by")] = None,
    overwrite: options.Overwrite = False,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Divide a dataset by image, stratified over classes, without losing or doubling an annotation.

    Copies and versions of a picture stay on one side. For that images on disk are opened, and those in S3 if --images
    is given.
    """
    from engine.dataset import split_file

    if abs(train + val + test - 1) > 1e-6:
        raise ConfigError(
            f"--train {train:g}, --val {val:g} and --test {test:g} add up to {train + val + test:g}, not 1"
        )
    fractions = {"train": train, "val": val, "test": test}
    storage = options.storage(endpoint_url)
    with TemporaryDirectory() as temporary:
        written = split_file(
            annotations,
            Path(temporary),
            fractions,
            seed=seed,
            stratify=stratify,
            storage=storage,
            images=images,
            group_by=group_by,
            crowds=crowds,
        )
        targets = [(file, join(output, file.path.name)) for file in written]
        for file, uri in targets:
            options.refuse_other(uri, storage, overwrite=overwrite, content=file.path)
        for file, uri in targets:
            storage.upload(file.path, uri)
            console.print(str(file).replace(str(file.path), uri), markup=False, soft_wrap=True)
            typer.echo(uri)


def augment(
    data: Annotated[str, typer.Option("--data", help="COCO JSON; s3:// or path.")],
    preview: Annotated[
        Path, typer.Option("--preview", help="Contact sheet to write: .jpg or .png.", callback=options.only_local)
    ],
    images: options.Images = None,
    characteristics: Annotated[
        list[Characteristic] | None,
        spec_option(AugmentationSpec, "characteristics", "--characteristic", more="Repeatable."),
    ] = None,
    lighting: Annotated[Lighting | None, spec_option(EnvironmentSpec, "lighting")] = None,
    weather: Annotated[Weather | None, spec_option(EnvironmentSpec, "weather")] = None,
    motion: Annotated[Motion | None, spec_option(EnvironmentSpec, "motion")] = None,
    viewpoint: Annotated[Viewpoint | None, spec_option(EnvironmentSpec, "viewpoint")] = None,
    background: Annotated[Background | None, spec_option(EnvironmentSpec, "background")] = None,
    intensity: Annotated[Intensity, spec_option(AugmentationSpec, "intensity")] = Intensity.MEDIUM,
    mosaic: Annotated[int, spec_option(AugmentationSpec, "mosaic")] = 0,
    paste: Annotated[int, spec_option(AugmentationSpec, "paste")] = 0,
    count: Annotated[int, typer.Option(min=1, max=16, help="Images to show.")] = 4,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    exif_orientation: options.ExifChoice = ExifOrientation.AUTO,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Show what training images will look like: a contact sheet of originals and augmented views."""
    from PIL import Image

    from engine.augmentation import Augmenter, Mixer, contact_sheet, describe, left_out, select
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
    asked: dict[str, object] = {
        "characteristics": characteristics or [],
        "environment": environment,
        "intensity": intensity,
        "mosaic": mosaic,
        "paste": paste,
    }
    spec = parse(AugmentationSpec, asked, where="the augmentation")
    storage = options.storage(endpoint_url)
    dataset = load_dataset(data, images, storage=storage)
    chosen = [i for i, objects in enumerate(dataset.annotations) if objects][:count]
    folder = ImageFolder.of(data, images, storage=storage, cache=default_cache())
    shown = dataset.subset(chosen)
    folder.sync(shown.images)
    paths = [folder.path(image) for image in shown.images]
    shown, _ = with_frame(shown, paths, requested=exif_orientation)
    samples = [load_sample(shown, i, path, with_masks=True) for i, path in enumerate(paths)]
    console.print(describe(select(spec), left_out(spec)), markup=False, soft_wrap=True)
    mixer = Mixer(spec, samples.__getitem__, samples.__getitem__, len(samples), range(len(samples)), Augmenter(spec))
    sheet = contact_sheet(samples, mixer, seed=seed, columns=4)
    preview.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(preview)
    typer.echo(str(preview))
