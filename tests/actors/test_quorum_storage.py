"""A voter's disk: what was carried out is found again, whatever was under way at a crash; old data is read as it is."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from click.testing import CliRunner

from logeion.actors.controller.entries import pack_records, pack_snapshot, read_records, unpack_records
from logeion.actors.controller.raft.effects import AppendLog, SaveSnapshot, SaveVote, TruncateLog, Write
from logeion.actors.controller.raft.log import continued
from logeion.actors.controller.raft.messages import Entry, Snapshot
from logeion.actors.controller.raft.state import Stored
from logeion.actors.controller.storage import DIRECTORY, TOPIC_ID, VoterStorage, doubt_vote, is_full
from logeion.actors.metadata import ClusterCreated, MetadataRecord, ProducerIdsReserved, TopicCreated
from logeion.cli.log import log as cli
from logeion.errors import StorageError
from logeion.log.config import LogConfig
from logeion.log.files import Files
from logeion.log.log import Log
from logeion.wire.batch import read_header
from logeion.wire.records import Record, build_batch
from tests.log.disk import HOST_CRASHES, Crash, DyingDisk, MemoryDisk

NOW = 1_700_000_000_000
VOTERS = (1, 2, 3)


def opened(tmp_path: Path, files: Files | None = None) -> tuple[VoterStorage, Stored]:
    storage = VoterStorage(tmp_path, now_ms=lambda: NOW, files=files)
    return storage, storage.open(1, VOTERS)


def topic(number: int) -> TopicCreated:
    return TopicCreated(topic_id=f"{number:032x}", name=f"topic-{number}")


def entry(offset: int, term: int, *records: MetadataRecord) -> Entry:
    return Entry(offset, term, len(records), pack_records(records, NOW))


def snapshot(end: int, term: int, *records: MetadataRecord) -> Snapshot:
    return Snapshot(end, term, VOTERS, pack_snapshot(records, NOW))


def test_an_empty_disk_has_the_configured_voters(tmp_path: Path) -> None:
    storage, stored = opened(tmp_path)
    assert stored == Stored(0, None, Snapshot(0, 0, VOTERS), [], blank=True)
    storage.carry_out([SaveVote(1, 2, blank=True)])
    storage.close()
    again, stored = opened(tmp_path)
    assert (stored.term, stored.voted_for, stored.blank) == (1, 2, True)
    again.carry_out([SaveVote(1, 2)])
    again.close()
    last, stored = opened(tmp_path)
    assert (stored.term, stored.voted_for, stored.blank) == (1, 2, False)
    last.close()


def test_a_node_that_is_alone_has_nobody_to_ask_what_it_lost(tmp_path: Path) -> None:
    storage = VoterStorage(tmp_path, now_ms=lambda: NOW)
    assert not storage.open(1, (1,)).blank
    storage.close()


def test_entries_terms_counts_voters_and_the_vote_are_found_again(tmp_path: Path) -> None:
    storage, _ = opened(tmp_path)
    entries = [
        Entry(0, 3),
        entry(1, 3, ClusterCreated(cluster_id="c")),
        entry(2, 3, topic(1), topic(2)),
        Entry(4, 5),
        Entry(5, 5, voters=(1, 2)),
        entry(6, 5, topic(3)),
    ]
    storage.carry_out([SaveVote(3, 2), AppendLog(entries[:3])])
    storage.carry_out([SaveVote(5, 1), AppendLog(entries[3:])])
    storage.close()
    again, stored = opened(tmp_path)
    assert (stored.term, stored.voted_for) == (5, 1)
    assert stored.entries == entries
    assert unpack_records(stored.entries[2].data) == [topic(1), topic(2)]
    assert stored.snapshot.voters == VOTERS
    again.close()


def test_entries_whose_sync_failed_in_a_process_that_died_of_it_are_on_the_device_once_they_count() -> None:
    disk = DyingDisk()
    storage, _ = opened(Path("/data"), disk)
    storage.carry_out([AppendLog([Entry(0, 1), entry(1, 1, topic(1))])])
    disk.dies_at = disk.steps + 1
    with pytest.raises(Crash):
        storage.carry_out([AppendLog([entry(2, 1, topic(2))])])
    assert disk.trace[-2:] == [f"{kind} /data/{DIRECTORY}/{0:020d}.log" for kind in ("write", "sync")]
    disk.crash_process()
    found = opened(Path("/data"), disk)[1].entries
    assert len(found) == 3
    disk.crash_host("lost", "lost")
    assert opened(Path("/data"), disk)[1].entries == found


def test_a_voter_whose_log_is_cut_is_blank(tmp_path: Path) -> None:
    """After a crash little is known to be synced: an accepted cut may take what was acknowledged."""
    storage, _ = opened(tmp_path)
    storage.carry_out([SaveVote(3, 2), AppendLog([Entry(0, 3), entry(1, 3, topic(1))])])
    directory = tmp_path / DIRECTORY
    with pytest.raises(StorageError, match="in use"):
        doubt_vote(directory)
    storage.close()
    (directory / "storage-failed").write_bytes(b'{"cause":"EIO","synced_end":1,"boot_id":"x","version":0}')
    with pytest.raises(StorageError, match="accept"):
        opened(tmp_path)
    result = CliRunner().invoke(cli, ["accept-cut", "--yes", str(directory)])
    assert result.exit_code == 0, result.output
    again, stored = opened(tmp_path)
    assert (stored.term, stored.voted_for, stored.blank) == (3, 2, True)
    assert stored.entries == [Entry(0, 3)]
    again.close()


def test_only_a_voters_directory_has_a_vote_to_doubt(tmp_path: Path) -> None:
    doubt_vote(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_voters_of_a_log_that_is_there_count_not_the_configured_ones(tmp_path: Path) -> None:
    storage, _ = opened(tmp_path)
    storage.carry_out([SaveVote(1, 1)])
    storage.close()
    again = VoterStorage(tmp_path, now_ms=lambda: NOW)
    assert again.open(1, (1, 7)).snapshot.voters == VOTERS
    again.close()


def test_a_tail_that_another_leader_replaced_is_gone(tmp_path: Path) -> None:
    storage, _ = opened(tmp_path)
    storage.carry_out([AppendLog([Entry(0, 1), entry(1, 1, topic(1)), entry(2, 1, topic(2), topic(3))])])
    storage.carry_out([SaveVote(2, None), TruncateLog(2), AppendLog([Entry(2, 2), entry(3, 2, topic(4))])])
    storage.close(clean=False)
    again, stored = opened(tmp_path)
    assert stored.entries == [Entry(0, 1), entry(1, 1, topic(1)), Entry(2, 2), entry(3, 2, topic(4))]
    assert (stored.term, stored.voted_for) == (2, None)
    again.close()


def test_a_vote_for_a_term_that_the_log_has_passed_does_not_count(tmp_path: Path) -> None:
    storage, _ = opened(tmp_path)
    storage.carry_out([SaveVote(1, 2)])
    storage.carry_out([AppendLog([Entry(0, 4)])])
    storage.close()
    again, stored = opened(tmp_path)
    assert (stored.term, stored.voted_for) == (4, None)
    again.close()


def test_a_snapshot_trims_the_log_and_keeps_its_tail(tmp_path: Path) -> None:
    storage, _ = opened(tmp_path)
    first = [Entry(0, 1), *(entry(at, 1, topic(at)) for at in range(1, 100))]
    storage.carry_out([SaveVote(1, 1), AppendLog(first)])
    storage.carry_out([SaveSnapshot(snapshot(100, 1, topic(1)), start=100, reset=False)])
    second = [entry(at, 1, topic(at)) for at in range(100, 200)]
    storage.carry_out([AppendLog(second)])
    storage.carry_out([SaveSnapshot(snapshot(200, 1, topic(2)), start=100, reset=False)])
    third = [entry(at, 1, topic(at)) for at in range(200, 210)]
    storage.carry_out([AppendLog(third)])
    assert len(list((tmp_path / DIRECTORY).glob("*.checkpoint"))) == 1
    assert len(list((tmp_path / DIRECTORY).glob("*.log"))) == 2
    storage.close()
    again, stored = opened(tmp_path)
    assert stored.snapshot == snapshot(200, 1, topic(2))
    assert stored.entries == second + third
    again.close()


def test_a_snapshot_of_another_history_replaces_the_log(tmp_path: Path) -> None:
    storage, _ = opened(tmp_path)
    storage.carry_out([SaveVote(1, 1), AppendLog([Entry(0, 1), entry(1, 1, topic(1))])])
    other = snapshot(50, 4, topic(9))
    storage.carry_out(
        [SaveVote(4, None), SaveSnapshot(other, start=50, reset=True), AppendLog([entry(50, 4, topic(8))])]
    )
    storage.close()
    again, stored = opened(tmp_path)
    assert stored.snapshot == other and stored.entries == [entry(50, 4, topic(8))]
    again.close()


def test_two_controllers_cannot_have_one_log(tmp_path: Path) -> None:
    storage, _ = opened(tmp_path)
    with pytest.raises(StorageError):
        opened(tmp_path)
    storage.close()


def test_a_snapshot_that_is_gone_is_missed(tmp_path: Path) -> None:
    storage, _ = opened(tmp_path)
    storage.carry_out([AppendLog([Entry(0, 1)]), SaveSnapshot(snapshot(1, 1), start=1, reset=False)])
    storage.close()
    [file] = (tmp_path / DIRECTORY).glob("*.checkpoint")
    file.unlink()
    with pytest.raises(StorageError, match="snapshot"):
        opened(tmp_path)


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_damaged_snapshot_is_named(tmp_path: Path, damage: str) -> None:
    storage, _ = opened(tmp_path)
    storage.carry_out([AppendLog([Entry(0, 1)]), SaveSnapshot(snapshot(1, 1, topic(1)), start=1, reset=False)])
    storage.close()
    [file] = (tmp_path / DIRECTORY).glob("*.checkpoint")
    data = bytearray(file.read_bytes())
    if damage == "cut":
        del data[-3:]
    else:
        data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(StorageError, match="checkpoint"):
        opened(tmp_path)


def test_a_damaged_vote_is_not_guessed(tmp_path: Path) -> None:
    storage, _ = opened(tmp_path)
    storage.carry_out([SaveVote(2, 1)])
    storage.close()
    (tmp_path / DIRECTORY / "quorum-state").write_bytes(b"{")
    with pytest.raises(StorageError, match="quorum-state"):
        opened(tmp_path)


def test_a_torn_last_entry_is_cut_whole(tmp_path: Path) -> None:
    storage, _ = opened(tmp_path)
    storage.carry_out([AppendLog([Entry(0, 1), entry(1, 1, topic(1))])])
    storage.carry_out([AppendLog([entry(2, 1, topic(2), topic(3))])])
    storage.close(clean=False)
    [file] = (tmp_path / DIRECTORY).glob("*.log")
    with file.open("r+b") as segment:
        segment.truncate(file.stat().st_size - 3)
    again, stored = opened(tmp_path)
    assert stored.entries == [Entry(0, 1), entry(1, 1, topic(1))]
    again.close()


def test_a_sync_that_fails_ends_it() -> None:
    disk = MemoryDisk()
    storage, _ = opened(Path("/data"), disk)
    storage.carry_out([AppendLog([Entry(0, 1)])])
    disk.fail("sync", ".log", errno.EIO)
    with pytest.raises(StorageError) as failed:
        storage.carry_out([AppendLog([entry(1, 1, topic(1))])])
    assert not is_full(failed.value)
    disk.crash_process()
    with pytest.raises(StorageError, match="must not be used"):
        opened(Path("/data"), disk)


def test_a_full_disk_is_told_apart_and_what_was_there_is_still_there() -> None:
    disk = MemoryDisk()
    storage, _ = opened(Path("/data"), disk)
    storage.carry_out([SaveVote(1, 1), AppendLog([Entry(0, 1)])])
    disk.capacity = disk._used() + 30
    with pytest.raises(StorageError) as failed:
        storage.carry_out([AppendLog([entry(1, 1, topic(1))])])
    assert is_full(failed.value) and storage.log.failed is None
    storage.close(clean=False)
    disk.heal()
    again, stored = opened(Path("/data"), disk)
    assert stored.entries == [Entry(0, 1)] and (stored.term, stored.voted_for) == (1, 1)
    again.carry_out([AppendLog([entry(1, 1, topic(1))])])


# What a quorum of one wrote, before there were several voters --------------------------------------------------------


def alone(directory: Path, epochs: list[tuple[int, list[list[MetadataRecord]]]], files: Files | None = None) -> None:
    """Each start had a leader epoch of its own; a proposal was a batch."""
    log = Log.open(directory, LogConfig(flush="ack"), files=files, now_ms=NOW, topic_id=TOPIC_ID)
    for epoch, proposals in epochs:
        log.become_leader(epoch)
        for records in proposals:
            batch = build_batch(
                [
                    Record(offset=at, timestamp=NOW, value=unpacked)
                    for at, unpacked in enumerate(map(encode_record, records))
                ]
            )
            log.append(batch, read_header(batch), epoch=epoch, now_ms=NOW)
        log.sync()
        log.advance_high_watermark(log.end_offset)
    log.close()


def encode_record(record: MetadataRecord) -> bytes:
    import msgspec

    return msgspec.msgpack.encode(record)


def test_a_quorum_of_ones_log_goes_on_as_one_voters(tmp_path: Path) -> None:
    (tmp_path / DIRECTORY).mkdir()
    alone(
        tmp_path / DIRECTORY,
        [(0, [[ClusterCreated(cluster_id="c")], [topic(1), topic(2)]]), (1, []), (2, [[topic(3)]])],
    )
    storage, stored = opened(tmp_path)
    assert stored.snapshot == Snapshot(0, 0, (1,)), "nobody else voted then, whatever is configured now"
    assert [(e.offset, e.term, e.count) for e in stored.entries] == [(0, 0, 1), (1, 0, 2), (3, 2, 1)]
    assert [record for e in stored.entries for record in unpack_records(e.data)] == [
        ClusterCreated(cluster_id="c"),
        topic(1),
        topic(2),
        topic(3),
    ]
    assert (stored.term, stored.voted_for) == (2, None)
    storage.carry_out([SaveVote(3, 1), AppendLog([Entry(4, 3)])])
    storage.close()
    again, stored = opened(tmp_path)
    assert stored.entries[-1] == Entry(4, 3) and stored.snapshot.voters == (1,)
    again.close()


def test_a_quorum_of_ones_snapshot_is_read_also_if_its_log_was_not_cut(tmp_path: Path) -> None:
    (tmp_path / DIRECTORY).mkdir()
    alone(tmp_path / DIRECTORY, [(4, [[topic(1)], [topic(2)]]), (6, [[topic(3)]])])
    # Named for epoch 5, in which nothing was written.
    file = tmp_path / DIRECTORY / f"{2:020d}-{5:010d}.checkpoint"
    file.write_bytes(pack_snapshot([topic(1), topic(2)], NOW))
    storage, stored = opened(tmp_path)
    assert read_records(stored.snapshot.data) == [topic(1), topic(2)]
    assert (stored.snapshot.end, stored.snapshot.term, stored.snapshot.voters) == (2, 4, (1,))
    assert unpack_records(continued(stored.snapshot, stored.entries)[-1].data) == [topic(3)]
    storage.close()


# Crashes -------------------------------------------------------------------------------------------------------------

HISTORY: list[list[Write]] = [
    [SaveVote(1, 1), AppendLog([Entry(0, 1)])],
    [AppendLog([entry(1, 1, topic(1)), entry(2, 1, topic(2), topic(3))])],
    [SaveVote(2, None), TruncateLog(2), AppendLog([Entry(2, 2), entry(3, 2, topic(4))])],
    [SaveSnapshot(snapshot(3, 2, topic(1)), start=2, reset=False)],
    [AppendLog([entry(4, 2, topic(5))])],
    [SaveVote(5, 3)],
    [SaveSnapshot(snapshot(9, 5, topic(6)), start=9, reset=True), AppendLog([entry(9, 5, topic(7))])],
]


def states() -> list[Stored]:
    """What a start finds after each step of ``HISTORY``, by what the steps mean."""
    vote: tuple[int, int | None] = (0, None)
    shot, entries = Snapshot(0, 0, VOTERS), list[Entry]()
    found = [Stored(*vote, shot, [])]
    for writes in HISTORY:
        for write in writes:
            match write:
                case SaveVote():
                    vote = (write.term, write.voted_for)
                case AppendLog():
                    entries = entries + write.entries
                case TruncateLog():
                    entries = [e for e in entries if e.end <= write.end]
                case SaveSnapshot():
                    shot = write.snapshot
                    entries = [] if write.reset else [e for e in entries if e.end > write.start]
        found.append(Stored(*vote, shot, entries))
    return found


def run(disk: MemoryDisk, done: list[int]) -> None:
    storage, _ = opened(Path("/data"), disk)
    for number, writes in enumerate(HISTORY, 1):
        storage.carry_out(writes)
        done[0] = number


def is_between(stored: Stored, before: Stored, after: Stored) -> bool:
    """Nothing that was carried out is missing; of the step under way any part may be there."""
    if stored.term < before.term or (
        stored.term == before.term and stored.voted_for not in (before.voted_for, after.voted_for)
    ):
        return False
    if stored.snapshot not in (before.snapshot, after.snapshot):
        return False
    known = {(e.end, e.term): e for e in (*before.entries, *after.entries)}
    if any(known.get((e.end, e.term)) not in (e, None) for e in stored.entries):
        return False
    kept = [e for e in before.entries if e in after.entries and e.end > stored.snapshot.end]
    return all(e in stored.entries for e in kept)


def test_every_crash_leaves_what_was_carried_out() -> None:
    whole = MemoryDisk()
    run(whole, [0])
    expected = states()
    for crash_at in range(whole.steps):
        disk = MemoryDisk()
        disk.crash_at = crash_at
        done = [0]
        with pytest.raises(Crash):
            run(disk, done)
        before, after = expected[done[0]], expected[min(done[0] + 1, len(HISTORY))]
        for content, names in [("process", ""), *HOST_CRASHES]:
            other = disk.fork()
            other.crash_process() if content == "process" else other.crash_host(content, names)
            storage, stored = opened(Path("/data"), other)
            assert is_between(stored, before, after), (crash_at, content, names, before, stored, after)
            # And it can go on from there.
            end = stored.entries[-1].end if stored.entries else stored.snapshot.end
            storage.carry_out([SaveVote(stored.term + 1, 1), AppendLog([Entry(end, stored.term + 1)])])
            storage.close()
            again, found = opened(Path("/data"), other)
            assert found.entries[-1] == Entry(end, stored.term + 1)
            again.close()


def test_a_step_of_appends_costs_one_sync() -> None:
    disk = MemoryDisk()
    storage, _ = opened(Path("/data"), disk)
    storage.carry_out([SaveVote(1, 1), AppendLog([Entry(0, 1)])])
    before = disk.trace.count("sync /data/__cluster_metadata-0/00000000000000000000.log")
    at = len(disk.trace)
    storage.carry_out([AppendLog([entry(1, 1, ProducerIdsReserved(next_id=1)), entry(2, 1, topic(1))])])
    assert [step.split()[0] for step in disk.trace[at:]] == ["write", "sync"]
    assert before > 0
