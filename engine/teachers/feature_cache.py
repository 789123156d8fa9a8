"""What the frozen part of a teacher makes of an image, computed once and kept on the disk.

An entry is a safetensors file that is mapped into memory: what is read again comes from the system's page cache as
long as there is memory for it, and is shared by all processes of a machine. Its name is a digest of the image as the
teacher is shown it, augmented or not; its folder's, of all else that it follows from (model, layers, size, caption). So
an entry is never out of date.

Numbers are kept in 16 bit, and are rounded before they are first used: whether they were computed or found makes no
difference to a run. They are computed image by image for the same reason. An entry appears whole or not at all, and one
that was damaged later counts as missing.
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
"""Tensors by name, of one image; floating ones are 16 bit."""

PICTURE = ("pixel_values", "features", "key", "slot")
"""What stands for an image in an example, see :meth:`FeatureCache.of`."""

LOOK_AGAIN = 64
"""Entries written until it is counted again what all processes have written."""


class FeatureCache:
    """The entries of one frozen part.

    Args:
        folder: Shared by all frozen parts of all runs.
        identity: What the features follow from beside the image.
        limit: Bytes that the folder may hold. Entries that were not used since this cache was made make room for
            others, those not used for longest first; beyond that nothing is kept any more.
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
        """What became of it, as a sentence."""
        return (
            f"what is not adapted was computed for {self.computed:,} views and found for {self.found:,}; "
            f"{self.kept:,} were kept in {self.folder}"
            + ("" if self.kept >= self.computed else ": there is no room for more (training.features_gb)")
        )

    def key(self, image: NDArray[np.uint8]) -> str:
        """The name of the entry of an image (h, w, 3)."""
        digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=20)
        digest.update(np.ascontiguousarray(image).data)
        return digest.hexdigest()

    def get(self, key: str) -> Features | None:
        """An entry, if it is there and whole."""
        path = self._path(key)
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
                whole = (file.metadata() or {}).get("crc32") == _checksum(found)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError):
            found, whole = {}, False
        with suppress(OSError):  # of a cache that may only be read
            if whole:
                os.utime(path)
            else:
                LOG.warning("the kept features in %s are damaged: they are computed again", path)
                path.unlink(missing_ok=True)
        return found if whole else None

    def of(self, picture: Mapping[str, object], compute: Callable[[Tensor], Features]) -> Features:
        """The features that a picture came with, or else those of its pixels, which are then kept.

        Args:
            picture: Of :func:`picture`; ``slot`` is the place of one of the views of an image that take turns.
            compute: Gives them for pixels (1, 3, h, w); called without gradient.
        """
        found, key, slot = picture.get("features"), str(picture["key"]), picture.get("slot")
        if isinstance(found, dict):
            self.found += 1
            self._take_turns(key, slot)
            return found
        pixels = picture["pixel_values"]
        assert isinstance(pixels, Tensor)  # noqa: S101 - a picture has one or the other
        # In 32 bit whatever the run computes in, so that one entry serves training and evaluation.
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            computed = {name: _rounded(tensor) for name, tensor in compute(pixels[None]).items()}
        self.computed += 1
        with suppress(OSError):  # the disk is full, or the folder cannot be written: it is computed each time
            self._put(key, computed)
        self._take_turns(key, slot)
        return computed

    def _take_turns(self, key: str, slot: object) -> None:
        """The view that had this view's place no longer comes."""
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
        """Whether ``size`` more bytes may be written; entries of earlier runs are thrown away for them."""
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
    """What stands for an image in an example.

    Args:
        features: What is known of images.
        image: (H, W, 3), as the teacher is shown it.
        pixels: Gives the model's input (3, h, w).

    Returns:
        ``pixel_values`` (3, h, w), or its ``features``; with ``key``, the name of its entry, where there is a cache.
    """
    if features is None:
        return {"pixel_values": torch.from_numpy(pixels(image))}
    key = features.key(image)
    found = features.get(key)
    if found is not None:
        return {"key": key, "features": found}
    return {"key": key, "pixel_values": torch.from_numpy(pixels(image))}


def pictures(examples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What stands for the images of examples that were made with a cache, for :meth:`FeatureCache.of`."""
    return [{name: example[name] for name in PICTURE if name in example} for example in examples]


def _rounded(tensor: Tensor) -> Tensor:
    """In 16 bit if it is floating and all of it fits."""
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    return half if bool(half.isfinite().all()) else tensor.float()


def _checksum(features: Features) -> str:
    """Over names and contents, without order."""
    value = 0
    for name in sorted(features):
        value = zlib.crc32(features[name].contiguous().view(torch.uint8).numpy().data, zlib.crc32(name.encode(), value))
    return f"{value:08x}"


def held_in(folder: Path) -> int:
    """Bytes of all entries of a shared folder."""
    return sum(held for _, held, _ in _entries(folder))


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When each was used last, its bytes, and where it lies; what a killed process has left among them."""
    for path in folder.glob("*/*"):
        with suppress(OSError):  # another process may throw it away meanwhile
            status = path.stat()
            yield status.st_mtime, status.st_size, path
