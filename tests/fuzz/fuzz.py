"""Mutated COCO files, images, and datasets in other formats, for as long as one likes::

    python tests/fuzz/fuzz.py --seconds 600 --seed 1

Each is inspected, loaded and decoded as a run would. It may be refused in a sentence, or repaired or left out and
counted; anything else (another error, a count that does not add up, 20 seconds, or all of the memory) is a crash: its
input is kept in ``--keep``, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

import formats
from coco_files import compressed, small_coco, uncompressed, write_images

from engine.dataset import DatasetInfo, inspect_dataset, load_dataset, load_sample
from engine.dataset.images import decode_image, probe_image
from engine.dataset.problems import IMAGES_LEFT_OUT, OBJECTS_LEFT_OUT, REPAIRED
from engine.errors import TeacherError

SECONDS = 20
"""Longest time of one input."""

NAMES = [f"{i:03d}.png" for i in range(1, 5)]
DEEP = 3000
RAW = {
    "@huge": "1" + "0" * 400,
    "@float": "1e999",
    "@nan": "NaN",
    "@infinity": "-Infinity",
    "@deep": "[" * DEEP + "]" * DEEP,
}
"""What no Python value is written as."""

HOSTILE: list[Any] = [
    *RAW, None, True, False, 0, 1, -1, 2**31, 2**63, -(2**70), 1e308, 0.5, -0.0,
    "", " ", "1", "\x00", "a\x00b", "\ud800", "é" * 300, "x" * 100_000,
    "../../etc/passwd", "/etc/passwd", "C:\\windows\\x.png", "..\\..\\x.png", "./001.png", "001.PNG",
    [], {}, [[]], [None], [[None]], [1], [1, 2], [[1, 2]], [[1, 2, 3]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5]], ["a"] * 6,
    [[1e308, -1e308] * 4], [[0, 0] * 500], [[float(i) for i in range(7)]],
    [0, 0, -5, 10], [0, 0, 0, 0], [1e9, 1e9, 5, 5],
    {"size": [48, 64]}, {"counts": []}, {"size": [10**9, 10**9], "counts": [1]}, {"size": [48, 64], "counts": [10**12]},
    {"size": [48, 64], "counts": "\x00\xff"}, {"size": [48, 64], "counts": "`" * 50}, {"size": [-1, 5], "counts": [3]},
    {"size": [48, 64], "counts": [-5, 10]}, {"size": ["48", None], "counts": "abc"}, {"size": [0, 0], "counts": []},
]  # fmt: skip


def document(rng: random.Random) -> Any:
    """A right file, with masks of every kind."""
    coco = small_coco(len(NAMES), 3, masks=rng.random() < 0.7)
    mask = np.zeros((48, 64), bool)
    mask[10:20, 5:25] = True
    for annotation in coco["annotations"]:
        if rng.random() < 0.3:
            annotation["segmentation"] = rng.choice([compressed, uncompressed])(mask)
    return coco


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    found: list[tuple[Any, Any]] = []
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found += [(value, key), *places(value[key])]
    return found


def mutated(coco: Any, rng: random.Random) -> Any:
    """The document with some values of it replaced, removed or doubled."""
    for _ in range(rng.choice([1, 1, 2, 5])):
        spots = places(coco)
        if not spots:
            break
        container, key = rng.choice(spots)
        how = rng.randrange(4)
        if how == 0:
            del container[key]
        elif how == 1 and isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        elif how == 2:
            other, place = rng.choice(spots)
            try:
                container[key] = json.loads(json.dumps(other[place]))
            except (KeyError, IndexError, ValueError):
                continue
        else:
            container[key] = copy.deepcopy(rng.choice(HOSTILE))
    return coco


def written(coco: Any, rng: random.Random) -> bytes:
    """As bytes, in some encoding, with names of keys given twice now and then."""
    text = json.dumps(coco, ensure_ascii=rng.random() < 0.8, indent=rng.choice([None, None, 1]))
    for mark, raw in RAW.items():
        text = text.replace(json.dumps(mark), raw)
    if rng.random() < 0.05:
        text = text.replace('"bbox":', '"bbox": 1, "bbox":', 3)
    encoding = rng.choice(["utf-8"] * 20 + ["utf-8-sig", "utf-16", "utf-32", "latin-1"])
    return text.encode(encoding, errors="surrogatepass" if encoding.startswith("utf") else "replace")


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Cut off, or with bytes changed, added, removed or repeated."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 3, 20])):
        at = rng.randrange(len(data) + 1) if data else 0
        how = rng.randrange(5)
        if how == 0:
            del data[at:]
        elif how == 1 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif how == 2:
            data[at:at] = rng.randbytes(rng.choice([1, 4, 100]))
        elif how == 3:
            del data[at : at + rng.choice([1, 4, 100])]
        else:
            data[at:at] = data[max(0, at - 50) : at] * rng.choice([1, 40])
    return bytes(data)


def an_image(rng: random.Random) -> bytes:
    """A right image of some format and kind."""
    mode = rng.choice(["RGB", "L", "RGBA", "P", "1", "CMYK", "I;16", "LA"])
    kinds = {"RGB": ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA"], "CMYK": ["JPEG", "TIFF"]}
    image = Image.fromarray(np.random.default_rng(rng.randrange(99)).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    image = Image.new("I;16", (32, 24), 999) if mode == "I;16" else image.convert(mode)
    file = io.BytesIO()
    image.save(file, rng.choice(kinds.get(mode, ["PNG", "TIFF"])))
    return file.getvalue()


def check_coco(content: bytes, folder: Path) -> str:
    """What becomes of a COCO file."""
    file = folder / "annotations.json"
    file.write_bytes(content)
    return check_dataset(file, folder / "images")


def check_dataset(source: Path, images: Path | None) -> str:
    """What becomes of a dataset."""
    try:
        info = inspect_dataset(source, images)
    except TeacherError as error:
        return "refused" if str(error) else "crashed"
    counts = {problem.code: problem.count for problem in info.problems}
    check_counts(info)
    try:
        dataset = load_dataset(source, images)
    except TeacherError:
        assert info.errors
        return "refused"
    assert len(dataset) == info.images, "inspecting and loading differ"
    assert sum(map(len, dataset.annotations)) == info.annotations, "inspecting and loading differ"
    for index, image in enumerate(dataset.images[:4] if images is not None else ()):
        try:
            sample = load_sample(dataset, index, images / image.file_name, with_masks=True)  # type: ignore[operator]
        except TeacherError:
            continue
        assert sample.image.shape[2] == 3
        assert np.isfinite(sample.boxes_xyxy).all()
    if info.errors:
        return "refused"
    if counts.keys() & (IMAGES_LEFT_OUT | OBJECTS_LEFT_OUT):
        return "skipped"
    return "repaired" if counts.keys() & REPAIRED else "used"


def check_counts(info: DatasetInfo) -> None:
    """Nothing is lost in silence: what was read is used, or left out for a reason that is told."""
    counts = Counter({problem.code: problem.count for problem in info.problems})
    left_out = sum(counts[code] for code in IMAGES_LEFT_OUT)
    assert info.images_read == info.images + left_out, f"{info.images_read} images, {info.images} used, {counts}"
    left_out = sum(counts[code] for code in OBJECTS_LEFT_OUT)
    assert info.annotations_read == info.annotations + left_out, (
        f"{info.annotations_read}, {info.annotations}, {counts}"
    )


def check_image(content: bytes, folder: Path) -> str:
    """What becomes of an image."""
    try:
        probe_image(content)
        pixels = decode_image(content)
    except TeacherError as error:
        return "refused" if str(error) else "crashed"
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    return "used"


def one(rng: random.Random) -> tuple[str, bytes, Callable[[bytes, Path], str]]:
    """An input, and what it is tried on."""
    if rng.random() < 0.5:
        kind, content = formats.an_input(rng, mutated, damaged)
        return kind, content, lambda given, folder: check_dataset(formats.place(kind, given, folder), None)
    if rng.random() < 0.3:
        content = an_image(rng)
        return "image", damaged(content, rng) if rng.random() < 0.95 else content, check_image
    content = written(mutated(document(rng), rng), rng)
    if rng.random() < 0.3:
        return "bytes of COCO", damaged(content, rng), check_coco
    return "values of COCO", content, check_coco


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--keep", type=Path, default=Path("out/fuzz"))
    given = options.parse_args()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError(f"over {SECONDS} seconds")))
    begun, tally, executions = time.monotonic(), Counter[tuple[str, str]](), 0
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_images(folder / "images", NAMES)
        while time.monotonic() - begun < given.seconds:
            rng = random.Random(f"{given.seed} {executions}")
            kind, content, check = one(rng)
            signal.alarm(SECONDS)
            try:
                end = check(content, folder)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                end = "crashed"
                given.keep.mkdir(parents=True, exist_ok=True)
                (given.keep / f"{given.seed}-{executions}").write_bytes(content)
                print(f"{kind} {given.seed} {executions}: {traceback.format_exc()[-1500:]}", file=sys.stderr)
            finally:
                signal.alarm(0)
            tally[kind, end] += 1
            executions += 1
    table: dict[str, dict[str, int]] = {}
    for (kind, end), count in sorted(tally.items()):
        table.setdefault(kind, {})[end] = count
    print(json.dumps({"seconds": round(time.monotonic() - begun), "executions": executions, **table}))
    return int(any(end == "crashed" for _, end in tally))


if __name__ == "__main__":
    sys.exit(main())
