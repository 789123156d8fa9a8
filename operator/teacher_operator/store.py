"""What the watches have shown: objects, their Jobs and Pods, each with no more than decisions need."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from teacher_operator.names import Key, owner_uid, run_of

Body = dict[str, Any]

KINDS = ("TeacherFineTune", "Job", "Pod")
DROPPED_METADATA = frozenset({"managedFields", "selfLink"})
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
GONE = 10_000
"""Objects that are known to be gone: a late answer does not bring them back."""

CONTAINER_FIELDS = ("name", "image", "resources")


class Store:
    """The newest known version of every object. Not for several threads."""

    def __init__(self) -> None:
        self._bodies: dict[str, dict[Key, Body]] = {kind: {} for kind in KINDS}
        self._children: dict[str, dict[Key, set[Key]]] = {kind: defaultdict(set) for kind in KINDS[1:]}
        self._gone: dict[str, int] = {}
        """By uid, oldest first, with the version at which they went."""

    def put(self, kind: str, body: Mapping[str, Any]) -> bool:
        """Remember a version; False if it is known, older than what is known, or of an object that is gone.

        Answers to requests and what watches show come in any order.
        """
        key, known, uid = key_of(body), self._bodies[kind].get(key_of(body)), body["metadata"].get("uid")
        newest = max(self._gone.get(str(uid), -1), version(known) if known is not None else -1)
        if version(body) <= newest:
            return False
        if known is not None:
            self._leave(kind, known)  # its label may have changed
            if known["metadata"].get("uid") != uid:
                self._bury(known, version(body))
        self._bodies[kind][key] = trimmed(kind, body)
        run = run_of(body) if kind != KINDS[0] else None
        if run is not None:
            self._children[kind][run].add(key)
        return True

    def remove(self, kind: str, body: Mapping[str, Any]) -> None:
        """Forget an object, unless another of its name has taken its place."""
        key = key_of(body)
        known = self._bodies[kind].get(key)
        if known is None or known["metadata"].get("uid") != body["metadata"].get("uid"):
            self._bury(body, version(body))
            return
        del self._bodies[kind][key]
        self._leave(kind, known)
        self._bury(body, max(version(known), version(body)))

    def _bury(self, body: Mapping[str, Any], at: int) -> None:
        """Note that an object is gone; a later version means that it is ours again, by its labels."""
        self._gone[str(body["metadata"].get("uid"))] = at
        if len(self._gone) > GONE:
            del self._gone[next(iter(self._gone))]

    def _leave(self, kind: str, child: Body) -> None:
        """Take a child out of the index."""
        run = run_of(child) if kind != KINDS[0] else None
        if run is not None:
            siblings = self._children[kind][run]
            siblings.discard(key_of(child))
            if not siblings:
                del self._children[kind][run]

    def get(self, kind: str, key: Key) -> Body | None:
        """An object, or None."""
        return self._bodies[kind].get(key)

    def all(self, kind: str) -> Iterator[Body]:
        """Every object of a kind."""
        return iter(list(self._bodies[kind].values()))

    def jobs_of(self, body: Mapping[str, Any]) -> list[Body]:
        """The Jobs that this very object controls."""
        uid = body["metadata"]["uid"]
        jobs = (self._bodies["Job"][key] for key in self._children["Job"].get(key_of(body), ()))
        return [job for job in jobs if owner_uid(job) == uid]

    def pods_of(self, job: Mapping[str, Any]) -> list[Body]:
        """The pods that this very Job controls, oldest first."""
        run, uid = run_of(job), job["metadata"]["uid"]
        pods = (self._bodies["Pod"][key] for key in self._children["Pod"].get(run, ())) if run else ()
        mine = [pod for pod in pods if owner_uid(pod) == uid]
        return sorted(mine, key=lambda pod: (pod["metadata"].get("creationTimestamp") or "", pod["metadata"]["name"]))

    def count(self, kind: str) -> int:
        """How many there are."""
        return len(self._bodies[kind])


def key_of(body: Mapping[str, Any]) -> Key:
    """The place of an object."""
    return Key(body["metadata"]["namespace"], body["metadata"]["name"])


def version(body: Mapping[str, Any]) -> int:
    """The resource version as a number: those of one object grow."""
    text = str(body["metadata"].get("resourceVersion") or "")
    return int(text) if text.isdigit() else 0


def trimmed(kind: str, body: Mapping[str, Any]) -> Body:
    """An object without what no decision looks at: most of it, for Jobs and Pods."""
    metadata = {name: value for name, value in body["metadata"].items() if name not in DROPPED_METADATA}
    if LAST_APPLIED in (metadata.get("annotations") or {}):
        metadata["annotations"] = {k: v for k, v in metadata["annotations"].items() if k != LAST_APPLIED}
    spec = body.get("spec") or {}
    if kind == "Job":
        spec = {name: value for name, value in spec.items() if name != "template"}
    if kind == "Pod":
        containers = [{k: one[k] for k in CONTAINER_FIELDS if k in one} for one in spec.get("containers") or []]
        spec = {"nodeName": spec.get("nodeName"), "containers": containers}
    return {"metadata": metadata, "spec": spec, "status": body.get("status") or {}}
