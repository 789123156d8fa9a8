"""What a run is measured on is not what it learns from, or that is refused or said; the lists of both are left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from toy import write_toy_data

from engine.config import DataConfig
from engine.config.model import SplitConfig, SplitFilesConfig
from engine.dataset import ImageFolder, inspect_dataset, load_dataset
from engine.dataset.images.digest import together
from engine.dataset.splits.trained_images import trained_images
from engine.errors import DataError
from engine.storage import Storage
from engine.training.data.annotated_splits import AnnotatedSplits
from engine.training.data.shared_images import write_lists
from engine.training.data.splits import Splits


def config(digest: str, **changes: object) -> DataConfig:
    values = {"digest": digest, "classes": ("red", "green"), "prompts": {}, "source": None, "split": None}
    return DataConfig.model_validate(values | {"train": None, "val": None, "test": None} | changes)


def prepared(data: DataConfig, cache: Path) -> Splits:
    return Splits.of(AnnotatedSplits.of(data, masks=False, seed=0, storage=Storage(), cache=cache))


def with_copies(file: Path) -> Path:
    """Each image listed again under another name, with the same objects."""
    content = json.loads(file.read_text())
    for image in list(content["images"]):
        path = file.parent / image["file_name"]
        if not path.is_file():
            path = file.parent / "images" / image["file_name"]
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
        name = str(Path(image["file_name"]).with_name(f"copy-{path.name}"))
        content["images"].append(image | {"id": image["id"] + 1000, "file_name": name})
        content["annotations"] += [
            found | {"id": found["id"] + 1000, "image_id": image["id"] + 1000}
            for found in content["annotations"]
            if found["image_id"] == image["id"]
        ]
    file.write_text(json.dumps(content))
    return file


def names(splits: Splits, name: str) -> set[str]:
    return {Path(image.file_name).name for image in getattr(splits, name).dataset.images}


def test_copies_are_on_one_side_of_a_split_of_ours(tmp_path: Path) -> None:
    file = str(with_copies(write_toy_data(tmp_path / "data" / "all.json", range(20))))
    source = SplitFilesConfig(annotations=file, images=None)
    split = SplitConfig(train=60, val=20, test=20)
    splits = prepared(config(inspect_dataset(file).digest, source=source, split=split), tmp_path / "cache")
    for name in ("train", "val", "test"):
        held = names(splits, name)
        assert {f"copy-{name}" for name in held if not name.startswith("copy-")} == {
            name for name in held if name.startswith("copy-")
        }
    assert splits.shared is not None
    assert (splits.shared.val, splits.shared.test) == (0, 0)


def given(tmp_path: Path, *, shared: int) -> tuple[SplitFilesConfig, SplitFilesConfig, str]:
    train = write_toy_data(tmp_path / "train" / "train.json", range(20))
    val = write_toy_data(tmp_path / "val" / "val.json", range(20 - shared, 30))
    digests = [inspect_dataset(str(file)).digest for file in (train, val)]
    return (*(SplitFilesConfig(annotations=str(file), images=None) for file in (train, val)), together(digests))


def test_a_given_split_that_shares_images_is_refused_beyond_the_bound(tmp_path: Path) -> None:
    train, val, digest = given(tmp_path, shared=2)
    with pytest.raises(DataError, match="2 of 12 images of val are in train too, more than the 5 %"):
        prepared(config(digest, train=train, val=val), tmp_path / "cache")
    splits = prepared(config(digest, train=train, val=val, max_leaked_percent=20), tmp_path / "cache")
    assert splits.shared is not None
    assert splits.shared.val == 2


def test_the_lists_say_which_images_an_adapter_was_trained_on(tmp_path: Path) -> None:
    train, val, digest = given(tmp_path, shared=0)
    splits = prepared(config(digest, train=train, val=val), tmp_path / "cache")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    write_lists(adapter, {"train": splits.train.dataset, "val": splits.val.dataset}, splits.marks)
    listed = json.loads((adapter / "splits.json").read_text())["splits"]
    assert {name: len(images) for name, images in listed.items()} == {"train": 20, "val": 10}

    def trained(annotations: str) -> list[str] | None:
        folder = ImageFolder.of(annotations, None, storage=Storage(), cache=tmp_path / "cache")
        return trained_images(str(adapter), load_dataset(annotations), folder, Storage())

    assert len(trained(train.annotations) or []) == 20
    assert trained(val.annotations) == []
    (adapter / "splits.json").unlink()
    assert trained(val.annotations) is None
