"""Execution of actions: creates, patches, replaces and deletes the children of an object, and explains refusals."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from teacher_operator.api.names import Key, owner_uid
from teacher_operator.api.status import FailureStatus, clip
from teacher_operator.decide.actions import Actions
from teacher_operator.decide.conditions import NAME_TAKEN
from teacher_operator.runtime.cluster import ApiError, Cluster
from teacher_operator.runtime.store import Store, key_of

Body = Mapping[str, Any]

DENIED = ("denied request:", "denied the request")
"""Parts of the messages of a ValidatingAdmissionPolicy and of an admission webhook, which may use any status code."""

UNREADABLE = "cannot be handled as a"
"""Part of the response (400) to an object with an unknown field or a wrong type, as in an affinity."""

NAMESPACE_GOING = "is being terminated"
"""Part of the refusal of any new object in a namespace that is being deleted."""


class Children:
    """Executes the actions of a decision.

    Args:
        cluster: The API server.
        store: Watched state.
    """

    def __init__(self, cluster: Cluster, store: Store) -> None:
        self.cluster = cluster
        self.store = store

    async def change(self, body: Body, actions: Actions, refused: dict[str, FailureStatus]) -> ApiError | None:
        """Execute the actions; a refused child is added to ``refused``, so that the status can report it."""
        namespace = body["metadata"]["namespace"]
        for name in actions.delete:
            await self._delete(Key(namespace, name))
        for name, patch in actions.patch:
            self.store.put("Job", await self.cluster.patch_job(Key(namespace, name), patch))
        for manifest in actions.replace:
            name = manifest["metadata"]["name"]
            try:  # delete the existing Job only if the API server accepts the new one
                trial = {**manifest, "metadata": {**manifest["metadata"], "name": f"{name}-x"}}
                await self.cluster.create_dry("Job", namespace, trial)
            except ApiError as error:
                if not (_is_final(error) or _is_denied(error)):
                    raise
                refused[name] = _refusal(manifest, error)
                return error
            await self._delete(Key(namespace, name))
        for manifest in actions.apply:
            try:
                made = await self._make(body, manifest)
            except NameTakenError as error:
                failure = FailureStatus(reason=NAME_TAKEN, message=str(error))
                refused[manifest["metadata"]["name"]] = failure
                return ApiError(HTTPStatus.CONFLICT, str(error))
            except ApiError as error:
                if error.code == HTTPStatus.FORBIDDEN and NAMESPACE_GOING in str(error):
                    return None  # the object will be deleted with it
                name = manifest["metadata"]["name"]
                refused[name] = _refusal(manifest, error)
                return error
            if manifest["kind"] == "Job":
                self.store.put("Job", made)
        return None

    async def _delete(self, key: Key) -> None:
        job = self.store.get("Job", key)
        if job is not None:
            await self.cluster.delete_job(key, job["metadata"]["uid"])

    async def _make(self, body: Body, manifest: Body) -> Body:
        """Create a child, or keep the existing one of its name if the same object owns it.

        The owner is read only if the name is in use: a new child costs one request.

        Raises:
            NameTakenError: The existing one has another owner. An update would take it over, and it would be deleted
                together with the object.
        """
        kind, name, namespace = manifest["kind"], manifest["metadata"]["name"], manifest["metadata"]["namespace"]
        try:
            return await self.cluster.create(kind, namespace, manifest)
        except ApiError as error:
            existing = await self.cluster.get(kind, key_of(manifest)) if error.code == HTTPStatus.CONFLICT else None
            if existing is None:
                raise
        if owner_uid(existing) != body["metadata"]["uid"]:
            whose = "an earlier object of this name" if owner_uid(existing) else "another owner"
            raise NameTakenError(f"{kind} {name} of {whose} exists already: waits until it is deleted")
        if kind == "Job":  # its template is immutable; the next decision compares the rest
            labels = manifest["metadata"]["labels"]
            found = existing["metadata"].get("labels") or {}
            if labels.items() <= found.items():
                return existing
            patch = {"metadata": {"uid": existing["metadata"]["uid"], "labels": labels}}
            return await self.cluster.patch_job(key_of(manifest), patch)
        seen = {"resourceVersion": existing["metadata"]["resourceVersion"]}
        return await self.cluster.apply({**manifest, "metadata": {**manifest["metadata"], **seen}})


class NameTakenError(Exception):
    """Raised if the name of a child is in use by another owner."""


def _is_final(error: ApiError) -> bool:
    """Return True if only a change of the spec helps: the child is invalid or has an unknown field."""
    return not _is_denied(error) and (
        error.code == HTTPStatus.UNPROCESSABLE_ENTITY
        or (error.code == HTTPStatus.BAD_REQUEST and UNREADABLE in str(error))
    )


def _is_denied(error: ApiError) -> bool:
    """Return True if a policy of the cluster denies the child, with any status code; the policy may change."""
    return any(words in str(error) for words in DENIED)


def _refusal(manifest: Body, error: ApiError) -> FailureStatus:
    """Return the reason why a child was refused: for good, or until a retry."""
    child = f"{manifest['kind']} {manifest['metadata']['name']}"
    if _is_final(error):
        return FailureStatus(reason="ChildRefused", message=clip(f"{child} is refused: {error}"))
    if error.code == HTTPStatus.FORBIDDEN or _is_denied(error):
        return FailureStatus(reason="Forbidden", message=clip(f"{child} may not be created: {error}"))
    return FailureStatus(reason="ApiError", message=clip(f"{child} cannot be created now: {error}"))
