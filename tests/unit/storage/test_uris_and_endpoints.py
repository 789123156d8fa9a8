"""Paths stay in their folder, and endpoints away from metadata services."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import ConfigError, DataError
from engine.storage import check_endpoint, join, local_path, name, parent, safe_join
from engine.storage.endpoints import resolve


def test_parts_of_a_uri() -> None:
    assert join("s3://b/a/", "c", "d.json") == "s3://b/a/c/d.json"
    assert join("s3://b", "c") == "s3://b/c"
    assert (name("s3://b/a/c.json"), parent("s3://b/a/c.json")) == ("c.json", "s3://b/a")
    assert (parent("c.json"), parent("/c.json"), parent("a/")) == (".", "/", ".")


def test_only_file_uris_are_percent_encoded() -> None:
    uri = join("file:///a b", "5%.txt")
    assert (uri, name(uri), local_path(uri)) == ("file:///a b/5%25.txt", "5%.txt", Path("/a b/5%.txt"))
    assert local_path("file:///a%20b") == local_path("file://localhost/a%20b") == Path("/a b")
    assert (name(join("s3://b", "5%25")), name("/a/5%25"), local_path("5%25")) == ("5%25", "5%25", Path("5%25"))


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "..\\x", "C:\\x", "//host/x"])
def test_a_key_that_leads_out_of_the_folder_is_refused(key: str) -> None:
    with pytest.raises(DataError, match="leads out of its folder"):
        safe_join(Path("/data"), key)


@pytest.mark.parametrize("key", ["", ".", "a\0b", "\ud800.jpg"])
def test_a_key_that_names_no_file_is_refused(key: str) -> None:
    with pytest.raises(DataError, match=r"names no file|no file can be called"):
        safe_join(Path("/data"), key)


@pytest.mark.parametrize("key", ["x.jpg", "a/b c/x.jpg", "..hidden/x", "a..b", "日本.jpg", "1:30.jpg"])
def test_a_key_below_the_folder_is_joined(key: str) -> None:
    assert safe_join(Path("/data"), key) == Path("/data") / key


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "http://169.254.1.1",
        "http://2852039166",
        "http://0xA9FEA9FE",
        "http://0251.0376.0251.0376",
        "http://169.254.43518",
        "http://１６９.254。169.254",
        "http://168.63.129.16",
        "http://[fe80::1]",
        "http://[fe80::1%25eth0]",
        "http://[::169.254.169.254]",
        "http://[::ffff:169.254.169.254]",
        "http://[64:ff9b::a9fe:a9fe]",
        "http://[fd00:ec2::254]",
        "http://100.100.100.200",
        "http://metadata.google.internal",
        "http://METADATA.google.internal./",
    ],
)
def test_metadata_services_are_refused_however_they_are_written(url: str) -> None:
    with pytest.raises(ConfigError, match="metadata service or a link-local address"):
        check_endpoint(url, resolver=lambda host: [])


def test_a_name_that_resolves_to_a_metadata_service_is_refused() -> None:
    with pytest.raises(ConfigError, match="metadata service"):
        check_endpoint("https://s3.example.com", resolver=lambda host: ["203.0.113.9", "169.254.169.254"])


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9000",
        "http://10.1.2.3",
        "https://[::1]:9000",
        "http://minio:9000",
        "http://minio.lab.svc:9000/s3",
        "https://s3.bücher.example",
    ],
)
def test_loopback_and_private_endpoints_are_fine(url: str) -> None:
    assert check_endpoint(url, resolver=lambda host: ["10.0.0.7", "fd00::7"]) == url


def test_a_name_is_looked_up_as_this_machine_does() -> None:
    assert {"127.0.0.1", "::1"} & set(resolve("localhost"))
    assert resolve("no-such-host.invalid") == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x",
        "minio:9000",
        "http://",
        "http://x:port",
        "",
        "http://[bad",
        "http://169.254.169.254\\.example.com",
        "http://a b",
        "http://169.254.\n169.254",
    ],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is not a URL"):
        check_endpoint(url)


def test_credentials_in_the_endpoint_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as error:
        check_endpoint("http://user:secret@minio")
    assert "secret" not in str(error.value)
