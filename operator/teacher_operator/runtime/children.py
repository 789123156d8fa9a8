"""Changes the children of an object: makes, patches, replaces and deletes them, and explains what is refused."""

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
"""In the messages of a ValidatingAdmissionPolicy and of an admission webhook, whose codes are theirs to choose."""

UNREADABLE = "cannot be handled as a"
"""In the answer (400) to an object with an unknown field or a wrong type, such as a typing error in an affinity."""

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
        """Execute the actions; a refused child is noted in ``refused``, so that the status can say so."""
        namespace = body["metadata"]["namespace"]
        for name in actions.delete:
            await self._delete(Key(namespace, name))
        for name, patch in actions.patch:
            self.store.put("Job", await self.cluster.patch_job(Key(namespace, name), patch))
        for manifest in actions.replace:
            name = manifest["metadata"]["name"]
            try:  # what runs is only given up for what the API server would take
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
                    return None  # the object goes with it
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
        """Create a child, or keep the existing one of its name if this very object owns it.

        Only if the name is in use, the owner is read: a new object costs one request for each child.

        Raises:
            NameTakenError: The existing one has another owner. Applied over, it would become ours, and be deleted
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
            whose = "an earlier object of this name" if owner_uid(existing) else "somebody else"
            raise NameTakenError(f"there is a {kind} {name} of {whose}: it is waited for until it is gone")
        if kind == "Job":  # its template cannot change; what can, the next decision compares
            labels = manifest["metadata"]["labels"]
            found = existing["metadata"].get("labels") or {}
            if labels.items() <= found.items():
                return existing
            patch = {"metadata": {"uid": existing["metadata"]["uid"], "labels": labels}}
            return await self.cluster.patch_job(key_of(manifest), patch)
        seen = {"resourceVersion": existing["metadata"]["resourceVersion"]}
        return await self.cluster.apply({**manifest, "metadata": {**manifest["metadata"], **seen}})


class NameTakenError(Exception):
    """A child's name belongs to somebody else."""


def _is_final(error: ApiError) -> bool:
    """Nothing but another spec could help: the object is invalid, or has a field that its kind has not."""
    return not _is_denied(error) and (
        error.code == HTTPStatus.UNPROCESSABLE_ENTITY
        or (error.code == HTTPStatus.BAD_REQUEST and UNREADABLE in str(error))
    )


def _is_denied(error: ApiError) -> bool:
    """A policy of the cluster denies it, with any code: labels of the pods, or the policy, may change."""
    return any(words in str(error) for words in DENIED)


def _refusal(manifest: Body, error: ApiError) -> FailureStatus:
    """Why a child was refused, for good or for now."""
    child = f"{manifest['kind']} {manifest['metadata']['name']}"
    if _is_final(error):
        return FailureStatus(reason="ChildRefused", message=clip(f"{child} is refused: {error}"))
    if error.code == HTTPStatus.FORBIDDEN or _is_denied(error):
        return FailureStatus(reason="Forbidden", message=clip(f"{child} may not be made: {error}"))
    return FailureStatus(reason="ApiError", message=clip(f"{child} cannot be made now: {error}"))
