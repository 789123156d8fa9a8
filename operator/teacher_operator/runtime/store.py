"""What the watches have shown: objects, their Jobs and Pods, each with no more than decisions need.

They are kept as JSON text, and read anew whenever one is asked for: as Python's own dicts they would take five times
the memory, and the garbage collector would go through all of them again and again.
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
"""Objects that are known to be gone: a late answer does not bring them back."""

CONTAINER_FIELDS = ("name", "image", "resources")


class Standing(NamedTuple):
    """State of an object, in a word, and the value of the label that metrics have."""

    state: str = ""
    label: str = ""


class _Known(NamedTuple):
    """An object as it is kept: what it is found by, and its text."""

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
    """The newest known version of every object. Not for several threads.

    Args:
        standing_of: How an object (not its children) stands.
    """

    def __init__(self, standing_of: Callable[[Body], Standing] = lambda _: Standing()) -> None:
        self._known: dict[str, dict[Key, _Known]] = {kind: {} for kind in KINDS}
        self._children: dict[str, dict[Key, set[Key]]] = {kind: defaultdict(set) for kind in KINDS[1:]}
        self._running: set[Key] = set()
        """Pods that run: few of all that there are."""
        self._gone: dict[str, int] = {}
        """By uid, oldest first, with the version at which they went."""
        self._standing_of = standing_of

    def put(self, kind: str, body: Mapping[str, Any]) -> bool:
        """Remember a version; False if it is known, older than what is known, or of an object that is gone.

        Answers to requests and what watches show come in any order.
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
        """Forget an object, unless another of its name has taken its place."""
        key, uid = key_of(body), str(body["metadata"].get("uid"))
        known = self._known[kind].get(key)
        if known is None or known.uid != uid:
            self._bury(uid, version(body))
            return
        del self._known[kind][key]
        self._leave(kind, key, known)
        self._bury(uid, max(known.version, version(body)))

    def _bury(self, uid: str, at: int) -> None:
        """Note that an object is gone; a later version means that it is ours again, by its labels."""
        self._gone[uid] = at
        if len(self._gone) > GONE:
            del self._gone[next(iter(self._gone))]

    def _leave(self, kind: str, key: Key, known: _Known) -> None:
        """Take an object out of what it is found by."""
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
        """Whether there is one."""
        return key in self._known[kind]

    def versions(self, kind: str) -> dict[Key, int]:
        """Of every object of a kind."""
        return {key: known.version for key, known in self._known[kind].items()}

    def standings(self) -> Counter[tuple[str, Standing]]:
        """Return the number of objects by namespace and standing."""
        return Counter((key.namespace, known.standing) for key, known in self._known[KINDS[0]].items())

    def running(self) -> list[Body]:
        """The pods that run."""
        return [self._known["Pod"][key].body() for key in self._running]

    def jobs_of(self, body: Mapping[str, Any]) -> list[Body]:
        """The Jobs that this very object controls."""
        return self._owned("Job", key_of(body), body)

    def pods_of(self, job: Mapping[str, Any]) -> list[Body]:
        """The pods that this very Job controls, oldest first."""
        mine = self._owned("Pod", run_of(job), job)
        return sorted(mine, key=lambda pod: (pod["metadata"].get("creationTimestamp") or "", pod["metadata"]["name"]))

    def orphans_of(self, body: Mapping[str, Any], jobs: Iterable[Mapping[str, Any]]) -> list[Body]:
        """The pods with the label of an object that none of its Jobs controls."""
        uids = {job["metadata"]["uid"] for job in jobs}
        known = (self._known["Pod"][key] for key in self._children["Pod"].get(key_of(body), ()))
        return [pod.body() for pod in known if pod.owner not in uids]

    def _owned(self, kind: str, run: Key | None, owner: Mapping[str, Any]) -> list[Body]:
        keys = self._children[kind].get(run, ()) if run is not None else ()
        children = (self._known[kind][key] for key in keys)
        return [known.body() for known in children if known.owner == owner["metadata"]["uid"]]

    def count(self, kind: str) -> int:
        """How many there are."""
        return len(self._known[kind])


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
