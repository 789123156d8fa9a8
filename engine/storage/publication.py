"""Files that are published together, once, by one of several attempts which may know nothing of each other.

    attempts/<name>/<attempt>/<path>   each attempt uploads its files to a place of its own
    attempts/<name>/commit.json        written if absent: names the one attempt whose files are published
    <path>                             copied from there, within the store; what readers wait for comes last

Nothing but what was committed is ever copied to where readers look. So whoever copies, whenever and however often,
writes the same bytes: an attempt whose node was lost and that wakes up long after another has published can upload and
copy what it likes, and changes nothing. The commit is a conditional write. Where a store does not honour those,
attempts elect one of them instead (:mod:`engine.storage.election`), and the election has the commit:

    attempts/<name>/election-<n>/    proposals, ballots and votes, and commit.json of the one that was elected
    attempts/<name>/withdrawn/<n>    what was elected before is not published any more: n counts from 1

An attempt deletes its own uploads and those that were committed, when they are in place. Those of one that was killed
stay: nobody can know that it will not wake up and commit them.
"""

from __future__ import annotations

import hashlib
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from engine.errors import StorageError
from engine.storage import ExistsError, NotFoundError, Storage, join
from engine.storage.election import elect
from engine.storage.transfer import in_parallel

ATTEMPTS = "attempts"
COMMIT = "commit.json"
WITHDRAWN = "withdrawn"

READINGS, PAUSE = 4, 0.1
"""Of a commit that is only half there, and seconds between them."""

PATIENCE = 10.0
"""Seconds that others wait for the attempt that was elected, before they publish it themselves."""

ELECTED = (
    "{root}: this store does not honour conditional writes (If-None-Match). Attempts at one run agree by an election "
    "instead, which needs a store that lists immediately what was written"
)
"""What is reported before a run on such a store."""


def sha256_of(file: Path) -> str:
    """The sha256 of a file's content, in hex."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


class Commit(BaseModel):
    """``commit.json``: what is published under one name."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    attempt: str
    files: dict[str, str]
    """From path to sha256, in the order of publication."""


class Publication:
    """One name's files below a folder.

    Args:
        root: URI of the folder.
        name: A folder name.
        storage: Where all of it lies.
    """

    def __init__(self, root: str, name: str, *, storage: Storage) -> None:
        self.root, self.name, self.storage = root, name, storage
        self.folder = join(root, ATTEMPTS, name)

    def publish(self, files: Mapping[str, Path]) -> bool:
        """Publish files, unless another attempt has: then its files are there when this returns.

        Args:
            files: From paths below the root; the last one is what readers wait for.

        Returns:
            Whether it is these that are published.

        Raises:
            StorageError: Storage refuses; what was published before has been deleted since; or it was withdrawn.
        """
        mine = Commit(attempt=uuid.uuid4().hex, files={path: sha256_of(file) for path, file in files.items()})
        if self._commit() is None:
            place = join(self.folder, mine.attempt)
            self.storage.upload_many([(file, join(place, path)) for path, file in files.items()])
            if self._by_election:
                self._elect(mine)
            else:
                self._claim(mine)
        self.settle()
        commit = self._commit()
        if commit is None:
            raise StorageError(f"{self.root} was withdrawn while it was published: run it again, if it is still wanted")
        return commit.attempt == mine.attempt

    def check(self) -> str | None:
        """Find out how the store keeps attempts apart, before anything is trained; a sentence if it is by election.

        Raises:
            StorageError: It cannot.
        """
        return ELECTED.format(root=self.root) if self._by_election else None

    @property
    def _by_election(self) -> bool:
        return not self.storage.honours_conditions(join(self.root, ATTEMPTS))

    def _claim(self, mine: Commit) -> None:
        """Commit, unless somebody has."""
        try:
            self.storage.write_bytes(
                join(self.folder, COMMIT), _json(mine), content_type="application/json", only_if_absent=True
            )
        except ExistsError:
            self._delete(mine.attempt)

    def _elect(self, mine: Commit) -> None:
        """Commit the attempt that is elected. All attempts that do so write the same bytes."""
        place = self._election()
        proposal = join(place, "proposal-{}.json")
        self.storage.write_bytes(proposal.format(mine.attempt), _json(mine))

        def decided() -> bool:
            return self.storage.exists(join(place, COMMIT))

        elected = elect(mine.attempt, place, storage=self.storage, decided=decided)
        if elected is not None and not decided():
            self.storage.write_bytes(join(place, COMMIT), self.storage.read_bytes(proposal.format(elected)))
        commit = self._read(join(place, COMMIT))
        if commit is not None and commit.attempt != mine.attempt:
            self._delete(mine.attempt)
            self._wait_for(commit)

    def _wait_for(self, commit: Commit) -> None:
        """Let the attempt that was elected copy its files, unless it has died: not all stores copy atomically."""
        waited_for, until = join(self.root, list(commit.files)[-1]), time.monotonic() + PATIENCE
        while time.monotonic() < until and not self.storage.exists(waited_for):
            time.sleep(PAUSE)

    def _election(self) -> str:
        """The one that counts: a vote, or a commit, that arrives late from one before a withdrawal does not."""
        withdrawn = (int(item.key) for item in self.storage.list(join(self.folder, WITHDRAWN)))
        return join(self.folder, f"election-{max(withdrawn, default=0)}")

    def settle(self) -> bool:
        """Bring what was committed to where readers look, if that is still to be done.

        Returns:
            Whether anything is published.

        Raises:
            StorageError: Storage refuses; or what was published before has been deleted since.
        """
        commit = self._commit()
        if commit is None:
            return False
        place, (*paths, last) = join(self.folder, commit.attempt), commit.files
        waited_for = join(self.root, last)

        def bring(path: str) -> int:
            self.storage.copy(join(place, path), join(self.root, path))
            return 0

        if not self.storage.exists(waited_for):
            try:
                in_parallel(bring, paths, None)
                bring(last)
            except NotFoundError:  # who was first at it has tidied up, or somebody has deleted it
                if not self.storage.exists(waited_for):
                    raise StorageError(
                        f"{waited_for} was published, and has been deleted since: `teacher run --again` makes it anew, "
                        f"or delete all of {self.root}"
                    ) from None
        self._delete(commit.attempt)
        return True

    def withdraw(self) -> None:
        """Take back what was committed, before what was published is deleted.

        An attempt that copies just then may still bring the file that it is at; it can begin with no other.
        """
        commit = self._commit()
        if self._by_election:
            place = self._election()
            following = int(place.rpartition("-")[2]) + 1
            self.storage.write_bytes(join(self.folder, WITHDRAWN, str(following)), b"withdrawn")
            self._delete(place.rpartition("/")[2])
        self.storage.delete(join(self.folder, COMMIT))
        if commit is not None:
            self._delete(commit.attempt)

    def _commit(self) -> Commit | None:
        return self._read(join(self._election() if self._by_election else self.folder, COMMIT))

    def _read(self, uri: str) -> Commit | None:
        for reading in range(READINGS):
            if not self.storage.exists(uri):
                return None
            try:
                return Commit.model_validate_json(self.storage.read_bytes(uri))
            except NotFoundError:
                return None
            except ValidationError:  # a disk without links, or a store that writes in place, shows half of it
                time.sleep(reading * PAUSE)
        raise StorageError(
            f"{uri} is not what this version of teacher writes: continue with the version that wrote it, or train "
            "into another output"
        )

    def _delete(self, attempt: str) -> None:
        place = join(self.folder, attempt)
        for item in list(self.storage.list(place)):
            self.storage.delete(item.uri)
        local = self.storage.local_path(place)
        if local is not None:  # a disk keeps folders that are empty
            shutil.rmtree(local, ignore_errors=True)


def _json(commit: Commit) -> bytes:
    return commit.model_dump_json(indent=2).encode()
