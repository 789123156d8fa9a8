"""Cache of the watches: objects, their Jobs and Pods, each reduced to what decisions need.

Objects are stored as JSON text and parsed on each access: as dicts they would take five times the memory, and the
garbage collector would traverse all of them repeatedly.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from teacher_operator.api.names import Key, owner_uid, run_of

Body = dict[str, Any]

KINDS = ("TeacherFineTune", "Job", "Pod")
DROPPED_METADATA = frozenset({"managedFields", "selfLink"})
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
GONE = 10_000
"""Maximum number of remembered deletions: a late answer does not restore a deleted object."""

CONTAINER_FIELDS = ("name", "image", "resources")


class Standing(NamedTuple):
    """State of an object, and the value of its metric label."""

    state: str = ""
    label: str = ""


class _Known(NamedTuple):
    """A stored object: its index keys and its text."""

    version: int
    uid: str
    owner: str
    run: Key | None
    standing: Standing
    text: bytes

    def body(self) -> Body:
        found: Body = json.loads(self.text)
        return found


class Store:
    """The newest known version of every object. Not thread-safe.

    Args:
        standing_of: Returns the state of an object (not of its children).
    """

    def __init__(self, standing_of: Callable[[Body], Standing] = lambda _: Standing()) -> None:
        self._known: dict[str, dict[Key, _Known]] = {kind: {} for kind in KINDS}
        self._children: dict[str, dict[Key, set[Key]]] = {kind: defaultdict(set) for kind in KINDS[1:]}
        self._running: set[Key] = set()
        """Running pods: few of all pods."""
        self._gone: dict[str, int] = {}
        """Deleted objects by uid, oldest first, with their last version."""
        self._standing_of = standing_of

    def put(self, kind: str, body: Mapping[str, Any]) -> bool:
        """Store a version; return False if it is known, older than the known one, or of a deleted object.

        Answers to requests and events of watches arrive in any order.
        """
        key, uid = key_of(body), str(body["metadata"].get("uid"))
        known = self._known[kind].get(key)
        newest = max(self._gone.get(uid, -1), known.version if known is not None else -1)
        if version(body) <= newest:
            return False
        if known is not None:
            self._leave(kind, key, known)  # its label may have changed
            if known.uid != uid:
                self._bury(known.uid, version(body))
        kept = trimmed(kind, body)
        run = run_of(body) if kind != KINDS[0] else None
        self._known[kind][key] = _Known(
            version=version(body),
            uid=uid,
            owner=owner_uid(body),
            run=run,
            standing=self._standing_of(kept) if kind == KINDS[0] else Standing(),
            text=json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass"),
        )
        if run is not None:
            self._children[kind][run].add(key)
        if kind == "Pod" and kept["status"].get("phase") == "Running":
            self._running.add(key)
        return True

    def remove(self, kind: str, body: Mapping[str, Any]) -> None:
        """Remove an object, unless another object of its name has replaced it."""
        key, uid = key_of(body), str(body["metadata"].get("uid"))
        known = self._known[kind].get(key)
        if known is None or known.uid != uid:
            self._bury(uid, version(body))
            return
        del self._known[kind][key]
        self._leave(kind, key, known)
        self._bury(uid, max(known.version, version(body)))

    def _bury(self, uid: str, at: int) -> None:
        """Record that an object is deleted; a later version means that its labels match again."""
        self._gone[uid] = at
        if len(self._gone) > GONE:
            del self._gone[next(iter(self._gone))]

    def _leave(self, kind: str, key: Key, known: _Known) -> None:
        """Remove an object from the indexes."""
        if kind == "Pod":
            self._running.discard(key)
        if known.run is not None:
            siblings = self._children[kind][known.run]
            siblings.discard(key)
            if not siblings:
                del self._children[kind][known.run]

    def get(self, kind: str, key: Key) -> Body | None:
        """An object, or None."""
        known = self._known[kind].get(key)
        return known.body() if known is not None else None

    def has(self, kind: str, key: Key) -> bool:
        """Test if an object exists."""
        return key in self._known[kind]

    def versions(self, kind: str) -> dict[Key, int]:
        """Return the keys of all objects of a kind."""
        return {key: known.version for key, known in self._known[kind].items()}

    def standings(self) -> Counter[tuple[str, Standing]]:
        """Return the number of objects by namespace and state."""
        return Counter((key.namespace, known.standing) for key, known in self._known[KINDS[0]].items())

    def running(self) -> list[Body]:
        """The pods that run."""
        return [self._known["Pod"][key].body() for key in self._running]

    def jobs_of(self, body: Mapping[str, Any]) -> list[Body]:
        """Return the Jobs controlled by the object with this uid."""
        return self._owned("Job", key_of(body), body)

    def pods_of(self, job: Mapping[str, Any]) -> list[Body]:
        """Return the pods controlled by the Job with this uid, oldest first."""
        mine = self._owned("Pod", run_of(job), job)
        return sorted(mine, key=lambda pod: (pod["metadata"].get("creationTimestamp") or "", pod["metadata"]["name"]))

    def orphans_of(self, body: Mapping[str, Any], jobs: Iterable[Mapping[str, Any]]) -> list[Body]:
        """Return the pods with the label of an object that none of its Jobs controls."""
        uids = {job["metadata"]["uid"] for job in jobs}
        known = (self._known["Pod"][key] for key in self._children["Pod"].get(key_of(body), ()))
        return [pod.body() for pod in known if pod.owner not in uids]

    def _owned(self, kind: str, run: Key | None, owner: Mapping[str, Any]) -> list[Body]:
        keys = self._children[kind].get(run, ()) if run is not None else ()
        children = (self._known[kind][key] for key in keys)
        return [known.body() for known in children if known.owner == owner["metadata"]["uid"]]

    def count(self, kind: str) -> int:
        """Return the number of objects."""
        return len(self._known[kind])


def key_of(body: Mapping[str, Any]) -> Key:
    """Return the key of an object."""
    return Key(body["metadata"]["namespace"], body["metadata"]["name"])


def version(body: Mapping[str, Any]) -> int:
    """Return the resource version as a number: it increases for one object."""
    text = str(body["metadata"].get("resourceVersion") or "")
    return int(text) if text.isdigit() else 0


def trimmed(kind: str, body: Mapping[str, Any]) -> Body:
    """Return an object without the fields that no decision reads: most of a Job or Pod."""
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
