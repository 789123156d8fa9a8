"""What `teacher fetch` does to a folder that is not empty."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from engine.errors import ConfigError, StorageError
from engine.layout import RunLayout
from engine.results.run_files import FileEntry, RunMetadata, fetch_run
from engine.storage import Storage
from engine.storage.output_lock import lock_file


def published(folder: Path, run_id: str, created: str = "2026-01-01T00:00:00+00:00") -> RunLayout:
    """A run of one file, which says whose it is."""
    content = f"{run_id} {created}".encode()
    file = folder / run_id / "teachers" / "sam_lora" / "adapter_model.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    entry = FileEntry(
        path="teachers/sam_lora/adapter_model.safetensors",
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
    )
    metadata = RunMetadata(
        name="parts",
        run_id=run_id,
        created=created,
        data_digest="0",
        classes=("bolt",),
        seed=0,
        environment={},
        teachers=(),
        files=(entry,),
    )
    (folder / run_id / "metadata.json").write_text(metadata.model_dump_json())
    return RunLayout(str(folder / run_id))


def fetched(folder: Path) -> str:
    return (folder / "teachers" / "sam_lora" / "adapter_model.safetensors").read_text()


def test_another_run_is_not_overwritten_unless_told_to(tmp_path: Path) -> None:
    first, second, here = published(tmp_path, "1"), published(tmp_path, "2"), tmp_path / "here"
    fetch_run(first, here, storage=Storage())
    fetch_run(first, here, storage=Storage())
    with pytest.raises(ConfigError, match=r"here holds another run already \(1, not 2\): .* --overwrite"):
        fetch_run(second, here, storage=Storage())
    assert fetched(here).startswith("1")
    fetch_run(second, here, storage=Storage(), overwrite=True)
    assert fetched(here).startswith("2")


def test_a_run_that_was_trained_anew_takes_its_own_place(tmp_path: Path) -> None:
    fetch_run(published(tmp_path, "1"), tmp_path / "here", storage=Storage())
    fetch_run(published(tmp_path, "1", "2026-02-02T00:00:00+00:00"), tmp_path / "here", storage=Storage())
    assert "2026-02-02" in fetched(tmp_path / "here")


def test_files_of_somebody_elses_are_not_overwritten(tmp_path: Path) -> None:
    run, mine = published(tmp_path, "1"), tmp_path / "here" / "teachers" / "sam_lora" / "adapter_model.safetensors"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(ConfigError, match=r"adapter_model\.safetensors exists already, and is not a file of this run"):
        fetch_run(run, tmp_path / "here", storage=Storage())
    assert mine.read_text() == "mine"


def test_what_is_not_what_was_published_is_not_kept(tmp_path: Path) -> None:
    run = published(tmp_path, "1")
    Path(run.root, "teachers", "sam_lora", "adapter_model.safetensors").write_text("1 damaged")
    with pytest.raises(StorageError, match=r"is not what was published: its sha256 differs"):
        fetch_run(run, tmp_path / "here", storage=Storage())
    assert not [path for path in (tmp_path / "here").rglob("*") if path.is_file()]


def test_a_damaged_file_in_the_store_leaves_the_good_copy_here(tmp_path: Path) -> None:
    run, here = published(tmp_path, "1"), tmp_path / "here"
    fetch_run(run, here, storage=Storage())
    metadata = (here / "metadata.json").read_bytes()
    later = published(tmp_path, "1", "2026-02-02T00:00:00+00:00")
    stored = Path(later.root, "teachers", "sam_lora", "adapter_model.safetensors")
    for damage in (lambda: stored.write_text("2026 damaged"), stored.unlink):
        damage()
        with pytest.raises(StorageError):
            fetch_run(later, here, storage=Storage())
        assert fetched(here) == "1 2026-01-01T00:00:00+00:00"
        assert (here / "metadata.json").read_bytes() == metadata
        assert sorted(path.name for path in here.iterdir()) == ["metadata.json", "teachers"]


def test_no_file_is_written_through_a_link_out_of_the_folder(tmp_path: Path) -> None:
    run, here, elsewhere = published(tmp_path, "1"), tmp_path / "here", tmp_path / "elsewhere"
    elsewhere.mkdir()
    here.mkdir()
    (here / "teachers").symlink_to(elsewhere)
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"teachers is a link to .*elsewhere, outside .*here: remove it"):
            fetch_run(run, here, storage=Storage(), overwrite=overwrite)
    assert list(elsewhere.iterdir()) == []
    (here / "teachers").unlink()
    (elsewhere / "precious").write_text("mine")
    (here / "teachers" / "sam_lora").mkdir(parents=True)
    (here / "teachers" / "sam_lora" / "adapter_model.safetensors").symlink_to(elsewhere / "precious")
    fetch_run(run, here, storage=Storage(), overwrite=True)
    assert (elsewhere / "precious").read_text() == "mine"
    assert fetched(here).startswith("1")


def test_a_folder_that_is_a_link_itself_is_filled(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "here").symlink_to(tmp_path / "disk")
    fetch_run(published(tmp_path, "1"), tmp_path / "here", storage=Storage())
    assert fetched(tmp_path / "disk").startswith("1")


def test_a_folder_in_the_place_of_a_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "here" / "teachers" / "sam_lora" / "adapter_model.safetensors").mkdir(parents=True)
    with pytest.raises(ConfigError, match="is a folder where a file is needed"):
        fetch_run(published(tmp_path, "1"), tmp_path / "here", storage=Storage(), overwrite=True)


def test_what_a_killed_fetch_left_is_removed_and_two_do_not_share_a_folder(tmp_path: Path) -> None:
    run, here = published(tmp_path, "1"), tmp_path / "here"
    left = here / ".fetch-killed" / "teachers"
    left.mkdir(parents=True)
    (left / "big.partial").write_bytes(b"half")
    with lock_file(here / ".fetch.lock", what=str(here)), pytest.raises(StorageError, match=r"is working on .*here"):
        fetch_run(run, here, storage=Storage())
    assert left.is_dir()
    fetch_run(run, here, storage=Storage())
    assert sorted(path.name for path in here.iterdir()) == ["metadata.json", "teachers"]
