"""Export a model to several formats, measure each in its own runtime, and publish those that lose little AP."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from decimal import Decimal
from importlib import resources
from pathlib import Path

from pydantic import Field

from engine.dataset.images.preprocessing import MAX_EDGE
from engine.errors import ArtifactRefusedError, ConfigError, DataError
from engine.evaluation.evaluate import evaluate
from engine.optimization.card import Preprocessing
from engine.optimization.export import to_onnx
from engine.optimization.measure import ArtifactResult, Workshop
from engine.optimization.packages import require
from engine.optimization.source import MeasuringImages, Source
from engine.optimization.targets import Target, target_of
from engine.results.types import Result
from engine.spec import ArtifactSpec
from engine.storage import Storage, join
from engine.text.format_version import FORMAT_VERSION

RESULTS, EXAMPLE = "artifacts.json", "detect.py"
STEMS = ("model.", "encoder.", "decoder.")


class Artifacts(Result):
    """``artifacts.json``: the artifacts of a model and their measurements."""

    format_version: int = FORMAT_VERSION
    model: str = Field(description="Name of the teacher or student.")
    source: str = Field(description="Its location.")
    source_sha256: str
    classes: tuple[str, ...]
    split: str = Field(description="`val`: measured on the validation split of its run; `all`: on all given images.")
    images: int
    torch_ap: float = Field(description="AP of the model in torch on the same images.")
    torch_mask_ap: float | None = Field(default=None, description="The same by the IoU of masks.")
    input_height: int
    input_width: int
    artifacts: tuple[ArtifactResult, ...]


def check_formats(wanted: Sequence[ArtifactSpec]) -> list[tuple[Target, Decimal]]:
    """Return target and allowed loss of each format; packages are imported before anything slow.

    Raises:
        ConfigError: A format cannot be built here, or packages are missing.
    """
    targets = [(target_of(one.format), one.max_ap_drop) for one in wanted]
    for module in ("onnx", "onnxruntime"):
        require(module)
    if any(target.runtime == "openvino" for target, _ in targets):
        require("openvino")
    if any(target.precision == "int8" for target, _ in targets):
        require("nncf")
    return [(target, target.max_ap_drop if drop is None else Decimal(drop)) for target, drop in targets]


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
    wanted: Sequence[ArtifactSpec],
    output: str,
    *,
    shape: tuple[int, int] | None,
    threads: int,
    storage: Storage,
    working: Callable[[str], None] = lambda sentence: None,
) -> Artifacts:
    """Export, measure and publish a model.

    Args:
        source: The model.
        images: Images to measure on.
        wanted: Formats.
        output: Folder that gets a folder with the files, with ``artifacts.json`` last.
        shape: Height and width of the input; default: such that no image is smaller than in torch.
        threads: Threads of the runtimes.
        storage: Access to the output.
        working: Is called with what is being done.

    Raises:
        ConfigError: A format cannot be built here, or packages are missing.
        DataError: The model finds too little for a comparison.
    """
    targets = check_formats(wanted)
    working("measuring the model in torch")
    reference = evaluate(source.model, images.dataset, images.load, batch_size=1)
    _check_comparable(reference.metrics.ap, targets)
    working("exporting to ONNX")
    sizes = [(image.height, image.width) for image in reference.truth.dataset.images]
    graphs = {graph.role: graph for graph in source.model.graphs(shape, sizes)}
    height, width = next(iter(graphs.values())).inputs["pixel_values"].shape[2:]
    with tempfile.TemporaryDirectory(prefix="artifacts-") as folder:
        workshop = Workshop(
            source=source,
            graphs=graphs,
            references={role: to_onnx(graph) for role, graph in graphs.items()},
            preprocessing=Preprocessing.of(source.model.transform, height=height, width=width),
            images=images,
            ap=reference.metrics.ap,
            mask_ap=reference.metrics.mask_ap,
            threads=threads,
            folder=Path(folder),
            working=working,
        )
        made = Artifacts(
            model=source.name,
            source=source.uri,
            source_sha256=source.digest,
            classes=source.model.classes,
            split=images.split,
            images=len(images.dataset),
            torch_ap=reference.metrics.ap,
            torch_mask_ap=reference.metrics.mask_ap,
            input_height=height,
            input_width=width,
            artifacts=tuple(workshop.make(target, drop) for target, drop in targets),
        )
        _publish(made, Path(folder), join(output, source.slug), storage)
    return made


def _publish(made: Artifacts, folder: Path, target: str, storage: Storage) -> None:
    """Replace the artifacts in a folder by the accepted files, and write ``artifacts.json`` after them.

    Files of an earlier call that are not written again are deleted: nothing that is not described is left.
    """
    storage.delete(join(target, RESULTS))
    for old in list(storage.list(target)):
        if old.key.startswith(STEMS) and old.key.endswith((".onnx", ".xml", ".bin")):
            storage.delete(old.uri)
    names = [file.path for one in made.artifacts for file in one.files]
    storage.upload_many([(folder / name, join(target, name)) for name in names])
    if any(name.startswith("model") and name.endswith(".onnx") for name in names):
        example = resources.files("engine.optimization").joinpath(EXAMPLE).read_bytes()
        storage.write_bytes(join(target, EXAMPLE), example)
    storage.write_bytes(join(target, RESULTS), made.model_dump_json(indent=2).encode())


def refuse_lossy(made: Artifacts) -> None:
    """Raise an error if a format was refused.

    Raises:
        ArtifactRefusedError: The numbers of each refused format.
    """
    refused = [one.sentence() for one in made.artifacts if not one.published]
    if refused:
        raise ArtifactRefusedError(
            f"{made.model} has AP {made.torch_ap:.4f} in torch on {made.images} images; not published: "
            f"{'. '.join(refused)}. Use another format, or allow more: --max-ap-drop (maxApDrop)"
        )


def _check_comparable(ap: float, targets: Sequence[tuple[Target, Decimal]]) -> None:
    """Check that a loss of the whole AP would be refused."""
    allowed = max(drop for _, drop in targets)
    if ap <= allowed:
        raise DataError(
            f"the model has AP {ap:.4f} in torch on these images: an artifact that finds nothing would lose less than "
            f"the allowed {allowed}. Measure on images whose objects it finds, or train it further"
        )
