"""What is there already is neither lost before there is something better, nor taken for what it is not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelling import Bright, labeller
from PIL import Image

from engine.errors import ConfigError, DataError, StorageError
from engine.labelling import Labelled, Overlays, label_folder
from engine.storage import ObjectInfo, Storage


def write_image(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.zeros((20, 30, 3), np.uint8)
    image[5:10, 5:20, 0] = 255
    image[..., 2] = number
    Image.fromarray(image).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images."""
    for number in range(4):
        write_image(tmp_path / "images" / f"{number}.png", number)
    return tmp_path / "images"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "labels.json"


def label(folder: Path | str, output: Path, detector: Bright | None = None, **changes: Any) -> Labelled | None:
    of = changes.pop("of", {})
    return label_folder(
        labeller(detector or Bright(), **of), str(folder), str(output), **{"batch_size": 1, "chunk_size": 2} | changes
    )


def end_after(images: int, folder: Path, output: Path, **changes: Any) -> None:
    """Begin, and be killed."""
    ended = Bright()
    ended.fail_at = images
    with pytest.raises(KeyboardInterrupt):
        label(folder, output, ended, **changes)


def chunks(output: Path) -> int:
    return len(list(Path(f"{output}.parts").glob("*.jsonl")))


def test_labels_stay_until_new_ones_replace_them(folder: Path, output: Path) -> None:
    label(folder, output)
    before, again = output.read_bytes(), Bright()
    end_after(3, folder, output, again=True, of={"thresholds": {"wide": 0.9}})
    assert output.read_bytes() == before
    done = label(folder, output, again, of={"thresholds": {"wide": 0.9}})
    assert done is not None
    assert (again.seen, done.objects) == ([2, 3], 0)
    assert output.read_bytes() != before


def test_a_mistyped_folder_costs_nothing_of_what_is_there(folder: Path, output: Path, tmp_path: Path) -> None:
    label(folder, output)
    before = output.read_bytes()
    with pytest.raises(DataError, match="holds no images"):
        label(f"{folder}x", output, again=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"none of the 1 images in .*other can be read, such as a\.png"):
        label(tmp_path / "other", output, again=True)
    assert output.read_bytes() == before


def test_finished_chunks_outlive_a_disk_that_is_away(folder: Path, output: Path) -> None:
    end_after(3, folder, output)
    away = folder.rename(folder.with_name("away"))
    folder.mkdir()
    for again in (False, True):
        with pytest.raises(DataError, match="holds no images"):
            label(folder, output, again=again)
    assert chunks(output) == 1
    folder.rmdir()
    away.rename(folder)
    went_on = Bright()
    label(folder, output, went_on)
    assert went_on.seen == [2, 3]


def test_a_disk_that_goes_after_the_images_were_counted_costs_no_finished_chunk(folder: Path, output: Path) -> None:
    class Going(Storage):
        listed = 0

        def list(self, uri: str) -> Any:
            if uri != str(folder):
                return super().list(uri)
            self.listed += 1
            return super().list(uri) if self.listed == 1 else iter(list[ObjectInfo]())

    end_after(3, folder, output)
    with pytest.raises(DataError, match="held 4 images and holds none any more"):
        label(folder, output, storage=Going())
    assert chunks(output) == 1


@pytest.mark.parametrize("change", ["new", "gone", "written anew"])
def test_labels_of_images_that_changed_since_are_not_taken_for_theirs(change: str, folder: Path, output: Path) -> None:
    label(folder, output)
    before, now = output.read_bytes(), {"new": 5, "gone": 3, "written anew": 4}[change]
    if change == "gone":
        (folder / "3.png").unlink()
    else:
        write_image(folder / ("4.png" if change == "new" else "3.png"), 9)
    with pytest.raises(
        ConfigError,
        match=rf"has changed since .* 4 images then and {now} now.*--again .again=True. .*--output .output=.",
    ):
        label(folder, output)
    assert output.read_bytes() == before
    again = Bright()
    assert label(folder, output, again, again=True) is not None
    assert len(again.seen) == now
    assert label(folder, output) is None


def test_a_skipped_image_that_was_repaired_is_a_change(folder: Path, output: Path) -> None:
    good = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(b"x" * len(good))
    label(folder, output)
    (folder / "1.png").write_bytes(good)
    os.utime(folder / "1.png", (1, 1))
    with pytest.raises(ConfigError, match="rewritten"):
        label(folder, output)
    done = label(folder, output, again=True)
    assert done is not None
    assert done.images == 4
    assert not output.with_name("labels.skipped.txt").exists()


def test_labels_say_which_settings_and_images_they_are_of(folder: Path, output: Path) -> None:
    label(folder, output)
    info = json.loads(output.read_text())["info"]
    assert info["images_listed"] == 4
    assert len(info["images_sha256"]) == len(info["settings_sha256"]) == 64


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("content", ["[1]", '{"info":', '{"info":{}}', '{"info":[]}', '{"images":[]}'])
def test_a_file_that_is_not_of_our_making_is_never_replaced(
    content: str, again: bool, folder: Path, output: Path
) -> None:
    output.write_text(content)
    with pytest.raises(ConfigError, match="is not a labels file of this program"):
        label(folder, output, again=again)
    assert output.read_text() == content


@pytest.mark.parametrize("again", [False, True])
def test_a_file_that_lies_where_skipped_images_are_listed_is_left_alone(
    again: bool, folder: Path, output: Path
) -> None:
    mine = output.with_name("labels.skipped.txt")
    mine.write_text("my own notes")
    with pytest.raises(ConfigError, match=r"labels\.skipped\.txt already exists.*move it away"):
        label(folder, output, again=again)
    assert mine.read_text() == "my own notes"


@pytest.mark.parametrize(
    "spelled", ["./images/seen", "images/../images", "{root}/images/seen", "file://{root}/images/x"]
)
def test_pictures_among_the_images_are_refused_however_the_folder_is_spelled(
    spelled: str, folder: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="choose another folder"):
        label("images", output, overlays=Overlays(spelled.format(root=tmp_path)))
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(ConfigError, match="choose another folder"):
        label("images", output, overlays=Overlays("link/seen"))
    assert label("images", output, overlays=Overlays("images-seen")) is not None


@pytest.mark.parametrize("keep", [0, 10, "line"])
def test_a_damaged_chunk_is_labelled_again_by_the_same_command(folder: Path, output: Path, keep: int | str) -> None:
    label(folder, output)
    whole = output.read_bytes()
    output.unlink()
    end_after(3, folder, output)
    (chunk,) = Path(f"{output}.parts").glob("*.jsonl")
    content = chunk.read_bytes()
    chunk.write_bytes(content[: content.index(b"\n") + 1] if keep == "line" else content[: int(keep)])
    with pytest.raises(StorageError, match=r"jsonl is damaged .* was deleted: run the same command again"):
        label(folder, output)
    assert not output.exists()
    label(folder, output)
    assert output.read_bytes() == whole
