"""What training would refuse, validate, inspect -f and prepare refuse with exit code 3, before a GPU is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from coco_files import Coco, changed, small_coco, write, write_images
from loops import nonempty
from typer.testing import CliRunner

from engine.cli.app import app
from engine.errors import DataError, TeacherError
from engine.spec import TeacherName
from engine.text.safe_text import LONGEST

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4" * 64 + b"\nsize 123456\n"


def images_of(count: int) -> Callable[[Coco], None]:
    def change(coco: Coco) -> None:
        coco["images"] = coco["images"][:count]
        coco["annotations"] = [one for one in coco["annotations"] if one["image_id"] <= count]

    return change


def objects_only_in(*kept: int) -> Callable[[Coco], None]:
    return lambda coco: coco.update(annotations=[one for one in coco["annotations"] if one["image_id"] in kept])


def named(*names: str) -> Callable[[Coco], None]:
    return lambda coco: coco.update(categories=[{"id": i, "name": n} for i, n in zip((1, 3), names, strict=True)])


def only_crowds(coco: Coco) -> None:
    for one in coco["annotations"]:
        one["iscrowd"] = 1


def some_masks(*images: int) -> Callable[[Coco], None]:
    def change(coco: Coco) -> None:
        for one in coco["annotations"]:
            if one["image_id"] not in images:
                one["segmentation"] = []

    return change


REFUSED: list[tuple[str, Callable[[Coco], None], bool, str]] = [
    ("one image", images_of(1), False, "only one image with objects"),
    ("one image with objects among empty ones", objects_only_in(4), False, "only one image with objects"),
    ("no objects", lambda coco: coco.update(annotations=[]), False, "without annotations"),
    ("only crowds", only_crowds, False, "No annotation can be used"),
    ("one image with masks", some_masks(2), True, "only one image with masks"),
    ("names of another case", named("Bolt", "bolt"), False, "cannot tell class 'bolt' from 'Bolt'"),
    ("names of another accent", named("café", "Cafe"), False, "cannot tell class 'Cafe' from 'café'"),
    ("names with and without underscore", named("fork_lift", "fork  lift"), False, "cannot tell class"),
    ("names with a full stop more", named("bolt", "bolt."), False, "cannot tell class"),
    ("names without letters", named("???", "bolt"), False, "has no letters"),
    ("an endless name", named("a " * 300, "bolt"), False, "has 300 words"),
]


def refusals(folder: Path, **dataset: object) -> dict[str, TeacherError | None]:
    """Of each command the error it ends with; None where it ends well."""
    spec = {"annotations": str(folder / "annotations.json"), "images": str(folder / "images")} | dataset
    if "train" in spec:
        del spec["annotations"]
    document = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "TeacherFineTune",
        "metadata": {"name": "bolts"},
        "spec": {"dataset": spec, "output": str(folder / "out")},
    }
    (folder / "manifest.yaml").write_text(yaml.safe_dump(document))
    commands = {
        "validate": ["validate", str(folder / "annotations.json"), "--images", str(folder / "images")],
        "validate -f": ["validate", "-f", str(folder / "manifest.yaml")],
        "inspect -f": ["inspect", "-f", str(folder / "manifest.yaml")],
        "prepare": ["prepare", "-f", str(folder / "manifest.yaml")],
    }
    if "train" in spec:
        del commands["validate"]
    found: dict[str, TeacherError | None] = {}
    for name, command in commands.items():
        ended = CliRunner().invoke(app, command)
        assert ended.exception is None or isinstance(ended.exception, TeacherError), ended.exc_info
        found[name] = ended.exception
    return found


@pytest.mark.parametrize(("change", "masks", "said"), [pytest.param(*case[1:], id=case[0]) for case in REFUSED])
def test_what_training_refuses_is_refused_by_all(
    tmp_path: Path, change: Callable[[Coco], None], masks: bool, said: str
) -> None:
    coco = changed(small_coco(12, 3, masks=masks), change)
    write(tmp_path / "annotations.json", coco)
    write_images(tmp_path / "images", [image["file_name"] for image in coco["images"]])
    for command, error in nonempty(refusals(tmp_path).items()):
        assert isinstance(error, DataError), command
        assert error.exit_code == 41
        assert said in str(error), command


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_objects_or_masks_is_refused_by_all(tmp_path: Path, split: str, masks: bool) -> None:
    given = {}
    for i, name in enumerate(("train", "val")):
        coco = small_coco(6, 3, masks=True)
        for image in coco["images"]:
            image["file_name"] = f"{name}{image['file_name']}"
        if name == split:
            coco = changed(coco, some_masks() if masks else lambda coco: coco.update(annotations=[]))
        folder = tmp_path / name
        write_images(folder, [image["file_name"] for image in coco["images"]], size=(64, 48 + i))
        for image in coco["images"]:
            image["height"] = 48 + i
        given[name] = {"annotations": str(write(folder / "a.json", coco)), "images": str(folder)}
    for command, error in nonempty(refusals(tmp_path, maxLeakedPercent=100, **given).items()):
        assert isinstance(error, DataError), command
        assert f"the {split} split of" in str(error), command
        assert f"has no {'masks' if masks else 'objects'}" in str(error), command


@pytest.mark.parametrize("images", ["none", "no folder", "other names", "Git LFS pointers"])
def test_images_that_are_not_there_are_refused_by_all(tmp_path: Path, images: str) -> None:
    coco = small_coco(12, 3)
    write(tmp_path / "annotations.json", coco)
    names = [image["file_name"] for image in coco["images"]]
    if images != "no folder":
        (tmp_path / "images").mkdir()
    if images == "other names":
        write_images(tmp_path / "images", [f"x{name}" for name in names])
    if images == "Git LFS pointers":
        for name in names:
            (tmp_path / "images" / name).write_bytes(LFS)
    for command, error in nonempty(refusals(tmp_path).items()):
        assert isinstance(error, DataError), command
        assert ("Git LFS" if images == "Git LFS pointers" else "images folder") in str(error), command


def test_phrases_that_tell_classes_apart_make_it_good(tmp_path: Path) -> None:
    write(tmp_path / "annotations.json", changed(small_coco(12, 3), named("Bolt", "bolt")))
    write_images(tmp_path / "images", [f"{i:03d}.png" for i in range(1, 13)])
    document = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "TeacherFineTune",
        "metadata": {"name": "bolts"},
        "spec": {
            "dataset": {"annotations": str(tmp_path / "annotations.json"), "images": str(tmp_path / "images")},
            "output": str(tmp_path / "out"),
            "classPrompts": {"bolt": "rusty screw"},
        },
    }
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(document))
    for command in ("validate", "inspect", "prepare"):
        assert CliRunner().invoke(app, [command, "-f", str(tmp_path / "manifest.yaml")]).exception is None


def test_good_data_is_refused_by_none(tmp_path: Path) -> None:
    write(tmp_path / "annotations.json", small_coco(2, 3, masks=True))
    write_images(tmp_path / "images", ["001.png", "002.png"])
    assert set(refusals(tmp_path).values()) == {None}


def test_few_images_with_masks_fall_to_both_splits(tmp_path: Path) -> None:
    """By lot both would often be in the training split, and training would be refused after a GPU was taken."""
    from engine.config import generate_config
    from engine.dataset import inspect_dataset
    from engine.spec import DatasetSpec, FineTuneSpec
    from engine.storage import Storage
    from engine.training.data.annotated_splits import AnnotatedSplits

    coco = changed(small_coco(24, 2, masks=True), some_masks(3, 9))
    write(tmp_path / "annotations.json", coco)
    write_images(tmp_path / "images", [image["file_name"] for image in coco["images"]])
    dataset = DatasetSpec(annotations=str(tmp_path / "annotations.json"), images=str(tmp_path / "images"))
    info = inspect_dataset(dataset.annotations, dataset.images)
    config = generate_config(info, FineTuneSpec(dataset=dataset, output="out"))
    assert TeacherName.SAM in config.teachers.names
    for seed in range(8):
        data = AnnotatedSplits.of(config.data, masks=True, seed=seed, storage=Storage(), cache=tmp_path)
        assert {name: len(split.dataset) for name, split in data.whole.items()} == {"train": 1, "val": 5}


def test_which_files_were_read_is_shown_and_which_were_not(tmp_path: Path) -> None:
    coco = small_coco(12, 3)
    write_images(tmp_path / "images", [image["file_name"] for image in coco["images"]])
    write(tmp_path / "annotations" / "instances_default.json", coco)
    write(tmp_path / "annotations" / "person_keypoints_default.json", coco)
    shown = CliRunner().invoke(app, ["validate", str(tmp_path)])
    words = " ".join(shown.stderr.split())
    assert f"read from {tmp_path}: annotations/instances_default.json, images in images" in words
    assert "annotations_not_read, 1x" in words
    assert "annotations/person_keypoints_default.json" in words


def test_exports_of_two_tools_in_a_folder_are_not_chosen_from(tmp_path: Path) -> None:
    coco = small_coco(12, 3)
    write_images(tmp_path / "images", [image["file_name"] for image in coco["images"]])
    write(tmp_path / "annotations" / "instances_default.json", coco)
    write(tmp_path / "result.json", coco)
    ended = CliRunner().invoke(app, ["validate", str(tmp_path)])
    assert isinstance(ended.exception, DataError)
    assert "annotations/instances_default.json, result.json" in str(ended.exception)


def test_annotations_that_are_a_git_lfs_pointer_are_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "annotations.json").write_bytes(LFS)
    for command in (["inspect", str(tmp_path / "annotations.json")], ["inspect", str(tmp_path)]):
        ended = CliRunner().invoke(app, command)
        assert isinstance(ended.exception, DataError)
        assert "git lfs pull" in str(ended.exception)


def test_messages_are_bounded_and_control_no_terminal(tmp_path: Path) -> None:
    coco = small_coco(12, 3)
    coco["categories"] = [{"id": i, "name": f"{'long' * 3000} {i} \x1b[2J\u202e"} for i in range(500)]
    for i, one in enumerate(coco["annotations"]):
        one["category_id"] = i
    coco["categories"][35]["name"] = coco["categories"][0]["name"].upper()
    write(tmp_path / "annotations.json", coco)
    write_images(tmp_path / "images", [image["file_name"] for image in coco["images"]])
    ended = CliRunner().invoke(app, ["validate", str(tmp_path / "annotations.json")])
    assert isinstance(ended.exception, DataError)
    text = str(DataError("\x1b]0;bad\x07" + str(ended.exception) + "x" * 30_000))
    assert len(text) <= LONGEST
    assert "characters" in text
    for shown in (text, str(ended.exception), ended.stderr):
        assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    assert len(ended.stderr) < 20_000
