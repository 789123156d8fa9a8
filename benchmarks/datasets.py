"""Fetch and convert the public data sets of ``learning.py``: photos with boxes or masks, kept in GitHub repositories.

    python benchmarks/datasets.py --list
    python benchmarks/datasets.py --out sets                      # all of them, some 260 MB are downloaded
    python benchmarks/datasets.py --out sets raccoon books
    python benchmarks/datasets.py --out sets --mirror clones      # from clones named OWNER+NAME, without a network

Each set becomes a folder ``sets/NAME`` with ``images/`` (JPEG, longest side at most 640 pixels) and
``annotations.json`` (COCO, absolute pixels). The commit of each source is fixed, so everybody gets the same files;
none of them are part of this repository.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

LONGEST = 640
"""Longest side of a converted image in pixels."""


class Tree:
    """Read the files of one commit of a git repository."""

    def __init__(self, git: Path, commit: str) -> None:
        self._command = ["git", "-c", "safe.directory=*", "--git-dir", str(git)]
        self._commit = commit
        listed = self._run("ls-tree", "-r", "-z", "--name-only", commit).decode()
        self.names = tuple(sorted(name for name in listed.split("\0") if name))

    def _run(self, *arguments: str) -> bytes:
        return subprocess.run([*self._command, *arguments], check=True, capture_output=True).stdout

    def read(self, name: str) -> bytes:
        """Return the bytes of one file."""
        return self._run("cat-file", "blob", f"{self._commit}:{name}")

    def json(self, name: str) -> Any:
        """Parse a JSON file."""
        return json.loads(self.read(name))


@dataclass(frozen=True)
class Thing:
    """An annotated object: class, box and, for sets with masks, its outline, all in pixels of the source image."""

    name: str
    box: tuple[float, float, float, float]  # x, y, width, height
    mask: Any = None  # polygons or RLE as in COCO


@dataclass(frozen=True)
class Photo:
    """An image of a source with its objects."""

    path: str
    things: tuple[Thing, ...]


Reader = Callable[[Tree], Iterator[Photo]]


def voc(*folders: tuple[str, str]) -> Reader:
    """Read Pascal VOC files: pairs of the folder of the XML files and the folder of the images."""

    def read(tree: Tree) -> Iterator[Photo]:
        for labels, images in folders:
            pictures = {p.stem: n for n in tree.names if (p := PurePosixPath(n)).parent == PurePosixPath(images)
                        and p.suffix.lower() in (".jpg", ".jpeg", ".png")}  # fmt: skip
            for name in tree.names:
                path = PurePosixPath(name)
                if path.parent == PurePosixPath(labels) and path.suffix == ".xml" and path.stem in pictures:
                    things = tuple(_voc_thing(one) for one in ET.fromstring(tree.read(name)).iter("object"))
                    yield Photo(pictures[path.stem], things)

    return read


def _voc_thing(element: ET.Element) -> Thing:
    x0, y0, x1, y1 = (float(element.findtext(f"bndbox/{side}", "0")) for side in ("xmin", "ymin", "xmax", "ymax"))
    return Thing(element.findtext("name", "").strip(), (x0, y0, x1 - x0, y1 - y0))


def coco(*files: str, masks: bool = False) -> Reader:
    """Read COCO files; the images lie next to them or in ``images/``."""

    def read(tree: Tree) -> Iterator[Photo]:
        for file in files:
            content = tree.json(file)
            names = {category["id"]: category["name"] for category in content["categories"]}
            things: dict[int, list[Thing]] = {image["id"]: [] for image in content["images"]}
            for one in content["annotations"]:
                outline = one["segmentation"] if masks else None
                things[one["image_id"]].append(Thing(names[one["category_id"]], tuple(one["bbox"]), outline))
            folder = PurePosixPath(file).parent
            for image in content["images"]:
                beside = str(folder / image["file_name"])
                path = beside if beside in tree.names else str(folder / "images" / image["file_name"])
                yield Photo(path, tuple(things[image["id"]]))

    return read


def one_json_per_image(folder: str, *, name: str) -> Reader:
    """Read files in the layout of SA-1B: RLE masks of one class in ``X.json`` next to ``X.jpg``."""

    def read(tree: Tree) -> Iterator[Photo]:
        for file in tree.names:
            if file.startswith(f"{folder}/") and file.endswith(".json"):
                found = tree.json(file)["annotations"]
                yield Photo(file[: -len("json")] + "jpg", tuple(Thing(name, tuple(a["bbox"]), a["segmentation"])
                                                               for a in found))  # fmt: skip

    return read


def via(*folders: str, name: str) -> Reader:
    """Read polygons of one class drawn with the VGG Image Annotator."""

    def read(tree: Tree) -> Iterator[Photo]:
        for folder in folders:
            for one in tree.json(f"{folder}/via_region_data.json").values():
                shapes = [region["shape_attributes"] for region in one["regions"]]
                things = tuple(_polygon(name, s["all_points_x"], s["all_points_y"]) for s in shapes)
                yield Photo(f"{folder}/{one['filename']}", things)

    return read


def _polygon(name: str, xs: Sequence[float], ys: Sequence[float]) -> Thing:
    box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
    return Thing(name, box, [[v for point in zip(xs, ys, strict=True) for v in point]])


@dataclass(frozen=True)
class Source:
    """A data set in a public repository."""

    repository: str
    commit: str
    licence: str
    contents: str
    reader: Reader
    masks: bool = False
    keep: int = 400
    """Largest number of images; of more, every n-th is taken."""


SOURCES: dict[str, Source] = {
    "raccoon": Source(
        "datitran/raccoon_dataset",
        "93938849301895fb73909842ba04af9b602f677a",
        "MIT",
        "photos of raccoons",
        voc(("annotations", "images")),
    ),
    "plates": Source(
        "RobertLucian/license-plate-dataset",
        "f00f309e4564e7f386fd7641569d861e2910d65f",
        "MIT",
        "licence plates in frames of car cameras by day and night, small objects",
        voc(("dataset/train/annots", "dataset/train/images"), ("dataset/valid/annots", "dataset/valid/images")),
        keep=270,
    ),
    "chess": Source(
        "jsansao/ChessPiecesv23",
        "246442c35465cdc9c917cdd0aa36698320def063",
        "public domain",
        "chess boards with 12 kinds of pieces, seen from one place",
        coco(*(f"{part}/_annotations.coco.json" for part in ("train", "valid", "test"))),
    ),
    "cards": Source(
        "EdjeElectronics/TensorFlow-Object-Detection-API-Tutorial-Train-Multiple-Objects-Windows-10",
        "c1645825822622fc75919b6be253779d49678f55",
        "Apache-2.0",
        "playing cards of 6 ranks on tables, hands and grass",
        voc(*((f"images/{part}",) * 2 for part in ("train", "test"))),  # type: ignore[arg-type]
    ),
    "facades": Source(
        "a-hwang/building-facade-segmentation",
        "fdf532443d1c83547218bfbfce8fece3ab848c21",
        "CC BY 4.0",
        "street views of buildings: windows, balconies, cars, vegetation and six more, some 35 objects each",
        coco("valid/_annotations.coco.json", "test/_annotations.coco.json", masks=True),
        masks=True,
    ),
    "books": Source(
        "DiKe2004/sam2-finetune-segmentation",
        "d8bb40f5d4f45714449b964d4d28395ca3de8bc7",
        "CC BY 4.0",
        "spines of books on library shelves",
        one_json_per_image("dataset/train", name="book"),
        masks=True,
    ),
    "bugs": Source(
        "lesc-ufv/kudzu-dataset",
        "f6e3139efe9ed8529a0ba157d6c6a6e2568b85e7",
        "MIT",
        "few photos of kudzu bugs on plants, small objects, uneven labels",
        via("train", "val", name="kudzu bug"),
        masks=True,
    ),
}


def convert(name: str, source: Source, tree: Tree, out: Path) -> dict[str, int]:
    """Write one set to ``out``, without copies of images; return its numbers of images and annotations."""
    available = set(tree.names)
    photos = [photo for photo in source.reader(tree) if photo.path in available]
    photos = photos[:: -(-len(photos) // source.keep)]
    names = sorted({thing.name for photo in photos for thing in photo.things})
    ids = {label: number for number, label in enumerate(names, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (out / "images").mkdir(parents=True, exist_ok=True)
    seen: set[bytes] = set()
    for number, photo in enumerate(photos, start=1):
        file, content = f"{name}-{number:04d}.jpg", tree.read(photo.path)
        digest = hashlib.sha256(content).digest()
        if digest in seen:  # a copy would be in two splits
            continue
        seen.add(digest)
        scale, width, height = _write_image(content, out / "images" / file)
        images.append({"id": number, "file_name": file, "width": width, "height": height})
        for thing in photo.things:
            one = _annotation(thing, scale=scale, size=(height, width))
            if one is not None:
                one |= {"id": len(annotations) + 1, "image_id": number, "category_id": ids[thing.name]}
                annotations.append(one)
    categories = [{"id": ids[label], "name": label.replace("-", " ").replace("_", " ")} for label in names]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (out / "annotations.json").write_text(json.dumps(document), encoding="utf-8")
    return {"images": len(images), "annotations": len(annotations), "classes": len(categories)}


def _write_image(data: bytes, path: Path) -> tuple[float, int, int]:
    """Write a JPEG of at most ``LONGEST`` pixels; return its scale, width and height."""
    with Image.open(BytesIO(data)) as opened:
        if opened.format == "JPEG" and max(opened.size) <= LONGEST and opened.mode == "RGB":
            path.write_bytes(data)
            return 1.0, *opened.size
        image = opened.convert("RGB")
    scale = min(1.0, LONGEST / max(image.size))
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    image.save(path, quality=92)
    return scale, *image.size


def _annotation(thing: Thing, *, scale: float, size: tuple[int, int]) -> dict[str, Any] | None:
    """Scale and clip an object to the image; ``None`` if less than a pixel is left of it."""
    height, width = size
    x, y, w, h = (v * scale for v in thing.box)
    x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    if x1 - x0 < 1 or y1 - y0 < 1:
        return None
    box = [round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)]
    one: dict[str, Any] = {"bbox": box, "area": round(box[2] * box[3], 2), "iscrowd": 0}
    if thing.mask is not None:
        if isinstance(thing.mask, dict):
            mask = Image.fromarray(coco_mask.decode(thing.mask) * 255).resize((width, height), Image.Resampling.BOX)
            encoded = coco_mask.encode(np.asfortranarray(np.asarray(mask) >= 128, dtype=np.uint8))
            one["segmentation"] = {"size": [height, width], "counts": encoded["counts"].decode()}
            one["area"] = int(coco_mask.area(encoded))
        else:
            one["segmentation"] = [[round(v * scale, 2) for v in part] for part in thing.mask]
            one["area"] = float(coco_mask.area(coco_mask.merge(coco_mask.frPyObjects(one["segmentation"], *size))))
        if not one["area"]:
            return None
    return one


def git_folder(source: Source, *, mirror: Path | None, work: Path) -> Path:
    """Return a git folder that holds the commit: a clone under ``mirror``, or fetched from GitHub into ``work``."""
    if mirror is not None:
        clone = mirror / source.repository.replace("/", "+")
        for folder in (clone / ".git", clone / "repo" / ".git", clone / "repo", clone):
            if (folder / "HEAD").is_file():
                return folder
        raise SystemExit(f"{clone}: no git repository; clone https://github.com/{source.repository} there")
    url = f"https://github.com/{source.repository}"
    subprocess.run(["git", "init", "--quiet", "--bare", str(work)], check=True)
    subprocess.run(["git", "-C", str(work), "fetch", "--quiet", "--depth", "1", url, source.commit], check=True)
    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"sets to fetch; default: all of {', '.join(SOURCES)}")
    parser.add_argument("--out", type=Path, default=Path("sets"))
    parser.add_argument("--mirror", type=Path, help="folder of clones named OWNER+NAME, read in place of GitHub")
    parser.add_argument("--list", action="store_true", help="print the sets and their licences, fetch nothing")
    options = parser.parse_args()
    if unknown := set(options.names) - set(SOURCES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(SOURCES)}")
    for name in options.names or SOURCES:
        source = SOURCES[name]
        line = (
            f"{name}: {source.contents} ({'masks' if source.masks else 'boxes'}; {source.licence}; {source.repository})"
        )
        if options.list:
            print(line)
            continue
        with TemporaryDirectory() as folder:
            tree = Tree(git_folder(source, mirror=options.mirror, work=Path(folder)), source.commit)
            counts = convert(name, source, tree, options.out / name)
        print(line, ", ".join(f"{n} {what}" for what, n in counts.items()), flush=True)


if __name__ == "__main__":
    main()
