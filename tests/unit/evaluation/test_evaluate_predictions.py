"""Labels with scores are measured against the truth: images by file name, classes by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import Coco, changed, compressed, small_coco, write, write_images

from engine.dataset import load_dataset
from engine.dataset.predictions import load_predictions
from engine.errors import DataError
from engine.evaluation.evaluate_predictions import PredictionEvaluation, evaluate_predictions
from engine.storage import Storage


def with_masks(coco: Coco) -> Coco:
    """The same objects, each with its whole box as a mask."""

    def fill(copy: Coco) -> None:
        for annotation in copy["annotations"]:
            x, y, width, height = (int(v) for v in annotation["bbox"])
            mask = np.zeros((48, 64), np.uint8)
            mask[y : y + height, x : x + width] = 1
            mask[y, x] = 0  # a full rectangle would be taken for a box
            annotation["segmentation"] = compressed(mask)

    return changed(coco, fill)


def scored(coco: Coco, score: float = 0.9) -> Coco:
    """Other ids, the last image first, and scores: what labels of the same images may look like."""

    def relabel(copy: Coco) -> None:
        copy["images"] = copy["images"][::-1]
        for image in copy["images"]:
            image["id"] += 100
        names = {1: 21, 3: 20}
        copy["categories"] = [{"id": names[c["id"]], "name": c["name"]} for c in reversed(copy["categories"])]
        for annotation in copy["annotations"]:
            annotation |= {"image_id": annotation["image_id"] + 100, "score": score}
            annotation["category_id"] = names[annotation["category_id"]]

    return changed(coco, relabel)


def measured(folder: Path, truth: Coco, predictions: Any) -> PredictionEvaluation:
    images = write_images(folder / "images", [image["file_name"] for image in truth["images"]])
    found = load_predictions(str(write(folder / "labels.json", predictions)), storage=Storage())
    return evaluate_predictions(load_dataset(write(folder / "truth.json", truth), images), found)


def test_perfect_labels_have_an_ap_of_one_whatever_their_ids_and_order(tmp_path: Path) -> None:
    truth = with_masks(small_coco())
    result = measured(tmp_path, truth, scored(truth))
    assert result.boxes.ap == pytest.approx(1)
    assert result.masks is not None
    assert result.masks.ap == pytest.approx(1)
    assert (result.unlabelled, result.unknown, result.other_classes) == ((), (), ())


def test_masks_are_measured_only_where_both_have_some(tmp_path: Path) -> None:
    assert measured(tmp_path / "a", small_coco(), scored(with_masks(small_coco()))).masks is None
    assert measured(tmp_path / "b", with_masks(small_coco()), scored(small_coco())).masks is None


def test_masks_are_measured_by_themselves(tmp_path: Path) -> None:
    truth = with_masks(small_coco())

    def elsewhere(coco: Coco) -> None:
        mask = np.zeros((48, 64), np.uint8)
        mask[45:, 60:] = 1
        for annotation in coco["annotations"]:
            annotation["segmentation"] = compressed(mask)

    result = measured(tmp_path, truth, changed(scored(truth), elsewhere))
    assert result.boxes.ap == pytest.approx(1)
    assert result.masks is not None
    assert result.masks.ap == 0


def test_a_false_label_costs_more_the_higher_its_score(tmp_path: Path) -> None:
    def add(score: float) -> Any:
        def change(coco: Coco) -> None:
            for image in coco["images"]:
                box = {"bbox": [1, 40, 9, 7], "area": 63, "category_id": 21, "image_id": image["id"], "score": score}
                coco["annotations"].append(box | {"id": 1000 + image["id"], "iscrowd": 0, "segmentation": []})

        return change

    truth = small_coco()
    sure = measured(tmp_path, truth, changed(scored(truth, 0.5), add(0.9)))
    unsure = measured(tmp_path, truth, changed(scored(truth, 0.5), add(0.1)))
    assert sure.boxes.ap < 0.9 < unsure.boxes.ap
    assert sure.mistakes.false == unsure.mistakes.false == len(truth["images"])
    assert sure.mistakes.found == sure.mistakes.objects == len(truth["annotations"])


def test_images_that_only_one_side_has_are_named(tmp_path: Path) -> None:
    truth = small_coco()
    names = {"001.png": "001.png", "002.png": "elsewhere.png"}

    def rename(coco: Coco) -> None:
        for image in coco["images"]:
            image["file_name"] = names.get(image["file_name"], image["file_name"])

    result = measured(tmp_path, truth, changed(scored(truth), rename))
    assert (result.unlabelled, result.unknown) == (("002.png",), ("elsewhere.png",))
    assert 0.8 < result.boxes.ap < 0.99


def test_classes_that_the_truth_does_not_have_are_named_and_do_not_count(tmp_path: Path) -> None:
    truth = small_coco()

    def rename(coco: Coco) -> None:
        coco["categories"][0]["name"] = "wolf"

    result = measured(tmp_path, truth, changed(scored(truth), rename))
    assert result.other_classes == ("wolf",)
    assert result.boxes.per_class["cat"] == pytest.approx(1)
    assert result.boxes.per_class["dog"] == 0


def clear_scores(coco: Coco) -> None:
    for annotation in coco["annotations"]:
        del annotation["score"]


def other_names(coco: Coco) -> None:
    for image in coco["images"]:
        image["file_name"] = "x" + image["file_name"]


def other_classes(coco: Coco) -> None:
    for category in coco["categories"]:
        category["name"] += "s"


def other_size(coco: Coco) -> None:
    coco["images"][0]["width"] = 640


def lost_image(coco: Coco) -> None:
    coco["annotations"][0]["image_id"] = 999


def lost_class(coco: Coco) -> None:
    coco["annotations"][0]["category_id"] = 999


def twin_images(coco: Coco) -> None:
    coco["images"][1]["file_name"] = coco["images"][0]["file_name"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (clear_scores, "has no score: these are annotations"),
        (other_names, "none of the 12 images of the truth is among the 12"),
        (other_classes, "no class has the same name"),
        (other_size, "64x48 pixels in the truth, but 640x48"),
        (lost_image, "of image 999, which does not exist"),
        (lost_class, "not valid COCO"),
        (twin_images, "several images of one id or file_name"),
    ],
)
def test_labels_that_cannot_be_measured_are_reported_why(tmp_path: Path, change: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        measured(tmp_path, small_coco(), changed(scored(small_coco()), change))


@pytest.mark.parametrize(("content", "sentence"), [("[]", "not labels with scores"), ("{", "not JSON")])
def test_a_file_of_another_kind_is_distinguished(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=sentence):
        load_predictions(str(tmp_path / "a.json"), storage=Storage())


def test_labels_of_images_that_show_nothing_are_measured(tmp_path: Path) -> None:
    def clear(coco: Coco) -> None:
        coco["annotations"] = []

    assert measured(tmp_path, small_coco(), changed(scored(small_coco()), clear)).boxes.ap == 0
