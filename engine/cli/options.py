"""Options that several commands share."""

from __future__ import annotations

import re
from hashlib import file_digest
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.display import note
from engine.cli.spec_options import spec_option
from engine.config import RunConfig
from engine.config.model import StorageConfig
from engine.errors import ConfigError
from engine.manifest import DistillManifest, M, Manifest, load
from engine.spec import Crowds, DatasetSpec, ExifOrientation, StorageSpec
from engine.storage import Storage, StorageOptions, join
from engine.storage.bounded_read import MANIFEST_BYTES, read_bounded
from engine.storage.bucket_uris import split_object
from engine.storage.options import trust
from engine.text.plain_yaml import read_documents

Images = Annotated[str | None, spec_option(DatasetSpec, "images")]
Endpoint = Annotated[str | None, spec_option(StorageSpec, "endpoint_url")]
ExifChoice = Annotated[ExifOrientation, spec_option(DatasetSpec, "exif_orientation")]
CrowdChoice = Annotated[Crowds, spec_option(DatasetSpec, "crowds")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Any setting of teacher_config.yaml, e.g. training.seed=1."),
]


def manifest_file(kind: type[Manifest | DistillManifest]) -> Any:
    """Return the option that names a manifest."""
    return typer.Option("--file", "-f", help=f"{kind.KIND} manifest; s3:// or path.")


def storage(endpoint_url: str | None = None, region: str | None = None, **more: Any) -> Storage:
    """Create the storage of the given options, which prints its retries; credentials come from the AWS chain.

    Other fields of :class:`StorageOptions` may follow. A bundle of certificates is trusted by the hub's client too.
    """
    options = StorageOptions(endpoint_url=endpoint_url, region=region, **more)
    if options.ca_bundle is not None:
        trust(options.ca_bundle)
    return Storage(options, on_retry=note)


def storage_of(source: Manifest | DistillManifest | RunConfig) -> Storage:
    """Create the storage of a manifest or a configuration."""
    asked = source.spec.storage if isinstance(source, Manifest | DistillManifest) else source.storage
    return storage(**{name: getattr(asked, name) for name in StorageConfig.model_fields})


def read_manifest(uri: str, kind: type[M]) -> M:
    """Read the manifest of a kind at a URI or path."""
    content = read_bounded(storage(), uri, limit=MANIFEST_BYTES, error=ConfigError)
    return load(kind, content, where=uri)


def only_local(path: Path | None) -> Path | None:
    """Return a local path unchanged; for options that accept local paths only.

    Raises:
        ConfigError: It is a URI, which would become a folder called ``s3:``.
    """
    if path is not None and re.match(r"[a-z][a-z0-9+]+:/", str(path)):
        raise ConfigError(
            f"{str(path).replace(':/', '://', 1)} is a URI: give a path on this machine, then copy the file"
        )
    return path


WorkDir = Annotated[
    Path | None,
    typer.Option("--work-dir", help="Scratch folder; default: in the cache folder.", callback=only_local),
]


def check_writable(uri: str, storage: Storage) -> None:
    """Check, before anything slow, that a file can be written to ``uri``: it names a file, in a bucket that exists.

    Raises:
        ConfigError: It names a folder, or no bucket.
        StorageError: The bucket does not exist or cannot be listed.
    """
    local = storage.local_path(uri)
    if uri.endswith("/") or (local is not None and local.is_dir()):
        raise ConfigError(f"{uri} is a folder: name the file to write, such as {join(uri, 'labels.json')}")
    if local is None:
        split_object(uri)
        storage.is_prefix(uri)  # a listing names a missing bucket; HEAD does not tell it from a missing object


def refuse_other(uri: str, storage: Storage, *, overwrite: bool, content: Path | None = None) -> None:
    """Check that a target does not exist, has the same content, or may be replaced.

    Raises:
        ConfigError: The target exists.
    """
    if overwrite or not storage.exists(uri):
        return
    if content is not None:
        with storage.open(uri) as there, content.open("rb") as here:
            digests = {file_digest(one, "sha256").digest() for one in (there, here)}  # type: ignore[arg-type]
            if len(digests) == 1:
                return
    other = "" if content is None else ", with other content"
    raise ConfigError(f"{uri} exists already{other}: give another --output, or --overwrite to replace it")


def settings(assignments: list[str] | None) -> dict[str, str]:
    """``["training.seed=1"]`` to ``{"training.seed": "1"}``; values are YAML.

    Raises:
        ConfigError: An assignment has no ``=``, or its value is not YAML.
    """
    found: dict[str, str] = {}
    for assignment in assignments or []:
        path, equals, value = assignment.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set takes PATH=VALUE, such as training.seed=1, found {assignment!r}")
        read_documents(value, where=f"--set {path[:80]}")
        found[path] = value
    return found
