"""Read untrusted safetensors files: a size-limited header first, then tensors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import BaseModelError
from engine.storage.git_lfs import ADVICE, LONGEST_POINTER, is_pointer

MAX_HEADER_BYTES = 16 << 20
"""Maximum bytes of a header. The largest SAM has 70,000."""

FLOATS = frozenset({"F16", "BF16", "F32", "F64"})

Header = dict[str, tuple[str, tuple[int, ...]]]
"""Data type and shape of each tensor by its name."""


def read_header(path: Path) -> Header:
    """Read type and shape of each tensor from the header.

    Raises:
        FileNotFoundError: There is no such file.
        BaseModelError: It is not a safetensors file, is incomplete, or its header is too large.
    """
    try:
        with path.open("rb") as file:
            head = file.read(LONGEST_POINTER)
            if is_pointer(head):
                raise BaseModelError(f"{path} {ADVICE}")
            size = int.from_bytes(head[:8], "little")
            if size > MAX_HEADER_BYTES:
                raise BaseModelError(
                    f"{path} cannot be read: it is not a safetensors file, or its header of {size:,} bytes is larger "
                    f"than the {MAX_HEADER_BYTES:,} that are read"
                )
            file.seek(8)
            header = json.loads(file.read(size))
        with safe_open(path, framework="pt"):  # checks the offsets and the length of the file
            pass
        return {
            name: (str(entry["dtype"]), tuple(int(side) for side in entry["shape"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        cause = " ".join(str(error).split())[:200]
        raise BaseModelError(f"{path} cannot be read: it is damaged, or no safetensors file ({cause})") from None


def elements(header: Header) -> int:
    """Return the number of values of all tensors."""
    return sum(math.prod(shape) for _, shape in header.values())


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors, on the CPU. Call :func:`read_header` first, which validates the file."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping


def not_finite(tensors: dict[str, Any]) -> list[str]:
    """Return the names of floating tensors that hold NaN or infinity."""
    return [name for name, one in tensors.items() if one.is_floating_point() and not bool(torch.isfinite(one).all())]
