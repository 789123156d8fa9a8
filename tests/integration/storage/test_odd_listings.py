"""Keys as other tools write them, and listings as other stores give them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from faulty_s3 import Answer, Fault, FaultyS3, Handler, Request
from PIL import Image

from engine.dataset import CocoImage, ImageFolder, validate_dataset
from engine.errors import StorageError
from engine.storage import Storage, StorageOptions, join

KEYS = [
    "/x",
    "//x",
    "a//x",
    "a/x",
    "/a//b///x",
    "plus+x",
    "per%20cent%2Fx",
    "white space",
    "ä/日本",
    "a/./x",
    "q?r#s&t=u",
]


@pytest.mark.parametrize("folder", ["", "/in", "/in/", "//in", "/in//", "//"])
def test_keys_are_read_as_they_are_listed(s3: str, tmp_path: Path, folder: str) -> None:
    storage, root = Storage(), f"{s3}{folder}"
    for key in KEYS:
        storage.write_bytes(join(root, key), key.encode())
    listed = list(storage.list(root))
    assert [item.key for item in listed] == sorted(KEYS, key=str.encode)
    for item in listed:
        assert item.uri == join(root, item.key)
        assert storage.read_bytes(item.uri) == item.key.encode()
        for name in ("first", "lean"):
            assert storage.download(item.uri, tmp_path / name, etag=item.etag).read_bytes() == item.key.encode()
    for key in KEYS:
        storage.delete(join(root, key))
    assert not list(storage.list(root))


def test_a_key_with_two_slashes_is_never_its_sibling(s3: str, tmp_path: Path) -> None:
    storage = Storage()
    for key, colour in {"two/x.png": (255, 0, 0), "two//x.png": (0, 255, 0), "one//y.png": (0, 0, 255)}.items():
        Image.new("RGB", (8, 8), colour).save(tmp_path / "image.png")
        storage.upload(tmp_path / "image.png", f"{s3}/{key}")
    coco = {
        "images": [{"id": 1, "file_name": "/x.png", "width": 8, "height": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "bolt"}],
    }
    storage.write_bytes(f"{s3}/a.json", json.dumps(coco).encode())

    def colour(folder: str, file_name: str) -> object:
        images, image = ImageFolder(f"{s3}/{folder}", storage=storage, cache=tmp_path), CocoImage(1, file_name, 8, 8)
        images.sync([image])
        return Image.open(images.path(image)).getpixel((0, 0))

    assert colour("two", "/x.png") == (0, 255, 0)
    assert colour("two/", "x.png") == (255, 0, 0)
    assert colour("two//", "x.png") == (0, 255, 0)
    assert colour("one", "y.png") == (0, 0, 255)
    assert not validate_dataset(f"{s3}/a.json", f"{s3}/two/", storage=storage).errors


def listing(change: Callable[[Request, bytes], bytes]) -> Callable[[Request], Fault | None]:
    """Listings are changed on their way."""

    def fault(handler: Handler, request: Request) -> None:
        answer: Answer = handler.store(replace(request, path=re.sub("&continuation-token=[^&]*", "", request.path)))
        body = change(request, answer.body)
        headers = tuple((k, v) for k, v in answer.headers if k.lower() != "content-length")
        handler.send(replace(answer, body=body, headers=(*headers, ("Content-Length", str(len(body))))))

    return lambda request: fault if request.method == "GET" and "list-type=2" in request.path else None


@pytest.fixture
def through(proxy: FaultyS3, s3: str) -> Storage:
    """The bucket ``s3``, with four objects, through the proxy."""
    for key in ("d/a", "d/b", "d/c", "e/x"):
        Storage().write_bytes(f"{s3}/{key}", b"x")
    return Storage(StorageOptions(endpoint_url=proxy.url))


def truncated(body: bytes, token: str = "") -> bytes:
    following = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    changed = re.sub(rb"<IsTruncated>\w+</IsTruncated>", f"<IsTruncated>true</IsTruncated>{following}".encode(), body)
    assert changed != body
    return changed


def without_token(_: Request, body: bytes) -> bytes:
    return truncated(body)


def same_token(_: Request, body: bytes) -> bytes:
    return truncated(body, "again")


def other_token(request: Request, body: bytes) -> bytes:
    """A store that ignores the token, and gives the first page without end."""
    return truncated(body, f"{len(request.path)}")


def other_prefix(_: Request, body: bytes) -> bytes:
    return body.replace(b"<Key>d/c</Key>", b"<Key>e/c</Key>")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(without_token, "there is more after 3 objects without saying how to get it", id="no token"),
        pytest.param(same_token, "gives the same page again|lists keys twice or out of order", id="same token"),
        pytest.param(other_token, "lists keys twice or out of order", id="same page"),
        pytest.param(other_prefix, "lists 'e/c', which is outside it", id="other folder"),
    ],
)
def test_a_listing_that_cannot_be_whole_is_refused(
    s3: str, proxy: FaultyS3, through: Storage, change: Callable[[Request, bytes], bytes], said: str
) -> None:
    proxy.before = listing(change)
    with pytest.raises(StorageError, match=rf"s3://.*/d cannot be listed: .*({said})"):
        list(through.list(f"{s3}/d"))


def test_a_listing_without_order_or_end_is_refused(s3: str, proxy: FaultyS3, through: Storage) -> None:
    def turned(request: Request, body: bytes) -> bytes:
        return other_token(request, body.replace(b"d/a<", b"d/z<"))

    proxy.before = listing(turned)
    with pytest.raises(StorageError, match="lists keys twice or out of order"):
        list(through.list(f"{s3}/d"))


def test_a_listing_without_order_is_sorted(s3: str, proxy: FaultyS3, through: Storage) -> None:
    proxy.before = listing(lambda _, body: body.replace(b"d/a<", b"d/z<").replace(b"d/c<", b"d/A<"))
    assert [item.key for item in through.list(f"{s3}/d")] == ["A", "b", "z"]
