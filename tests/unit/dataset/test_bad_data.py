"""Bad files, kind by kind, and what becomes of each; the fuzzer, for a few seconds."""

from __future__ import annotations

import errno
import io
import json
import resource
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from coco_files import Coco, changed, small_coco, write_images
from PIL import Image

from engine.dataset import DatasetInfo, inspect_dataset, load_dataset
from engine.dataset.checks.problem_catalogue import CATALOGUE, IMAGES_LEFT_OUT, OBJECTS_LEFT_OUT, REPAIRED
from engine.dataset.checks.problems import refused
from engine.dataset.images.decoding import decode_image
from engine.errors import DataError, MachineError
from engine.spec import OnProblem

FUZZER = Path(__file__).parents[2] / "fuzz" / "fuzz.py"
NAMES = [f"{i:03d}.png" for i in range(1, 13)]


def box(value: Any) -> Callable[[Coco], None]:
    return lambda coco: coco["annotations"][4].update(bbox=value)


def mask(value: Any) -> Callable[[Coco], None]:
    return lambda coco: coco["annotations"][4].update(segmentation=value, bbox=[4, 5, 12, 20])


def of_image(**values: Any) -> Callable[[Coco], None]:
    return lambda coco: coco["images"][3].update(values)


LEFT_OUT = [
    ("a box of a negative width", box([4, 5, -12, 20]), "empty_box", 1),
    ("a box without area", box([4, 5, 0, 0]), "empty_box", 1),
    ("a box outside", box([900, 900, 12, 20]), "box_outside", 1),
    ("a box of three numbers", box([4, 5, 12]), "bad_numbers", 1),
    ("NaN in a box", box([float("nan"), 5, 12, 20]), "bad_numbers", 1),
    ("infinity in a box", box([4, 5, float("inf"), 20]), "bad_numbers", 1),
    ("a number that no coordinate has", box([4, 5, 1e300, 20]), "bad_numbers", 1),
    ("a box that is text", box("4 5 12 20"), "missing_box", 1),
    ("an image that is not listed", lambda c: c["annotations"][4].update(image_id=99), "dangling_image", 1),
    ("a class that is not listed", lambda c: c["annotations"][4].update(category_id=[]), "dangling_category", 1),
    ("a path that leads out", of_image(file_name="../../etc/passwd"), "unsafe_file_name", 1),
    ("an absolute path", of_image(file_name="/etc/passwd"), "unsafe_file_name", 1),
    ("a path of Windows that leads out", of_image(file_name="..\\..\\x.png"), "unsafe_file_name", 1),
    ("a name with NUL", of_image(file_name="a\x00.png"), "unsafe_file_name", 1),
    ("a name that is no text", of_image(file_name=[7]), "missing_image", 1),
    ("no name", of_image(file_name=None), "no_file_name", 1),
    ("an image that is not there", of_image(file_name="elsewhere.png"), "missing_image", 1),
    ("an image without an id", of_image(id=None), "no_image_id", 1),
    ("an id twice", of_image(id=3), "duplicate_image_id", 1),
]
REPAIRS = [
    ("a polygon of two points", mask([[1, 2, 3, 4]]), "bad_mask"),
    ("an odd number of coordinates", mask([[1, 2, 3, 4, 5, 6, 7]]), "bad_mask"),
    ("run lengths of another size", mask({"size": [9, 9], "counts": [81]}), "bad_mask"),
    ("run lengths of an absurd size", mask({"size": [10**9, 10**9], "counts": [10**18]}), "bad_mask"),
    ("run lengths that are garbage", mask({"size": [48, 64], "counts": "\x00`\xff"}), "bad_mask"),
    (
        "a box that reaches out",
        lambda c: c["annotations"][4].update(bbox=[50, 5, 40, 20], segmentation=[]),
        "box_clipped",
    ),
]
MANIFEST = b"# ours\napiVersion: finetune.dev/v1alpha1\nkind: TeacherFineTune\nmetadata: {name: a}\nspec: {}\n"
REFUSED = [
    (b"", "is empty"),
    (b'{"images": [', "is cut off"),
    (json.dumps(small_coco()).encode()[:900], "is cut off"),
    (json.dumps(small_coco()).encode("utf-16"), "is UTF-16"),
    (json.dumps(small_coco()).encode("utf-32-be"), "is not JSON"),
    (b'{"images": [], "annotations": [{"bbox": ' + b"[" * 10**6 + b"]" * 10**6 + b"}]}", "nested more than 200 deep"),
    (b"[" * 10**6, "is a list"),
    (b'{"images": [{"id": 1, "file_name": "\xe9.png"}], "annotations": []}', "not UTF-8"),
    (b"\x00" * 100, "is not JSON"),
    (b'{"images": [{"id": 1, "file_name": "\xed\xa0\x80", }], "annotations": []}', "not valid JSON"),
    (b'{"images": 5, "annotations": {}}', "is not COCO"),
    (
        MANIFEST,
        "is a TeacherFineTune manifest, not .* type `teacher inspect -f .*annotations.json`, or give",
    ),
    (json.dumps(yaml.safe_load(MANIFEST)).encode(), "is a TeacherFineTune manifest"),
    (b"# kind: TeacherFineTune\nkind: Other\n", "is not JSON"),
]


def inspected(folder: Path, content: bytes | Coco) -> DatasetInfo:
    write_images(folder / "images", NAMES)
    file = folder / "annotations.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    info = inspect_dataset(file, folder / "images")
    dataset = load_dataset(file, folder / "images")
    assert (len(dataset), sum(map(len, dataset.annotations))) == (info.images, info.annotations)
    return info


def counts(info: DatasetInfo) -> dict[str, int]:
    return {problem.code: problem.count for problem in info.problems}


@pytest.mark.parametrize(("change", "code", "count"), [one[1:] for one in LEFT_OUT], ids=[one[0] for one in LEFT_OUT])
def test_unusable_objects_are_left_out_and_counted(
    tmp_path: Path, change: Callable[[Coco], None], code: str, count: int
) -> None:
    info = inspected(tmp_path, changed(small_coco(), change))
    found = counts(info)
    assert found[code] == count
    assert info.images_read == info.images + sum(found.get(one, 0) for one in IMAGES_LEFT_OUT) == 12
    assert info.annotations_read == info.annotations + sum(found.get(one, 0) for one in OBJECTS_LEFT_OUT) == 36
    assert info.images + info.annotations < 48
    assert not info.errors


@pytest.mark.parametrize(("change", "code"), [one[1:] for one in REPAIRS], ids=[one[0] for one in REPAIRS])
def test_repairable_objects_are_repaired_and_counted(tmp_path: Path, change: Callable[[Coco], None], code: str) -> None:
    info = inspected(tmp_path, changed(small_coco(masks=True), change))
    assert counts(info)[code] == 1
    assert (info.images, info.annotations) == (12, 36)


@pytest.mark.parametrize(("content", "says"), REFUSED)
def test_invalid_coco_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        inspected(tmp_path, content)


@pytest.mark.slow
def test_numbers_of_four_hundred_digits_and_a_million_classes_are_read(tmp_path: Path) -> None:
    coco = small_coco()
    coco["categories"] += [{"id": i, "name": f"class {i}"} for i in range(10, 10**6)]
    coco["annotations"][4]["bbox"] = "@"
    info = inspected(tmp_path, json.dumps(coco).replace('"@"', f"[4, 5, 1{'0' * 400}, 20]").encode())
    assert counts(info)["bad_numbers"] == 1
    assert len(info.classes) == 2 + 10**6 - 10


STRING = b'"' + b"a" * (4 << 20)
GIGANTIC = [
    b'{"info": ' + STRING,
    b'{"info": ' + STRING + b'"}',
    b'{"images": [{"id": 1, "file_name": ' + STRING,
    b'{"images": [{"id": NaN, "file_name": ' + STRING + b'"}]}',
]


@pytest.mark.parametrize("content", GIGANTIC, ids=["open", "closed", "of an image, open", "beside NaN"])
def test_huge_strings_need_little_more_memory_than_their_bytes(tmp_path: Path, content: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"cut off|not COCO"):
            inspected(tmp_path, content)
        assert tracemalloc.get_traced_memory()[1] < 20 * len(content)
    finally:
        tracemalloc.stop()


def test_last_of_repeated_keys_counts(tmp_path: Path) -> None:
    text = json.dumps(small_coco()).replace('"bbox": [4, 5, 12, 20]', '"bbox": 1, "bbox": [4, 5, 12, 20]')
    info = inspected(tmp_path, text.encode())
    assert info.annotations == 36


PROBLEMS = {
    "repaired": box([50, 5, 40, 20]),
    "left out": box([4, 5, 0, 0]),
}


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_on_problem_fail_refuses_skipped_and_repaired_data(tmp_path: Path, problem: Callable[[Coco], None]) -> None:
    info = inspected(tmp_path, changed(small_coco(), problem))
    assert refused(info, on_problem=OnProblem.SKIP, max_skipped_percent=20) == ""
    said = refused(info, on_problem=OnProblem.FAIL, max_skipped_percent=20)
    assert "1x (such as annotation 5)" in said
    right = inspected(tmp_path, small_coco())
    assert refused(right, on_problem=OnProblem.FAIL, max_skipped_percent=0) == ""


@pytest.mark.parametrize(("lost", "refuses"), [(7, False), (8, True)])
def test_more_than_max_skipped_percent_is_refused(tmp_path: Path, lost: int, refuses: bool) -> None:
    def change(coco: Coco) -> None:
        for annotation in coco["annotations"][:lost]:
            annotation["bbox"] = [0, 0, 0, 0]

    info = inspected(tmp_path, changed(small_coco(), change))
    said = refused(info, on_problem=OnProblem.SKIP, max_skipped_percent=20)
    assert bool(said) == refuses
    if refuses:
        assert said.startswith("8 of 36 annotations would be left out, more than the 20 % of dataset.maxSkippedPercent")
        assert "empty_box, 8x" in said


def test_every_problem_has_one_policy() -> None:
    kinds = [IMAGES_LEFT_OUT, OBJECTS_LEFT_OUT, REPAIRED]
    assert sum(map(len, kinds)) == len(frozenset[str]().union(*kinds))
    assert frozenset[str]().union(*kinds) <= CATALOGUE.keys()


def png(width: int, height: int, *, extra: bytes = b"") -> bytes:
    """A PNG that claims a size, with a chunk more."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * ((width + 7) // 8 + 1))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    data = b"comment\0\0" + zlib.compress(b"\0" * (80 << 20), 9)
    return struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))


def noise() -> bytes:
    """A PNG of some size."""
    file = io.BytesIO()
    Image.effect_noise((64, 48), 90).save(file, "PNG")
    return file.getvalue()


BOMBS = [
    (png(50_000, 50_000), "too large"),
    (png(30_000, 30_000), "too large"),
    (png(8, 8, extra=text_bomb()), "cannot be read"),
    (b"", "empty"),
    (b"GIF89a" + b"\xff" * 40, "not an image of a known format"),
    (noise()[:2000], "cannot be read"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "is EPS, a program"),
]


@pytest.mark.parametrize(("content", "says"), BOMBS, ids=["50k", "30k", "zTXt", "0 bytes", "garbage", "cut off", "EPS"])
def test_broken_images_and_image_bombs_are_refused(content: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        decode_image(content)


def test_an_image_of_thirty_thousand_pixels_a_side_is_decoded() -> None:
    file = io.BytesIO()
    Image.new("RGB", (30_000, 300), "red").save(file, "PNG")
    assert decode_image(file.getvalue()).shape == (300, 30_000, 3)


def test_open_files_limit_is_not_blamed_on_an_image(tmp_path: Path) -> None:
    file = tmp_path / "right.png"
    file.write_bytes(noise())
    assert decode_image(file).shape == (48, 64, 3)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(MachineError, match=r"right\.png cannot be read: Too many open files"):
            decode_image(file)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_disk_error_is_not_blamed_on_an_image() -> None:
    class Gone(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.ENOTCONN, "the mount is dead")

    with pytest.raises(MachineError, match="Transport endpoint is not connected"):
        decode_image(Gone(noise()), name="a.png")


LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from engine.dataset.images.decoding import decode_image
from engine.errors import MachineError
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000, -1))
try:
    decode_image(Path(sys.argv[1]))
except MachineError as error:
    print(error)
"""


def test_out_of_memory_is_not_blamed_on_an_image(tmp_path: Path) -> None:
    file = tmp_path / "whole.png"
    Image.new("RGB", (12_000, 12_000)).save(file, compress_level=1)
    done = subprocess.run([sys.executable, "-c", LITTLE_MEMORY, str(file)], capture_output=True, text=True, check=False)
    assert "whole.png cannot be read: the machine has too little memory" in done.stdout, done.stderr


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_random_damage_is_refused_or_counted(tmp_path: Path, seed: int) -> None:
    words = ["--seconds", "6", "--seed", str(seed), "--keep", str(tmp_path)]
    done = subprocess.run([sys.executable, str(FUZZER), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["executions"] > 50
