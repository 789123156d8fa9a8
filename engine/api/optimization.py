"""The public function that exports models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.api.arguments import Fields, artifact_fields, choice_of, open_storage
from engine.errors import ConfigError
from engine.processes.threads import usable_cores
from engine.spec import ArtifactFormat, ArtifactSpec, Crowds, ExifOrientation, StorageSpec
from engine.spec.base import NUMBERS
from engine.spec.bounds import THREADS
from engine.storage import default_cache
from engine.text.pydantic_errors import parse

if TYPE_CHECKING:
    from engine.results.artifacts import Artifacts


def optimize(
    adapters: str | Path | None = None,
    data: str | Path | None = None,
    images: str | Path | None = None,
    *,
    student: str | Path | None = None,
    output: str | Path,
    formats: Sequence[str | ArtifactSpec | Fields] = (ArtifactFormat.ONNX,),
    teacher: str | None = None,
    image_size: tuple[int, int] | None = None,
    base_model: str | Path | None = None,
    threads: int | None = None,
    crowds: Crowds | str = Crowds.IGNORE,
    exif_orientation: ExifOrientation | str = ExifOrientation.AUTO,
    storage: StorageSpec | Fields | None = None,
) -> Artifacts:
    """Export a student or a tuned teacher, measure each file in its own runtime, and publish what keeps its AP.

    Args:
        adapters: Folder of a run, or of one adapter.
        data: Annotations; the images of the run's validation split among them are measured, or all of them.
        images: Folder of the images; default: next to the annotations.
        student: Folder of a student, or of the run that trained it, instead of adapters.
        output: Folder for the artifacts.
        formats: Formats by name, or as ``{"format": "onnx-int8", "max_ap_drop": 0.02}``.
        teacher: Name of the teacher, if the run has several.
        image_size: Height and width of the model's input; default: such that no image is smaller than in torch.
        base_model: Current location of the base, if it was moved after training.
        threads: Threads of the runtimes; default: all usable cores.
        crowds: Meaning of annotations with ``iscrowd: 1``: ``Ignore`` or ``Objects``.
        exif_orientation: Orientation of the images during annotation: ``Auto``, ``Applied`` or ``Ignored``.
        storage: Access to object storage; default: by the environment.

    Returns:
        Measurements of all artifacts. Those that lose too much AP are not published, see
        :func:`engine.results.artifacts.refuse_lossy`.

    Raises:
        TeacherError: The kind names the cause.
    """
    if threads is not None:
        THREADS.check("threads", threads)
    wanted = [
        parse(ArtifactSpec, one, where="formats", by_name=True, context=NUMBERS) for one in artifact_fields(formats)
    ]
    from engine.optimization.optimize import check_formats, check_size
    from engine.optimization.optimize import optimize as build
    from engine.optimization.source import measuring_images, open_source

    if data is None:
        raise ConfigError("data is required: annotations to measure on")
    check_formats(wanted)
    check_size(image_size)
    store, cache = open_storage(storage), default_cache()
    source = open_source(
        student=_text(student),
        adapters=_text(adapters),
        teacher=teacher,
        base_model=_text(base_model),
        storage=store,
        cache=cache,
    )
    measured_on = measuring_images(
        source.model,
        str(data),
        _text(images),
        uri=source.uri,
        crowds=choice_of(Crowds, crowds, "crowds"),
        exif_orientation=choice_of(ExifOrientation, exif_orientation, "exif_orientation"),
        storage=store,
        cache=cache,
    )
    return build(
        source,
        measured_on,
        wanted,
        str(output),
        shape=image_size,
        threads=threads or usable_cores(),
        storage=store,
    )


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)
