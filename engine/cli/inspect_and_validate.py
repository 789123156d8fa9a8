"""Commands that check data before training: inspect and validate. Neither needs torch."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from engine.cli import options
from engine.cli.display import console, note, show_info
from engine.cli.request_options import (
    ANNOTATIONS,
    CROWDS,
    DETECTOR_BASE,
    ENDPOINT,
    EXIF,
    IMAGES,
    LORA_PRESET,
    ReadRequest,
    Request,
    takes_request,
)
from engine.config import RunConfig
from engine.dataset import DatasetInfo
from engine.errors import ConfigError, DataError
from engine.manifest import Manifest
from engine.registry import class_reader
from engine.spec import FineTuneSpec
from engine.storage import Storage

NOWHERE = "out"
"""``spec.output`` of requests that publish nothing."""


@takes_request(ANNOTATIONS, IMAGES, DETECTOR_BASE, LORA_PRESET, CROWDS, ENDPOINT, output=NOWHERE)
def inspect(
    read_request: ReadRequest,
    gpu: Annotated[str, typer.Option("--gpu", help="GPU to estimate the training time for, such as L4.")] = "A100",
    json: options.Json = False,
) -> None:
    """Show the content and the problems of a dataset, or of a manifest's (-f), and what training needs.

    Images are not read, and nothing is written. With -f the exit code is 41 if training would refuse the dataset.
    """
    from engine.cli.estimate_table import show_forecast, show_recommendation
    from engine.dataset import inspect_dataset, inspect_request
    from engine.estimate.base_recommendation import recommend_bases
    from engine.estimate.forecast import Inspected, forecast
    from engine.estimate.training_time import GPUS

    named = {known.lower(): known for known in GPUS}.get(gpu.lower())
    if named is None:
        raise ConfigError(f"--gpu {gpu} is not known: there are {', '.join(GPUS)}")
    request = read_request()
    storage, dataset = options.storage_of(request.manifest), request.spec.dataset
    if request.file is None and dataset.annotations is not None:
        info = inspect_dataset(dataset.annotations, dataset.images, storage=storage, crowds=dataset.crowds)
    else:
        info = inspect_request(dataset, storage=storage, fingerprint=False)
    info, config, failure = _planned(info, request, storage)
    show_info(info)
    found = forecast(config, info, storage, gpu=named) if config is not None else ()
    show_forecast(found)
    bases = recommend_bases(info, request.spec, config, gpu=named) if config is not None else ()
    show_recommendation(bases)
    if failure is not None and request.file is None:
        note(f"what training needs cannot be estimated: {failure}")
    if json:
        typer.echo(Inspected(**dict(info), forecast=found, bases=bases).model_dump_json(indent=2))
    if failure is not None and request.file is not None:
        raise failure


def _planned(
    info: DatasetInfo, request: Request[Manifest], storage: Storage
) -> tuple[DatasetInfo, RunConfig | None, ConfigError | DataError | None]:
    """Return the inspection with remarks on class names, and the configuration or why there is none.

    Raises:
        ConfigError: The manifest or a setting is wrong.
    """
    from engine.config.data_checks import check_pieces
    from engine.config.resolve import generate_config, teacher_defaults
    from engine.dataset.checks.class_name_checks import check_class_names, find_vocabulary, of_language
    from engine.estimate.forecast import check_layers

    spec, base_path = request.spec, str(DETECTOR_BASE.setting)
    chosen = request.settings.keys() - {base_path}
    if not info.has_boxes and base_path in spec.settings:
        without = {path: value for path, value in spec.settings.items() if path != base_path}
        spec = spec.model_copy(update={"settings": without})
    config: RunConfig | None = None
    failure: ConfigError | DataError | None = None
    try:
        config = generate_config(info, spec)
        check_layers(config, storage)
    except (ConfigError, DataError) as error:
        if isinstance(error, ConfigError) and (request.file is not None or chosen):
            raise
        config, failure = None, error  # an error of the data: the other results are shown anyway
    reading = class_reader(None if config is None else config.teachers.names)
    reader = config.teachers.of(reading) if config is not None and reading is not None else None
    if reading is None or (reader is None and not info.has_boxes):
        return info, config, failure
    usual = request.settings.get(base_path) or teacher_defaults(reading)["base_model"]
    base, revision = (usual, None) if reader is None else (reader.base_model, reader.revision)
    vocabulary = find_vocabulary(base, revision, storage=storage, hub=False)
    if vocabulary is not None and config is not None:
        try:
            check_pieces(config.data.classes, config.data.prompts, vocabulary, reader=reading.traits.title)
        except DataError as error:
            config, failure = None, error
    return check_class_names(info, spec.class_prompts, of_language(vocabulary)), config, failure


@takes_request(ANNOTATIONS, IMAGES, CROWDS, EXIF, ENDPOINT, output=NOWHERE, settable=False)
def validate(read_request: ReadRequest, json: options.Json = False) -> None:
    """Inspect a dataset, or that of a manifest (-f), and open every image; exit code 41 if training would refuse it."""
    from engine.dataset.checks.validate import validate_request

    request = read_request()
    storage = options.storage_of(request.manifest)
    info = validate_request(request.spec.dataset, storage=storage)
    show_info(info)
    if json:
        typer.echo(info.model_dump_json(indent=2))
    try:
        _check_trainable(info, request.spec, storage)
    except ConfigError as error:
        if request.file is not None:
            raise
        raise DataError(str(error)) from None  # without a manifest, only the data can be wrong
    shown = request.file or request.spec.dataset.annotations
    console.print(f"[green]{escape(str(shown))} can be trained on[/]" + (", with warnings" if info.problems else ""))


def _check_trainable(info: DatasetInfo, spec: FineTuneSpec, storage: Storage) -> None:
    from engine.config.data_checks import check_pieces
    from engine.config.resolve import generate_config
    from engine.dataset.checks.class_name_checks import find_vocabulary

    config = generate_config(info, spec)
    reading = config.teachers.reader
    if reading is not None and (reader := config.teachers.of(reading)) is not None:
        vocabulary = find_vocabulary(reader.base_model, reader.revision, storage=storage, hub=False)
        if vocabulary is not None:
            check_pieces(config.data.classes, config.data.prompts, vocabulary, reader=reading.traits.title)
