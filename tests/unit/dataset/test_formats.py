"""Formats other than COCO give the same objects as COCO, from a folder, a zip file, and S3."""

from __future__ import annotations

from pathlib import Path

import pytest
from coco_files import small_coco
from other_formats import WITH_MASKS, WRITERS, text, yolo, zipped

from engine.dataset import CocoDataset, ImageFolder, find_splits, inspect_dataset, load_dataset, split_file
from engine.dataset.coco_export import to_coco
from engine.errors import DataError
from engine.storage import Storage

Objects = dict[str, list[tuple[str, tuple[float, ...], int]]]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TEACHER_CACHE", str(folder))
    return folder


def objects_in(coco: dict[str, object]) -> Objects:
    """By file name, without folders: class, box and number of points of each object."""
    categories, images, annotations = (coco[key] for key in ("categories", "images", "annotations"))
    names = {one["id"]: one["name"] for one in categories}  # type: ignore[attr-defined]
    files = {one["id"]: Path(one["file_name"]).name for one in images}  # type: ignore[attr-defined]
    found: Objects = {name: [] for name in files.values()}
    for one in annotations:  # type: ignore[attr-defined]
        points = sum(len(polygon) for polygon in one["segmentation"] or []) // 2
        box = tuple(round(float(value), 2) for value in one["bbox"])
        found[files[one["image_id"]]].append((names[one["category_id"]], box, points))
    return {name: sorted(objects) for name, objects in found.items()}


def read(source: Path | str) -> Objects:
    dataset: CocoDataset = load_dataset(source)
    return objects_in(to_coco(dataset))


@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "polygons"])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_objects_that_were_written(kind: str, masks: bool, tmp_path: Path) -> None:
    coco = small_coco(5, 3, masks=masks)
    folder = WRITERS[kind](tmp_path / "data", coco)
    expected = objects_in(coco)
    if masks and kind not in WITH_MASKS:
        expected = {name: [(c, box, 0) for c, box, _ in found] for name, found in expected.items()}
    assert read(folder) == expected
    info = inspect_dataset(folder)
    assert info.has_masks == (masks and kind in WITH_MASKS)
    assert {one.code for one in info.problems} <= {"few_images", "rare_class"}


@pytest.mark.parametrize("top", ["", "export/"], ids=["flat", "nested"])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_is_read_from_a_zip_file(kind: str, top: str, tmp_path: Path) -> None:
    coco = small_coco(4, 2)
    archive = zipped(WRITERS[kind](tmp_path / "data", coco), tmp_path / "data.zip", top=top)
    assert read(archive) == objects_in(coco)
    folder = ImageFolder.of(str(archive), storage=Storage(), cache=tmp_path)
    assert folder.missing(load_dataset(archive).images) == []


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_is_read_from_s3(kind: str, packed: bool, s3: str, tmp_path: Path) -> None:
    coco = small_coco(3, 2)
    folder, storage = WRITERS[kind](tmp_path / "data", coco), Storage()
    if packed:
        storage.upload(zipped(folder, tmp_path / "data.zip"), f"{s3}/data.zip")
    else:
        storage.upload_folder(folder, f"{s3}/data")
    source = f"{s3}/data.zip" if packed else f"{s3}/data/"
    assert read(source) == objects_in(coco)
    assert inspect_dataset(source).digest == inspect_dataset(folder).digest


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_can_be_split(kind: str, tmp_path: Path) -> None:
    coco = small_coco(8, 2)
    folder = WRITERS[kind](tmp_path / "data", coco)
    splits = split_file(str(folder), tmp_path / "out", {"train": 0.5, "val": 0.5}, seed=0)
    assert [split.images for split in splits] == [4, 4]
    images = find_splits(str(folder), None, storage=Storage())["all"].images
    both = [objects_in(to_coco(load_dataset(split.path, images))) for split in splits]
    assert both[0] | both[1] == objects_in(coco)


@pytest.mark.parametrize("kind", WRITERS)
def test_the_digest_depends_on_the_content_alone(kind: str, tmp_path: Path) -> None:
    coco = small_coco(4, 2)
    backwards = coco | {"images": coco["images"][::-1]}
    one, other = WRITERS[kind](tmp_path / "one", coco), WRITERS[kind](tmp_path / "other", backwards)
    if kind in ("YOLO", "Pascal VOC", "LabelMe"):
        assert inspect_dataset(one).digest == inspect_dataset(other).digest
    first = inspect_dataset(one).digest
    assert inspect_dataset(zipped(one, tmp_path / "one.zip")).digest == first
    changed = small_coco(4, 1)
    assert inspect_dataset(WRITERS[kind](tmp_path / "changed", changed)).digest != first


def test_changed_labels_are_converted_again_and_a_damaged_copy_is_never_read(tmp_path: Path, cache: Path) -> None:
    folder = yolo(tmp_path / "data", small_coco(3, 2))
    before = read(folder)
    (converted,) = cache.glob("converted/*/all.json")
    converted.write_bytes(converted.read_bytes().replace(b"12.0", b"13.0"))
    assert read(folder) == before
    text(folder / "labels" / "001.txt", "0 0.5 0.5 0.25 0.25\n")
    assert len(read(folder)["001.png"]) == 1


def test_two_formats_in_one_folder_are_refused(tmp_path: Path) -> None:
    coco = small_coco(3, 1)
    WRITERS["COCO"](tmp_path, coco)
    yolo(tmp_path, coco)
    with pytest.raises(DataError, match=r"several formats: COCO \(annotations/instances_default.json\) and YOLO"):
        inspect_dataset(tmp_path)
    assert read(tmp_path / "annotations" / "instances_default.json") == objects_in(coco)
    assert read(tmp_path / "data.yaml") == objects_in(coco)


def test_dataset_without_images_is_refused(tmp_path: Path) -> None:
    folder = yolo(tmp_path, small_coco(2, 1))
    for image in (folder / "images").iterdir():
        image.unlink()
    with pytest.raises(DataError, match="is YOLO, but has no images below"):
        inspect_dataset(folder)


@pytest.mark.parametrize("kind", ["YOLO", "Pascal VOC", "LabelMe", "VIA"])
def test_image_folder_may_be_elsewhere(kind: str, tmp_path: Path) -> None:
    coco = small_coco(3, 2)
    folder = WRITERS[kind](tmp_path / "data", coco)
    images = tmp_path / "elsewhere"
    images.mkdir()
    for path in folder.rglob("*.png"):
        path.rename(images / path.name)
    if kind == "YOLO":
        text(folder / "data.yaml", "names: [cat, dog]\n")
    dataset = load_dataset(folder, images)
    assert objects_in(to_coco(dataset)) == objects_in(coco)
