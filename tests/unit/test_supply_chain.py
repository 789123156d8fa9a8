"""What others' code enters a build and a release by: named by its content, and listed."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from loops import nonempty

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
DOCKERFILES = [*ROOT.glob("Dockerfile*"), *ROOT.glob("[!.]*/Dockerfile*")]
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LOCK = f"""\
torch==2.14.0 ; python_full_version < '3.12' \\
    --hash=sha256:{"a" * 64} \\
    --hash=sha256:{"b" * 64}
    # via teacher-finetune
torch==2.15.0 ; python_full_version >= '3.12' \\
    --hash=sha256:{"c" * 64}
"""


def values(node: Any, key: str) -> Iterator[Any]:
    """Every value of a key, at any depth."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from values(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from values(value, key)


def commands(file: Path) -> str:
    return "\n".join(values(yaml.safe_load(file.read_text()), "run"))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_every_action_is_pinned_by_its_commit_and_says_its_version(file: Path) -> None:
    used = list(values(yaml.safe_load(file.read_text()), "uses"))
    assert used
    assert [one for one in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", one)] == []
    lines = [line for line in file.read_text().splitlines() if re.search(r"\buses:", line)]
    assert [line for line in lines if not re.search(r" # v\d+\.\d+\.\d+$", line)] == []


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_has_no_more_rights_than_it_names(file: Path) -> None:
    document = yaml.safe_load(file.read_text())
    assert document["permissions"] in ({}, {"contents": "read"})
    checkouts = [step for step in steps(document) if step.get("uses", "").startswith("actions/checkout@")]
    assert all(step["with"]["persist-credentials"] is False for step in nonempty(checkouts))
    # What an event brings is data: it reaches a script through the environment, never as its text.
    assert "${{ github" not in commands(file)


def steps(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in document["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_every_image_that_a_workflow_names_is_pinned_by_its_digest(file: Path) -> None:
    named = re.findall(r"(?:docker|moby|kindest)/\S+|ghcr\.io/\S+:\S+", file.read_text())
    images = [one for one in named if ":" in one and "-action@" not in one]
    assert [one for one in images if not DIGEST.search(one)] == []


def test_both_images_are_built_on_one_base_that_is_pinned_by_its_digest() -> None:
    assert len(DOCKERFILES) == 3
    bases = {re.search(r"^ARG BASE=(\S+)$", file.read_text(), re.MULTILINE)[1] for file in DOCKERFILES}  # type: ignore[index]
    assert len(bases) == 1
    assert DIGEST.search(bases.pop())
    for file in DOCKERFILES:
        froms = re.findall(r"^FROM (\S+)", file.read_text(), re.MULTILINE)
        assert set(froms) == {"${BASE}"}, "another base would escape the pin"


def test_a_release_attests_and_signs_both_images() -> None:
    release = next(file for file in WORKFLOWS if file.stem == "release")
    job = yaml.safe_load(release.read_text())["jobs"]["image"]
    assert {one["file"] for one in job["strategy"]["matrix"]["include"]} == {
        str(file.relative_to(ROOT)) for file in DOCKERFILES
    }
    assert job["permissions"] == {"contents": "read", "packages": "write", "id-token": "write"}
    script = commands(release)
    assert "--provenance=mode=max" in script
    assert "--attest type=sbom,generator=" in script
    assert script.index("cosign sign --yes") < script.index("cosign verify")
    assert "--build-arg BASE" not in script, "the base is the one that is pinned"


def test_a_release_publishes_the_signed_wheel_and_the_signed_chart() -> None:
    release = next(file for file in WORKFLOWS if file.stem == "release")
    jobs = yaml.safe_load(release.read_text())["jobs"]
    wheel, chart = ("\n".join(values(jobs[name], "run")) for name in ("wheel", "chart"))
    assert wheel.index("make wheel") < wheel.index("cosign sign-blob") < wheel.index("gh release create")
    assert chart.index("helm package") < chart.index("helm push") < chart.index("cosign sign")
    assert re.search(r"^wheel:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_no_workflow_names_a_registry_or_an_owner() -> None:
    release = next(file for file in WORKFLOWS if file.stem == "release")
    assert yaml.safe_load(release.read_text())["env"]["REGISTRY"] == "${{ vars.REGISTRY }}"
    assert [file.name for file in WORKFLOWS if "ghcr.io" in file.read_text()] == []


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / ".ci" / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def inventory(**changes: Any) -> dict[str, Any]:
    return {
        "python": "3.11.16",
        "release": "bookworm",
        "venv": [
            {"name": "teacher-finetune", "version": "0.1.0", "license": "Apache-2.0"},
            {"name": "Torch", "version": "2.14.0", "license": "BSD-3-Clause AND MIT"},
        ],
        "base": [{"name": "pip", "version": "24.0", "license": "LicenseRef-Not-Of-SPDX"}],
        "debian": [{"name": "libc6", "version": "2.36-9+deb12u13", "architecture": "amd64"}],
        **changes,
    }


def test_the_bill_of_materials_lists_all_that_an_image_holds_with_the_hashes_of_its_lock(sbom: ModuleType) -> None:
    labels = {
        "org.opencontainers.image.version": "1.2.3",
        "org.opencontainers.image.base.name": "python@sha256:1",
    }
    text = sbom.bill("trainer:1.2.3", inventory(), LOCK, labels, when=NOW)
    assert text == sbom.bill("trainer:1.2.3", inventory(), LOCK, labels, when=NOW), "the same image, the same file"
    document = json.loads(text)
    found = {one["purl"]: one for one in document["components"]}
    assert set(found) == {
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u13?arch=amd64&distro=bookworm",
        "pkg:generic/python@3.11.16",
        "pkg:pypi/pip@24.0",
        "pkg:pypi/teacher-finetune@0.1.0",
        "pkg:pypi/torch@2.14.0",
    }
    torch = found["pkg:pypi/torch@2.14.0"]
    assert {one["content"] for one in torch["externalReferences"][0]["hashes"]} == {"a" * 64, "b" * 64}
    assert torch["licenses"] == [{"expression": "BSD-3-Clause AND MIT"}]
    assert found["pkg:pypi/pip@24.0"]["licenses"] == [{"license": {"name": "LicenseRef-Not-Of-SPDX"}}]
    root = document["metadata"]["component"]
    assert (root["name"], root["version"], root["type"]) == ("trainer", "1.2.3", "container")
    assert {"name": "org.opencontainers.image.base.name", "value": "python@sha256:1"} in root["properties"]
    edges = next(one for one in document["dependencies"] if one["ref"] == root["bom-ref"])
    assert len(edges["dependsOn"]) == len(found)


@pytest.mark.parametrize(
    "other",
    [
        {"name": "torch", "version": "2.13.0", "license": ""},
        {"name": "left-pad", "version": "1.0", "license": ""},
    ],
)
def test_an_image_with_what_its_lock_does_not_pin_gets_no_bill(sbom: ModuleType, other: dict[str, str]) -> None:
    with pytest.raises(sbom.UnpinnedError, match=f"{other['name']} {other['version']}"):
        sbom.bill("trainer:1", inventory(venv=[other]), LOCK, {}, when=NOW)
