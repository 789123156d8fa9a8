"""Bill of materials of a built image, in CycloneDX 1.6, without a registry: ``make sbom``.

    python .ci/sbom.py operator:latest --lock requirements-operator.lock --output out/sbom/operator.cdx.json

The image itself lists its contents: Debian packages and Python distributions. The lock must pin each distribution of
``/opt/venv`` at its version (otherwise exit code 1); its hashes come from the lock. The image's labels are copied: its
base with digest, its version and its revision.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

PROJECT = "teacher-finetune"

INVENTORY = r"""
import email, glob, json, pathlib, platform
def distributions(pattern):
    for path in sorted(glob.glob(pattern + "/*.dist-info/METADATA")):
        fields = email.message_from_string(pathlib.Path(path).read_text(encoding="utf-8", errors="replace"))
        yield {"name": fields["Name"], "version": fields["Version"], "license": fields["License-Expression"] or ""}
def debian():
    for paragraph in pathlib.Path("/var/lib/dpkg/status").read_text(encoding="utf-8").split("\n\n"):
        fields = email.message_from_string(paragraph.lstrip())
        if (fields["Status"] or "").endswith(" installed"):
            yield {"name": fields["Package"], "version": fields["Version"], "architecture": fields["Architecture"]}
release = dict(line.split("=", 1) for line in pathlib.Path("/etc/os-release").read_text().splitlines() if "=" in line)
print(json.dumps({
    "python": platform.python_version(),
    "release": release.get("VERSION_CODENAME", "").strip('"'),
    "venv": list(distributions("/opt/venv/lib/python3*/site-packages")),
    "base": list(distributions("/usr/local/lib/python3*/site-packages")),
    "debian": list(debian()),
}))
"""
"""Script for the image's own Python that lists the contents."""


Pins = dict[tuple[str, str], list[str]]


class UnpinnedError(Exception):
    """The image contains a distribution that its lock does not pin."""


def normalized(name: str) -> str:
    """Return the name of a distribution as in locks and package URLs."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: str) -> Pins:
    """Return the SHA-256 hashes, in hexadecimal, of each name and version; a lock may have one version per Python."""
    found: Pins = {}
    last: list[str] = []
    for line in lock.splitlines():
        if pin := re.match(r"([A-Za-z0-9._-]+)==([^ ;]+)", line):
            last = found.setdefault((normalized(pin[1]), pin[2]), [])
        elif digest := re.match(r" +--hash=sha256:([0-9a-f]{64})", line):
            last.append(digest[1])
    return found


def bill(image: str, inventory: Mapping[str, Any], lock: str, labels: Mapping[str, str], *, when: datetime) -> str:
    """Return the bill of materials as JSON; the same arguments give the same text.

    Raises:
        UnpinnedError: A distribution of the virtual environment is not pinned, or at another version.
        ValueError: The result is not valid CycloneDX.
    """
    pinned = pins(lock)
    theirs = [one for one in inventory["venv"] if normalized(one["name"]) != PROJECT]
    if other := [one for one in theirs if _key(one) not in pinned]:
        names = ", ".join(f"{one['name']} {one['version']}" for one in other)
        raise UnpinnedError(f"{image} holds {names}, which its lock does not pin: build the image again")
    components = [_python(one, pinned) for one in inventory["venv"]]
    components += [_python(one, {}, place="base") for one in inventory["base"]]
    components += [_debian(one, inventory["release"]) for one in inventory["debian"]]
    version = str(inventory["python"])
    purl = PackageURL("generic", None, "python", version)
    components.append(
        Component(type=ComponentType.PLATFORM, name="python", version=version, purl=purl, bom_ref=str(purl))
    )
    root = Component(
        type=ComponentType.CONTAINER,
        name=image.partition(":")[0],
        version=labels.get("org.opencontainers.image.version"),
        bom_ref=image,
        properties=[Property(name=name, value=value) for name, value in sorted(labels.items())],
    )
    bom = Bom(components=components, serial_number=uuid.UUID(int=0))
    bom.metadata.component, bom.metadata.timestamp = root, when
    bom.register_dependency(root, components)
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, JsonV1Dot6(bom).output_as_string())
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(str(fault))
    return text


def _key(one: Mapping[str, str]) -> tuple[str, str]:
    return normalized(one["name"]), one["version"]


def _python(one: Mapping[str, str], pinned: Pins, *, place: str = "venv") -> Component:
    purl = PackageURL("pypi", None, *_key(one))
    digests = pinned.get(_key(one), [])
    # Which of the lock's files was installed is not recorded; pip accepted one of these.
    file = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(str(purl)),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in digests],
    )
    return Component(
        type=ComponentType.APPLICATION if normalized(one["name"]) == PROJECT else ComponentType.LIBRARY,
        name=one["name"],
        version=one["version"],
        purl=purl,
        bom_ref=f"{purl}#{place}",
        licenses=_licenses(one["license"]),
        external_references=[file] if digests else [],
    )


def _licenses(expression: str) -> list[License]:
    """An identifier or expression of SPDX; anything else, such as a proprietary license's reference, is a name."""
    return [LicenseFactory().make_from_string(expression)] if expression else []


def _debian(one: Mapping[str, str], release: str) -> Component:
    qualifiers = {"arch": one["architecture"], "distro": release}
    purl = PackageURL("deb", "debian", one["name"], one["version"], qualifiers)
    return Component(type=ComponentType.LIBRARY, name=one["name"], version=one["version"], purl=purl, bom_ref=str(purl))


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603 - a builder's


def inspect(image: str, engine: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what an image holds, and its labels, by the builder that has it: ``buildah`` or ``docker``."""
    if Path(engine).name == "buildah":
        container = _output([engine, "from", "--pull-never", image]).strip()
        try:
            found = _output([engine, "run", container, "--", "python", "-c", INVENTORY])
        finally:
            _output([engine, "rm", container])
        labels = json.loads(_output([engine, "inspect", "--type", "image", image]))["OCIv1"]["config"].get("Labels")
    else:
        run = [engine, "run", "--rm", "--network", "none", "--entrypoint", "python", image, "-c", INVENTORY]
        found = _output(run)
        labels = json.loads(_output([engine, "image", "inspect", image]))[0]["Config"].get("Labels")
    return json.loads(found), labels or {}


def main() -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", help="name and tag, as the builder knows it")
    parser.add_argument("--lock", type=Path, required=True, help="what the image installs")
    parser.add_argument("--engine", default="buildah", help="buildah or docker")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    when = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH") or datetime.now(UTC).timestamp()), UTC)
    inventory, labels = inspect(options.image, options.engine)
    try:
        text = bill(options.image, inventory, options.lock.read_text(), labels, when=when)
    except UnpinnedError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text + "\n")
    counts = f"{len(inventory['venv'])} Python distributions, {len(inventory['debian'])} Debian packages"
    sys.stdout.write(f"{options.output}: {counts}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
