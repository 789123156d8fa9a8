"""Export a model to several formats, measure each in its own runtime, and publish those that lose little AP."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from decimal import Decimal
from importlib import resources
from pathlib import Path

from engine.dataset.images.preprocessing import MAX_EDGE
from engine.errors import ConfigError, DataError
from engine.evaluation.evaluate import Evaluation, evaluate
from engine.layout import ARTIFACT_RESULTS
from engine.optimization.card import Preprocessing
from engine.optimization.export import to_onnx
from engine.optimization.measure import Workshop
from engine.optimization.packages import require
from engine.optimization.source import MeasuringImages, Source
from engine.optimization.targets import Target, Wanted, limits_of
from engine.registry import ModelName
from engine.results.artifacts import Artifacts
from engine.storage import Storage, join

EXAMPLE = "detect.py"
STEMS = ("model.", "encoder.", "decoder.")


def check_formats(wanted: Sequence[Wanted]) -> list[tuple[Target, Decimal]]:
    """Return target and allowed loss of each format; packages are imported before anything slow.

    Raises:
        ConfigError: A format cannot be built here, or packages are missing.
    """
    targets = limits_of(wanted)
    for package in dict.fromkeys(package for target, _ in targets for package in target.packages):
        require(package)
    return targets


def check_size(shape: tuple[int, int] | None) -> None:
    """Check the height and width of an input.

    Raises:
        ConfigError: They are not whole numbers from 32 to 8192.
    """
    if shape is not None and not (len(shape) == 2 and all(type(one) is int and 32 <= one <= MAX_EDGE for one in shape)):
        raise ConfigError(f"image_size is {shape}: give height and width from 32 to {MAX_EDGE} pixels")


def optimize(
    source: Source,
    images: MeasuringImages,
    wanted: Sequence[Wanted],
    output: str,
    *,
    shape: tuple[int, int] | None,
    threads: int,
    storage: Storage,
    working: Callable[[str], None] = lambda sentence: None,
) -> Artifacts:
    """Export, measure and publish a model in a folder ``output`` that gets a folder with its files.

    Args and errors are those of :func:`build`.
    """
    with tempfile.TemporaryDirectory(prefix="artifacts-") as temporary:
        folder = Path(temporary)
        made = build(source, images, wanted, folder, shape=shape, threads=threads, working=working)
        _publish(files_of(made, folder), join(output, source.slug), storage)
    return made


def build(
    source: Source,
    images: MeasuringImages,
    wanted: Sequence[Wanted],
    folder: Path,
    *,
    shape: tuple[int, int] | None,
    threads: int,
    working: Callable[[str], None] = lambda sentence: None,
) -> Artifacts:
    """Export and measure a model; :func:`files_of` are the files to publish.

    Args:
        source: The model.
        images: Images to measure on.
        wanted: Formats.
        folder: Existing local folder for the files.
        shape: Height and width of the input; default: such that no image is smaller than in torch.
        threads: Threads of the runtimes.
        working: Is called with what is being done.

    Raises:
        ConfigError: A format cannot be built here, or packages are missing.
        DataError: The model finds too little for a comparison, or has masks that cannot be measured on these images.
    """
    targets = check_formats(wanted)
    working("measuring the model in torch")
    reference = evaluate(source.model, images.dataset, images.load, batch_size=1)
    _check_comparable(reference, images, targets)
    working("exporting to ONNX")
    sizes = [(image.height, image.width) for image in reference.truth.dataset.images]
    graphs = {graph.role: graph for graph in source.model.graphs(shape, sizes)}
    height, width = next(iter(graphs.values())).inputs["pixel_values"].shape[2:]
    workshop = Workshop(
        source=source,
        graphs=graphs,
        references={role: to_onnx(graph) for role, graph in graphs.items()},
        preprocessing=Preprocessing.of(source.model.transform, height=height, width=width),
        images=images,
        ap=reference.metrics.ap,
        mask_ap=reference.metrics.mask_ap,
        threads=threads,
        folder=folder,
        working=working,
    )
    made = Artifacts(
        model=source.name,
        source=source.uri,
        source_sha256=source.digest,
        licence=ModelName(source.name).traits.licence,
        classes=source.model.classes,
        split=images.split,
        images=len(images.dataset),
        torch_ap=reference.metrics.ap,
        torch_mask_ap=reference.metrics.mask_ap,
        input_height=height,
        input_width=width,
        artifacts=tuple(workshop.make(target, drop) for target, drop in targets),
    )
    (folder / ARTIFACT_RESULTS).write_text(made.model_dump_json(indent=2), encoding="utf-8")
    (folder / EXAMPLE).write_bytes(resources.files("engine.optimization").joinpath(EXAMPLE).read_bytes())
    return made


def files_of(made: Artifacts, folder: Path) -> dict[str, Path]:
    """Return the files to publish by name: accepted artifacts, an example for detectors, ``artifacts.json`` last."""
    names = [file.path for one in made.artifacts for file in one.files]
    if any(name.startswith("model") and name.endswith(".onnx") for name in names):
        names.append(EXAMPLE)
    return {name: folder / name for name in [*names, ARTIFACT_RESULTS]}


def _publish(files: dict[str, Path], target: str, storage: Storage) -> None:
    """Replace the artifacts in a folder, and write ``artifacts.json`` after them.

    Files of an earlier call that are not written again are deleted: nothing that is not described is left.
    """
    storage.delete(join(target, ARTIFACT_RESULTS))
    for old in list(storage.list(target)):
        if old.key.startswith(STEMS) and old.key.endswith((".onnx", ".xml", ".bin")):
            storage.delete(old.uri)
    *others, last = files.items()
    storage.upload_many([(file, join(target, name)) for name, file in others])
    storage.upload_many([(last[1], join(target, last[0]))])


def _check_comparable(
    reference: Evaluation, images: MeasuringImages, targets: Sequence[tuple[Target, Decimal]]
) -> None:
    """Check that all outputs are measured, and that a loss of the whole AP would be refused."""
    metrics, allowed = reference.metrics, max(drop for _, drop in targets)
    prompted = reference.truth.iou_type == "segm"
    if metrics.mask_ap is None and not prompted and any(seen.masks is not None for seen in reference.detections):
        which = "validation images of the run" if images.split == "val" else "images"
        raise DataError(
            f"the model has masks, and their AP cannot be measured: none of the {len(images.dataset):,} {which} has a "
            "mask of each of its objects. Add masks to the annotations of these images (--data), or train the student "
            "without masks (student.masks: false)"
        )
    for name, ap in (("AP", metrics.ap), ("mask AP", metrics.mask_ap)):
        if ap is not None and ap <= allowed:
            raise DataError(
                f"the model has {name} {ap:.4f} in torch on these images: an artifact that finds nothing would lose "
                f"less than the allowed {allowed}. Measure on images whose objects it finds, or train it further"
            )
