"""``pvc://``: files on PersistentVolumeClaims, which pods find below one folder and other machines do not have."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from engine.errors import ConfigError, StorageError
from engine.storage import ExistsError, NotFoundError, Storage, join, name, parent


@pytest.fixture
def claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEACHER_CLAIMS", str(tmp_path))
    (tmp_path / "forklifts").mkdir()
    return tmp_path / "forklifts"


def test_what_is_written_to_a_claim_keeps_its_uri(claim: Path) -> None:
    storage = Storage()
    storage.write_bytes("pvc://forklifts/out/a%20b.json", b"{}")
    assert (claim / "out" / "a%20b.json").read_bytes() == b"{}"
    (item,) = storage.list("pvc://forklifts/out/")
    assert (item.uri, item.key) == ("pvc://forklifts/out/a%20b.json", "a%20b.json")
    assert storage.read_bytes(item.uri) == b"{}"
    assert [one.uri for one in storage.list("pvc://forklifts")] == [item.uri]
    assert storage.local_path("pvc://forklifts//out") == claim / "out"


def test_parts_of_a_uri_on_a_claim() -> None:
    assert join("pvc://forklifts/", "a", "b.json") == "pvc://forklifts/a/b.json"
    assert (name("pvc://forklifts/a.json"), parent("pvc://forklifts/a.json")) == ("a.json", "pvc://forklifts")


def test_a_machine_without_the_claim_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEACHER_CLAIMS", raising=False)
    with pytest.raises(ConfigError, match=r"PersistentVolumeClaim of a cluster.*mount its disk here and give the path"):
        Storage().read_bytes("pvc://forklifts/a.json")


def test_a_claim_that_is_not_mounted_is_named(claim: Path) -> None:
    with pytest.raises(ConfigError, match="claim other is not mounted here"):
        Storage().write_bytes("pvc://other/a.json", b"")


def test_a_file_that_is_missing_is_named_by_its_uri(claim: Path) -> None:
    with pytest.raises(NotFoundError, match=r"pvc://forklifts/a\.json does not exist"):
        Storage().read_bytes("pvc://forklifts/a.json")


@pytest.mark.parametrize(
    "uri", ["pvc://", "pvc:///a", "pvc://A/b", "pvc://../a", "pvc://a_b/c", f"pvc://{'a' * 254}/b"]
)
def test_what_names_no_claim_is_refused(claim: Path, uri: str) -> None:
    with pytest.raises(ConfigError, match="names no claim"):
        Storage().read_bytes(uri)


def test_no_path_leads_out_of_its_claim(claim: Path) -> None:
    with pytest.raises(ConfigError, match="leads out of its claim"):
        Storage().read_bytes("pvc://forklifts/a/../../../etc/passwd")


def test_links_are_followed_on_the_claim_and_not_out_of_it(claim: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (claim / "a.json").write_text("[]")
    (claim / "inside.json").symlink_to("a.json")
    (claim / "outside.json").symlink_to(tmp_path / "secret.json")
    (claim / "folder").symlink_to(tmp_path)
    assert Storage().read_bytes("pvc://forklifts/inside.json") == b"[]"
    for path in ("outside.json", "folder/secret.json"):
        with pytest.raises(ConfigError, match="leads out of claim forklifts"):
            Storage().read_bytes(f"pvc://forklifts/{path}")


def test_files_that_pods_may_not_read_say_who_the_pods_are(claim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(StorageError, match="check its permissions; pods run as user and group 65532"):
        Storage().read_bytes("pvc://forklifts/a.json")


def test_a_share_without_hard_links_never_shows_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between two steps, a writer on a share of SMB would leave an empty commit, and no run could continue."""

    def refused(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr(Path, "replace", killed)
    target = str(tmp_path / "commit.json")
    Storage().write_bytes(target, b"first", only_if_absent=True)
    with pytest.raises(ExistsError):
        Storage().write_bytes(target, b"second", only_if_absent=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"commit.json": b"first"}


@pytest.mark.parametrize(
    ("uri", "advice"),
    [
        ("https://example.com/a.json?sig=secret", "download it first"),
        ("hf://datasets/a/b", "owner/model"),
        ("s3a://bucket/a", "write s3://"),
        ("oss://bucket/a", "storage.endpointUrl"),
        ("nfs://server/a", "pvc://claim/path"),
        ("ftp://host/a", "download it first"),
        ("odd+scheme://a", "write s3://"),
    ],
)
def test_a_scheme_without_a_storage_says_what_to_write(uri: str, advice: str) -> None:
    with pytest.raises(ConfigError, match="is not supported") as raised:
        Storage().read_bytes(uri)
    assert advice in str(raised.value)
    assert "secret" not in str(raised.value)
