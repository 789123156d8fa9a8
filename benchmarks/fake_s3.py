"""Minimal S3 server for benchmarks of clients: list and read generated objects at a low cost.

python benchmarks/fake_s3.py --objects 1000000 --bytes 100

Prints its URL. ``s3://bucket/images/0000000.jpg`` and so on are random bytes, the same in every run; ETags are MD5s.
Read-only; signatures are not checked.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
from functools import lru_cache
from urllib.parse import parse_qs, urlsplit

PREFIX = "images/"
PAGE = 1000
DATE = "Mon, 01 Jan 2024 00:00:00 GMT"
ITEM = (
    "<Contents><Key>{key}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified><ETag>&quot;{etag}&quot;</ETag>"
    "<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


class Objects:
    """Generated objects by number, with ``least`` to ``most`` bytes each."""

    def __init__(self, count: int, least: int, most: int) -> None:
        self.count, self.least, self.most = count, least, most
        self.pool = memoryview(random.Random(0).randbytes(2 * most + 1009))

    def content(self, number: int) -> memoryview:
        """Return the bytes of an object."""
        size = self.least + number * 7919 % (self.most - self.least + 1)
        start = number % (self.most + 1009)
        return self.pool[start : start + size]

    @lru_cache(maxsize=100_000)  # noqa: B019 - there is one
    def etag(self, number: int) -> str:
        """Return the MD5 of an object."""
        return hashlib.md5(self.content(number)).hexdigest()

    def page(self, start: int) -> bytes:
        """Return a page of the listing that begins with object ``start``."""
        end = min(start + PAGE, self.count)
        items = (
            ITEM.format(key=f"{PREFIX}{n:07d}.jpg", etag=self.etag(n), size=len(self.content(n)))
            for n in range(start, end)
        )
        more = f"<NextContinuationToken>{end}</NextContinuationToken>" if end < self.count else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>bucket</Name>'
            f"<KeyCount>{end - start}</KeyCount><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}"
            f"{''.join(items)}</ListBucketResult>"
        ).encode()


class Connection(asyncio.Protocol):
    """Handles GET requests in sequence."""

    def __init__(self, objects: Objects) -> None:
        self.objects, self.received = objects, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport of a new connection."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer all complete requests."""
        self.received += data
        while b"\r\n\r\n" in self.received:
            head, _, self.received = self.received.partition(b"\r\n\r\n")
            self.answer(head[: head.index(b"\r\n")].decode().split(" ")[1])

    def answer(self, target: str) -> None:
        """Send a listing, an object, or 404."""
        path, _, query = target.partition("?")
        name = urlsplit(path).path.removeprefix(f"/bucket/{PREFIX}")
        if "list-type" in query:
            self.send(self.objects.page(int(parse_qs(query).get("continuation-token", ["0"])[0])), "")
        elif name[:7].isdecimal() and int(name[:7]) < self.objects.count:
            number = int(name[:7])
            about = f'ETag: "{self.objects.etag(number)}"\r\nLast-Modified: {DATE}\r\nx-amz-request-id: {number}\r\n'
            self.send(self.objects.content(number), about)
        else:
            self.transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")  # type: ignore[attr-defined]

    def send(self, body: bytes | memoryview, about: str) -> None:
        """Send a response with status 200."""
        head = f"HTTP/1.1 200 OK\r\nDate: {DATE}\r\n{about}Content-Length: {len(body)}\r\n\r\n"
        self.transport.writelines((head.encode(), body))  # type: ignore[attr-defined]


async def serve(objects: Objects) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Connection(objects), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument(
        "--bytes", type=int, nargs="+", default=[10_000, 100_000], help="size of each object, or minimum and maximum"
    )
    given = parser.parse_args()
    asyncio.run(serve(Objects(given.objects, given.bytes[0], given.bytes[-1])))
