"""Control access to /metrics: for users that the cluster's RBAC allows to ``get`` the nonResourceURL ``/metrics``.

As in kube-rbac-proxy and controller-runtime: a TokenReview identifies the bearer of a token, a SubjectAccessReview
checks the permission. Answers are cached by the digest of the token.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from http import HTTPStatus
from typing import Any, NamedTuple

from teacher_operator.runtime.cluster import ApiError, Cluster

PATH = "/metrics"

ALLOWED_SECONDS, DENIED_SECONDS = 60.0, 10.0
"""Seconds that an answer of the API server is cached: a revoked token works for that long."""

ENTRIES = 1000
"""Maximum number of cached answers; the oldest is removed."""

AT_ONCE = 4
"""Maximum reviews at a time: others wait, so that wrong tokens do not overload the API server."""

WAITING = 64
"""Maximum number of waiting requests; more are refused immediately."""

TOKEN_MAX = 16_384
"""Maximum characters of a token."""

logger = logging.getLogger(__name__)


class _Known(NamedTuple):
    status: HTTPStatus
    until: float


class MetricsAccess:
    """Decide about requests for the metrics.

    Args:
        cluster: The API server, where the operator may create tokenreviews and subjectaccessreviews.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[HTTPStatus]] = {}
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def check(self, authorization: str | None) -> HTTPStatus:
        """Return 200 for a request that may read; else 401, 403, 429, or 503 if the API server does not answer.

        Args:
            authorization: The header of the request, or None.
        """
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > TOKEN_MAX:
            return HTTPStatus.UNAUTHORIZED
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is not None and time.monotonic() < known.until:
            return known.status
        if digest not in self._asking:
            if len(self._asking) >= WAITING:
                return HTTPStatus.TOO_MANY_REQUESTS
            self._asking[digest] = asyncio.create_task(self._learn(digest, token))
        return await asyncio.shield(self._asking[digest])

    async def _learn(self, digest: bytes, token: str) -> HTTPStatus:
        try:
            async with self._gate:
                status = await self._ask(token)
        except ApiError as error:
            logger.warning(
                "a request for the metrics cannot be authenticated: the API server does not answer: %s", error
            )
            return HTTPStatus.SERVICE_UNAVAILABLE
        finally:
            del self._asking[digest]
        holds = ALLOWED_SECONDS if status is HTTPStatus.OK else DENIED_SECONDS
        self._known[digest] = _Known(status, time.monotonic() + holds)
        self._known.move_to_end(digest)
        while len(self._known) > ENTRIES:
            self._known.popitem(last=False)
        return status

    async def _ask(self, token: str) -> HTTPStatus:
        review: dict[str, Any] = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token},
        }
        status = (await self._cluster.create("TokenReview", "", review)).get("status") or {}
        if not status.get("authenticated"):
            return HTTPStatus.UNAUTHORIZED
        user = status.get("user") or {}
        access: dict[str, Any] = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user.get("username", ""),
                "groups": user.get("groups") or [],
                "uid": user.get("uid", ""),
                "extra": user.get("extra") or {},
                "nonResourceAttributes": {"path": PATH, "verb": "get"},
            },
        }
        status = (await self._cluster.create("SubjectAccessReview", "", access)).get("status") or {}
        return HTTPStatus.OK if status.get("allowed") and not status.get("denied") else HTTPStatus.FORBIDDEN
