"""Decode any image file to upright 8-bit RGB, or raise an error with the reason in one sentence.

The format is detected from the content, not the name. Other pixel formats are converted:

- **More than 8 bits of grey** (16 and 32 bit, float): integers in 0..255 are kept; else the image's own range is scaled
  to 0..255, as tools for microscopes and thermal cameras display it. A fixed scale would make 12 bits in 16 almost
  black. The outermost 1/100,000 of the pixels at either end is ignored, so that one hot pixel does not darken all
  others. NaN becomes 0; infinity becomes the end of the range.
- **16 bits per colour**: the high byte, as decoded by Pillow.
- **Transparency** (RGBA, LA, palette or colour key): composed on white. The alpha channel of a fully transparent image
  is unused and dropped.
- **CMYK**: by the naive formula, Adobe's inverted JPEGs included; colour profiles are not applied.
- **Several pages or frames**: the first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from engine.errors import DataError, MachineError, TeacherError
from engine.storage.git_lfs import ADVICE as LFS_ADVICE
from engine.storage.git_lfs import LONGEST_POINTER, is_pointer

# Pillow refuses images with more than twice this number of pixels (179 million), and only warns below.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition that makes an image upright, by EXIF orientation; orientation 1 is upright."""

_TURN_BACK = _TURN | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


SUBFILE_TYPE, REDUCED, MASK = 254, 1, 4
"""TIFF tag for the kind of a page, and its flags: reduced copy of another page, mask of another page."""

LARGEST = 4 * 179_000_000
"""Bytes that the largest allowed image takes while it is decoded."""

OF_THE_NAME = frozenset({errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})
"""System errors caused by a wrong file name in the annotations. All others are errors of the machine, which must not
exclude an image."""


@dataclass(frozen=True)
class ImageHeader:
    """Header of an image.

    Attributes:
        width: Width of the upright image in pixels.
        height: Height of the upright image in pixels.
        format: Format by content: ``JPEG``, ``PNG`` …
        rotated: EXIF rotates it by 90 degrees: the file stores ``height`` columns and ``width`` rows.
        orientation: EXIF orientation, 1..8; 1 changes nothing.
        pages: Pages or frames of the file that are not smaller copies of others; 2 stands for more.
    """

    width: int
    height: int
    format: str
    rotated: bool
    orientation: int = field(default=1, compare=False)
    pages: int = field(default=1, compare=False)


def probe_image(source: bytes | Path | BinaryIO, *, name: str | None = None) -> ImageHeader:
    """Read the header only.

    Args:
        source: The file's bytes, its path, or an open file.
        name: Name of the image in messages; default: its path.

    Raises:
        DataError: The file is missing, empty, too large, or not an image. Damage after the header is not detected.
        MachineError: It cannot be read because of the disk or the file permissions.
    """
    with _opened(source, name) as image:
        turn = _orientation(image)
        rotated = turn >= 5
        width, height = image.size
        if rotated and not _loads_upright(image):
            width, height = height, width
        return ImageHeader(width, height, image.format or "", rotated, turn, _pages(image))


def decode_image(
    source: bytes | Path | BinaryIO, *, upright: bool = True, name: str | None = None
) -> NDArray[np.uint8]:
    """Decode the first image of a file.

    Args:
        source: The file's bytes, its path, or an open file.
        upright: Apply the EXIF orientation. Otherwise pixels stay as stored, for data annotated with a tool that
            ignores EXIF.
        name: Name of the image in messages; default: its path.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        DataError: The file is missing, empty, too large, truncated, or not an image.
        MachineError: It cannot be read because of the disk or the file permissions.
    """
    with _opened(source, name) as image:
        turn, turned = _orientation(image), _loads_upright(image)
        image.load()
        rgb = _rgb(image)
        if upright != turned and turn != 1:
            rgb = rgb.transpose((_TURN if upright else _TURN_BACK)[turn])
        return np.array(rgb)


@contextlib.contextmanager
def _opened(source: bytes | Path | BinaryIO, name: str | None) -> Iterator[Image.Image]:
    """Open an image, converting its errors to DataError."""
    name = name or (str(source) if isinstance(source, Path) else "the image")
    try:
        with _file(source) as file, Image.open(file) as image:
            if image.format == "EPS":  # Pillow would have Ghostscript run it
                raise DataError(f"{name} is EPS, a program; convert it to PNG or JPEG, or leave it out")
            yield image
    except TeacherError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"{name} {_what_it_is(source)}") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} is too large: {error}; scale it down or cut it into tiles") from None
    except FileNotFoundError:
        raise DataError(f"{name} does not exist; upload it, or take it out of the annotations") from None
    except Exception as error:  # noqa: BLE001 - a broken file makes a decoder raise anything
        if isinstance(error, OSError) and error.errno is not None and error.errno not in OF_THE_NAME:
            raise MachineError(
                f"{name} cannot be read: {os.strerror(error.errno)}. Check the disk and the permissions of the file"
            ) from None
        if isinstance(error, MemoryError) and not _has_memory():
            raise MachineError(f"{name} cannot be read: the machine has too little memory. Give it more") from None
        cause = str(error).strip() or type(error).__name__
        raise DataError(f"{name} cannot be read: {cause}; copy it again from its source, or leave it out") from None


def _has_memory() -> bool:
    """Test whether memory for the largest allowed image is available; if so, a memory error is the fault of the
    file.
    """
    try:
        bytearray(LARGEST)
    except MemoryError:
        return False
    return True


def _file(source: bytes | Path | BinaryIO) -> contextlib.AbstractContextManager[BinaryIO]:
    if isinstance(source, bytes):
        return BytesIO(source)
    return source.open("rb") if isinstance(source, Path) else contextlib.nullcontext(source)


def _what_it_is(source: bytes | Path | BinaryIO) -> str:
    """Describe a file that no decoder recognises, with the remedy."""
    head = None
    if isinstance(source, bytes):
        head = source[:LONGEST_POINTER]
    elif isinstance(source, Path):
        with source.open("rb") as file:
            head = file.read(LONGEST_POINTER)
    if head is not None and is_pointer(head):
        return f"is not an image of a known format: it {LFS_ADVICE}"
    what = "empty (0 bytes)" if head == b"" else "not an image of a known format"
    return f"is {what}; convert it to PNG or JPEG, or leave it out"


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1..8, from the metadata before the pixels; 1 if invalid."""
    try:
        # PNG's own method decodes all pixels to find metadata after them.
        turn = int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - broken metadata must not exclude an intact image
        return 1
    return turn if turn in _TURN else 1


def _pages(image: Image.Image) -> int:
    """Return 1, or 2 for more pages. Additional images of an MPO (camera JPEG) are views of the same picture."""
    if image.format == "MPO":
        return 1
    try:
        if image.format != "TIFF":
            return 2 if getattr(image, "is_animated", False) else 1
        for page in range(1, getattr(image, "n_frames", 1)):
            image.seek(page)
            kind = image.tag_v2.get(SUBFILE_TYPE, 0)  # type: ignore[attr-defined]
            if not kind & (REDUCED | MASK):
                return 2
    except Exception:  # noqa: BLE001 - broken later pages must not exclude the first
        return 1
    return 1


def _loads_upright(image: Image.Image) -> bool:
    """Test whether Pillow applies the orientation itself, also to the size: it does for TIFF."""
    return image.format == "TIFF"


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        if layers.getchannel("A").getextrema() != (0, 0):
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), layers).convert("RGB")
        return layers.convert("RGB")
    return image.convert("RGB")


def _to_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return np.zeros(values.shape, dtype=np.uint8)
    low, high = finite.min(), finite.max()
    if np.issubdtype(values.dtype, np.integer) and low >= 0 and high <= 255:
        return values.astype(np.uint8)
    trimmed = np.quantile(finite, [1e-5, 1 - 1e-5], method="nearest")
    if trimmed[0] < trimmed[1]:
        low, high = trimmed
    with np.errstate(over="ignore", invalid="ignore"):
        shares = (values.astype(np.float64) - float(low)) / max(float(high) - float(low), np.finfo(np.float64).tiny)
    return np.rint(np.clip(np.nan_to_num(shares, nan=0.0), 0, 1) * 255).astype(np.uint8)
