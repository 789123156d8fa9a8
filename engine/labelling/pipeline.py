"""From a folder of images to one COCO file with scores: :func:`label_folder`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.dataset.problems import EXAMPLES
from engine.dataset.types import Detections, Frame
from engine.errors import ConfigError, DataError
from engine.labelling.image_stream import Chunk, Listing, Picture, chunked, in_groups, list_images, read_ahead
from engine.labelling.journal import Journal
from engine.labelling.overlays import Overlays
from engine.labelling.records import Exif, image_line, skipped_line
from engine.storage import Storage, join
from engine.storage.output_lock import lock_output
from engine.teachers.labeller import Labeller

CHUNK = 64
"""Images that are finished together: what is looked at again, at most, after work was killed."""

AHEAD = 16
"""Images that are fetched and decoded before they are asked for, at least."""


@dataclass(frozen=True)
class Progress:
    """How far the work has come.

    Attributes:
        done: Images that are labelled or skipped, those of earlier calls among them.
        total: Images of the folder.
        objects: Found by this call.
        skipped: Images that this call could not read.
        images_per_second: Of this call.
    """

    done: int
    total: int
    objects: int
    skipped: int
    images_per_second: float

    @property
    def seconds_left(self) -> float | None:
        """None as long as there is no speed."""
        return (self.total - self.done) / self.images_per_second if self.images_per_second else None


@dataclass(frozen=True)
class Labelled:
    """What came of it.

    Attributes:
        uri: Of the COCO file.
        images: In it, whether something was found in them or not.
        objects: In it.
        skipped: "name: reason" of each image that could not be read.
        skipped_uri: Where these are listed, if there are any.
        cut: Keys of the first images of this call in which the teacher saw more objects than it gives.
        images_cut: How many images of this call these are.
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
    """Label all images below a folder, as a stream: neither images nor labels are ever all in memory or on disk.

    The same call goes on where an earlier one was ended, however it was; images that are finished are not looked at
    again, unless they have changed. The file has the same bytes as if nothing had ended it.

    Args:
        labeller: See :func:`engine.teachers.load_labeller`.
        images: Folder; path or ``s3://``.
        output: COCO JSON to write; path or ``s3://``.
        storage: How object storage is reached; default: by the AWS chain and environment.
        batch_size: Images that are looked at together.
        again: Label anew what is labelled already, or was begun with other settings. Labels that are there stay until
            the new ones are whole.
        overlays: Pictures to draw.
        on_progress: Told after each batch.
        on_note: Is given a sentence where the work has to wait for another process.
        chunk_size: Images that are finished together.

    Returns:
        What was labelled; None if the output holds the labels of this very call already.

    Raises:
        ConfigError: The output was made or begun with other adapters or settings, was made of other images, or is a
            folder; pictures would lie among images.
        DataError: The folder holds no images, or none that can be read. Labels that are there stay.
        StorageError: Storage refuses, or was gone after all retries; or another process labels into this output.
    """
    storage = storage or Storage()
    local = storage.local_path(output)
    if output.endswith("/") or (local is not None and local.is_dir()):
        raise ConfigError(f"{output} is a folder: name the file to write, such as {join(output, 'labels.json')}")
    if overlays is not None:
        overlays.refuse_inside(images, storage)
    before = Listing(chunked(list_images(images, storage), chunk_size))
    if not before.images:
        raise DataError(f"{images} holds no images: give the folder that they are in")
    with lock_output(output, storage, note=on_note) as check:
        return _label_claimed(
            _Work(labeller, storage, overlays, on_progress, before.images),
            before,
            images,
            output,
            batch_size=batch_size,
            again=again,
            chunk_size=chunk_size,
            check=check,
        )


def _label_claimed(
    work: _Work,
    before: Listing,
    images: str,
    output: str,
    *,
    batch_size: int,
    again: bool,
    chunk_size: int,
    check: Callable[[], None],
) -> Labelled | None:
    """Label into an output that is this process's; ``check`` raises once it is not any more."""
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
        lines = work.look(chunk, pixels, batch_size=batch_size)
        check()
        journal.finish(chunk.name, lines)
    if not listed.images:
        raise DataError(f"{images} held {before.images:,} images and holds none any more: is its disk still there?")
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


class _Work:
    """Looks at chunks, and counts."""

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
        self.done = self.looked_at = self.objects = self.skipped = 0
        self.cut: list[str] = []
        self.images_cut = 0
        self.started = time.monotonic()

    def look(self, chunk: Chunk, pixels: Iterator[Picture | DataError], *, batch_size: int) -> list[bytes]:
        """The lines of a chunk. Batches are of images that can be read, in the order of the listing."""
        lines: list[bytes | None] = [None] * len(chunk.items)

        def readable() -> Iterator[tuple[int, Picture]]:
            for place, image in enumerate(pixels):
                if isinstance(image, DataError):
                    lines[place] = skipped_line(chunk.items[place].key, str(image))
                    self.skipped += 1
                    self._tell(1)
                else:
                    yield place, image

        for batch in in_groups(readable(), batch_size):
            answers = self.labeller.label([image.pixels for _, image in batch])
            for (place, image), seen in zip(batch, answers, strict=True):
                key = chunk.items[place].key
                exif = Exif(image.orientation, self.labeller.frame)
                lines[place] = image_line(key, image.pixels.shape[:2], seen, self.labeller.ids, exif)
                self.objects += len(seen)
                if seen.cut:
                    self.images_cut += 1
                    self.cut += [key] if len(self.cut) < EXAMPLES else []
                self._draw(chunk.first + place, key, image.pixels, seen)
            self._tell(len(batch))
        return [line for line in lines if line is not None]

    def _draw(self, position: int, key: str, image: NDArray[np.uint8], seen: Detections) -> None:
        if self.overlays is not None and self.overlays.shows(position, self.total):
            self.overlays.write(key, image, seen, self.labeller.classes, storage=self.storage)

    def _tell(self, images: int) -> None:
        self.done += images
        self.looked_at += images
        if self.on_progress is not None:
            speed = self.looked_at / max(time.monotonic() - self.started, 1e-9)
            self.on_progress(Progress(self.done, self.total, self.objects, self.skipped, speed))


def _settings(labeller: Labeller, images: str, chunk_size: int) -> dict[str, object]:
    """What labels depend on besides the images themselves."""
    scores: Sequence[float] = [round(float(score), 6) for score in labeller.lowest_scores]
    return {
        "adapters": dict(labeller.identity),
        "images": join(images),
        "classes": list(labeller.classes),
        "category_ids": list(labeller.ids),
        "thresholds": list(scores),
        "nms": labeller.nms_iou,
        "chunk": chunk_size,
        **({} if labeller.frame is Frame.UPRIGHT else {"frame": labeller.frame.value}),
    }
