"""Mounts of the claims and keys of the stores that an object names, for its pods. Pure.

Every pod of a run mounts all of them, each at the same path: inspection reads what trainers read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from engine.spec import FineTuneSpec
from engine.text.uris import is_claim, split_claim

MOUNTED = "/claims"
"""The folder below which each claim lies at its name."""


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
    """The claims that a request names, sorted, and whether the run writes to them.

    Raises:
        ConfigError: A URI names no claim, or leads out of it.
    """
    written = {split_claim(spec.output)[0]} if is_claim(spec.output) else set()
    read = {split_claim(uri)[0] for uri in _sources(spec) if is_claim(uri)}
    return {claim: claim in written for claim in sorted(read | written)}


def secret_keys(spec: FineTuneSpec) -> tuple[Sequence[str], Sequence[str]]:
    """The keys that a Secret of credentials must have, and those that it may have: Azure knows several kinds."""
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
    """Add the volumes and mounts of claims to those that a pod has.

    A claim that the pod has for another reason, such as its scratch disk, keeps its one volume: a claim is never in a
    pod twice. One that is only read is attached read-only, so that its files keep their owner.

    Args:
        wanted: As :func:`claims` returns them.
        volumes: Of the pod; grows.
        mounts: Of its container; grows.
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
