"""Who follows the metadata log: nothing missed, nothing twice, and a snapshot for whoever is too far behind."""

from __future__ import annotations

from typing import cast

import pytest

from logeion.actors import messages as m
from logeion.actors.controller import subscribers as module
from logeion.actors.controller.quorum import Commit
from logeion.actors.controller.subscribers import Subscribers
from logeion.actors.lanes import Lane
from logeion.actors.metadata import MetadataImage, ProducerIdsReserved


class Follower:
    """A lane's other end that applies what it hears, as Node and Gateway do."""

    def __init__(self, applied: int = 0) -> None:
        self.image = MetadataImage()
        self.applied = applied
        self.snapshots = 0
        self.congested = False
        self.closed = ""

    def tell(self, message: m.Committed) -> None:
        if message.snapshot:
            self.snapshots += 1
            self.image = self.image.restored(message.records)
        else:
            assert message.offset == self.applied
            self.image.apply_all(message.records)
        self.applied = message.next_offset

    def reply(self, request: int, message: m.Committed) -> None:
        self.tell(message)

    def close(self, reason: str) -> None:
        self.closed = reason


class Log:
    def __init__(self) -> None:
        self.image = MetadataImage()
        self.end = 0
        self.subscribers = Subscribers(self.image.records)

    def commit(self, count: int = 1) -> None:
        records = [ProducerIdsReserved(next_id=self.end + number + 1) for number in range(count)]
        self.image.apply_all(records)
        commit = Commit(self.end, list(records), self.end + count)
        self.end += count
        self.subscribers.committed(commit)

    def follow(self, follower: Follower) -> None:
        self.subscribers.subscribe(cast(Lane, follower), 1, follower.applied)


def test_a_follower_hears_everything_from_its_offset_on() -> None:
    log, fresh, behind = Log(), Follower(), Follower(applied=2)
    log.commit(3)
    log.commit(2)
    log.follow(fresh)
    log.follow(behind)
    log.commit()
    assert fresh.applied == behind.applied == 6
    assert fresh.snapshots == behind.snapshots == 0
    assert fresh.image.next_producer_id == 6


def test_whoever_is_too_far_behind_gets_a_snapshot_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECENT_RECORDS", 4)
    log, follower = Log(), Follower(applied=1)
    for _ in range(10):
        log.commit()
    log.follow(follower)
    assert follower.snapshots == 1
    log.commit()
    assert (follower.applied, follower.image.next_producer_id) == (11, 11)


def test_whoever_claims_more_than_there_is_gets_a_snapshot() -> None:
    log, follower = Log(), Follower(applied=50)
    log.commit()
    log.follow(follower)
    assert (follower.snapshots, follower.applied) == (1, 1)


def test_after_a_start_from_a_snapshot_older_offsets_are_not_pretended_to_be_there() -> None:
    log, follower = Log(), Follower(applied=3)
    log.image.apply(ProducerIdsReserved(next_id=9))
    log.subscribers.recovered(Commit(0, log.image.records(), 7, snapshot=True))
    log.follow(follower)
    assert (follower.snapshots, follower.applied) == (1, 7)


def test_a_follower_that_does_not_read_is_let_go_and_one_that_left_hears_nothing() -> None:
    log, stuck, gone = Log(), Follower(), Follower()
    log.follow(stuck)
    log.follow(gone)
    stuck.congested = True
    log.subscribers.gone(cast(Lane, gone))
    log.commit()
    assert stuck.closed and stuck.applied == gone.applied == 0
