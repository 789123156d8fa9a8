"""URI schemes without a storage backend, each with the alternative."""

from __future__ import annotations

import re

from engine.text.uris import CLAIM, FILE, REMOTE

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


def refusal(uri: str) -> str | None:
    """Return the error message for a URI without a storage backend; None for files, plain paths and buckets."""
    found = SCHEME.match(uri)
    if found is None or uri.startswith((FILE, CLAIM, *REMOTE)):
        return None
    shown = uri.partition("?")[0]  # the rest may be a signature
    scheme = found[1]
    return f"{shown!r}: {scheme}:// is not supported: {ADVICE.get(scheme.lower(), SUPPORTED)}"
