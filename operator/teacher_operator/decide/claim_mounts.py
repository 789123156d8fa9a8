"""Claims that an object names, their mounts, and the credentials of its stores. Pure.

Every pod of a run mounts all claims at the same paths: inspection reads the same files as the trainers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from engine.spec import FineTuneSpec
from engine.text.uris import is_claim, split_claim

MOUNTED = "/claims"
"""Folder of the mounts: a claim is mounted in it under its name."""


AWS_KEYS, GOOGLE_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ("GOOGLE_SERVICE_ACCOUNT_KEY",)
AZURE_KEYS = (
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_TENANT_ID",
)
OPTIONAL_KEYS = ("AWS_SESSION_TOKEN", "HF_TOKEN")


def claims(spec: FineTuneSpec) -> dict[str, bool]:
    """Return the claims in a request, sorted by name; the value is True if the run writes to the claim.

    Raises:
        ConfigError: A URI does not name a claim, or its path leads out of the claim.
    """
    written = {split_claim(spec.output)[0]} if is_claim(spec.output) else set()
    read = {split_claim(uri)[0] for uri in _sources(spec) if is_claim(uri)}
    return {claim: claim in written for claim in sorted(read | written)}


def secret_keys(spec: FineTuneSpec) -> tuple[Sequence[str], Sequence[str]]:
    """Return the required and the optional keys of the Secret with credentials; Azure accepts one of several sets."""
    used = {uri.partition("://")[0] for uri in (spec.output, *_sources(spec)) if "://" in uri}
    needed = [key for scheme, keys in (("s3", AWS_KEYS), ("gs", GOOGLE_KEYS)) if scheme in used for key in keys]
    return needed, [*OPTIONAL_KEYS, *(AZURE_KEYS if "az" in used else ())]


def _sources(spec: FineTuneSpec) -> Iterator[str]:
    data = spec.dataset
    for files in (data, data.train, data.val, data.test, spec.training.retention):
        if files is not None:
            yield from (uri for uri in (files.annotations, files.images) if uri is not None)
    yield from (teacher.base_model for teacher in spec.teachers if teacher.base_model is not None)


def mount_claims(wanted: dict[str, bool], volumes: list[dict[str, Any]], mounts: list[dict[str, Any]]) -> None:
    """Add volumes and mounts of claims to those of a pod.

    A claim that the pod already uses, such as its scratch disk, keeps its volume: a pod has one volume per claim. A
    claim that is only read is attached read-only, so the group of its files is not changed.

    Args:
        wanted: As :func:`claims` returns them.
        volumes: Volumes of the pod; extended in place.
        mounts: Mounts of its container; extended in place.
    """
    present: dict[str, str] = {}
    for volume in volumes:
        source = volume.get("persistentVolumeClaim")
        if source is not None:
            present.setdefault(source["claimName"], volume["name"])
            if wanted.get(source["claimName"]):
                source.pop("readOnly", None)
    for index, (claim, written) in enumerate(wanted.items()):
        only_read = {} if written else {"readOnly": True}
        if claim not in present:
            present[claim] = f"claim-{index}"
            volumes.append({"name": present[claim], "persistentVolumeClaim": {"claimName": claim, **only_read}})
        mounts.append({"name": present[claim], "mountPath": f"{MOUNTED}/{claim}", **only_read})
