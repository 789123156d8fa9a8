"""URIs that cannot be used: a scheme without a storage backend, or a slip in one that has a backend."""

from __future__ import annotations

import re

from engine.errors import ConfigError
from engine.text.uris import CLAIM, FILE, REMOTE, is_claim, is_remote, split_claim

ONE_SLASH = re.compile(r"(?P<scheme>s3|gs|az|pvc|file):(/(?!/)(?P<rest>.*)|/*$)", re.IGNORECASE | re.DOTALL)
"""A scheme with one slash, or with nothing behind it: as a path it would be a folder called ``s3:``."""
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
SUPPORTED = "write s3://, gs://, az://, pvc://, file:// or a path"
AZURE = "write az://CONTAINER/path, and set storage.azureAccount to the storage account"
S3_COMPATIBLE = "write s3:// with storage.endpointUrl, since this store speaks S3 as well"

ADVICE = {
    "http": "download it first, or name the bucket that it lies in",
    "https": "download it first, or name the bucket that it lies in",
    "ftp": "download it first",
    "hf": "a base model of the hub is named by its id, owner/model; copy a dataset of the hub to a bucket first",
    "gcs": "write gs://",
    "abfs": AZURE,
    "abfss": AZURE,
    "adl": AZURE,
    "azure": AZURE,
    "wasb": AZURE,
    "wasbs": AZURE,
    "s3a": "write s3://",
    "s3n": "write s3://",
    "oss": S3_COMPATIBLE,
    "cos": S3_COMPATIBLE,
    "cosn": S3_COMPATIBLE,
    "obs": S3_COMPATIBLE,
    "tos": S3_COMPATIBLE,
    "swift": S3_COMPATIBLE,
    "hdfs": "mount it, or copy the data to a bucket",
    "nfs": "mount it and give the path; on a cluster make a PersistentVolumeClaim of it and write pvc://claim/path",
    "smb": "mount it and give the path; on a cluster make a PersistentVolumeClaim of it and write pvc://claim/path",
}

READ_ONLY = frozenset({"http", "https", "ftp"})
"""Schemes of what can be downloaded elsewhere, and never be a folder of outputs."""


def refusal(uri: str) -> str | None:
    """Return the error message for a URI that has no storage backend; None for files, plain paths and buckets."""
    slip = ONE_SLASH.match(uri)
    if slip is not None:
        return _slip(uri, slip["scheme"].lower(), slip["rest"] or "")
    if uri == "~" or uri.startswith("~/"):
        return f"{uri!r}: ~ is expanded by a shell only, and not after '=': write the whole path"
    found = SCHEME.match(uri)
    if found is None or uri.startswith((FILE, CLAIM, *REMOTE)):
        return None
    scheme = found[1]
    return f"{_without_query(uri)!r}: {scheme}:// is not supported: {ADVICE.get(scheme.lower(), SUPPORTED)}"


def output_refusal(uri: str) -> str | None:
    """Return the error message for a URI that no run can be published to; None if it names a place.

    A folder is not looked at, and a claim need not be mounted.
    """
    found = SCHEME.match(uri)
    if found is not None and found[1].lower() in READ_ONLY:
        return (
            f"{_without_query(uri)!r}: nothing can be published to {found[1]}://: write a folder, or a prefix in a "
            "bucket, such as s3://bucket/runs"
        )
    refused = refusal(uri)
    if refused is not None:
        return refused
    if is_remote(uri) and not uri[uri.index("://") + 3 :].partition("/")[0]:
        return f"{uri!r} names no bucket: write {uri[: uri.index('://') + 3]}bucket/path"
    if is_claim(uri):
        try:
            split_claim(uri)
        except ConfigError as error:
            return str(error)
    return None


def _slip(uri: str, scheme: str, rest: str) -> str:
    if not rest:
        lacks, example = {
            "file": ("folder", "file:///path"),
            "pvc": ("claim", "pvc://claim/path"),
        }.get(scheme, ("bucket", f"{scheme}://bucket/path"))
        return f"{uri!r} names no {lacks}: write {example}"
    return f"{uri!r} lacks a slash: write {scheme}://{'/' if scheme == 'file' else ''}{rest}"


def _without_query(uri: str) -> str:
    """Return a URI without its query, which may be a signature."""
    return uri.partition("?")[0]
