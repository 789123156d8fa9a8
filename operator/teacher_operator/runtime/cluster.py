"""The only module that talks to the API server: raw objects over the official client's transport and credentials.

Objects stay plain JSON: the client's typed models cost more time and memory than the rest of the operator.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from http import HTTPStatus
from typing import Any

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.config import ConfigException

from teacher_operator.api.names import FIELD_MANAGER, RUN, SELECTOR, Key
from teacher_operator.api.spec import GROUP, PLURAL, VERSION

Body = dict[str, Any]
OnRequest = Callable[[str, str, int], None]
"""Callback for every request: verb, resource and status code."""

PATHS: Mapping[str, str] = {
    "Job": "/apis/batch/v1/namespaces/{namespace}/jobs",
    "ConfigMap": "/api/v1/namespaces/{namespace}/configmaps",
    "Service": "/api/v1/namespaces/{namespace}/services",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
    "Pod": "/api/v1/namespaces/{namespace}/pods",
    "Event": "/api/v1/namespaces/{namespace}/events",
    "Lease": "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases",
    "Namespace": "/api/v1/namespaces",
    "TokenReview": "/apis/authentication.k8s.io/v1/tokenreviews",
    "SubjectAccessReview": "/apis/authorization.k8s.io/v1/subjectaccessreviews",
    "TeacherFineTune": f"/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/{PLURAL}",
}
APPLY, MERGE, JSON = "application/apply-patch+yaml", "application/merge-patch+json", "application/json"
TIMEOUT_SECONDS = 30
CONNECTIONS = 32
PAGE = 500


class ApiError(Exception):
    """The API server refused a request.

    Attributes:
        code: HTTP status; 0 if it cannot be reached.
        retry_after: Seconds to wait, if the API server gives them.
    """

    def __init__(self, code: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


async def connect() -> client.ApiClient:
    """Return a client with the credentials of the pod's service account, otherwise of the kubeconfig.

    Raises:
        ConfigException: Neither exists.
    """
    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
    except ConfigException:
        await config.load_kube_config(client_configuration=configuration)
    configuration.connection_pool_maxsize = CONNECTIONS
    return client.ApiClient(configuration)


class Cluster:
    """Requests to the API server. Every method raises ApiError when a request is refused."""

    def __init__(self, api: client.ApiClient, on_request: OnRequest = lambda *_: None) -> None:
        self._api = api
        self._on_request = on_request

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def apply(self, manifest: Mapping[str, Any]) -> Body:
        """Apply a whole object server-side, as our field manager; with a resourceVersion only to that version."""
        metadata = manifest["metadata"]
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        path = self._path(manifest["kind"], metadata["namespace"], metadata["name"])
        return await self._json("PATCH", manifest["kind"], path, query=query, body=manifest, content=APPLY)

    async def patch_job(self, key: Key, patch: Mapping[str, Any]) -> Body:
        """Merge a patch into a Job."""
        query = {"fieldManager": FIELD_MANAGER}
        return await self._json("PATCH", "Job", self._path("Job", *key), query=query, body=patch, content=MERGE)

    async def delete_job(self, key: Key, uid: str) -> None:
        """Delete the Job with this uid; its name is free when its last pod has ended. A missing Job is not an error."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": uid},
        }
        try:
            await self._json("DELETE", "Job", self._path("Job", *key), body=options)
        except ApiError as error:
            if error.code not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise

    async def get(self, kind: str, key: Key) -> Body | None:
        """Return the current object, or None."""
        try:
            return await self._json("GET", kind, self._path(kind, *key))
        except ApiError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None
            raise

    async def patch_status(self, body: Mapping[str, Any], status: Mapping[str, Any]) -> Body:
        """Replace the status of an object; refused with 409 if the object has changed since it was read."""
        metadata = body["metadata"]
        seen = {name: metadata[name] for name in ("uid", "resourceVersion")}
        path = self._path("TeacherFineTune", metadata["namespace"], metadata["name"]) + "/status"
        patch = {"metadata": seen, "status": status}
        query = {"fieldManager": FIELD_MANAGER}
        return await self._json("PATCH", "TeacherFineTuneStatus", path, query=query, body=patch, content=MERGE)

    async def create(self, kind: str, namespace: str, body: Mapping[str, Any]) -> Body:
        """Create an object; refused with 409 if its name exists, and if it has an unknown field."""
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        return await self._json("POST", kind, self._path(kind, namespace), query=query, body=body)

    async def create_dry(self, kind: str, namespace: str, body: Mapping[str, Any]) -> Body:
        """Validate an object by a dry run of its creation."""
        query = {"dryRun": "All", "fieldValidation": "Strict"}
        return await self._json("POST", kind, self._path(kind, namespace), query=query, body=body)

    async def replace(self, kind: str, body: Mapping[str, Any]) -> Body:
        """Replace an object; refused with 409 if it has changed since it was read."""
        path = self._path(kind, body["metadata"]["namespace"], body["metadata"]["name"])
        return await self._json("PUT", kind, path, body=body)

    async def list_all(self, kind: str, namespace: str | None, *, run: str = "") -> AsyncIterator[Body]:
        """List our objects of a kind, in one namespace or in all, or the children of one object."""
        path = PATHS[kind].format(namespace=namespace)
        if namespace is None:
            path = PATHS[kind].replace("/namespaces/{namespace}", "")
        selector = f"{SELECTOR},{RUN}={run}" if run else SELECTOR
        query = {"limit": str(PAGE)} | ({} if kind == "TeacherFineTune" else {"labelSelector": selector})
        async for item in self._pages(f"{kind}List", path, query):
            yield item

    async def _pages(self, resource: str, path: str, query: Mapping[str, str]) -> AsyncIterator[Body]:
        """Return the items of a list, page by page."""
        token = ""
        while True:
            page = await self._json("GET", resource, path, query={**query, **({"continue": token} if token else {})})
            for item in page["items"]:
                yield item
            token = page["metadata"].get("continue")
            if not token:
                return

    async def warnings(self, kind: str, namespace: str) -> dict[str, list[str]]:
        """Return the messages of the Warning events of all objects of a kind, oldest first, by object name."""
        query = {"fieldSelector": f"involvedObject.kind={kind},type=Warning", "limit": str(PAGE)}
        warnings: dict[str, list[tuple[str, str]]] = defaultdict(list)
        async for one in self._pages("EventList", PATHS["Event"].format(namespace=namespace), query):
            when = one.get("lastTimestamp") or one.get("eventTime") or ""
            warnings[one["involvedObject"]["name"]].append((when, f"{one.get('reason')}: {one.get('message')}"))
        return {name: [message for _, message in sorted(messages)] for name, messages in warnings.items()}

    async def pod_log(self, key: Key, container: str, *, lines: int, limit_bytes: int) -> list[str]:
        """Return the last lines of a container's log; empty if the container has not started or is gone."""
        query = {"container": container, "tailLines": str(lines), "limitBytes": str(limit_bytes)}
        try:
            raw = await self._request("GET", "PodLog", self._path("Pod", *key) + "/log", query=query)
        except ApiError as error:
            if error.code in (HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST, HTTPStatus.INTERNAL_SERVER_ERROR):
                return []
            raise
        return raw.decode("utf-8", errors="replace").splitlines()

    @staticmethod
    def _path(kind: str, namespace: str, name: str | None = None) -> str:
        path = PATHS[kind].format(namespace=namespace)
        return path if name is None else f"{path}/{name}"

    async def _json(self, verb: str, resource: str, path: str, **options: Any) -> Body:
        raw = await self._request(verb, resource, path, **options)
        try:
            answer: Body = json.loads(raw)
        except ValueError as error:
            raise ApiError(0, f"the API server's answer is not JSON: {error}") from None
        return answer

    async def _request(
        self,
        verb: str,
        resource: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = JSON,
    ) -> bytes:
        headers = {"Accept": "application/json, */*", "Content-Type": content}
        code = 0
        try:
            prepared = await self._api.param_serialize(
                method=verb,
                resource_path=path,
                query_params=list((query or {}).items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await self._api.call_api(*prepared, _request_timeout=TIMEOUT_SECONDS)
            raw: bytes = await response.read()
            code = response.status
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            raise ApiError(0, f"the API server cannot be reached: {error or type(error).__name__}") from error
        finally:
            self._on_request(verb, resource, code)
        if code >= HTTPStatus.BAD_REQUEST:
            after = response.headers.get("Retry-After")
            raise ApiError(code, _message(raw), float(after) if after and after.isdigit() else None)
        return raw


def _message(raw: bytes) -> str:
    """Return the message of a refusal: from its Status object, otherwise the text itself."""
    try:
        return str(json.loads(raw)["message"])
    except (ValueError, KeyError, TypeError):
        return raw.decode("utf-8", errors="replace")[:500]
