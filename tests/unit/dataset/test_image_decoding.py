"""Whatever lies in the bucket becomes upright 8-bit RGB, or a sentence."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from engine.dataset.images.decoding import ImageHeader, decode_image, probe_image
from engine.errors import DataError

PHOTO = np.linspace(0, 255, 24 * 16 * 3).reshape(16, 24, 3).astype(np.uint8)


def saved(image: Image.Image | np.ndarray, file_format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, file_format, **options)
    return file.getvalue()


def png_16_bit(values: np.ndarray, color_type: int) -> bytes:
    """Pillow writes 16 bits of grey only."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, color_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "BMP", "PPM", "JPEG2000"])
def test_colour_images_are_read_exactly(file_format: str) -> None:
    options = {"lossless": True} if file_format == "WEBP" else {}
    assert (decode_image(saved(PHOTO, file_format, **options)) == PHOTO).all()


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [*itertools.product(["L", "LA", "P", "1", "RGBA"], ["PNG", "TIFF"]), ("PA", "TIFF"), ("CMYK", "TIFF")],
)
def test_other_pixel_layouts_become_rgb(mode: str, file_format: str) -> None:
    image = Image.fromarray(PHOTO).convert(mode)
    assert (decode_image(saved(image, file_format)) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_cmyk_is_not_inverted(file_format: str) -> None:
    blue = Image.new("CMYK", (16, 16), (255, 255, 0, 0))
    assert np.abs(decode_image(saved(blue, file_format)).astype(int) - [0, 0, 255]).max() <= 3


def test_transparent_pixels_are_white_whatever_colour_hides_in_them() -> None:
    pixels = np.zeros((1, 3, 4), dtype=np.uint8)
    pixels[0, :, 0], pixels[0, :, 3] = 200, [0, 128, 255]
    assert decode_image(saved(pixels)).tolist() == [[[255, 255, 255], [227, 127, 127], [200, 0, 0]]]
    grey = np.array([[[10, 0], [10, 255]]], dtype=np.uint8)
    assert decode_image(saved(Image.fromarray(grey, "LA"))).tolist() == [[[255] * 3, [10] * 3]]


def test_transparent_palette_entries_and_colour_keys_are_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putdata([0, 1])
    for transparency in (0, bytes([0, 255])):
        assert decode_image(saved(palette, transparency=transparency)).tolist() == [[[255, 255, 255], [0, 255, 0]]]
    keyed = np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)
    assert decode_image(saved(keyed, transparency=(1, 2, 3))).tolist() == [[[255, 255, 255], [4, 5, 6]]]


def test_an_alpha_channel_that_hides_everything_is_dropped() -> None:
    unused = np.dstack([PHOTO, np.zeros(PHOTO.shape[:2], np.uint8)])
    assert (decode_image(saved(unused)) == PHOTO).all()


@pytest.mark.parametrize("peak", [1000, 4095, 65535])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_grey_uses_the_whole_range(peak: int, file_format: str) -> None:
    decoded = decode_image(saved(np.linspace(0, peak, 100).astype(np.uint16).reshape(10, 10), file_format))
    expected = np.linspace(0, 255, 100).reshape(10, 10)
    np.testing.assert_allclose(decoded, np.dstack([expected] * 3), atol=1)


def test_16_bit_grey_that_holds_8_bits_is_kept() -> None:
    values = np.arange(10, 110, dtype=np.uint16).reshape(10, 10)
    assert (decode_image(saved(values))[..., 0] == values).all()


def test_a_hot_pixel_does_not_darken_a_16_bit_image() -> None:
    values = np.linspace(1000, 2000, 400 * 400).reshape(400, 400).astype(np.uint16)
    values[7, 7] = 65535
    decoded = decode_image(saved(values))[..., 0]
    assert decoded[7, 7] == 255
    assert decoded[200].mean() == pytest.approx(127, abs=2)


@pytest.mark.parametrize(("channels", "color_type"), [(3, 2), (4, 6), (2, 4)])
def test_16_bits_a_colour_keep_the_high_byte(channels: int, color_type: int) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, channels))
    if channels != 3:
        values[..., -1] = 65535
    expected = np.broadcast_to(values[..., : 3 if channels >= 3 else 1] >> 8, (5, 7, 3))
    assert (decode_image(png_16_bit(values, color_type)) == expected).all()


def test_float_images_use_their_finite_range() -> None:
    values = np.linspace(-1, 1, 100, dtype=np.float32).reshape(10, 10)
    values[0, 1], values[0, 2], values[0, 3] = np.nan, np.inf, -np.inf
    decoded = decode_image(saved(values, "TIFF"))
    assert decoded[0, 0].tolist() == [0, 0, 0]
    assert decoded[-1, -1].tolist() == [255, 255, 255]
    assert decoded[0, 1:4, 0].tolist() == [0, 255, 0]


@pytest.mark.parametrize("value", [0.0, 7.5, np.nan])
def test_float_images_of_one_value_are_black(value: float) -> None:
    assert not decode_image(saved(np.full((4, 4), value, dtype=np.float32), "TIFF")).any()


@pytest.mark.parametrize("file_format", ["GIF", "TIFF", "WEBP", "PNG"])
def test_the_first_of_several_frames_is_taken(file_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    data = saved(frames[0], file_format, save_all=True, append_images=frames[1:])
    assert np.abs(decode_image(data).astype(int) - [255, 0, 0]).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_turns_an_image_upright(orientation: int, file_format: str) -> None:
    upright = PHOTO[:5, :9]
    # How a camera held this way stores the scene (EXIF 2.32, tag 0x0112).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = saved(np.ascontiguousarray(stored), file_format, exif=exif, **options)
    assert (decode_image(data) == upright).all()
    assert (decode_image(data, upright=False) == stored).all()
    assert probe_image(data) == ImageHeader(width=9, height=5, format=file_format, rotated=orientation >= 5)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x63\0\0\0\0\0\0", b""]
)
def test_broken_exif_is_ignored(exif: bytes) -> None:
    data = saved(PHOTO, "JPEG", exif=exif)
    assert decode_image(data).shape == PHOTO.shape
    assert probe_image(data) == ImageHeader(width=24, height=16, format="JPEG", rotated=False)


def test_the_name_of_a_file_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(saved(PHOTO, "PNG"))
    assert (decode_image(path) == PHOTO).all()
    with path.open("rb") as file:
        assert (decode_image(file) == PHOTO).all()
    assert probe_image(path).format == "PNG"


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP"])
def test_truncated_images_are_refused_with_what_to_do(file_format: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    data = saved(noise, file_format)
    path = tmp_path / "cut.img"
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DataError, match=r"cut\.img (cannot be read|is not an image).*(copy it again|convert it)"):
        decode_image(path)


def test_a_header_is_read_without_the_pixels() -> None:
    data = saved(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8), "JPEG")
    assert probe_image(data[:1000]) == ImageHeader(width=300, height=200, format="JPEG", rotated=False)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"<html>404 not found</html>", "not an image of a known format"),
        (b"\x89PNG\r\n\x1a\n", "not an image|cannot be read"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "not an image of a known format"),
    ],
)
def test_non_image_is_refused(data: bytes, message: str) -> None:
    for read in (decode_image, probe_image):
        with pytest.raises(DataError, match=f"b/7.png.*({message})"):
            read(data, name="b/7.png")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png does not exist"):
        decode_image(tmp_path / "gone.png")
    with pytest.raises(DataError, match="cannot be read"):
        probe_image(tmp_path)


def test_decompression_bombs_are_refused_before_they_are_unpacked() -> None:
    bomb = bytearray(saved(Image.new("1", (8, 8))))
    bomb[16:24] = struct.pack(">II", 100_000, 100_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    for read in (decode_image, probe_image):
        with pytest.raises(DataError, match=r"too large.*tiles"):
            read(bytes(bomb))


WHOLE = [saved(PHOTO, kind) for kind in ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP")]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=150, deadline=None)
@given(data=st.sampled_from(WHOLE), place=st.floats(0, 1), noise=st.binary(min_size=1, max_size=8), cut=st.booleans())
def test_damaged_image_is_decoded_or_refused_with_a_message(data: bytes, place: float, noise: bytes, cut: bool) -> None:
    at = int(place * len(data))
    broken = data[:at] + noise + (b"" if cut else data[at + len(noise) :])
    for read in (decode_image, probe_image):
        try:
            read(broken)
        except DataError as error:
            assert "\n" not in str(error)  # noqa: PT017 - both outcomes are right


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_git_lfs_pointer_in_place_of_an_image_is_named_as_such(tmp_path: Path, on_disk: bool) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4" * 64 + b"\nsize 123456\n"
    (tmp_path / "a.jpg").write_bytes(pointer)
    for read in (probe_image, decode_image):
        with pytest.raises(DataError, match=r"a.jpg .*a Git LFS pointer.*git lfs pull"):
            read(tmp_path / "a.jpg" if on_disk else pointer, name="a.jpg")
