"""Files that are published together, once, by one of several attempts which may know nothing of each other.

    attempts/<name>/<attempt>/<path>   each attempt uploads its files to a place of its own
    attempts/<name>/commit.json        written if absent: names the one attempt whose files are published
    <path>                             copied from there, within the store; what readers wait for comes last

Nothing but what was committed is ever copied to where readers look. So whoever copies, whenever and however often,
writes the same bytes: an attempt whose node was lost and that wakes up long after another has published can upload and
copy what it likes, and changes nothing. Only the commit needs a store that can write an object if it is absent. Where a
store cannot, two attempts that commit within the same moment may both believe that they have.

An attempt deletes its own uploads and those that were committed, when they are in place. Those of one that was killed
stay: nobody can know that it will not wake up and commit them.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from engine.errors import StorageError
from engine.storage import ExistsError, NotFoundError, Storage, join
from engine.storage.transfer import in_parallel

ATTEMPTS = "attempts"
COMMIT = "commit.json"


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
            try:
                if self._commit() is not None:  # seen by stores too that ignore what only_if_absent asks for
                    raise ExistsError(place)
                self.storage.write_bytes(
                    join(self.folder, COMMIT),
                    mine.model_dump_json(indent=2).encode(),
                    content_type="application/json",
                    only_if_absent=True,
                )
            except ExistsError:
                self._delete(mine.attempt)
        self.settle()
        commit = self._commit()
        if commit is None:
            raise StorageError(f"{self.root} was withdrawn while it was published: run it again, if it is still wanted")
        return commit.attempt == mine.attempt

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
        self.storage.delete(join(self.folder, COMMIT))
        if commit is not None:
            self._delete(commit.attempt)

    def _commit(self) -> Commit | None:
        uri = join(self.folder, COMMIT)
        if not self.storage.exists(uri):
            return None
        try:
            return Commit.model_validate_json(self.storage.read_bytes(uri))
        except NotFoundError:
            return None
        except ValidationError:
            raise StorageError(
                f"{uri} is not what this version of teacher writes: go on with the version that wrote it, or train "
                "into another output"
            ) from None

    def _delete(self, attempt: str) -> None:
        place = join(self.folder, attempt)
        for item in list(self.storage.list(place)):
            self.storage.delete(item.uri)
        local = self.storage.local_path(place)
        if local is not None:  # a disk keeps folders that are empty
            shutil.rmtree(local, ignore_errors=True)
