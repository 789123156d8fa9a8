"""Mutated datasets in other formats than COCO, for fuzz.py: an input is a zip file, given as such or unpacked."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from coco_files import small_coco
from other_formats import WRITERS

Files = dict[str, bytes]

NUMBER = re.compile(rb"-?\d+(\.\d+)?")
WORD = re.compile(rb"[A-Za-z_]+")

TOKENS = [
    b"", b"-1", b"0", b"1", b"1.5", b"nan", b"inf", b"-inf", b"1e400", b"1_0", b"0,5", b"9" * 20, b"1e9", b"null",
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", "é".encode(), "\u2028".encode(), b"a" * 70_000, b"1 " * 5000, b"\r",
    b"\n\n", b"&a;", b"<!DOCTYPE a [<!ENTITY a 'aa'>]>", b"<![CDATA[", b"<a>" * 300, b"]]>", b"{", b"}", b"[" * 3000,
    b"*a", b"&a", b"!!python/object:os.system", b"../../etc/passwd", b"/etc/passwd", b"C:\\a\\001.png", b"..\\001.png",
    b"002.png", b"true", b'"', b"'", b": ", b"- ", b"%s", b"train", b"images", b"labels", b"names", b"kpt_shape: [1]\n",
]  # fmt: skip
"""What takes the place of numbers and words."""

NAMES = [
    "../out.txt", "/abs.txt", "a\\b.txt", "labels/001.xml", "Annotations/001.txt", "data.yaml", "classes.txt", "a.json",
    "obj.data", "__MACOSX/._a.txt", "train.txt", "ImageSets/Main/train.txt", "ImageSets/Main/val.txt", "a.csv",
    "labels/001.txt", "images/001.txt", "train/images/001.png", "valid/images/001.png", "x" * 300 + ".txt", "é/ü.xml",
    "a\nb.txt",
]  # fmt: skip
"""Names that a file may get."""


def datasets() -> dict[str, Files]:
    """A right dataset of each format, with boxes and with polygons."""
    found = {}
    with TemporaryDirectory() as temporary:
        for kind, write in WRITERS.items():
            for masks in (False, True):
                folder = write(Path(temporary) / kind / str(masks), small_coco(4, 3, masks=masks))
                files = sorted(path for path in folder.rglob("*") if path.is_file())
                found[f"{kind} {masks}"] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return found


RIGHT = datasets()


def replaced(content: bytes, rng: random.Random) -> bytes:
    """A text with some of its numbers and words replaced."""
    for _ in range(rng.choice([1, 1, 2, 6])):
        spots = list((NUMBER if rng.random() < 0.7 else WORD).finditer(content))
        if spots:
            spot = rng.choice(spots)
            content = content[: spot.start()] + rng.choice(TOKENS) + content[spot.end() :]
    return content


def zipped(files: Files, rng: random.Random) -> bytes:
    """The files as an archive, in any order."""
    file = io.BytesIO()
    names = sorted(files)
    rng.shuffle(names)
    with zipfile.ZipFile(file, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name in names:
            archive.writestr(name, files[name])
    return file.getvalue()


def an_input(
    rng: random.Random,
    mutated: Callable[[object, random.Random], object],
    damaged: Callable[[bytes, random.Random], bytes],
    kind: str,
) -> tuple[str, bytes]:
    """The kind of an input, and a zip file of it; ``mutated`` changes values of JSON, ``damaged`` bytes."""
    files = dict(RIGHT[kind])
    texts = [name for name in files if not name.endswith(".png")]
    for _ in range(rng.choice([1, 1, 2, 4])):
        name = rng.choice(texts if rng.random() < 0.95 else list(files))
        if name not in files:
            continue
        how = rng.random()
        if how < 0.15:
            files[rng.choice(NAMES)] = files[name] if rng.random() < 0.5 else files.pop(name)
        elif how < 0.2:
            del files[name]
        elif how < 0.4:
            files[name] = damaged(files[name], rng)
        elif how < 0.7 and name.endswith(".json"):
            try:
                files[name] = json.dumps(mutated(json.loads(files[name]), rng)).encode(errors="surrogatepass")
            except (ValueError, RecursionError):
                continue
        else:
            files[name] = replaced(files[name], rng)
    content = zipped(files, rng)
    if rng.random() < 0.15:
        return "bytes of a zip file", damaged(content, rng)
    return f"{kind.rpartition(' ')[0]}, {'zip' if rng.random() < 0.3 else 'folder'}", content


def place(kind: str, content: bytes, folder: Path) -> Path:
    """Where the input lies, in an empty folder with an empty cache."""
    data = folder / "other"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    os.environ["TEACHER_CACHE"] = str(data / "cache")
    archive = data / "data.zip"
    archive.write_bytes(content)
    if not kind.endswith("folder"):
        return archive
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            path = data / "files" / name.lstrip("/").replace("..", "__")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(file.read(name))
            except OSError:  # a name that no file can have
                continue
    return data / "files"
