"""``teacher convert``: other formats to COCO."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from engine.cli import options
from engine.cli.display import console, show_info
from engine.errors import ConfigError, DataError
from engine.storage import join


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder, its data.yaml, a zip file, a VIA project or a COCO file; s3:// or path. COCO, YOLO "
            "(boxes and polygons), Pascal VOC, LabelMe and VIA JSON are read; what is in the files tells the format."
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            help="COCO file to write, such as annotations.json; of a dataset with splits the folder for train.json, "
            "val.json and test.json; s3:// or path.",
        ),
    ],
    images: options.Images = None,
    overwrite: options.Overwrite = False,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Write a dataset as COCO: usable images and objects, as `teacher inspect` counts them.

    Images stay where they are. Every other command reads these formats too, so that this is only needed to look at the
    result, to edit it, or for other tools. Exit code 41 for a format that is not read, with its name and what to do.
    """
    from engine.dataset import find_splits
    from engine.dataset.convert import convert_dataset
    from engine.dataset.inspect import inspect_splits

    storage = options.storage(endpoint_url)
    splits = find_splits(source, images, storage=storage)
    if len(splits) > 1 and output.lower().endswith(".json"):
        raise ConfigError(f"{source} comes in the splits {', '.join(splits)}: give a folder as --output, not {output}")
    info = inspect_splits(splits, source=source, storage=storage)
    show_info(info)
    if info.errors:
        raise DataError(f"{source} cannot be converted: " + " ".join(f"{p.message} {p.advice}" for p in info.errors))
    with TemporaryDirectory() as temporary:
        written = convert_dataset(splits, Path(temporary), storage=storage)
        targets = {name: _target(output, name) for name in written}
        for name, uri in targets.items():
            options.refuse_other(uri, storage, overwrite=overwrite, content=written[name].path)
        for name, uri in targets.items():
            file = written[name]
            storage.upload(file.path, uri)
            folder = (images or source) if (images or source).lower().endswith(".zip") else file.images_folder
            console.print(
                f"{uri}: {file.images:,} images, {file.annotations:,} annotations; its images: --images {folder}",
                markup=False,
                soft_wrap=True,
            )
            typer.echo(uri)


def _target(output: str, split: str) -> str:
    """Return the URI of the file of a split: ``output`` itself if it is a file."""
    if output.lower().endswith(".json"):
        return output
    return join(output, "annotations.json" if split == "all" else f"{split}.json")
