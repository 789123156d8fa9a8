"""Label a folder of images and write one COCO file with scores: :func:`label_folder`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.dataset.checks.problems import EXAMPLES
from engine.dataset.types import Detections, Frame
from engine.errors import ConfigError, DataError
from engine.labelling.image_stream import Chunk, Listing, Picture, chunked, in_groups, list_images, read_ahead
from engine.labelling.journal import Journal
from engine.labelling.overlays import Overlays
from engine.labelling.records import Exif, image_line, skipped_line
from engine.models.labeller import Labeller
from engine.spec.bounds import BATCH_SIZE
from engine.storage import Storage, join
from engine.storage.output_lock import lock_output

CHUNK = 64
"""Images stored together when finished: the maximum that is labelled again after a run was killed."""

AHEAD = 16
"""Minimum number of images that are fetched and decoded in advance."""


@dataclass(frozen=True)
class Progress:
    """Progress of a labelling run.

    Attributes:
        done: Images labelled or skipped, including those of earlier calls.
        total: Images of the folder.
        objects: Objects found by this call.
        skipped: Images that this call could not read.
        images_per_second: Speed of this call.
    """

    done: int
    total: int
    objects: int
    skipped: int
    images_per_second: float

    @property
    def seconds_left(self) -> float | None:
        """Estimated remaining seconds; None until the speed is known."""
        return (self.total - self.done) / self.images_per_second if self.images_per_second else None


@dataclass(frozen=True)
class Labelled:
    """Result of a labelling run.

    Attributes:
        uri: URI of the COCO file.
        images: Number of images in it, with and without objects.
        objects: Number of objects in it.
        skipped: "name: reason" of each unreadable image.
        skipped_uri: URI of the list of unreadable images; it exists only if there are any.
        cut: Keys of the first images of this call with more detections than a teacher returns per image.
        images_cut: Number of such images in this call.
    """

    uri: str
    images: int
    objects: int
    skipped: tuple[str, ...]
    skipped_uri: str
    cut: tuple[str, ...] = ()
    images_cut: int = 0


def label_folder(
    labeller: Labeller,
    images: str,
    output: str,
    *,
    storage: Storage | None = None,
    batch_size: int = 4,
    again: bool = False,
    overlays: Overlays | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] = lambda _: None,
    chunk_size: int = CHUNK,
) -> Labelled | None:
    """Label all images below a folder as a stream: images and labels are never in memory or on disk as a whole.

    The same call resumes a run that was interrupted in any way; finished images are not labelled again unless they
    have changed. The file has the same bytes as without the interruption.

    Args:
        labeller: See :func:`engine.teachers.load_labeller`.
        images: Folder; path or ``s3://``.
        output: COCO JSON to write; path or ``s3://``.
        storage: Storage access; default: the AWS credential chain and environment.
        batch_size: Images per forward pass.
        again: Label all images again, also if they are labelled or were begun with other settings. Existing labels
            stay until the new ones are complete.
        overlays: Settings of the drawn images; None draws none.
        on_progress: Called after each batch.
        on_note: Called with a sentence when the run has to wait for another process.
        chunk_size: Images whose labels are stored together.

    Returns:
        Counts and URIs; None if the output already contains the labels of the same call.

    Raises:
        ConfigError: The output was made or begun with other adapters or settings, was made of other images, or is a
            folder; or the folder for drawn images is inside the folder of images; or ``batch_size`` is below 1.
        DataError: The folder contains no images, or no readable ones. Existing labels stay.
        StorageError: Storage denied access, or was unavailable after all retries; or another process writes to this
            output.
    """
    BATCH_SIZE.check("batch_size", batch_size)
    storage = storage or Storage()
    _refuse_folder(output, storage)
    if overlays is not None:
        overlays.refuse_inside(images, storage)
    before = Listing(chunked(list_images(images, storage), chunk_size))
    if not before.images:
        raise DataError(f"{images} holds no images: give the folder that contains them")
    with lock_output(output, storage, note=on_note) as check:
        return _label_locked(
            _ChunkLabeller(labeller, storage, overlays, on_progress, before.images),
            before,
            images,
            output,
            batch_size=batch_size,
            again=again,
            chunk_size=chunk_size,
            check=check,
        )


def _refuse_folder(output: str, storage: Storage) -> None:
    local = storage.local_path(output)
    if output.endswith("/") or (local is not None and local.is_dir()):
        raise ConfigError(f"{output} is a folder: name the file to write, such as {join(output, 'labels.json')}")


def _label_locked(
    work: _ChunkLabeller,
    before: Listing,
    images: str,
    output: str,
    *,
    batch_size: int,
    again: bool,
    chunk_size: int,
    check: Callable[[], None],
) -> Labelled | None:
    """Label into an output whose lock this process holds; ``check`` raises if the lock was lost."""
    labeller, storage = work.labeller, work.storage
    journal = Journal(output, _settings(labeller, images, chunk_size), storage=storage)
    if not journal.begin(before, again=again):
        return None
    listed = Listing()

    def open_chunks() -> Iterator[Chunk]:
        for chunk in chunked(list_images(images, storage), chunk_size):
            listed.add(chunk)
            if chunk.name in journal.finished:
                work.done += len(chunk.items)
            else:
                yield chunk

    for chunk, pixels in read_ahead(open_chunks(), storage, ahead=max(AHEAD, 2 * batch_size), frame=labeller.frame):
        lines = work.label(chunk, pixels, batch_size=batch_size)
        check()
        journal.finish(chunk.name, lines)
    if not listed.images:
        raise DataError(f"{images} held {before.images:,} images and holds none any more: is its disk still mounted?")
    assembly = journal.assemble(listed, zip(labeller.ids, labeller.classes, strict=True))
    skipped = tuple(f"{one['file_name']}: {one['reason']}" for one in assembly.skipped)
    return Labelled(
        output,
        assembly.images,
        assembly.objects,
        skipped,
        journal.skipped_uri,
        cut=tuple(work.cut),
        images_cut=work.images_cut,
    )


class _ChunkLabeller:
    """Labels chunks and counts the results."""

    def __init__(
        self,
        labeller: Labeller,
        storage: Storage,
        overlays: Overlays | None,
        on_progress: Callable[[Progress], None] | None,
        total: int,
    ) -> None:
        self.labeller, self.storage, self.overlays = labeller, storage, overlays
        self.on_progress, self.total = on_progress, total
        self.done = self.labelled = self.objects = self.skipped = 0
        self.cut: list[str] = []
        self.images_cut = 0
        self.started = time.monotonic()

    def label(self, chunk: Chunk, pixels: Iterator[Picture | DataError], *, batch_size: int) -> list[bytes]:
        """Label a chunk and return one line per image. Batches consist of readable images, in listing order."""
        lines: list[bytes | None] = [None] * len(chunk.items)

        def readable() -> Iterator[tuple[int, Picture]]:
            for index, image in enumerate(pixels):
                if isinstance(image, DataError):
                    lines[index] = skipped_line(chunk.items[index].key, str(image))
                    self.skipped += 1
                    self._report(1)
                else:
                    yield index, image

        for batch in in_groups(readable(), batch_size):
            answers = self.labeller.label([image.pixels for _, image in batch])
            for (index, image), seen in zip(batch, answers, strict=True):
                key = chunk.items[index].key
                exif = Exif(image.orientation, self.labeller.frame)
                lines[index] = image_line(key, image.pixels.shape[:2], seen, self.labeller.ids, exif)
                self.objects += len(seen)
                if seen.cut:
                    self.images_cut += 1
                    self.cut += [key] if len(self.cut) < EXAMPLES else []
                self._draw(chunk.first + index, key, image.pixels, seen)
            self._report(len(batch))
        return [line for line in lines if line is not None]

    def _draw(self, position: int, key: str, image: NDArray[np.uint8], seen: Detections) -> None:
        if self.overlays is not None and self.overlays.shows(position, self.total):
            self.overlays.write(key, image, seen, self.labeller.classes, storage=self.storage)

    def _report(self, images: int) -> None:
        self.done += images
        self.labelled += images
        if self.on_progress is not None:
            speed = self.labelled / max(time.monotonic() - self.started, 1e-9)
            self.on_progress(Progress(self.done, self.total, self.objects, self.skipped, speed))


def _settings(labeller: Labeller, images: str, chunk_size: int) -> dict[str, object]:
    """Return everything except the images that decides the labels."""
    scores: Sequence[float] = [round(float(score), 6) for score in labeller.lowest_scores]
    return {
        "adapters": dict(labeller.identity),
        "images": join(images),
        "classes": list(labeller.classes),
        "category_ids": list(labeller.ids),
        "thresholds": list(scores),
        "nms": labeller.nms_iou,
        "chunk": chunk_size,
        **({} if labeller.unsure_share == 1 else {"unsure_share": labeller.unsure_share}),
        **({} if labeller.frame is Frame.UPRIGHT else {"frame": labeller.frame.value}),
    }
