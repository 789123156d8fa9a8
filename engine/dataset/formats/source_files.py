"""List and read the files of a dataset for a converter, in the same order on every machine."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from engine.dataset.file_listing import list_files
from engine.dataset.images.decoding import probe_image
from engine.dataset.splits.split_files import SPLIT_ALIASES, is_image, split_of_path
from engine.errors import DataError
from engine.storage import ObjectInfo, Storage, is_remote, join, name, parent
from engine.storage.transfer import each_done

LARGEST_TEXT = 64 << 20
"""Maximum bytes of a label file; LabelMe's embed the image."""

HEAD = 1 << 16
"""Bytes to read of a file for its format, or the size of an image."""

ROLES = frozenset(
    {
        "images",
        "labels",
        "annotations",
        "jpegimages",
        "obj_train_data",
        "obj_valid_data",
        "obj_test_data",
        "xmls",
        "ann",
        "labeltxt",
    }
)
"""Folder names that describe the kind of file, not the image."""

HOLDS_LABELS = frozenset({"labels", "annotations", "xmls", "json", "jsons"})
"""Names of label folders whose images are in a sibling folder."""

_CHUNK = 512
"""Items that are read before the first of them is written; limits memory."""

T = TypeVar("T")
R = TypeVar("R")


class Files(dict[str, int]):
    """Size in bytes by key, in the order of the listing, with a digest of the listing."""

    def __init__(self) -> None:
        super().__init__()
        self._hash = hashlib.sha256()

    def note(self, item: ObjectInfo) -> None:
        """Add an item of a listing."""
        self[item.key] = item.size
        self._hash.update(f"{item.key}\0{item.size}\0{item.etag}\n".encode(errors="surrogateescape"))

    @property
    def digest(self) -> str:
        """Digest that changes with the name, size and content (or time) of any file."""
        return self._hash.hexdigest()


@dataclass(frozen=True)
class Source:
    """A listed folder of annotations with its image folder.

    Attributes:
        uri: As the user gave it, for messages.
        root: Folder of the annotation files, as a URI.
        files: The files below ``root`` that are not images.
        images_given: Folder of the images, if the user gave it.
        chosen: Key of the file that the user gave; empty for a folder.
    """

    uri: str
    root: str
    files: Files
    storage: Storage = field(repr=False)
    images_given: str | None = None
    chosen: str = ""

    def keys(self, *suffixes: str) -> list[str]:
        """Return keys of the files that end with one of ``suffixes``, in the order of the listing."""
        return [key for key in self.files if key.lower().endswith(suffixes)]

    def read(self, key: str) -> bytes:
        """Return the content of a file.

        Raises:
            DataError: It is too large.
        """
        size = self.files[key]
        if size > LARGEST_TEXT:
            raise DataError(f"{key} has {size >> 20:,} MB, more than the {LARGEST_TEXT >> 20} of a label file")
        return self.storage.read_bytes(join(self.root, key))

    def text(self, key: str) -> str:
        """Return the content of a text file: UTF-8, with or without a byte order mark, or UTF-16 with one.

        Raises:
            DataError: It is too large, or not text.
        """
        return decode(self.read(key), key)

    def head(self, key: str) -> bytes:
        """Return the first bytes of a file."""
        return read_head(join(self.root, key), self.storage)

    @property
    def images(self) -> str:
        """URI of the image folder: the given one, else the folder of the annotations or the parent of ``labels/``."""
        return self._images[0]

    @property
    def image_files(self) -> Files:
        """The files in the image folder."""
        return self._images[1]

    @cached_property
    def _images(self) -> tuple[str, Files]:
        folder = self.images_given or self.root
        files = list_images(folder, self.storage)
        if self.images_given is None and not files and name(self.root).lower() in HOLDS_LABELS:
            folder = parent(self.root)
            files = list_images(folder, self.storage)
        return folder, files

    @cached_property
    def images_by_identity(self) -> dict[str, list[str]]:
        """Keys of images by :func:`identity`."""
        found: dict[str, list[str]] = defaultdict(list)
        for key in self.image_files:
            found[identity(key)].append(key)
        return found

    def each(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """Yield the results of ``work`` for all items, in their order; with threads for files in S3."""
        if not (is_remote(self.root) or is_remote(self.images)):
            yield from map(work, items)
            return

        def numbered(item: tuple[int, T]) -> tuple[int, R]:
            return item[0], work(item[1])

        for start in range(0, len(items), _CHUNK):
            with closing(each_done(numbered, enumerate(items[start : start + _CHUNK]))) as done:
                results = dict(done)
            for number in range(len(results)):
                yield results[number]

    def known_size(self, key: str) -> tuple[int, int] | None:
        """Return the :meth:`image_size` of an image; None if it does not exist or cannot be read."""
        try:
            return self.image_size(key) if key in self.image_files else None
        except DataError:
            return None

    def image_size(self, key: str) -> tuple[int, int]:
        """Return width and height of an image in pixels, with EXIF applied, from its header.

        Raises:
            DataError: It is not a readable image.
        """
        uri = join(self.images, key)
        path = self.storage.local_path(uri)
        if path is not None:
            header = probe_image(path, name=key)
            return header.width, header.height
        with self.storage.open(uri) as stream:
            data = stream.read(HEAD)
            try:
                header = probe_image(data, name=key)
            except DataError:  # the size may follow a preview or a colour profile
                header = probe_image(data + stream.read(), name=key)
        return header.width, header.height


def decode(data: bytes, file: str) -> str:
    """Decode the text of a file.

    Raises:
        DataError: It is not UTF-8, nor UTF-16 with a byte order mark.
    """
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text (byte {error.start:,})") from None
    if "\0" in text:
        raise DataError(f"{file} is not text: it holds zero bytes")
    return text


def read_head(uri: str, storage: Storage) -> bytes:
    """Return the first bytes of an object."""
    return storage.read_start(uri, HEAD)


def identity(key: str) -> str:
    """Return the common identity of an image and its label file: the path without suffix and folders like ``labels/``.

    >>> identity("train/images/day/a.jpg"), identity("train/labels/day/a.txt"), identity("Annotations/b.xml")
    ('train/day/a', 'train/day/a', 'b')
    """
    *folders, last = unicodedata.normalize("NFC", key).split("/")
    stem, dot, suffix = last.rpartition(".")
    return "/".join([*(folder for folder in folders if folder.lower() not in ROLES), stem if dot and suffix else last])


def by_folder(keys: Iterable[str]) -> dict[str, list[str]]:
    """Group keys by the split that their folders name, ``all`` if none does: see :func:`complete`."""
    splits: dict[str, list[str]] = {}
    for key in keys:
        folder = key.rpartition("/")[0]
        splits.setdefault(split_of_path(f"{folder}/") if folder else "all", []).append(key)
    return splits


def complete(splits: Mapping[str, list[str]], source: str) -> dict[str, list[str]]:
    """Return the splits with sorted keys: ``train``, ``val`` and optionally ``test``; or ``all``, to be split later.

    Raises:
        DataError: They are neither; merged, a test split would be trained on.
    """
    found = {split: sorted(splits[split]) for split in ("all", *SPLIT_ALIASES) if splits.get(split)}
    if len(found) <= 1 or found.keys() == {"all", "train"}:
        return {"all": sorted(key for keys in found.values() for key in keys)}
    if "all" not in found and found.keys() >= {"train", "val"}:
        return found
    shown = ", ".join(f"{'no split' if split == 'all' else split} ({keys[0]} …)" for split, keys in found.items())
    raise DataError(
        f"{source} is divided into {shown}; training needs a train and a val split that together contain all files, or "
        "files without splits, which it then divides: move or remove the rest, or give the folder or file of one split"
    )


def list_images(folder: str, storage: Storage) -> Files:
    """List the images below a folder."""
    files = Files()
    for item in list_files(folder, storage):
        if is_image(item.key):
            files.note(item)
    return files


def list_others(folder: str, storage: Storage) -> Files:
    """List the files below a folder that are not images."""
    files = Files()
    for item in list_files(folder, storage):
        if not is_image(item.key):
            files.note(item)
    return files
