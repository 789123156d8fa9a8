"""Stores that speak as Google's and Azure's do, for tests.

Google's XML API is that of S3 with headers of its own names: these are translated before the S3 server of the tests.
Azure's emulator, Azurite, comes from npm (`npm install azurite`) and is found on the path, or by TEST_AZURITE.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import json
import os
import shutil
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, unquote

from faulty_s3 import Answer, Handler, Request
from ports import free_port
from s3_servers import STARTED

AZURITE = "azurite-blob"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Account and key of every Azurite, as its manual has them."""
VERSION = "2021-12-02"
SIGNED = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=none"
"""What the S3 server of the tests takes for a signature: it checks none, and wants one to read."""


class GoogleHandler(Handler):
    """Understands the headers of Google's XML API that obstore sends."""

    def store(self, request: Request) -> Answer:
        headers = dict(request.headers)
        lower = {name.lower(): name for name in headers}
        if "x-goog-copy-source" in lower:
            headers["x-amz-copy-source"] = headers.pop(lower["x-goog-copy-source"])
        if headers.pop(lower.get("x-goog-if-generation-match", ""), None) == "0":
            headers["If-None-Match"] = "*"
        headers[lower.get("authorization", "Authorization")] = SIGNED
        path, mark, query = request.path.partition("?")
        plain = quote(unquote(path)) + mark + query  # obstore encodes slashes too
        return super().store(replace(request, path=plain, headers=headers))


def unsigned_key(url: str) -> str:
    """The key of a service account whose store is at this URL and takes requests without a token."""
    names = ("client_email", "private_key", "private_key_id")
    return json.dumps({"gcs_base_url": url, "disable_oauth": True, **dict.fromkeys(names, "")})


def azurite() -> str | None:
    """The program, where it is installed."""
    return shutil.which(os.environ.get("TEST_AZURITE", AZURITE))


@contextmanager
def azurite_at(folder: Path) -> Iterator[str]:
    """Azurite, until the end of the block: the endpoint of its account."""
    port = free_port()
    program = azurite()
    assert program is not None
    command = [program, "--blobPort", str(port), "--location", str(folder), "--silent", "--skipApiVersionCheck"]
    url = f"http://127.0.0.1:{port}/{ACCOUNT}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + STARTED
            while True:
                try:
                    make_container(url, "ready")
                    break
                except OSError:
                    assert server.poll() is None, "Azurite has ended"
                    assert time.monotonic() < deadline, "Azurite did not start"
                    time.sleep(0.2)
            yield url
        finally:
            server.kill()


def make_container(url: str, name: str = "") -> str:
    """A container of this name, or of a new one."""
    name = name or f"test-{uuid.uuid4().hex}"
    date = email.utils.formatdate(usegmt=True)
    signed = (
        f"PUT{chr(10) * 12}x-ms-date:{date}\nx-ms-version:{VERSION}\n/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    )
    digest = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
    headers = {
        "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
        "Content-Length": "0",
        "x-ms-date": date,
        "x-ms-version": VERSION,
    }
    request = urllib.request.Request(f"{url}/{name}?restype=container", method="PUT", headers=headers)
    urllib.request.urlopen(request, timeout=10).close()
    return name
