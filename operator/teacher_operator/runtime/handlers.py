"""Watch objects with kopf and pass events to the controller. Apart from start-up, the only module that knows kopf.

Only low-level handlers are used: kopf then writes no finalizer, annotation or progress, and a copied annotation cannot
mislead it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kopf
from kubernetes.aio.config import ConfigException

from teacher_operator.api.names import FIELD_MANAGER, MANAGED_BY, SELECTOR
from teacher_operator.api.settings import Settings
from teacher_operator.api.spec import GROUP, PLURAL, VERSION
from teacher_operator.runtime.controller import Controller

OBJECTS, JOBS, PODS = (GROUP, VERSION, PLURAL), ("batch", "v1", "jobs"), ("", "v1", "pods")
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
OURS = {MANAGED_BY: FIELD_MANAGER}

SILENCE_SECONDS = 70.0
"""Seconds without any event after which a watch is reopened: the API server sends a bookmark every minute."""


def kopf_settings() -> kopf.OperatorSettings:
    """Return kopf's settings: watch only our children, and no other objects of the cluster."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.watching.inactivity_timeout = SILENCE_SECONDS
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = 500
    settings.watching.label_selectors[JOBS] = SELECTOR
    settings.watching.label_selectors[PODS] = SELECTOR
    settings.networking.request_timeout = 60
    settings.networking.connect_timeout = 10
    settings.queueing.idle_timeout = 0.1
    settings.queueing.worker_limit = 1000
    settings.execution.max_workers = 2
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    return settings


class _NoDiffBase(kopf.DiffBaseStorage):
    """Store no earlier version of objects to compare with: copying them would cost more than our work."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        pass


class _NoProgress(kopf.ProgressStorage):
    """Store no progress: no handler needs it."""

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        pass

    def purge(self, **_: Any) -> None:
        pass

    def touch(self, **_: Any) -> None:
        pass

    def clear(self, *, essence: Any) -> Any:
        return essence


def service_account(environment: Mapping[str, str]) -> kopf.ConnectionInfo | None:
    """Return the credentials of this pod, with the address from its environment: no DNS is needed."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    token, authority = SERVICE_ACCOUNT / "token", SERVICE_ACCOUNT / "ca.crt"
    if not host or not port or not token.exists():
        return None
    address = f"[{host}]" if ":" in host else host
    return kopf.ConnectionInfo(
        server=f"https://{address}:{port}", ca_path=str(authority), token=token.read_text(encoding="utf-8").strip()
    )


def registry(settings: Settings) -> kopf.OperatorRegistry:
    """Return the registry with all handlers of the operator."""
    handlers = kopf.OperatorRegistry()
    running: list[Controller] = []

    @kopf.on.login(registry=handlers)
    def login(**arguments: Any) -> kopf.ConnectionInfo | None:
        return service_account(os.environ) or kopf.login_via_client(**arguments)

    @kopf.on.startup(registry=handlers)
    async def start(**_: Any) -> None:
        try:
            running.append(await Controller.start(settings))
        except (OSError, ConfigException) as error:  # kopf would retry indefinitely, without any sign
            raise kopf.PermanentError(f"the operator cannot start: {error}") from error

    @kopf.on.cleanup(registry=handlers)
    async def stop(**_: Any) -> None:
        while running:
            await running.pop().stop()

    def watch(kind: str, *resource: str, **filters: Any) -> None:
        @kopf.on.event(*resource, id=f"watch-{kind}", registry=handlers, **filters)
        async def seen(event: kopf.RawEvent, **_: Any) -> None:
            running[0].seen(kind, event["object"], gone=event["type"] == "DELETED", listed=event["type"] is None)

    watch("TeacherFineTune", *OBJECTS)
    watch("Job", *JOBS, labels=OURS)
    watch("Pod", *PODS, labels=OURS)
    return handlers
