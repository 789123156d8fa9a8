"""Disk cache of the outputs of a teacher's frozen layers ("features") for each image.

An entry is a memory-mapped safetensors file: repeated reads come from the system's page cache while memory lasts, and
are shared by all processes of a machine. Its name is a digest of the teacher's input image, after augmentation; the
name of its folder is a digest of all else that determines it (model, layers, size, caption). So an entry is never out
of date.

Numbers are stored in 16 bit, and are rounded before their first use: a run does not depend on whether they were
computed or cached. They are computed image by image for the same reason. An entry is written completely or not at all,
and a damaged one counts as missing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

LOG = logging.getLogger(__name__)

Features = dict[str, Tensor]
"""Tensors of one image by name; floating-point ones are 16 bit."""

PICTURE = ("pixel_values", "features", "key", "slot")
"""Keys of an image in an example, see :meth:`FeatureCache.of`."""

LOOK_AGAIN = 64
"""Entries written between two scans of the size of the folder, to which all processes write."""


class FeatureCache:
    """The entries for one set of frozen layers.

    Args:
        folder: Folder shared by all runs.
        identity: All that determines the features besides the image.
        limit: Maximum bytes of the folder. Entries not used since this cache was created are removed if necessary,
            the least recently used first; after that nothing more is written.
    """

    def __init__(self, folder: Path, *, identity: Mapping[str, str], limit: int) -> None:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self.folder = folder / digest[:24]
        self.limit = limit
        self.kept = self.found = self.computed = 0
        self._began = time.time() - 1  # clocks of files are coarser
        self._room = 0
        self._until_look = 0
        self._slots: dict[str, str] = {}

    def __str__(self) -> str:
        """Return a sentence with the statistics of the cache."""
        return (
            f"features of frozen layers were computed for {self.computed:,} views and found for {self.found:,}; "
            f"{self.kept:,} were kept in {self.folder}"
            + ("" if self.kept >= self.computed else ": it is full (training.features_gb)")
        )

    def key(self, image: NDArray[np.uint8]) -> str:
        """Return the name of the entry of an image (h, w, 3)."""
        digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=20)
        digest.update(np.ascontiguousarray(image).data)
        return digest.hexdigest()

    def get(self, key: str) -> Features | None:
        """Return an entry; None if it is missing or damaged."""
        path = self._path(key)
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
                whole = (file.metadata() or {}).get("crc32") == _checksum(found)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError):
            found, whole = {}, False
        with suppress(OSError):  # the cache may be read-only
            if whole:
                os.utime(path)
            else:
                LOG.warning("the kept features in %s are damaged: they are computed again", path)
                path.unlink(missing_ok=True)
        return found if whole else None

    def of(self, picture: Mapping[str, object], compute: Callable[[Tensor], Features]) -> Features:
        """Return the cached features of a picture, or compute and cache those of its pixels.

        Args:
            picture: Result of :func:`picture`; ``slot`` identifies one of the views of an image that are used in turn.
            compute: Returns the features of pixels (1, 3, h, w); called without gradient.
        """
        found, key, slot = picture.get("features"), str(picture["key"]), picture.get("slot")
        if isinstance(found, dict):
            self.found += 1
            self._take_turns(key, slot)
            return found
        pixels = picture["pixel_values"]
        assert isinstance(pixels, Tensor)  # noqa: S101 - a picture has one or the other
        # In 32 bit for any precision of the run, so that one entry serves training and evaluation.
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            computed = {name: _rounded(tensor) for name, tensor in compute(pixels[None]).items()}
        self.computed += 1
        with suppress(OSError):  # the disk is full or read-only: features are computed each time
            self._put(key, computed)
        self._take_turns(key, slot)
        return computed

    def _take_turns(self, key: str, slot: object) -> None:
        """Remove the previous view of this slot, which is not used again."""
        if slot is None:
            return
        if (old := self._slots.get(str(slot), key)) != key:
            with suppress(OSError):
                self._path(old).unlink(missing_ok=True)
        self._slots[str(slot)] = key

    def _put(self, key: str, features: Features) -> None:
        content = {name: tensor.cpu().contiguous() for name, tensor in features.items()}
        size, path = sum(tensor.nbytes for tensor in content.values()), self._path(key)
        if path.exists() or not self._has_room(size):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=self.folder, prefix=".", delete=False) as file:
            try:
                file.write(safetensors.torch.save(content, metadata={"crc32": _checksum(content)}))
                file.close()
                Path(file.name).replace(path)
            except OSError:
                Path(file.name).unlink(missing_ok=True)
                raise
        self.kept += 1

    def _has_room(self, size: int) -> bool:
        """Return whether ``size`` more bytes may be written; entries of earlier runs are removed if necessary."""
        self._until_look -= 1
        if self._until_look < 0:
            self._until_look = LOOK_AGAIN
            entries = sorted(_entries(self.folder.parent))
            self._room = self.limit - sum(held for _, held, _ in entries)
            for used_at, held, path in entries:
                if self._room >= LOOK_AGAIN * size or used_at >= self._began:
                    break
                path.unlink(missing_ok=True)
                self._room += held
        self._room -= size
        return self._room >= 0

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def picture(
    features: FeatureCache | None,
    image: NDArray[np.uint8],
    pixels: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
) -> dict[str, object]:
    """Return the fields of an image in an example.

    Args:
        features: Feature cache, if any.
        image: (H, W, 3), after augmentation.
        pixels: Returns the model's input (3, h, w).

    Returns:
        ``pixel_values`` (3, h, w), or its ``features``; with a cache also ``key``, the name of the entry.
    """
    if features is None:
        return {"pixel_values": torch.from_numpy(pixels(image))}
    key = features.key(image)
    found = features.get(key)
    if found is not None:
        return {"key": key, "features": found}
    return {"key": key, "pixel_values": torch.from_numpy(pixels(image))}


def pictures(examples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the image fields of examples made with a cache, for :meth:`FeatureCache.of`."""
    return [{name: example[name] for name in PICTURE if name in example} for example in examples]


def _rounded(tensor: Tensor) -> Tensor:
    """Convert to 16 bit if the tensor is floating-point and all values fit."""
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    return half if bool(half.isfinite().all()) else tensor.float()


def _checksum(features: Features) -> str:
    """Return a checksum over names and contents, independent of their order."""
    value = 0
    for name in sorted(features):
        value = zlib.crc32(features[name].contiguous().view(torch.uint8).numpy().data, zlib.crc32(name.encode(), value))
    return f"{value:08x}"


def held_in(folder: Path) -> int:
    """Return the bytes of all entries of a shared folder."""
    return sum(held for _, held, _ in _entries(folder))


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield last use, bytes and path of each entry, including files left by killed processes."""
    for path in folder.glob("*/*"):
        with suppress(OSError):  # another process may remove it meanwhile
            status = path.stat()
            yield status.st_mtime, status.st_size, path
