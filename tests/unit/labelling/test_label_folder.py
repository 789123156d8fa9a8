"""Labels of a folder: valid, complete, and the same whatever ended the work before."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelling import Bright, labeller
from PIL import Image
from pycocotools.coco import COCO

from engine.dataset import load_dataset, validate_dataset
from engine.errors import ConfigError, DataError, StorageError
from engine.labelling import Labelled, Overlays, Progress, label_folder
from engine.labelling.image_stream import chunked, list_images, read_ahead
from engine.storage import Storage

WIDTH, HEIGHT = 60, 40


def write_image(path: Path, number: int, box: tuple[int, int, int, int] | None = (10, 5, 30, 15)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 2] = number
    if box is not None:
        image[box[1] : box[3], box[0] : box[2], 0] = 255
    Image.fromarray(image).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten images; the third shows nothing, the seventh something high."""
    for number in range(10):
        box = {2: None, 6: (10, 5, 20, 35)}.get(number, (10, 5, 30 + number, 15))
        write_image(tmp_path / "images" / f"{number:02}.png", number, box)
    return tmp_path / "images"


def label(folder: Path | str, output: Path | str, detector: Bright | None = None, **changes: Any) -> Labelled | None:
    options = {"batch_size": 2, "chunk_size": 3} | {k: v for k, v in changes.items() if k not in ("masks", "of")}
    return label_folder(
        labeller(detector or Bright(), masks=changes.get("masks", False), **changes.get("of", {})),
        str(folder),
        str(output),
        **options,
    )


def test_labels_are_valid_coco_that_trains(folder: Path, tmp_path: Path) -> None:
    done = label(folder, tmp_path / "labels.json", masks=True, of={"category_ids": (7, 3)})
    assert done is not None
    assert (done.images, done.objects, done.skipped) == (10, 9, ())
    coco = COCO(str(tmp_path / "labels.json"))
    first = coco.loadAnns(coco.getAnnIds(imgIds=[1]))[0]
    assert first == {
        "id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 5, 20, 10], "area": 100, "iscrowd": 0,
        "segmentation": first["segmentation"], "score": 0.8,
    }  # fmt: skip
    assert coco.annToMask(first).sum() == 100
    assert coco.imgs[1] == {"id": 1, "file_name": "00.png", "width": WIDTH, "height": HEIGHT}
    assert coco.cats == {7: {"id": 7, "name": "tall"}, 3: {"id": 3, "name": "wide"}}
    info = validate_dataset(tmp_path / "labels.json", folder)
    assert {problem.code for problem in info.problems} == {"rare_class", "few_images", "empty_image"}
    assert (info.has_masks, info.annotations) == (True, 9)
    assert len(load_dataset(tmp_path / "labels.json", folder)) == 10


def test_an_image_that_shows_nothing_stays_without_annotations(folder: Path, tmp_path: Path) -> None:
    label(folder, tmp_path / "labels.json")
    coco = COCO(str(tmp_path / "labels.json"))
    assert 3 in coco.imgs
    assert coco.getAnnIds(imgIds=[3]) == []


def test_labels_without_a_segmenter_are_boxes_with_their_own_area(folder: Path, tmp_path: Path) -> None:
    label(folder, tmp_path / "labels.json")
    first = json.loads((tmp_path / "labels.json").read_text())["annotations"][0]
    assert (first["area"], first["segmentation"]) == (200, [])


@pytest.mark.parametrize("images_seen", range(9))
def test_labelling_that_was_ended_is_resumed_and_leaves_the_same_bytes(
    folder: Path, tmp_path: Path, images_seen: int
) -> None:
    (folder / "04.png").write_bytes(b"broken")
    label(folder, tmp_path / "whole.json", masks=True)
    ended, again = Bright(), Bright()
    ended.fail_at = images_seen
    with pytest.raises(KeyboardInterrupt):
        label(folder, tmp_path / "labels.json", ended, masks=True)
    assert not (tmp_path / "labels.json").exists()
    label(folder, tmp_path / "labels.json", again, masks=True)
    assert (tmp_path / "labels.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not list(tmp_path.glob("*.parts"))


def test_finished_chunks_are_not_looked_at_again(folder: Path, tmp_path: Path) -> None:
    ended, again = Bright(), Bright()
    ended.fail_at = 8
    with pytest.raises(KeyboardInterrupt):
        label(folder, tmp_path / "labels.json", ended)
    label(folder, tmp_path / "labels.json", again)
    assert again.seen == [6, 7, 8, 9]


@pytest.mark.parametrize("deletions", range(5))
def test_work_that_was_ended_at_its_very_end_is_done_at_once(
    folder: Path, tmp_path: Path, deletions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    label(folder, tmp_path / "whole.json")
    delete, deleted = Storage.delete, []

    def stopping(storage: Storage, uri: str) -> None:
        if (tmp_path / "labels.json").exists():
            deleted.append(uri)
            if len(deleted) > deletions:
                raise KeyboardInterrupt
        delete(storage, uri)

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "delete", stopping)
        with pytest.raises(KeyboardInterrupt):
            label(folder, tmp_path / "labels.json")
    again = Bright()
    label(folder, tmp_path / "labels.json", again)
    assert again.seen == []
    assert (tmp_path / "labels.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not list(tmp_path.glob("*.parts"))


def test_labels_that_are_there_are_not_made_again_unless_asked_for(folder: Path, tmp_path: Path) -> None:
    label(folder, tmp_path / "labels.json")
    before, again = (tmp_path / "labels.json").read_bytes(), Bright()
    assert label(folder, tmp_path / "labels.json", again) is None
    assert again.seen == []
    assert label(folder, tmp_path / "labels.json", again, again=True) is not None
    assert len(again.seen) == 10
    assert (tmp_path / "labels.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"thresholds": {"tall": 0.5}}, "thresholds"),
        ({"nms_iou": 0.5}, "nms"),
        ({"identity": {"sam": "0" * 64}}, "adapters"),
        ({"category_ids": (5, 6)}, "category_ids"),
    ],
)
def test_other_adapters_or_settings_do_not_resume_what_was_begun(
    folder: Path, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    ended = Bright()
    ended.fail_at = 5
    with pytest.raises(KeyboardInterrupt):
        label(folder, tmp_path / "labels.json", ended)
    with pytest.raises(ConfigError, match=rf"begun with other settings \({named}\).*--again"):
        label(folder, tmp_path / "labels.json", of=change)
    anew = Bright()
    label(folder, tmp_path / "labels.json", anew, of=change, again=True)
    assert len(anew.seen) == 10
    with pytest.raises(ConfigError, match="with labels of other settings"):
        label(folder, tmp_path / "labels.json")


def test_a_file_that_is_no_labels_is_not_overwritten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text("mine")
    with pytest.raises(ConfigError, match="already exists"):
        label(folder, tmp_path / "labels.json")
    assert (tmp_path / "labels.json").read_text() == "mine"


def test_an_output_that_is_a_folder_is_refused_before_the_work(folder: Path, tmp_path: Path) -> None:
    for output in (str(tmp_path), "s3://acme-data/labels/"):
        with pytest.raises(ConfigError, match=r"is a folder: name the file to write, such as .*labels\.json"):
            label(folder, output)


def test_an_image_that_changed_since_is_inspected_again(folder: Path, tmp_path: Path) -> None:
    ended, again = Bright(), Bright()
    ended.fail_at = 7
    with pytest.raises(KeyboardInterrupt):
        label(folder, tmp_path / "labels.json", ended)
    write_image(folder / "01.png", 1, (0, 0, 50, 30))
    label(folder, tmp_path / "labels.json", again)
    assert again.seen == [0, 1, 2, 6, 7, 8, 9]
    label(folder, tmp_path / "whole.json")
    assert (tmp_path / "labels.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_images_that_cannot_be_read_are_left_out_counted_and_listed(folder: Path, tmp_path: Path) -> None:
    (folder / "00.png").write_bytes(b"")
    (folder / "05.png").write_bytes((folder / "05.png").read_bytes()[:60])
    told: list[Progress] = []
    done = label(folder, tmp_path / "labels.json", on_progress=told.append)
    assert done is not None
    assert [line.partition(":")[0] for line in done.skipped] == ["00.png", "05.png"]
    assert (tmp_path / "labels.skipped.txt").read_text().splitlines()[1:] == list(done.skipped)
    names = [image["file_name"] for image in json.loads((tmp_path / "labels.json").read_text())["images"]]
    assert names == [f"{number:02}.png" for number in (1, 2, 3, 4, 6, 7, 8, 9)]
    assert (told[-1].done, told[-1].total, told[-1].skipped, told[-1].seconds_left) == (10, 10, 2, 0)


def test_a_folder_without_an_image_that_can_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        label(tmp_path / "nowhere", tmp_path / "labels.json")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match="none of the 1 images"):
        label(tmp_path / "images", tmp_path / "labels.json")
    assert not (tmp_path / "labels.json").exists()


def test_boxes_are_in_pixels_of_the_upright_image(tmp_path: Path) -> None:
    path = write_image(tmp_path / "images" / "a.jpg", 0, (10, 5, 30, 15))
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter to be upright
    Image.open(path).save(path, exif=exif, quality=100)
    label(tmp_path / "images", tmp_path / "labels.json")
    coco = json.loads((tmp_path / "labels.json").read_text())
    assert (coco["images"][0]["width"], coco["images"][0]["height"]) == (HEIGHT, WIDTH)
    assert coco["annotations"][0]["bbox"] == pytest.approx([25, 10, 10, 20], abs=1.5)
    assert coco["annotations"][0]["category_id"] == 1


def test_pictures_are_spread_over_the_images(folder: Path, tmp_path: Path) -> None:
    write_image(folder / "sub" / "x.png", 11)
    label(folder, tmp_path / "labels.json", masks=True, overlays=Overlays(str(tmp_path / "seen"), 3))
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == ["00.png.jpg", "04.png.jpg", "08.png.jpg"]
    drawn = np.asarray(Image.open(tmp_path / "seen" / "00.png.jpg"))
    original = Image.open(folder / "00.png").resize((240, 160), Image.Resampling.LANCZOS)  # enlarged, to be readable
    assert np.abs(drawn.astype(int) - np.asarray(original).astype(int)).max() > 50


def test_pictures_among_the_images_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose another folder"):
        label(folder, tmp_path / "labels.json", overlays=Overlays(str(folder / "seen")))


def test_images_and_labels_may_lie_in_s3(folder: Path, tmp_path: Path, s3: str) -> None:
    Storage().upload_folder(folder, f"{s3}/images")
    Storage().write_bytes(f"{s3}/images/04.png", b"broken")
    ended, again = Bright(), Bright()
    ended.fail_at = 7
    with pytest.raises(KeyboardInterrupt):
        label(f"{s3}/images", f"{s3}/out/labels.json", ended, overlays=Overlays(f"{s3}/seen", 1))
    done = label(f"{s3}/images", f"{s3}/out/labels.json", again, overlays=Overlays(f"{s3}/seen", 1))
    assert done is not None
    assert (again.seen, len(done.skipped)) == ([6, 7, 8, 9], 1)
    assert {item.key for item in Storage().list(s3)} >= {
        "out/labels.json", "out/labels.skipped.txt", "seen/00.png.jpg"
    }  # fmt: skip
    assert not list(Storage().list(f"{s3}/out/labels.json.parts"))
    assert len(json.loads(Storage().read_bytes(f"{s3}/out/labels.json"))["images"]) == 9


def test_few_images_are_read_before_they_are_requested(folder: Path) -> None:
    read, lock = 0, threading.Lock()

    class Counting(Storage):
        def read_bytes(self, uri: str) -> bytes:
            nonlocal read
            with lock:
                read += 1
            return super().read_bytes(uri)

    storage, taken = Counting(), 0
    for _, pixels in read_ahead(chunked(list_images(str(folder), storage), 3), storage, ahead=2):
        for _ in pixels:
            taken += 1
            assert read <= taken + 2
    assert (taken, read) == (10, 10)


def test_storage_that_is_gone_ends_the_work(folder: Path, tmp_path: Path) -> None:
    class Gone(Storage):
        def read_bytes(self, uri: str) -> bytes:
            if uri.endswith("05.png"):
                raise StorageError(f"{uri} cannot be read: the store is overloaded")
            return super().read_bytes(uri)

    with pytest.raises(StorageError, match="overloaded"):
        label(folder, tmp_path / "labels.json", storage=Gone())
    again = Bright()
    label(folder, tmp_path / "labels.json", again)
    assert again.seen == [3, 4, 5, 6, 7, 8, 9]
