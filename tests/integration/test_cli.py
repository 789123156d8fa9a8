"""The commands that look at data, as a user calls them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from forked import run_module
from PIL import Image
from runs import write_parts

ROOT = Path(__file__).resolve().parents[2]


def teacher(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_module("engine.cli", *arguments)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parts(tmp_path_factory.mktemp("parts"), 10, seed=0)


def test_inspect_prints_what_is_there_and_gives_it_as_json(parts: Path) -> None:
    done = teacher("inspect", parts / "annotations.json", "--images", parts / "images", "--json")
    info = json.loads(done.stdout)
    assert (info["images"], info["has_boxes"], info["has_masks"]) == (10, True, True)
    assert [c["name"] for c in info["classes"]] == ["bolt", "nut", "washer"]
    assert "washer" in done.stderr


def test_inspect_tells_which_names_a_base_reads_in_pieces(parts: Path, tmp_path: Path) -> None:
    fillers = "".join(f"filler{i}\n" for i in range(10_000))
    (tmp_path / "vocab.txt").write_text(f"bolt\nn\n##ut\nwas\n##her\n{fillers}")
    done = teacher("inspect", parts / "annotations.json", "--images", parts / "images", "--base-model", tmp_path)
    assert done.returncode == 0
    assert "odd_class_name, 1x" in done.stderr
    assert "e.g. nut (2 pieces: n ##ut)" in done.stderr


def test_inspect_takes_no_name_for_odd_that_only_a_test_model_cannot_read(parts: Path) -> None:
    base = ROOT / "examples" / "tiny_teachers" / "grounding_dino"
    done = teacher("inspect", parts / "annotations.json", "--images", parts / "images", "--base-model", base)
    assert done.returncode == 0
    assert "odd_class_name" not in done.stderr


def test_inspect_reads_from_s3(s3: str, parts: Path) -> None:
    from engine.storage import Storage

    Storage().upload_folder(parts, f"{s3}/parts")
    done = teacher("inspect", f"{s3}/parts/annotations.json", "--images", f"{s3}/parts/images/", "--json")
    assert json.loads(done.stdout)["images"] == 10


def test_validate_opens_every_image(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for path in (parts / "images").iterdir():
        (tmp_path / "images" / path.name).write_bytes(path.read_bytes())
    broken, *others = sorted((tmp_path / "images").iterdir())
    broken.write_bytes(broken.read_bytes()[:500])
    done = teacher("validate", parts / "annotations.json", "--images", tmp_path / "images")
    assert done.returncode == 0, done.stderr
    assert "unreadable_image" in done.stderr
    assert broken.name in done.stderr
    assert "9 usable of 10" in done.stderr
    for path in others[:2]:
        path.write_bytes(path.read_bytes()[:500])
    done = teacher("validate", parts / "annotations.json", "--images", tmp_path / "images")
    assert done.returncode == 41
    assert "3 of 10 images would be left out, more than the 20 %" in done.stderr


def test_validate_ends_with_code_41_where_nothing_can_be_trained(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"images": [], "annotations": [], "categories": []}')
    done = teacher("validate", tmp_path / "a.json")
    assert done.returncode == 41
    assert "cannot be trained on" in done.stderr
    assert "Traceback" not in done.stderr


def test_split_divides_without_loss(parts: Path, tmp_path: Path) -> None:
    shares = ("--train", "0.6", "--val", "0.2", "--test", "0.2")
    done = teacher("split", parts / "annotations.json", *shares, "--stratify", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    whole = json.loads((parts / "annotations.json").read_text())
    split = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("train", "val", "test")]
    for key in ("images", "annotations"):
        ids = [item["id"] for part in split for item in part[key]]
        assert sorted(ids) == sorted(item["id"] for item in whole[key])
    assert [len(part["images"]) for part in split] == [6, 2, 2]


def test_split_refuses_shares_that_do_not_add_up(parts: Path, tmp_path: Path) -> None:
    done = teacher("split", parts / "annotations.json", "--train", "0.9", "--val", "0.2", "--output", tmp_path)
    assert done.returncode == 40
    assert "add up to 1.1, not 1" in done.stderr


def test_augment_writes_a_contact_sheet(parts: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.jpg"
    data = ("--data", parts / "annotations.json", "--images", parts / "images")
    done = teacher("augment", *data, "--preview", sheet, "--count", 2, "--mosaic", 50, "--paste", 50)
    assert done.returncode == 0, done.stderr
    with Image.open(sheet) as image:
        assert min(image.size) > 200


def test_doctor_says_what_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TEACHER_CACHE", str(tmp_path))
    done = teacher("doctor")
    assert done.returncode == 0, done.stderr
    assert {"python", "packages", "disk", "storage"} <= set(done.stderr.split())


def test_doctor_names_the_identities_of_other_clouds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TEACHER_CACHE", str(tmp_path))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", "{}")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    for variable in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"):
        monkeypatch.delenv(variable, raising=False)
    said = " ".join(teacher("doctor").stderr.split())
    assert "gs://: credentials from GOOGLE_SERVICE_ACCOUNT_KEY" in said
    assert "set AZURE_STORAGE_ACCOUNT_NAME too" in said


def test_doctor_refuses_an_endpoint_that_is_a_metadata_service() -> None:
    done = teacher("doctor", "--endpoint-url", "http://169.254.169.254")
    assert done.returncode == 1
    assert "metadata service" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("run", "--output", "o"), "give --data and --output, or a manifest with -f"),
        (("run", "-f", "m.yaml", "--data", "a.json", "--name", "n"), "leave out --data, --name"),
        (("run", "--data", "a", "--output", "o", "--test", "t"), "dataset.test go with dataset.train"),
        (("run", "--data", "a", "--output", "o", "--base-model", "b"), "exactly one --teacher"),
        (("run", "--data", "nothing.json", "--output", "o"), "nothing.json"),
        (("run", "-f", "nothing.yaml"), "nothing.yaml does not exist"),
        (("inspect", "nothing.json"), "nothing.json does not exist"),
        (("evaluate", "--adapter", "nowhere", "--data", "a.json"), "nowhere"),
        (("fetch", "./nowhere", "out"), "not a published run"),
        (("prepare", "--data", "a"), "give --output, or a manifest with -f"),
    ],
)
def test_a_slip_on_the_command_line_is_a_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    done = teacher(*arguments)
    assert done.returncode in (40, 41, 42, 43)
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
