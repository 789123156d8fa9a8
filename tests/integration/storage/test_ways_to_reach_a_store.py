"""Virtual hosts, requester pays, access points and private authorities: as asked for, found out, or refused."""

from __future__ import annotations

import datetime
import ipaddress
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from faulty_s3 import Fault, FaultyS3, Handler, Request, error, says

from engine.errors import ConfigError, StorageError
from engine.spec import AddressingStyle
from engine.storage import Storage, StorageOptions, join
from engine.storage.bucket_uris import split

AP = "arn:aws:s3:eu-west-1:123456789012:accesspoint/team"
OUTPOST = "arn:aws:s3-outposts:eu-west-1:123456789012:outpost/op-01ac5d28a6a232904/accesspoint/team"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name below ``store.test`` is this machine's."""
    real = socket.getaddrinfo

    def here(host: Any, *rest: Any, **more: Any) -> Any:
        text = host.decode() if isinstance(host, bytes) else host
        return real("127.0.0.1" if str(text).endswith("store.test") else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", here)


@pytest.fixture
def hosts(proxy: FaultyS3, names: None) -> str:
    """An endpoint that takes buckets in the host name alone; ``proxy`` keeps the hosts."""

    def virtual(handler: Handler, request: Request) -> None:
        bucket = request.headers["Host"].partition(".store.test")[0]
        headers = {**request.headers, "Host": proxy.upstream}
        handler.send(handler.store(replace(request, path=f"/{bucket}{request.path}", headers=headers)))

    def choose(request: Request) -> Fault | None:
        if request.headers["Host"].startswith("store.test"):
            return says(403, "SecondLevelDomainForbidden")
        return virtual

    proxy.before = choose
    return f"http://store.test:{proxy.server_port}"


def roundtrip(storage: Storage, root: str, folder: Path) -> None:
    """All that is asked of a store."""
    uris = [join(root, "in", key) for key in ("a", "b//c", "d e+f")]
    for uri in uris:
        storage.write_bytes(uri, uri.encode())
    listed = list(storage.list(join(root, "in")))
    assert [item.uri for item in listed] == uris
    for item in listed:
        assert storage.exists(item.uri)
        assert storage.read_bytes(item.uri) == item.uri.encode()
        for name in ("first", "second"):  # the second by a lean request
            assert storage.download(item.uri, folder / name, etag=item.etag).read_bytes() == item.uri.encode()
    storage.copy(uris[0], join(root, "copy"))
    assert storage.honours_conditions(root)
    storage.delete(join(root, "copy"))


@pytest.mark.parametrize("style", [None, AddressingStyle.AUTO, AddressingStyle.VIRTUAL])
def test_a_store_of_virtual_hosts_alone_is_reached(
    s3: str, hosts: str, tmp_path: Path, style: AddressingStyle | None, proxy: FaultyS3
) -> None:
    storage = Storage(StorageOptions(endpoint_url=hosts, addressing_style=style))
    assert not storage.exists(f"{s3}/nothing")  # the first request is one whose refusal has no words
    proxy.requests.clear()
    roundtrip(storage, s3, tmp_path)
    assert not [path for _, path in proxy.requests if path.startswith(f"/{split(s3)[0]}")], "the other style is kept"


def test_the_style_of_the_environment_and_of_the_aws_configuration_counts(
    s3: str, hosts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Storage(StorageOptions(endpoint_url=hosts, addressing_style=AddressingStyle.PATH))
    with pytest.raises(StorageError, match="SecondLevelDomainForbidden"):
        list(path.list(s3))
    monkeypatch.setenv("TEACHER_S3_ADDRESSING_STYLE", "path")
    with pytest.raises(StorageError, match="SecondLevelDomainForbidden"):
        list(Storage(StorageOptions(endpoint_url=hosts)).list(s3))
    monkeypatch.setenv("TEACHER_S3_ADDRESSING_STYLE", "sideways")
    with pytest.raises(ConfigError, match="TEACHER_S3_ADDRESSING_STYLE=sideways: it is one of auto, path, virtual"):
        list(Storage(StorageOptions(endpoint_url=hosts)).list(s3))
    monkeypatch.delenv("TEACHER_S3_ADDRESSING_STYLE")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    (tmp_path / "config").write_text("[default]\ns3 =\n  addressing_style = path\n")
    with pytest.raises(StorageError, match="SecondLevelDomainForbidden"):
        list(Storage(StorageOptions(endpoint_url=hosts)).list(s3))


def test_a_bucket_is_put_into_no_host_that_must_not_be_reached(s3: str, s3_server: str) -> None:
    virtual = AddressingStyle.VIRTUAL
    with pytest.raises(ConfigError, match=r"cannot be part of the host name of http://127\.0\.0\.1"):
        Storage(StorageOptions(endpoint_url=s3_server, addressing_style=virtual)).read_bytes(f"{s3}/key")
    with pytest.raises(ConfigError, match="metadata service"):
        Storage(StorageOptions(endpoint_url="http://google.internal", addressing_style=virtual)).read_bytes(
            "s3://metadata/key"
        )


@pytest.mark.parametrize("by", ["option", "environment"])
def test_whoever_asks_pays_with_every_request(
    s3: str, proxy: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    proxy.before = lambda request: None if request.headers.get("x-amz-request-payer") == "requester" else refuse
    with pytest.raises(StorageError, match="access is denied"):
        Storage(StorageOptions(endpoint_url=proxy.url)).read_bytes(f"{s3}/key")
    if by == "environment":
        monkeypatch.setenv("TEACHER_S3_REQUESTER_PAYS", "true")
    roundtrip(
        Storage(StorageOptions(endpoint_url=proxy.url, requester_pays=True if by == "option" else None)), s3, tmp_path
    )


def refuse(handler: Handler, request: Request) -> None:
    handler.send(error(403, "AccessDenied"))


@pytest.mark.parametrize(
    ("bucket", "host"),
    [
        (AP, "https://team-123456789012.s3-accesspoint.eu-west-1.amazonaws.com/"),
        (
            AP.replace("accesspoint/", "accesspoint:"),
            "https://team-123456789012.s3-accesspoint.eu-west-1.amazonaws.com/",
        ),
        (OUTPOST, "https://team-123456789012.op-01ac5d28a6a232904.s3-outposts.eu-west-1.amazonaws.com/"),
    ],
)
def test_an_access_point_stands_for_a_bucket(s3: str, monkeypatch: pytest.MonkeyPatch, bucket: str, host: str) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    storage, asked = Storage(), []
    with storage._remote["s3://"].client_for(f"s3://{bucket}/x", "read") as client:
        client.meta.events.register("before-send.s3", lambda request, **_: asked.append(request.url) or answered())
    assert storage.read_bytes(f"s3://{bucket}/images/1 a.jpg") == b""
    assert asked == [f"{host}images/1%20a.jpg"]
    assert split(f"s3://{bucket}/images//1.jpg") == (bucket, "images//1.jpg")
    assert split(join(f"s3://{bucket}", "a", "b")) == (bucket, "a/b")


def answered() -> Any:
    from io import BytesIO

    from botocore.awsrequest import AWSResponse

    class Raw(BytesIO):
        def stream(self, **_: object) -> Iterator[bytes]:
            yield self.read()

    headers = {"content-length": "0", "last-modified": "Mon, 01 Jan 2026 00:00:00 GMT"}
    return AWSResponse("https://x", 200, headers, Raw())


@pytest.mark.parametrize(
    ("bucket", "said"),
    [
        ("arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap", "multi-region access point needs signatures"),
        ("arn:aws:s3-object-lambda:eu-west-1:123456789012:accesspoint/x", "Object Lambda access point changes objects"),
        ("arn:aws:s3:::bucket", "write s3://arn:aws:s3:<region>:<account>:accesspoint/<name>/<key>, or s3://bucket"),
        (AP, "is an access point of AWS, but http://127.0.0.1:[0-9]+ is not"),
    ],
)
def test_other_arns_and_other_stores_are_refused(s3: str, bucket: str, said: str) -> None:
    for ask in (lambda uri: Storage().read_bytes(uri), lambda uri: list(Storage().list(uri))):
        with pytest.raises(ConfigError, match=said):
            ask(f"s3://{bucket}/key")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A private authority, and the certificate, with its key, that it gives 127.0.0.1."""
    folder, key = tmp_path_factory.mktemp("ca"), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ours")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "ca.pem").write_bytes(pem)
    (folder / "server.pem").write_bytes(pem + private)
    return folder / "ca.pem", folder / "server.pem"


@pytest.fixture
def https(s3_server: str, authority: tuple[Path, Path]) -> Iterator[str]:
    """The store behind a certificate of the private authority."""
    with FaultyS3(s3_server) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority[1])
        server.socket = context.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_private_authority_is_trusted_if_it_is_given(
    s3: str, https: str, authority: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageError, match=r"has no trusted certificate .* storage\.caBundle"):
        Storage(StorageOptions(endpoint_url=https)).read_bytes(f"{s3}/key")
    roundtrip(Storage(StorageOptions(endpoint_url=https, ca_bundle=str(authority[0]))), s3, tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority[0]))
    roundtrip(Storage(StorageOptions(endpoint_url=https)), f"{s3}/again", tmp_path)


def test_a_bundle_that_holds_no_certificates_is_a_sentence(s3: str, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("no certificate")
    for path in (tmp_path / "empty.pem", tmp_path / "missing.pem"):
        with pytest.raises(ConfigError, match=rf"storage\.caBundle {re.escape(str(path))} cannot be used"):
            Storage(StorageOptions(ca_bundle=str(path))).read_bytes(f"{s3}/key")
