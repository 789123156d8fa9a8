"""Checks of ``teacher doctor``: each is one sentence, with the remedy if something is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import typer

from engine.cli import options
from engine.cli.display import console
from engine.errors import TeacherError
from engine.registry import ModelName
from engine.storage import default_cache
from engine.text.uris import AZ, GS

TRAINING_PACKAGES = ("torch", "transformers", "peft", "albumentations", "faster-coco-eval", "scipy", "tensorboard")
GIGABYTE = 10**9
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - read only


@dataclass(frozen=True)
class Check:
    """One finding: ``fail`` forbids training, ``warn`` makes it slow or limited."""

    name: str
    state: Literal["ok", "warn", "fail"]
    message: str


def doctor(endpoint_url: options.Endpoint = None) -> None:
    """Check that this machine can train, and print what is missing."""
    failed = 0
    for check in checks(endpoint_url):
        mark = {"ok": "[green]ok[/]", "warn": "[yellow]warning[/]", "fail": "[red]missing[/]"}[check.state]
        console.print(f"{mark:<24} {check.name:<12}", end=" ")
        console.print(check.message, markup=False, soft_wrap=True)
        failed += check.state == "fail"
    if failed:
        raise typer.Exit(1)


def checks(endpoint_url: str | None) -> Iterator[Check]:
    """Yield all findings on this machine, the most important first."""
    yield Check("python", "ok", sys.version.split()[0])
    yield from _packages()
    yield from _gpu()
    yield _licences()
    yield _room("disk", default_cache(), 10 * GIGABYTE, "base models and images are kept there; set TEACHER_CACHE")
    if SHARED_MEMORY.is_dir():
        yield _room("memory", SHARED_MEMORY, GIGABYTE, "workers hand batches over there; set training.workers to 0")
    yield _storage(endpoint_url)
    yield from _clouds()


def _packages() -> Iterator[Check]:
    missing = [name for name in TRAINING_PACKAGES if not _installed(name)]
    if missing:
        advice = "pip install 'teacher-finetune[train]'; inspecting, validating and splitting work without"
        yield Check("packages", "fail", f"{', '.join(missing)} not installed: {advice}")
    else:
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in TRAINING_PACKAGES[:3])
        yield Check("packages", "ok", versions)


def _licences() -> Check:
    """Return the licences of the code and of the known base weights of all models."""
    models: dict[str, list[str]] = {}
    for name in ModelName:
        licences = sorted({name.traits.licence, *(base.licence for base in name.traits.published)})
        models.setdefault(" and ".join(licences), []).append(name.traits.title)
    said = "; ".join(f"{licence}: {', '.join(titles)}" for licence, titles in models.items())
    return Check("licences", "ok", f"code and published base weights are {said}. Labels are yours")


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _gpu() -> Iterator[Check]:
    if not _installed("torch"):
        return
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda
        advice = "check the driver with nvidia-smi" if built else "this torch is built without CUDA"
        yield Check("gpu", "warn", f"none found: training runs on the CPU, fast enough for tiny models only ({advice})")
        return
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        kind = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16: float32 is used"
        yield Check("gpu", "ok", f"{device.name}, {device.total_memory / GIGABYTE:.0f} GB, {kind}")


def _room(name: str, folder: Path, wanted: int, why: str) -> Check:
    there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    if not os.access(there, os.W_OK):
        return Check(name, "fail", f"{there} cannot be written to: {why}")
    state: Literal["ok", "warn"] = "ok" if free >= wanted else "warn"
    hint = "" if state == "ok" else f", {wanted / GIGABYTE:.0f} GB are wanted: {why}"
    return Check(name, state, f"{free / GIGABYTE:.1f} GB free at {there}{hint}")


def _clouds() -> Iterator[Check]:
    """Yield the identities of gs:// and az://. A missing one is not reported: most likely it is not used."""
    from engine.storage.gs_azure_stores import azure_account, credentials

    for scheme in (GS, AZ):
        found = credentials(scheme)
        if found is None:
            continue
        if scheme == AZ and azure_account(options.storage().options) is None:
            yield Check("storage", "warn", f"{scheme}: credentials from {found}; set AZURE_STORAGE_ACCOUNT_NAME too")
        else:
            yield Check("storage", "ok", f"{scheme}: credentials from {found}")


def _storage(endpoint_url: str | None) -> Check:
    import boto3
    from botocore.exceptions import BotoCoreError

    endpoint = endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
    try:
        options.storage(endpoint_url)
        credentials = boto3.session.Session().get_credentials()
    except (TeacherError, BotoCoreError) as error:
        return Check("storage", "fail", str(error))
    if credentials is None:
        advice = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role; paths work without"
        return Check("storage", "warn", f"no credentials for s3:// ({endpoint}): {advice}")
    return Check("storage", "ok", f"{endpoint}, credentials from {credentials.method}")
