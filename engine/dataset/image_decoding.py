"""Any image file to 8-bit RGB, upright; or one sentence that says why not.

What is in the file decides, not its name. What becomes of what is not 8-bit RGB:

- **More than 8 bits of grey** (16 and 32 bit, float): whole numbers in 0..255 are kept; else the image's own range
  becomes 0..255, as tools for microscopes and thermal cameras show it. A fixed scale would not do: 12 bits in 16
  would be nearly black. The outermost 1/100,000 of the pixels at either end does not count, so that one hot pixel
  does not darken all others. NaN becomes 0; infinity the end of the range.
- **16 bits a colour**: the high byte, which is what Pillow decodes.
- **Transparency** (RGBA, LA, palette or colour key): laid on white, as a page shows it. An image of which nothing
  could be seen has an unused alpha channel, which is dropped.
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

# Up to twice this number of pixels Pillow only warns, beyond it refuses: that limit (179 million pixels) is ours too.
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
"""What turns an image of each EXIF orientation upright; orientation 1 is upright."""

_TURN_BACK = _TURN | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


SUBFILE_TYPE, REDUCED, MASK = 254, 1, 4
"""The TIFF tag that says what a page is: a smaller copy of another page, a mask of another page."""

LARGEST = 4 * 179_000_000
"""Bytes that the largest image takes while it is decoded."""

OF_THE_NAME = frozenset({errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})
"""Errors of the system that an annotation's file name is to blame for. All others are the machine's, and say nothing of
what is in a file: none of them may cost an image."""


@dataclass(frozen=True)
class ImageHeader:
    """What the first bytes of an image say.

    Attributes:
        width: In pixels, of the upright image.
        height: In pixels, of the upright image.
        format: What it is, whatever its name says: ``JPEG``, ``PNG`` …
        rotated: EXIF turns it by a quarter, so that the file stores ``height`` columns and ``width`` rows.
        orientation: EXIF's, 1..8; 1 changes nothing.
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
        name: What the image is called in messages; default: its path.

    Raises:
        DataError: The image is missing, empty, too large, or no image. Damage behind the header goes unseen.
        MachineError: The disk, or the rights of the file, do not let it be read.
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
        upright: Turn it as its EXIF orientation says. Otherwise its pixels stay as they are stored, for data that was
            annotated by a tool which ignores EXIF.
        name: What the image is called in messages; default: its path.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        DataError: The image is missing, empty, too large, cut off, or no image.
        MachineError: The disk, or the rights of the file, do not let it be read.
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
    """An image whose faults become a DataError."""
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
                f"{name} cannot be read: {os.strerror(error.errno)}. Look at the disk and at the rights of the file"
            ) from None
        if isinstance(error, MemoryError) and not _has_memory():
            raise MachineError(f"{name} cannot be read: the machine has too little memory. Give it more") from None
        cause = str(error).strip() or type(error).__name__
        raise DataError(f"{name} cannot be read: {cause}; copy it again from its source, or leave it out") from None


def _has_memory() -> bool:
    """Whether the largest image that is decoded would have room: else a file that asks for more is to blame."""
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
    """Return what a file is that no decoder knows, and what to do."""
    head = None
    if isinstance(source, bytes):
        head = source[:LONGEST_POINTER]
    elif isinstance(source, Path):
        with source.open("rb") as file:
            head = file.read(LONGEST_POINTER)
    if head is not None and is_pointer(head):
        return f"is no image of a known format: it {LFS_ADVICE}"
    what = "empty (0 bytes)" if head == b"" else "no image of a known format"
    return f"is {what}; convert it to PNG or JPEG, or leave it out"


def _orientation(image: Image.Image) -> int:
    """1..8 from the metadata that stand before the pixels, 1 where they make no sense."""
    try:
        # PNG's own method decodes all pixels to find metadata behind them.
        turn = int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - broken metadata must not cost an image that is whole
        return 1
    return turn if turn in _TURN else 1


def _pages(image: Image.Image) -> int:
    """1, or 2 where there are more. What cameras put into a JPEG (MPO) are other views of the same picture."""
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
    except Exception:  # noqa: BLE001 - what is broken behind the first page must not cost the first
        return 1
    return 1


def _loads_upright(image: Image.Image) -> bool:
    """Pillow turns TIFF itself, and gives its size as it will be."""
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
