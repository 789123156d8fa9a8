"""Publishes a set of files once, by exactly one of several independent attempts.

    attempts/<name>/<attempt>/<path>   each attempt uploads its files to its own folder
    attempts/<name>/commit.json        written if absent: names the attempt whose files are published
    <path>                             copied from there, within the store; the file that readers wait for comes last

Only committed files are copied to the final paths. Therefore every copy, by any attempt and at any time, writes the
same bytes: an attempt on a lost node that wakes up long after another has published cannot change anything. The commit
is a conditional write. If a store does not honour conditional writes, the attempts elect one of them
(:mod:`engine.storage.election`), and the commit lies in the election's folder:

    attempts/<name>/election-<n>/    proposals, ballots, votes, and commit.json of the elected attempt
    attempts/<name>/withdrawn/<n>    elections before n are no longer published: n counts from 1

An attempt deletes its own uploads, and the committed uploads after they are copied. Uploads of a killed attempt stay,
because it may wake up and commit them.
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
from engine.layout import ATTEMPTS, COMMIT, ELECTION, PROPOSAL, WITHDRAWN
from engine.storage import ExistsError, NotFoundError, Storage, join
from engine.storage.election import elect
from engine.storage.transfer import in_parallel

READINGS, PAUSE = 4, 0.1
"""Attempts to read a commit that is written at the moment, and seconds between them."""

PATIENCE = 10.0
"""Seconds that other attempts wait for the elected one to copy its files, before they copy them themselves."""

ELECTED = (
    "{root}: this store does not honour conditional writes (If-None-Match). Attempts at one run agree by an election "
    "instead, which needs a store that lists new objects immediately"
)
"""Message before a run on such a store."""


def sha256_of(file: Path) -> str:
    """Return the sha256 of a file's content, in hex."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


class Commit(BaseModel):
    """``commit.json``: the files that are published under one name."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    attempt: str
    files: dict[str, str]
    """sha256 by path, in the order of publication."""


class Publication:
    """The files of one name below a folder.

    Args:
        root: URI of the folder.
        name: A folder name.
        storage: Access to the folder.
    """

    def __init__(self, root: str, name: str, *, storage: Storage) -> None:
        self.root, self.name, self.storage = root, name, storage
        self.folder = join(root, ATTEMPTS, name)

    def publish(self, files: Mapping[str, Path]) -> bool:
        """Publish files, unless another attempt has published: then its files are complete on return.

        Args:
            files: Local files by path below the root; readers wait for the last one.

        Returns:
            True if these files are published, False if those of another attempt.

        Raises:
            StorageError: The store cannot be used; published files have been deleted; or the publication was withdrawn.
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
            raise StorageError(f"{self.root} was withdrawn during publication: run it again if you still need it")
        return commit.attempt == mine.attempt

    def check(self) -> str | None:
        """Test before training how the store keeps attempts apart; return a message if it needs an election.

        Raises:
            StorageError: The store cannot keep attempts apart.
        """
        return ELECTED.format(root=self.root) if self._by_election else None

    @property
    def _by_election(self) -> bool:
        return not self.storage.honours_conditions(join(self.root, ATTEMPTS))

    def _claim(self, mine: Commit) -> None:
        """Commit, unless another attempt has."""
        try:
            self.storage.write_bytes(
                join(self.folder, COMMIT), _json(mine), content_type="application/json", only_if_absent=True
            )
        except ExistsError:
            self._delete(mine.attempt)

    def _elect(self, mine: Commit) -> None:
        """Commit the elected attempt. All attempts write the same bytes."""
        place = self._election()
        proposal = join(place, PROPOSAL)
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
        """Wait until the elected attempt has copied its files, unless it has died: not all stores copy atomically."""
        waited_for, until = join(self.root, list(commit.files)[-1]), time.monotonic() + PATIENCE
        while time.monotonic() < until and not self.storage.exists(waited_for):
            time.sleep(PAUSE)

    def _election(self) -> str:
        """Return the current election's folder: late votes and commits of withdrawn elections do not count."""
        withdrawn = (int(item.key) for item in self.storage.list(join(self.folder, WITHDRAWN)))
        return join(self.folder, ELECTION.format(max(withdrawn, default=0)))

    def settle(self) -> bool:
        """Copy the committed files to their final paths, if this has not been done.

        Returns:
            True if files are published.

        Raises:
            StorageError: The store cannot be used; or published files have been deleted.
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
            except NotFoundError:  # another attempt has copied and deleted the uploads, or a user has deleted them
                if not self.storage.exists(waited_for):
                    raise StorageError(
                        f"{waited_for} was published, and has been deleted since: `teacher run --again` recreates it, "
                        f"or delete all of {self.root}"
                    ) from None
        self._delete(commit.attempt)
        return True

    def withdraw(self) -> None:
        """Revoke the commit, before the published files are deleted.

        An attempt that is copying may still finish its current file; it cannot start another.
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
            except ValidationError:  # a file system without links, or a store that writes in place, shows a part of it
                time.sleep(reading * PAUSE)
        raise StorageError(
            f"{uri} was not written by this version of teacher: continue with the version that wrote it, or train "
            "into another output"
        )

    def _delete(self, attempt: str) -> None:
        place = join(self.folder, attempt)
        for item in list(self.storage.list(place)):
            self.storage.delete(item.uri)
        local = self.storage.local_path(place)
        if local is not None:  # file systems keep empty folders
            shutil.rmtree(local, ignore_errors=True)


def _json(commit: Commit) -> bytes:
    return commit.model_dump_json(indent=2).encode()
