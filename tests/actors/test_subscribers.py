"""Who follows the metadata log: nothing missed, nothing twice, and a snapshot for whoever is too far behind."""

from __future__ import annotations

from typing import cast

import pytest

from logeion.actors import messages as m
from logeion.actors.controller import subscribers as module
from logeion.actors.controller.entries import Commit
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
        self.peer = None
        self.leader = -1

    def tell(self, message: m.Committed) -> None:
        if message.snapshot:
            self.snapshots += 1
            self.image = self.image.restored(message.records)
        else:
            assert message.offset == self.applied
            assert len(message.records) in (0, message.next_offset - message.offset)
            self.image.apply_all(message.records)
        self.applied = message.next_offset
        self.leader = message.leader

    def reply(self, request: int, message: m.Committed) -> None:
        self.tell(message)

    def close(self, reason: str) -> None:
        self.closed = reason


class Log:
    def __init__(self) -> None:
        self.image = MetadataImage()
        self.end = 0
        self.complete = True
        self.subscribers = Subscribers(self.image.records, lambda: self.end, lambda: self.complete)

    def commit(self, count: int = 1) -> None:
        records = [ProducerIdsReserved(next_id=self.end + number + 1) for number in range(count)]
        self.image.apply_all(records)
        commit = Commit(self.end, list(records), self.end + count)
        self.end += count
        self.subscribers.committed(commit)

    def own(self) -> None:
        """What the quorum writes for itself takes an offset and has no record."""
        self.end += 1
        self.subscribers.committed(Commit(self.end - 1, [], self.end))

    def follow(self, follower: Follower) -> bool:
        return self.subscribers.subscribe(cast(Lane, follower), 1, follower.applied)


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


@pytest.mark.parametrize("complete", [True, False])
def test_whoever_has_heard_of_more_than_there_is_is_sent_nothing_that_leads_back(
    caplog: pytest.LogCaptureFixture, complete: bool
) -> None:
    log, follower = Log(), Follower(applied=50)
    log.complete = complete
    log.commit()
    assert not log.follow(follower)
    log.subscribers.explain(cast(Lane, follower))
    assert (follower.snapshots, follower.applied) == (0, 50)
    assert "up to offset 50" in caplog.text


def test_after_a_start_from_a_snapshot_older_offsets_are_not_pretended_to_be_there() -> None:
    log, follower = Log(), Follower(applied=3)
    log.image.apply(ProducerIdsReserved(next_id=9))
    log.end = 7
    log.subscribers.committed(Commit(0, log.image.records(), 7, snapshot=True))
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


def test_offsets_without_a_record_shift_nothing() -> None:
    log, early, late, middle = Log(), Follower(), Follower(), Follower(applied=3)
    log.follow(early)
    log.own()
    log.commit(2)
    log.own()
    log.commit(3)
    log.own()
    log.follow(late)
    log.follow(middle)
    assert early.applied == late.applied == middle.applied == 8
    assert early.image.next_producer_id == late.image.next_producer_id == middle.image.next_producer_id == 7
    assert early.snapshots == late.snapshots == 0


def test_whoever_has_heard_more_than_we_know_yet_waits_for_it() -> None:
    log, follower = Log(), Follower(applied=3)
    log.complete = False
    log.commit(2)
    assert not log.follow(follower)
    log.commit(1)
    assert (follower.applied, follower.snapshots) == (3, 0)
    log.commit(1)
    assert (follower.applied, follower.snapshots, follower.image.next_producer_id) == (4, 0, 4)


@pytest.mark.parametrize("kept", [10_000, 0])
def test_nobody_is_sent_an_image_that_is_ahead_of_the_offset_it_is_said_to_be_of(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one step a controller learns of commits and of a leader, and tells who leads first."""
    monkeypatch.setattr(module, "RECENT_RECORDS", kept)
    log, follower = Log(), Follower()
    log.commit(3)
    log.end -= 1  # it reads its log again, after its disk was full
    assert not log.follow(follower)
    log.end += 1
    ahead = [ProducerIdsReserved(next_id=4), ProducerIdsReserved(next_id=5)]
    log.image.apply_all(ahead)
    log.end += 2
    log.subscribers.leads(2)
    assert follower.applied == 0
    log.subscribers.committed(Commit(3, ahead[:1], 4))
    assert follower.applied == 0
    log.subscribers.committed(Commit(4, ahead[1:], 5))
    assert (follower.applied, follower.image.next_producer_id, follower.leader) == (5, 5, 2)


def test_a_controller_that_knows_nothing_yet_answers_nobody_who_knows_something() -> None:
    log, follower = Log(), Follower(applied=30)
    log.complete = False
    assert not log.follow(follower)
    log.subscribers.leads(-1)
    log.subscribers.explain(cast(Lane, follower))
    assert (follower.applied, follower.snapshots) == (30, 0)
    log.commit(30)
    assert (follower.applied, follower.snapshots) == (30, 0)
    log.commit()
    assert (follower.applied, follower.image.next_producer_id) == (31, 31)


def test_who_leads_is_told_with_everything_and_by_itself() -> None:
    log, follower = Log(), Follower()
    log.subscribers.leads(2)
    log.follow(follower)
    assert follower.leader == 2
    log.commit(1)
    assert follower.leader == 2
    log.subscribers.leads(-1)
    assert (follower.leader, follower.applied) == (-1, 1)


def test_a_snapshot_that_replaces_what_we_knew_reaches_everybody() -> None:
    log, follower, late = Log(), Follower(), Follower(applied=1)
    log.commit(1)
    log.follow(follower)
    log.end = 9
    log.image.apply(ProducerIdsReserved(next_id=70))
    log.subscribers.committed(Commit(0, [ProducerIdsReserved(next_id=70)], 9, snapshot=True))
    log.follow(late)
    for each in (follower, late):
        assert (each.applied, each.snapshots, each.image.next_producer_id) == (9, 1, 70)


def test_what_was_told_before_the_disk_was_full_is_not_told_again() -> None:
    log, follower, other = Log(), Follower(), Follower()
    log.follow(follower)
    log.commit(3)
    known = Commit(0, [ProducerIdsReserved(next_id=number + 1) for number in range(3)], 3)
    log.end = 0
    assert not log.follow(other), "our own image is not there yet"
    log.end = 3
    log.subscribers.committed(known)
    assert follower.applied == other.applied == 3
