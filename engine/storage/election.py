"""An election among attempts at one run, by plain writes and listings, for stores without conditional writes.

Disk Paxos (Gafni and Lamport, "Disk Paxos", Distributed Computing 16, 2003) with the store as its only disk. A voter
writes one object per step; the object's name holds all information. Step 1 opens a ballot, step 2 records a vote.
After each step the voter lists the objects. If a higher ballot exists, it starts over with a still higher ballot.
Otherwise, after step 1, it votes for the candidate of the highest ballot that has a vote, or for itself if no ballot
has one. After step 2, the candidate of its vote is elected.

Safety: assume voter V elects a candidate, and another voter opens a higher ballot. If it opens the ballot after V's
last listing, its own listing comes after V's vote: it sees the vote and repeats it. If it opens the ballot before, V
sees the ballot and starts over. Objects never change, so a request that arrives late or twice has no effect.

Assumption about the store: after an object is written, it can be read and is listed. This is tested before
(:mod:`engine.storage.conditional_writes`). Random pauses separate voters that start over repeatedly; termination is
likely, not certain, and after :data:`ROUNDS` rounds it is an error. Two candidates are never elected.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import StorageError
from engine.text.uris import join

if TYPE_CHECKING:
    from engine.storage import Storage

ROUNDS = 40
PAUSE, LONGEST_PAUSE = 0.05, 3.0
"""Maximum seconds before a voter starts over: the first time, and at all."""

RECORD = re.compile(r"(?P<number>\d{8})-(?P<voter>[0-9a-f]{32})(?:-(?P<vote>[0-9a-f]{32}))?")


@dataclass(frozen=True, order=True)
class Ballot:
    """A ballot. Ballots are ordered, and each belongs to one voter."""

    number: int
    voter: str


@dataclass(frozen=True)
class Record:
    """One step of a voter; a record without a vote opens the ballot."""

    ballot: Ballot
    vote: str | None

    @property
    def name(self) -> str:
        """Name of the object."""
        vote = "" if self.vote is None else f"-{self.vote}"
        return f"{self.ballot.number:08d}-{self.ballot.voter}{vote}"


def elect(candidate: str, folder: str, *, storage: Storage, decided: Callable[[], bool]) -> str | None:
    """Take part in an election.

    Args:
        candidate: 32 hex digits that identify this attempt, as candidate and as voter: each takes part once only.
        folder: URI of the election's folder.
        storage: Access to the folder.
        decided: Returns True if the outcome is known, so that no vote is needed.

    Returns:
        The elected candidate, the same for all voters; None if the outcome is known already.

    Raises:
        StorageError: The store cannot be read or written; a written record is not listed; or other voters had a
            higher ballot in every round.
    """
    for number in range(ROUNDS):
        if decided():
            return None
        if number:
            time.sleep(random.random() * min(LONGEST_PAUSE, PAUSE * 2.0**number))
        last = max((record.ballot.number for record in _records(folder, storage)), default=0)
        ballot = Ballot(last + 1, candidate)
        seen = _step(Record(ballot, None), folder, storage)
        if any(record.ballot > ballot for record in seen):
            continue
        votes = [record for record in seen if record.vote is not None]
        vote = max(votes, key=lambda record: record.ballot).vote if votes else candidate
        if all(record.ballot <= ballot for record in _step(Record(ballot, vote), folder, storage)):
            return vote
    raise StorageError(
        f"{folder}: other attempts at the same run voted at the same time in each of {ROUNDS} rounds; run it again"
    )


def _step(record: Record, folder: str, storage: Storage) -> list[Record]:
    """Write a record, then return all listed records."""
    storage.write_bytes(join(folder, record.name), record.name.encode())
    seen = _records(folder, storage)
    if record not in seen:
        raise StorageError(
            f"{join(folder, record.name)} was written and is not listed: the run was withdrawn meanwhile (`--again`), "
            "or the store does not list immediately what is written; run it again, or choose another store"
        )
    return seen


def _records(folder: str, storage: Storage) -> list[Record]:
    found = (RECORD.fullmatch(item.key) for item in storage.list(folder))
    return [Record(Ballot(int(one["number"]), one["voter"]), one["vote"]) for one in found if one is not None]
