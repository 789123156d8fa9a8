"""How attempts agree on one of them where a store does not honour conditional writes: by plain writes and listings.

Disk Paxos (Gafni and Lamport, "Disk Paxos", Distributed Computing 16, 2003) with the store as its one disk. A voter
writes an object for each step, whose name says all: first that it opens a ballot, then what it votes for. After each
it lists the objects. If there is a higher ballot it starts over with a higher one of its own. Otherwise, after the
first step, it votes for what the highest ballot with a vote voted for, or for itself if there is none; after the
second, that is elected.

Why no other is elected: a voter that opens a higher ballot after this one has listed lists after this one's vote,
which it therefore sees and repeats; one that has opened it before is seen, and this one starts over. Objects are
never changed, so that a request which arrives late, or twice, says nothing new.

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
from engine.storage.uris import join

if TYPE_CHECKING:
    from engine.storage import Storage

ROUNDS = 40
PAUSE, LONGEST_PAUSE = 0.05, 3.0
"""Seconds: the longest first pause before a voter starts over, and the longest of all."""

RECORD = re.compile(r"(?P<number>\d{8})-(?P<voter>[0-9a-f]{32})(?:-(?P<vote>[0-9a-f]{32}))?")


@dataclass(frozen=True, order=True)
class Ballot:
    """Ballots are ordered, and no two voters have the same."""

    number: int
    voter: str


@dataclass(frozen=True)
class Record:
    """One step of a voter; without a vote it opens the ballot."""

    ballot: Ballot
    vote: str | None

    @property
    def name(self) -> str:
        """Of the object."""
        vote = "" if self.vote is None else f"-{self.vote}"
        return f"{self.ballot.number:08d}-{self.ballot.voter}{vote}"


def elect(candidate: str, folder: str, *, storage: Storage, decided: Callable[[], bool]) -> str | None:
    """Take part in an election.

    Args:
        candidate: 32 hex digits that stand for this attempt; it is the voter too, so each may vote once only.
        folder: URI of the election.
        storage: Where it lies.
        decided: Whether the outcome is known: then there is no more to vote on.

    Returns:
        The candidate that is elected, the same for all voters; None once it is decided.

    Raises:
        StorageError: Storage refuses; a record that was written is not listed; or others were faster every time.
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
    """Write a record; all that are listed then."""
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
