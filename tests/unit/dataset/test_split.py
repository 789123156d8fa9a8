"""Dividing loses nothing, doubles nothing, and keeps the share of every class."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from random import Random
from typing import BinaryIO

import pytest
from coco_files import Coco, changed, small_coco, write, write_images
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from engine.dataset import inspect_dataset, load_dataset, split_dataset, split_file
from engine.dataset.splits.stratify import stratified_folds
from engine.errors import ConfigError, DataError, StorageError
from engine.storage import Storage

RECORDS = st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=60)
PERCENT = st.tuples(st.integers(1, 98), st.integers(0, 98)).filter(lambda two: sum(two) <= 100)


@settings(max_examples=200, deadline=None)
@given(RECORDS, PERCENT, st.integers(0, 2**31 - 1), st.booleans())
def test_each_image_is_in_one_split_and_sizes_are_exact(
    records: list[list[int]], percent: tuple[int, int], seed: int, stratify: bool
) -> None:
    train, val = percent
    fractions = {"train": train / 100, "val": val / 100, "test": (100 - train - val) / 100}
    split = split_dataset(records, fractions, seed=seed, stratify=stratify)
    assert sorted(split.train + split.val + split.test) == list(range(len(records)))
    requested = [name for name, share in fractions.items() if share]
    for name, share in fractions.items():
        size, exact = len(getattr(split, name)), share * len(records)
        assert size == 0 if not share else abs(size - exact) < 1 or (size == 1 and exact < 1) or len(records) < 50
        if share and len(records) >= len(requested):
            assert size >= 1
    assert split == split_dataset(records, fractions, seed=seed, stratify=stratify)


def test_each_split_has_its_share_of_every_class() -> None:
    rng = Random(1)
    records = [[min(19, int(rng.expovariate(0.3))) for _ in range(rng.randint(0, 6))] for _ in range(3000)]
    fractions = {"train": 0.7, "val": 0.2, "test": 0.1}
    split = split_dataset(records, fractions, seed=3)
    for label in [*range(20), None]:
        having = {i for i, labels in enumerate(records) if (label in labels if label is not None else not labels)}
        for name, share in fractions.items():
            assert len(having & set(getattr(split, name))) == pytest.approx(share * len(having), abs=3, rel=0.08)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=10, max_size=60), st.integers(2, 10))
def test_each_image_is_in_one_fold_and_folds_are_equal(records: list[list[int]], folds: int) -> None:
    divided = stratified_folds(records, folds, seed=1)
    assert sorted(image for fold in divided for image in fold) == list(range(len(records)))
    assert max(map(len, divided)) - min(map(len, divided)) <= 1
    assert divided == stratified_folds(records, folds, seed=1)


def test_each_fold_has_its_share_of_every_class_and_groups_stay_together() -> None:
    records = [[image % 4] for image in range(200)]
    groups = [image // 2 for image in range(200)]
    for divided in (stratified_folds(records, 5, seed=0), stratified_folds(records, 5, seed=0, groups=groups)):
        for fold in divided:
            assert [sum(records[image] == [label] for image in fold) for label in range(4)] == [10] * 4
    for fold in divided:
        assert {groups[image] for image in fold}.isdisjoint(groups[i] for i in range(200) if i not in fold)


def test_fewer_groups_than_folds_are_refused() -> None:
    with pytest.raises(DataError, match=r"20 images form 3 groups .* too few for 4 folds"):
        stratified_folds([[0]] * 20, 4, seed=0, groups=[image % 3 for image in range(20)])


def test_stratified_split_is_better_than_random() -> None:
    rng = Random(2)
    records = [[0] * (rng.random() < 0.1) + [1] * (rng.random() < 0.02) for _ in range(500)]
    fractions = {"train": 0.8, "val": 0.2}

    def worst(stratify: bool) -> float:
        errors = []
        for seed in range(10):
            val = split_dataset(records, fractions, seed=seed, stratify=stratify).val
            for label in (0, 1):
                there = sum(label in labels for labels in records)
                errors.append(abs(sum(label in records[i] for i in val) - 0.2 * there))
        return max(errors)

    assert worst(stratify=True) <= 1 < worst(stratify=False)


def test_split_depends_only_on_the_seed() -> None:
    program = (
        "from engine.dataset import split_dataset\nfrom random import Random\nrng = Random(5)\n"
        "records = [[rng.randint(0, 9) for _ in range(rng.randint(0, 4))] for _ in range(300)]\n"
        "print([split_dataset(records, {'train': 0.8, 'val': 0.2}, seed=seed).val for seed in (0, 1)])"
    )
    outputs = set()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.add(done.stdout)
    (output,) = outputs
    first, second = json.loads(output)
    assert first != second


def test_classes_too_rare_for_every_split_are_reported() -> None:
    records = [[0], [0], [0], [0], [0], [0, 1], [0, 2], [0, 2], [0, 2], [0, 2], [3], []]
    split = split_dataset(records, {"train": 0.5, "val": 0.5}, seed=0)
    assert set(split.rare) == {1, 3}
    for label, names in split.rare.items():
        for name in ("train", "val"):
            assert (name in names) == any(label in records[i] for i in getattr(split, name))


@pytest.mark.parametrize(
    "fractions", [{"train": 0.8}, {"train": 1.2, "val": -0.2}, {"train": 0.8, "valid": 0.2}, {"train": float("nan")}]
)
def test_invalid_fractions_are_refused(fractions: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must add up to 1"):
        split_dataset([[0]], fractions, seed=0)


def odd_coco() -> Coco:
    """A file with more in it than the format asks for."""

    def add(coco: Coco) -> None:
        coco["licenses"] = [{"id": 1, "name": "CC0"}]
        coco["x"] = {"deep": [1.50, "é"]}
        coco["categories"][0]["supercategory"] = "pet"
        for annotation in coco["annotations"]:
            annotation["attributes"] = {"occluded": False, "score": 0.10}
        coco["images"][3]["coco_url"] = "http://host/é.jpg"
        coco["annotations"] += [{"id": 900, "image_id": 12345, "category_id": 1, "bbox": [1, 2, 3, 4]}]
        coco["images"].append({**coco["images"][0], "file_name": "again.png"})

    return changed(small_coco(20, 3), add)


def test_split_files_keep_all_content(tmp_path: Path) -> None:
    coco = odd_coco()
    path = write(tmp_path / "all.json", coco)
    written = split_file(str(path), tmp_path / "out", {"train": 0.6, "val": 0.2, "test": 0.2}, seed=4)
    assert [file.path.name for file in written] == ["train.json", "val.json", "test.json"]
    contents = [json.loads(file.path.read_text()) for file in written]
    images, annotations = [], []
    for file, content in zip(written, contents, strict=True):
        assert {key: content[key] for key in ("info", "licenses", "categories", "x")} == {
            key: coco[key] for key in ("info", "licenses", "categories", "x")
        }
        ids = {image["id"] for image in content["images"]}
        assert {annotation["image_id"] for annotation in content["annotations"]} <= ids
        assert (file.images, file.annotations) == (len(content["images"]), len(content["annotations"]))
        loaded = COCO(str(file.path))
        assert loaded.getCatIds() == [1, 3]
        images += content["images"]
        annotations += content["annotations"]

    def by_id(elements: list[Coco]) -> list[Coco]:
        return sorted(elements, key=lambda element: (element["id"], element.get("file_name", "")))

    assert by_id(images) == by_id(coco["images"])
    assert by_id(annotations) == by_id(coco["annotations"][:-1])


def test_elements_are_copied_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "all.json"
    element = '{"id" :1.0,  "image_id":\t%d, "category_id":1,"bbox":[1.50,2e0, 3,4 ], "note":"\\u00e9"}'
    images = ", ".join(f'{{"file_name": "{i}.png",  "id": {i}}}' for i in range(10))
    annotations = ",\n".join(element % i for i in range(10))
    path.write_text(f'{{"annotations": [{annotations}], "images": [{images}], "categories": [{{"id":1,"name":"a"}}]}}')
    texts = [f.path.read_text() for f in split_file(str(path), tmp_path, {"train": 0.5, "val": 0.5}, seed=0)]
    for i in range(10):
        assert sum(text.count(element % i) for text in texts) == 1
        assert sum(text.count(f'{{"file_name": "{i}.png",  "id": {i}}}') for text in texts) == 1
    assert all(list(json.loads(text)) == ["categories", "images", "annotations"] for text in texts)


def test_a_file_with_nan_is_divided_too(tmp_path: Path) -> None:
    coco = changed(small_coco(10, 2), lambda c: c["annotations"][0].update(area=float("nan")))
    path = write(tmp_path / "all.json", coco)
    written = split_file(str(path), tmp_path / "out", {"train": 0.5, "val": 0.5}, seed=0)
    assert sum(file.annotations for file in written) == 20


def test_invalid_json_values_are_copied_unchanged(tmp_path: Path) -> None:
    element = '{"id": %d,  "image_id": %d, "category_id": 1, "bbox": [1, 2, 3.50, 4], "area": NaN, "x": "[,]"}'
    images = ", ".join(f'{{"id": {i}, "file_name": "{i}.png"}}' for i in range(10))
    annotations = " ,\n".join(element % (i, i) for i in range(10))
    (tmp_path / "all.json").write_text(
        f'{{"images": [{images}], "info": {{"by": 1.50}}, "annotations": [ {annotations} ], "categories": []}}'
    )
    written = split_file(str(tmp_path / "all.json"), tmp_path / "out", {"train": 0.5, "val": 0.5}, seed=0)
    texts = [file.path.read_text() for file in written]
    assert sorted(line for text in texts for line in re.findall(r"{.*NaN.*}", text)) == [
        element % (i, i) for i in range(10)
    ]
    assert all('"info": {"by": 1.50}' in text for text in texts)


def test_repeated_sections_are_merged(tmp_path: Path) -> None:
    def images(*ids: int) -> str:
        return f'"images": {json.dumps([{"id": i, "file_name": f"{i}.png"} for i in ids])}'

    def annotations(*ids: int) -> str:
        return f'"annotations": {json.dumps([{"id": i, "image_id": i % 4, "category_id": 1} for i in ids])}'

    for order in (
        (annotations(1, 2), images(0, 1), annotations(3), images(2, 3)),
        (images(0), annotations(), images(1)),
    ):
        (tmp_path / "all.json").write_text("{" + ", ".join(order) + "}")
        written = split_file(str(tmp_path / "all.json"), tmp_path / "out", {"train": 0.5, "val": 0.5}, seed=0)
        contents = [json.loads(file.path.read_text()) for file in written]
        assert (
            sorted(a["id"] for content in contents for a in content["annotations"])
            == [1, 2, 3][: 3 * (len(order) == 4)]
        )
        for content in contents:
            assert {a["image_id"] for a in content["annotations"]} <= {image["id"] for image in content["images"]}


def test_splitting_uses_constant_memory(tmp_path: Path) -> None:
    def padded(coco: Coco) -> None:
        for annotation in coco["annotations"]:
            annotation["note"] = "x" * 55_000

    path = write(tmp_path / "all.json", changed(small_coco(300, 4), padded))
    assert path.stat().st_size > 60e6
    tracemalloc.start()
    split_file(str(path), tmp_path / "out", {"train": 0.5, "val": 0.5}, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


def test_file_changed_during_split_is_refused(tmp_path: Path) -> None:
    class Changing(Storage):
        def open(self, uri: str) -> BinaryIO:
            stream = super().open(uri)
            path.unlink()  # what is open stays as it was
            write(path, small_coco(11, 2))
            return stream

    path = write(tmp_path / "all.json", small_coco(10, 2))
    with pytest.raises(DataError, match="was changed while it was divided"):
        split_file(str(path), tmp_path / "out", {"train": 0.5, "val": 0.5}, seed=0, storage=Changing())
    assert not list((tmp_path / "out").iterdir())


def test_class_missing_in_a_split_is_reported(tmp_path: Path) -> None:
    coco = changed(
        small_coco(10, 1),
        lambda c: (c["categories"].append({"id": 9, "name": "cow"}), c["annotations"][0].update(category_id=9)),
    )
    written = split_file(str(write(tmp_path / "all.json", coco)), tmp_path, {"train": 0.8, "val": 0.2}, seed=0)
    assert [file.without for file in written] == [(), ("cow",)]
    assert str(written[1]) == f"{tmp_path / 'val.json'}: 2 images, 2 annotations; none of cow"


def test_a_file_and_its_dataset_are_divided_the_same_way(tmp_path: Path) -> None:
    path = write(tmp_path / "all.json", small_coco(40, 3))
    written = split_file(str(path), tmp_path, {"train": 0.75, "val": 0.25}, seed=7)
    dataset = load_dataset(path)
    split = split_dataset(dataset, {"train": 0.75, "val": 0.25}, seed=7)
    in_file = [image["id"] for image in json.loads(written[1].path.read_text())["images"]]
    assert in_file == [dataset.images[i].id for i in split.val]


def test_split_refuses_what_inspection_refuses(tmp_path: Path) -> None:
    half, whole = {"train": 0.5, "val": 0.5}, json.dumps(small_coco(2, 1))
    odd = ('{"images": []}', "[]", "{", '{"images": {}, "annotations": []}', '{"images": 1, "annotations": 2')
    for content in (*odd, whole.replace(":", "=", 9), *(whole[:end] for end in range(len(whole)))):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(DataError) as said:
            inspect_dataset(tmp_path / "bad.json")
        sentence = str(said.value).replace(" in the middle of 'categories'", "")  # which are copied, not read
        with pytest.raises(DataError, match=f"^{re.escape(sentence)}$"):
            split_file(str(tmp_path / "bad.json"), tmp_path, half, seed=0)
    with pytest.raises(ConfigError, match="does not exist"):
        split_file(str(tmp_path / "none.json"), tmp_path, half, seed=0)
    divided = tmp_path / "divided"
    for name in ("train", "valid"):
        write(divided / name / "_annotations.coco.json", small_coco(2, 1))
        write_images(divided / name, ["001.png"])
    with pytest.raises(DataError, match="several splits"):
        split_file(str(divided), tmp_path, half, seed=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        split_file(str(write(tmp_path / "all.json", small_coco())), tmp_path / "file" / "out", half, seed=0)
