"""Every validation image stands on a page with its truth and its detections."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.dataset.types import CocoDataset, CocoImage, Sample
from engine.evaluation import validation_pages
from engine.evaluation.ground_truth import GroundTruth
from engine.evaluation.validation_pages import write_pages

from .conftest import HEIGHT, WIDTH, seen


def load(_: int) -> Sample:
    return Sample.of(np.full((HEIGHT, WIDTH, 3), 120, np.uint8))


def many(dataset: CocoDataset, count: int) -> CocoDataset:
    return replace(
        dataset,
        images=tuple(CocoImage(i, f"<b>{i}</b>.jpg", WIDTH, HEIGHT) for i in range(count)),
        annotations=(dataset.annotations[0],) * count,
    )


def names(pages: Path) -> list[str]:
    html = "".join(page.read_text() for page in sorted(pages.iterdir()))
    return re.findall(r"&lt;b&gt;(\d+)&lt;/b&gt;.jpg <small>", html)


@pytest.mark.parametrize("count", [1, 50, 51])
def test_all_images_are_on_the_pages_in_order(dataset: CocoDataset, tmp_path: Path, count: int) -> None:
    found = [seen((4, 10, 20, 40), scores=[0.9])] * count
    data = many(dataset, count)
    written = write_pages(tmp_path, GroundTruth.of(data, "bbox"), load, title="Sam", before=found, after=found)
    assert written == len(list(tmp_path.iterdir())) == (2 if count == 51 else 1)
    assert names(tmp_path) == [str(i) for i in range(count)]
    first = (tmp_path / "page-001.html").read_text()
    assert ("page-002.html" in first) == (count == 51)
    assert "<b>0</b>" not in first


def test_a_large_validation_split_is_thinned_and_the_page_says_so(
    dataset: CocoDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation_pages, "MOST_IMAGES", 4)
    found = [seen(scores=[])] * 10
    write_pages(tmp_path, GroundTruth.of(many(dataset, 10), "bbox"), load, title="Sam", before=found, after=found)
    assert names(tmp_path) == ["0", "2", "5", "7"]
    assert "4 of 10 images of the validation split, evenly spread" in (tmp_path / "page-001.html").read_text()
