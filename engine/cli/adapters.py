"""Commands that use adapters: evaluate, predict, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.cli import options
from engine.cli.display import console, show_metrics
from engine.errors import ConfigError
from engine.spec import TeacherName

Adapter = Annotated[
    str, typer.Option("--adapter", help="Adapter folder, <run>/teachers/<teacher>_lora; s3:// or path.")
]
BaseModel = Annotated[
    str | None, typer.Option("--base-model", help="The base, if it is not where it was in training.")
]


def evaluate(
    adapter: Adapter,
    data: Annotated[str, typer.Option("--data", help="COCO JSON to measure on.")],
    images: options.Images = None,
    base_model: BaseModel = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 4,
    endpoint_url: options.Endpoint = None,
    json: options.Json = False,
) -> None:
    """Measure COCO AP of an adapter and of its base on a dataset."""
    from engine.dataset import ImageFolder, load_dataset, load_sample
    from engine.evaluation import evaluate as measure
    from engine.teachers import adapter_off, load_adapted

    storage = options.storage(endpoint_url)
    teacher = load_adapted(adapter, base_model=base_model, storage=storage)
    dataset = load_dataset(data, images, storage=storage).with_classes(teacher.classes)
    folder = ImageFolder.of(data, images, storage=storage, cache=options.cache_dir())
    folder.sync(dataset.images)

    def load(index: int):  # type: ignore[no-untyped-def]
        return load_sample(dataset, index, folder.path(dataset.images[index]), with_masks=teacher.needs_masks)

    with console.status("measuring the adapter"):
        adapted = measure(teacher, dataset, load, batch_size=batch_size).metrics
    with console.status("measuring the base"), adapter_off(teacher):
        base = measure(teacher, dataset, load, batch_size=batch_size).metrics
    show_metrics([("base", base), ("adapted", adapted)])
    if json:
        import json as json_module

        typer.echo(json_module.dumps({"base": base.model_dump(), "adapted": adapted.model_dump()}, indent=2))
