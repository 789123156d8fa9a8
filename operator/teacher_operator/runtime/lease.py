"""Leader election: of several replicas, the one that holds and renews a Lease works.

Correctness does not depend on it: two active replicas apply the same children and conflict on stale statuses.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from teacher_operator.api.names import Key
from teacher_operator.runtime.cluster import ApiError, Cluster

DURATION_SECONDS, RENEW_SECONDS, TRY_SECONDS = 15, 4.0, 5.0
"""Seconds: validity of the Lease, interval of renewals, time limit of one renewal."""

logger = logging.getLogger(__name__)


class Leadership:
    """Acquire and hold a Lease; ``held`` is set while it is held.

    Args:
        cluster: The API server.
        key: Name and namespace of the Lease.
        identity: Identity of this replica.
    """

    def __init__(self, cluster: Cluster, key: Key, identity: str) -> None:
        self._cluster, self._key, self._identity = cluster, key, identity
        self._renewed = float("-inf")
        self._seen: tuple[Any, Any] = (None, None)
        self._seen_at = float("-inf")
        self.held = asyncio.Event()

    async def run(self) -> None:
        """Acquire and renew, indefinitely."""
        while True:
            try:
                async with asyncio.timeout(TRY_SECONDS):
                    mine = await self._try()
            except (ApiError, TimeoutError) as error:
                mine = self.held.is_set() and time.monotonic() - self._renewed < DURATION_SECONDS - RENEW_SECONDS
                if not mine:
                    logger.warning("the Lease %s cannot be acquired: %s", self._key, error)
            if mine != self.held.is_set():
                logger.info("this replica %s", "works from now on" if mine else "stands by")
                (self.held.set if mine else self.held.clear)()
            await asyncio.sleep(RENEW_SECONDS)

    async def release(self) -> None:
        """Release the Lease, so that another replica takes over immediately."""
        if not self.held.is_set():
            return
        self.held.clear()
        lease = await self._cluster.get("Lease", self._key)
        if lease is not None and lease["spec"].get("holderIdentity") == self._identity:
            lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
            await self._cluster.replace("Lease", lease)

    async def _try(self) -> bool:
        lease = await self._cluster.get("Lease", self._key)
        begun = time.monotonic()
        try:
            if lease is None:
                await self._cluster.create("Lease", self._key.namespace, self._fresh({}))
            elif self._free(lease["spec"]):
                await self._cluster.replace("Lease", lease | self._fresh(lease))
            else:
                return False
        except ApiError as error:
            if error.code == HTTPStatus.CONFLICT:
                return False
            raise
        self._renewed = begun
        return True

    def _free(self, spec: dict[str, Any]) -> bool:
        """Test if the Lease has expired by our own clock: clocks of others may be wrong."""
        holder, now = spec.get("holderIdentity"), time.monotonic()
        if not holder or holder == self._identity:
            return True
        if (holder, spec.get("renewTime")) != self._seen:
            self._seen, self._seen_at = (holder, spec.get("renewTime")), now
        return now > self._seen_at + int(spec.get("leaseDurationSeconds") or DURATION_SECONDS)

    def _fresh(self, lease: dict[str, Any]) -> dict[str, Any]:
        now, old = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), lease.get("spec") or {}
        mine = old.get("holderIdentity") == self._identity
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": DURATION_SECONDS,
            "acquireTime": old.get("acquireTime") if mine else now,
            "renewTime": now,
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (not mine),
        }
        metadata = lease.get("metadata") or {"name": self._key.name, "namespace": self._key.namespace}
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
