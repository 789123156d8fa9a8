"""Find the run of an object in the cluster, for ``teacher fetch NAME``."""

from __future__ import annotations

import asyncio

from kubernetes.aio.config import ConfigException

from engine.cli.run_lookup import ResolvedRun
from engine.errors import ConfigError, StorageError
from engine.spec import AddressingStyle
from teacher_operator.api.names import Key
from teacher_operator.api.spec import KIND
from teacher_operator.runtime.cluster import ApiError, Cluster, connect


def resolve(name: str, namespace: str | None) -> ResolvedRun:
    """Return the URI of the run of an object.

    Args:
        name: Name of the object.
        namespace: Its namespace; default: ``default``.

    Raises:
        ConfigError: No cluster is configured, or it has no such object.
        StorageError: It has no run yet.
    """
    return asyncio.run(_resolve(Key(namespace or "default", name)))


async def _resolve(key: Key) -> ResolvedRun:
    try:
        cluster = Cluster(await connect())
    except ConfigException as error:
        raise ConfigError(f"{key.name} is looked up in a cluster, but no kubeconfig exists: {error}") from None
    try:
        body = await cluster.get(KIND, key)
    except ApiError as error:
        raise ConfigError(f"{KIND} {key} cannot be read: {error}") from None
    finally:
        await cluster.close()
    if body is None:
        raise ConfigError(f"there is no {KIND} {key.name} in namespace {key.namespace}: name its namespace with -n")
    uri = (body.get("status") or {}).get("uri")
    if not uri:
        raise StorageError(f"{KIND} {key} has no run yet: kubectl describe tft {key.name} -n {key.namespace} says why")
    storage = body["spec"].get("storage") or {}
    style = storage.get("addressingStyle")
    return ResolvedRun(
        uri=uri,
        endpoint_url=storage.get("endpointUrl"),
        region=storage.get("region"),
        addressing_style=None if style is None else AddressingStyle(style),
        requester_pays=storage.get("requesterPays"),
        azure_account=storage.get("azureAccount"),
        google_project=storage.get("googleProject"),
    )
