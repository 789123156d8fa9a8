"""Options that several commands share."""

from __future__ import annotations

import re
from hashlib import file_digest
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.display import note
from engine.config import RunConfig
from engine.config.model import StorageConfig
from engine.errors import ConfigError
from engine.manifest import Manifest, load_manifest
from engine.spec import Crowds, ExifOrientation, LoraPreset, TeacherName
from engine.storage import Storage, StorageOptions, join
from engine.storage.bounded_read import MANIFEST_BYTES, read_bounded
from engine.storage.bucket_uris import split_object
from engine.storage.options import trust
from engine.text.plain_yaml import read_documents

Images = Annotated[
    str | None, typer.Option("--images", help="Folder of the images, s3:// or path; default: next to the annotations.")
]
Endpoint = Annotated[
    str | None, typer.Option("--endpoint-url", help="Endpoint of an S3-compatible store; default: AWS_ENDPOINT_URL.")
]


def _teacher_name(name: str) -> TeacherName:
    if name not in TeacherName:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, map(str, TeacherName)))}.")
    return TeacherName(name)


TEACHER = {"parser": _teacher_name, "metavar": "[" + "|".join(TeacherName) + "]"}
"""Arguments of an option whose values are names of teachers."""

ExifChoice = Annotated[
    ExifOrientation,
    typer.Option(
        "--exif-orientation",
        help="Images were annotated as turned by EXIF or as stored, if sizes do not show it; Auto: as the others.",
    ),
]
CrowdChoice = Annotated[
    Crowds,
    typer.Option(
        "--crowds", help="Meaning of iscrowd: 1: regions to ignore, or objects, as some tools mark run-length masks."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="Any setting of teacher_config.yaml, e.g. teachers.*.clip_norm=1."
    ),
]
MANIFEST_FILE = typer.Option("--file", "-f", help="TeacherFineTune manifest; s3:// or path.")
Preset = Annotated[LoraPreset | None, typer.Option("--lora-preset", help="Which part of a teacher is adapted.")]


def storage(endpoint_url: str | None = None, region: str | None = None, **more: Any) -> Storage:
    """Create the storage of the given options, which prints its retries; credentials come from the AWS chain.

    Other fields of :class:`StorageOptions` may follow. A bundle of certificates is trusted by the hub's client too.
    """
    options = StorageOptions(endpoint_url=endpoint_url, region=region, **more)
    if options.ca_bundle is not None:
        trust(options.ca_bundle)
    return Storage(options, on_retry=note)


def storage_of(source: Manifest | RunConfig) -> Storage:
    """Create the storage of a manifest or a configuration."""
    asked = source.spec.storage if isinstance(source, Manifest) else source.storage
    return storage(**{name: getattr(asked, name) for name in StorageConfig.model_fields})


def read_manifest(uri: str) -> Manifest:
    """Read the manifest at a URI or path."""
    content = read_bounded(storage(), uri, limit=MANIFEST_BYTES, error=ConfigError)
    return load_manifest(content, where=uri)


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


def overrides(assignments: list[str] | None) -> dict[str, Any]:
    """``["training.seed=1"]`` to ``{"training.seed": 1}``; values are YAML.

    Raises:
        ConfigError: An assignment has no ``=``.
    """
    settings: dict[str, Any] = {}
    for assignment in assignments or []:
        path, equals, value = assignment.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set takes PATH=VALUE, such as training.seed=1, found {assignment!r}")
        documents = read_documents(value, where=f"--set {path[:80]}")
        settings[path] = documents[0].value if documents else None
    return settings
