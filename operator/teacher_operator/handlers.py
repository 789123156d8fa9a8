"""The only module beside start-up that knows kopf: it watches, and hands what it sees to the controller.

Only low-level handlers are used: kopf then writes nothing of its own, no finalizer, no annotation, no progress, and a
copied annotation cannot fool it.
"""

from __future__ import annotations

from typing import Any

import kopf

from teacher_operator.api import GROUP, PLURAL, VERSION
from teacher_operator.controller import Controller
from teacher_operator.names import FIELD_MANAGER, MANAGED_BY, SELECTOR
from teacher_operator.settings import Settings

OBJECTS, JOBS, PODS = (GROUP, VERSION, PLURAL), ("batch", "v1", "jobs"), ("", "v1", "pods")
OURS = {MANAGED_BY: FIELD_MANAGER}

SILENCE_SECONDS = 70.0
"""A watch that shows nothing for longer, not even a bookmark, is opened anew: the API server sends one a minute."""


def kopf_settings() -> kopf.OperatorSettings:
    """How kopf watches: our children alone, and nothing of the cluster but what we ask for."""
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
    return settings


def registry(settings: Settings) -> kopf.OperatorRegistry:
    """Every handler of the operator."""
    handlers = kopf.OperatorRegistry()
    running: list[Controller] = []

    @kopf.on.login(registry=handlers)
    def login(**arguments: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**arguments) or kopf.login_via_client(**arguments)

    @kopf.on.startup(registry=handlers)
    async def start(**_: Any) -> None:
        running.append(await Controller.start(settings))

    @kopf.on.cleanup(registry=handlers)
    async def stop(**_: Any) -> None:
        while running:
            await running.pop().stop()

    def watch(kind: str, *resource: str, **filters: Any) -> None:
        @kopf.on.event(*resource, id=f"watch-{kind}", registry=handlers, **filters)
        async def seen(event: kopf.RawEvent, **_: Any) -> None:
            running[0].seen(kind, event["object"], gone=event["type"] == "DELETED")

    watch("TeacherFineTune", *OBJECTS)
    watch("Job", *JOBS, labels=OURS)
    watch("Pod", *PODS, labels=OURS)
    return handlers
