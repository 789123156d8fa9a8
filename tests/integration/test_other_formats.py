"""Data that is not COCO, as a user gives it to the commands: inspected, split, converted, and trained on."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from other_formats import names_of, objects_of, text, yolo_lines
from runs import manifest, teacher, write_parts

from engine.storage import Storage


@pytest.fixture(scope="session")
def yolo_parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """The files of a YOLO segmentation export of the demo's data, and how many objects it has."""
    folder = write_parts(tmp_path_factory.mktemp("parts"))
    coco = json.loads((folder / "annotations.json").read_text())
    for one in coco["annotations"]:  # a diamond stands for the outlines, of which YOLO has no run lengths
        x, y, w, h = one["bbox"]
        one["segmentation"] = [[x + w / 2, y, x + w, y + h / 2, x + w / 2, y + h, x, y + h / 2]]
        one["segmentation"][0] += [x + w / 8, y + h / 8]
    names = list(names_of(coco).values())
    files = {"export/data.yaml": f"path: ../datasets/parts\ntrain: images\nnames: {json.dumps(names)}\n".encode()}
    for image in coco["images"]:
        stem = image["file_name"].rpartition(".")[0]
        files[f"export/images/{image['file_name']}"] = (folder / "images" / image["file_name"]).read_bytes()
        files[f"export/labels/{stem}.txt"] = yolo_lines(coco, image).encode()
    return files, sum(map(len, objects_of(coco).values()))


def pack(archive: Path, files: dict[str, bytes], *, backwards: bool = False) -> Path:
    with zipfile.ZipFile(archive, "w") as file:
        for name in sorted(files, reverse=backwards):
            file.writestr(name, files[name])
    return archive


@pytest.mark.slow
def test_a_yolo_zip_is_trained_on_and_the_order_of_its_files_changes_nothing(
    yolo_parts: tuple[dict[str, bytes], int], tmp_path: Path
) -> None:
    files, _ = yolo_parts
    archive = pack(tmp_path / "parts.zip", files)
    dataset = {"annotations": str(archive)}
    file = manifest(tmp_path, data="unused", output=str(tmp_path / "out"), dataset=dataset)
    teacher("validate", str(archive), cwd=tmp_path)
    run = Path(teacher("run", "-f", str(file), cwd=tmp_path).stdout.strip().splitlines()[-1])
    found = json.loads((run / "dataset.json").read_text())
    assert (found["source"], found["has_masks"], found["images"]) == (str(archive), True, 12)
    metrics = json.loads((run / "metrics.json").read_text())
    assert [result["teacher"] for result in metrics["teachers"]] == ["GroundingDino", "Sam"]

    pack(archive, files, backwards=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    again = teacher("run", "-f", str(file), cwd=elsewhere)
    assert again.stdout.strip().splitlines()[-1] == str(run)
    assert "published already" in again.stderr


def test_every_command_that_looks_at_data_takes_a_zip_file_in_s3(
    s3: str, yolo_parts: tuple[dict[str, bytes], int], tmp_path: Path
) -> None:
    files, objects = yolo_parts
    source = f"{s3}/parts.zip"
    Storage().upload(pack(tmp_path / "parts.zip", files), source)
    info = json.loads(teacher("inspect", source, "--json", cwd=tmp_path).stdout)
    assert (info["images"], info["annotations"]) == (12, objects)
    teacher("validate", source, cwd=tmp_path)
    written = teacher("split", source, "--output", f"{s3}/splits/", "--train", "0.5", "--val", "0.5", cwd=tmp_path)
    assert written.stdout.split() == [f"{s3}/splits/train.json", f"{s3}/splits/val.json"]
    val = teacher("validate", f"{s3}/splits/val.json", "--images", source, "--json", cwd=tmp_path)
    assert json.loads(val.stdout)["images"] == 6
    converted = teacher("convert", source, "--output", f"{s3}/annotations.json", cwd=tmp_path)
    assert converted.stdout.strip() == f"{s3}/annotations.json"
    coco = json.loads(Storage().read_bytes(f"{s3}/annotations.json"))
    assert (len(coco["images"]), len(coco["annotations"])) == (12, objects)
    assert coco.keys() == {"images", "annotations", "categories"}
    assert not [key for one in (*coco["images"], *coco["annotations"]) for key in one if key.startswith("conver")]
    again = teacher("inspect", f"{s3}/annotations.json", "--images", source, "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["annotations"] == objects


def test_convert_writes_a_file_per_split_and_refuses_unsupported_formats(
    yolo_parts: tuple[dict[str, bytes], int], tmp_path: Path
) -> None:
    files, _ = yolo_parts
    for number, (name, content) in enumerate(files.items()):
        part = "val" if number in (1, 2) else "train"
        text(
            tmp_path / "data" / name.replace("/images/", f"/{part}/images/").replace("/labels/", f"/{part}/labels/"),
            content,
        )
    config = "train: ../train/images\nval: ../valid/images\nnames: [bolt, nut, washer]\n"
    text(tmp_path / "data" / "export" / "data.yaml", config)
    source, out = str(tmp_path / "data" / "export"), tmp_path / "coco"
    refused = teacher("convert", source, "--output", str(tmp_path / "all.json"), cwd=tmp_path, check=False)
    assert (refused.returncode, "comes in the splits train, val: give a folder" in refused.stderr) == (40, True)
    teacher("convert", source, "--output", str(out), cwd=tmp_path)
    assert [len(json.loads((out / f"{part}.json").read_text())["images"]) for part in ("train", "val")] == [11, 1]
    other = teacher(
        "convert",
        source,
        "--output",
        str(out),
        "--images",
        str(tmp_path / "data" / "export" / "train"),
        cwd=tmp_path,
        check=False,
    )
    assert other.returncode in (40, 41)
    unread = text(tmp_path / "cvat" / "annotations.xml", "<annotations><version>1.1</version></annotations>")
    refused = teacher("convert", str(unread), "--output", str(tmp_path / "all.json"), cwd=tmp_path, check=False)
    assert (refused.returncode, "CVAT for images XML" in refused.stderr) == (41, True)
    assert not (tmp_path / "all.json").exists()
