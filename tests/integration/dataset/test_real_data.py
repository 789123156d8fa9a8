"""COCO files from the wild, and two real data sets."""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from engine.dataset import (
    DatasetInfo,
    ImageFolder,
    decode_masks,
    inspect_dataset,
    load_dataset,
    load_sample,
    split_dataset,
    to_coco,
    validate_dataset,
)
from engine.dataset.boxes import to_xywh
from engine.errors import DataError
from engine.storage import Storage

VARIANTS = Path(__file__).resolve().parents[4] / "shared" / "data" / "coco-variants"
ODD = VARIANTS / "ODD.tsv"
ROWS = [line.split("\t") for line in ODD.read_text().splitlines()] if ODD.is_file() else []

OTHER_KINDS = {
    "captions": "captions, not objects",
    "panoptic": "COCO panoptic",
    "result.json": "detection results",
    "terrain1.json": "LabelMe",
    "terrain2.json": "LabelMe",
    "terrain3.json": "LabelMe",
}


def refusal_of(name: str) -> str | None:
    file = Path(name).name
    return next((sentence for start, sentence in OTHER_KINDS.items() if file.startswith(start)), None)


def pycocotools_reads(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.mark.parametrize(("name", "counts", "oddities"), [(row[0], row[2], row[3]) for row in ROWS])
def test_files_from_the_wild_are_read_right_or_refused_with_a_sentence(
    name: str, counts: str, oddities: str, shared_data: Path
) -> None:
    path = shared_data / "coco-variants" / name
    sentence = refusal_of(name)
    if sentence is not None:
        for read in (inspect_dataset, load_dataset):
            with pytest.raises(DataError, match=sentence):
                read(path)
        return
    info, dataset, expected = inspect_dataset(path), load_dataset(path), pycocotools_reads(path)
    assert str((info.images, info.annotations_read, len(info.classes))) == counts
    by_class = {c.id: c.annotations for c in info.classes}
    once = {(a["image_id"], a["category_id"], str(a.get("bbox"))): a for a in expected.anns.values()}
    copies = sum(problem.count for problem in info.problems if problem.code == "duplicate_object")
    if "no bbox" in oddities or not expected.anns:
        assert info.annotations == 0
        assert info.errors
    else:
        assert info.annotations == len(once) == len(expected.anns) - copies
        of_class = Counter(annotation["category_id"] for annotation in once.values())
        assert by_class == {class_id: of_class[class_id] for class_id in expected.cats}
    crowds = sum(annotation.get("iscrowd", 0) for annotation in once.values())
    assert info.crowd_share == (round(crowds / info.annotations, 4) if info.annotations else 0)
    masked = sum(bool(a.get("segmentation")) and not a.get("iscrowd", 0) for a in once.values())
    assert info.masks == masked
    assert dict(zip(dataset.category_ids, dataset.classes, strict=True)) == {
        class_id: category["name"].strip() for class_id, category in expected.cats.items()
    }
    for image, objects in zip(dataset.images, dataset.annotations, strict=True):
        for found in objects:
            there = expected.anns[found.id]
            assert there["image_id"] == image.id
            assert to_xywh(found.box_xyxy) == pytest.approx(there["bbox"], abs=1)
            if found.segmentation is not None:
                (mask,) = decode_masks([found.segmentation], image.height, image.width)
                assert np.array_equal(mask, expected.annToMask(there).astype(bool))


@pytest.mark.parametrize(
    "export", ["roboflow_dataset/coco", "coco_dataset/coco_roboflow", "coco_dataset/coco_instances"]
)
def test_exports_from_the_wild_are_found_in_their_folders(export: str, shared_data: Path) -> None:
    folder = shared_data / "coco-variants" / "openvinotoolkit/datumaro/tests/assets" / export
    assert list(inspect_dataset(folder).splits) == ["train", "val"]


def test_blood_cells_have_boxes_and_no_masks(shared_data: Path) -> None:
    folder = shared_data / "bccd"
    info = validate_dataset(folder / "annotations.json", folder / "images", thorough=False)
    assert (info.images, info.annotations, info.has_boxes, info.has_masks) == (364, 4888, True, False)
    assert {c.name: c.annotations for c in info.classes} == {"WBC": 372, "RBC": 4155, "Platelets": 361}
    assert info.problems == ()
    assert inspect_dataset(folder).splits == {"train": 205, "val": 87, "test": 72}
    split = split_dataset(load_dataset(folder / "annotations.json"), {"train": 0.8, "val": 0.2}, seed=0)
    assert (len(split.train), len(split.val), split.rare) == (291, 73, {})


def test_nuclei_are_the_same_in_three_encodings(shared_data: Path) -> None:
    folder = shared_data / "dsb2018"
    infos: list[DatasetInfo] = []
    masks = []
    for name in ("annotations.json", "annotations_rle.json", "annotations_rle_uncompressed.json"):
        info = inspect_dataset(folder / name)
        infos.append(info.model_copy(update={"digest": "", "source": "", "files": ()}))
        dataset = load_dataset(folder / name)
        images = ImageFolder.of(str(folder / name), storage=Storage(), cache=Path("unused"))
        sample = load_sample(dataset, 7, images.path(dataset.images[7]), with_masks=True)
        masks.append(sample.masks)
        boxes = sample.boxes_xyxy
        assert len(sample.masks) == len(boxes) > 0
    assert infos[0] == infos[1] == infos[2]
    assert (infos[0].images, infos[0].annotations, infos[0].masks, infos[0].problems) == (120, 2981, 2981, ())
    assert np.array_equal(masks[1], masks[2])
    overlap = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
    assert overlap > 0.9


def test_a_dataset_goes_back_to_coco(shared_data: Path, tmp_path: Path) -> None:
    dataset = load_dataset(shared_data / "dsb2018" / "annotations_rle.json")
    path = tmp_path / "again.json"
    path.write_text(json.dumps(to_coco(dataset)))
    again = pycocotools_reads(path)
    assert Counter(a["image_id"] for a in again.anns.values()) == Counter(
        {image.id: len(objects) for image, objects in zip(dataset.images, dataset.annotations, strict=True)}
    )
    loaded = load_dataset(path)
    assert (loaded.images, loaded.classes) == (dataset.images, dataset.classes)
