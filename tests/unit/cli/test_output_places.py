"""Where commands write to is checked before anything slow is done."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from engine.cli import options
from engine.cli.labels import label
from engine.errors import ConfigError, DataError, StorageError
from engine.storage import Storage


@pytest.mark.parametrize("uri", ["s3://", "s3:///labels.json", "s3://bucket", "s3://bucket/", "."])
def test_what_names_no_file_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"names no bucket|names no object|is a folder"):
        options.check_writable(uri, Storage())


def test_a_bucket_that_does_not_exist_is_reported_first(s3: str) -> None:
    options.check_writable(f"{s3}/new/labels.json", Storage())
    with pytest.raises(StorageError, match="no such bucket"):
        options.check_writable("s3://missing-bucket/labels.json", Storage())


def test_labels_need_a_place_and_images_before_a_teacher_is_loaded(tmp_path: Path) -> None:
    adapters = [str(tmp_path / "no-adapter")]
    with pytest.raises(ConfigError, match="names no bucket"):
        label(adapters, str(tmp_path), "s3:///labels.json")
    with pytest.raises(DataError, match="holds no images"):
        label(adapters, str(tmp_path), str(tmp_path / "labels.json"))


@pytest.mark.parametrize(
    "words",
    [
        ["export", "--adapter", "a", "--output", "s3://bucket/sam.pth"],
        ["fetch", "out/run", "s3://bucket/run"],
        ["run", "-f", "m.yaml", "--work-dir", "file:///tmp/work"],
    ],
)
def test_a_path_of_this_machine_is_no_uri(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.cli.app import app

    monkeypatch.setattr(sys, "argv", ["teacher", *words])
    with pytest.raises(ConfigError, match=r"(s3|file):///?\w.* is a URI: give a path on this machine"):
        app()


OUTPUTS = [
    ("s3://", "names no bucket: write s3://bucket/path"),
    ("s3:", "names no bucket: write s3://bucket/path"),
    ("s3:///x", "names no bucket"),
    ("s3:/bkt/x", "write s3://bkt/x"),
    ("S3:/bkt/x", "write s3://bkt/x"),
    ("gs:/bkt/x", "write gs://bkt/x"),
    ("az:/bkt/x", "write az://bkt/x"),
    ("pvc:/claim/x", "write pvc://claim/x"),
    ("pvc://", "names no claim: write pvc://claim/path"),
    ("file:/tmp/x", "write file:///tmp/x"),
    ("file://", "names no folder: write file:///path"),
    ("http://host/x", "nothing can be published to http://: write a folder"),
    ("ftp://host/x", "nothing can be published to ftp://: write a folder"),
    ("~/x", "write the whole path"),
]


@pytest.mark.parametrize(("output", "said"), OUTPUTS)
def test_an_output_that_names_no_place_is_refused_before_inspection(
    output: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine import fine_tune
    from engine.cli.app import app

    monkeypatch.chdir(tmp_path)
    manifest = tmp_path / "pets.yaml"
    spec = {"dataset": {"annotations": "missing.json"}, "output": output}
    head = {"apiVersion": "finetune.dev/v1alpha1", "kind": "TeacherFineTune", "metadata": {"name": "pets"}}
    manifest.write_text(yaml.safe_dump(head | {"spec": spec}))
    for words in (["--data", "missing.json", "--output", output], ["-f", str(manifest)]):
        monkeypatch.setattr(sys, "argv", ["teacher", "run", *words])
        with pytest.raises(ConfigError, match=re.escape(said)) as error:
            app()
        assert error.value.exit_code == 40
    with pytest.raises(ConfigError, match=re.escape(said)):
        fine_tune("missing.json", output=output)
    assert [path.name for path in tmp_path.iterdir()] == ["pets.yaml"]


@pytest.mark.parametrize(
    "output", ["out", "/tmp/out", "file:///tmp/x", "s3://b", "gs://b/x", "pvc://claim", "a:b", "s3", "s3:x", "x/~"]
)
def test_an_output_that_names_a_place_is_accepted(output: str) -> None:
    from engine.text.unsupported_schemes import output_refusal

    assert output_refusal(output) is None


@pytest.mark.parametrize("uri", ["s3:/bucket/labels.json", "s3:", "gs:/b/x", "~/labels.json"])
def test_no_command_takes_a_slip_in_a_uri_for_a_path(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"write (s3|gs)://b|names no bucket|write the whole path"):
        options.check_writable(uri, Storage())
