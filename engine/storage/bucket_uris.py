"""Bucket and key of a URI. An S3 bucket may be the ARN of an access point, which contains slashes itself."""

from __future__ import annotations

import re

from engine.errors import ConfigError
from engine.text.uris import REMOTE, S3

ARN = "arn:"
ACCESS_POINT = re.compile(
    r"(?P<bucket>arn:aws[a-z-]*:(?:"
    r"s3:[a-z0-9-]+:\d{12}:accesspoint[:/][a-z0-9](?:[a-z0-9-]{1,48}[a-z0-9])"
    r"|s3-outposts:[a-z0-9-]+:\d{12}:outpost[:/][A-Za-z0-9-]{1,63}[:/]accesspoint[:/][a-z0-9][a-z0-9-]{1,62}"
    r"))(?:/(?P<key>.*))?",
    re.DOTALL,
)
"""Access point of a bucket, or of a bucket on an Outpost; the key follows after the next slash."""

REFUSED = (
    (
        re.compile(r"arn:aws[a-z-]*:s3::\d{12}:accesspoint[:/]"),
        "a multi-region access point needs signatures of another kind (SigV4A): give the ARN of an access point in one "
        "region, or the bucket",
    ),
    (
        re.compile(r"arn:aws[a-z-]*:s3-object-lambda:"),
        "an Object Lambda access point changes objects on their way, so that sizes and checksums do not hold: give the "
        "access point or the bucket behind it",
    ),
)


def is_access_point(bucket: str) -> bool:
    """Return True if the bucket is given as an ARN."""
    return bucket.startswith(ARN)


def split(uri: str) -> tuple[str, str]:
    """Split a URI into bucket and key, unchanged: a key may begin with slashes, or have several in a row.

    >>> split("s3://b//images//1.jpg")
    ('b', '/images//1.jpg')
    >>> split("s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/team/images/1.jpg")
    ('arn:aws:s3:eu-west-1:123456789012:accesspoint/team', 'images/1.jpg')

    Raises:
        ConfigError: The bucket is missing, or is an ARN other than that of an access point.
    """
    scheme = next((one for one in REMOTE if uri.startswith(one)), S3)
    rest = uri.removeprefix(scheme)
    if scheme == S3 and is_access_point(rest):
        found = ACCESS_POINT.fullmatch(rest)
        if found is not None:
            return found["bucket"], found["key"] or ""
        why = next((why for pattern, why in REFUSED if pattern.match(rest)), None)
        raise ConfigError(
            f"{uri!r} cannot be used: "
            + (why or "write s3://arn:aws:s3:<region>:<account>:accesspoint/<name>/<key>, or s3://bucket/key")
        )
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise ConfigError(f"{uri!r} names no bucket: write {scheme}bucket/key")
    return bucket, key


def split_object(uri: str) -> tuple[str, str]:
    """Split the URI of an object into bucket and key.

    Raises:
        ConfigError: The URI names a bucket or a folder.
    """
    bucket, key = split(uri)
    if not key or key.endswith("/"):
        raise ConfigError(f"{uri!r} names no object: write {uri[:5]}bucket/key")
    return bucket, key


def prefix_of(folder: str) -> tuple[str, str]:
    """Return the bucket and the key prefix of a folder. Several slashes in a row are kept: they are part of keys.

    >>> prefix_of("s3://b/images"), prefix_of("s3://b/images/"), prefix_of("s3://b/images//"), prefix_of("s3://b/")
    (('b', 'images/'), ('b', 'images/'), ('b', 'images//'), ('b', ''))
    """
    bucket, key = split(folder)
    return bucket, key if not key or key.endswith("/") else f"{key}/"
