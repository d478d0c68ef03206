"""What a log does on a good day."""

from __future__ import annotations

from pathlib import Path

import pytest

from logeion.log.config import LogConfig
from logeion.log.epochs import EpochCache
from logeion.log.log import AppendInfo, Log
from logeion.log.producers import ProducerStates
from logeion.wire.batch import read_header, stamped
from logeion.wire.errors import (
    CorruptMessageError,
    FencedLeaderEpochError,
    InvalidProducerEpochError,
    InvalidRecordError,
    InvalidTimestampError,
    MessageTooLargeError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceNumberError,
    UnknownLeaderEpochError,
)
from tests.log.disk import HOST_CRASHES, Crash, MemoryDisk
from tests.log.world import DIRECTORY, NOW, append, append_all, batch, batches_of, open_log, records_of

DAY = 86_400_000


def test_what_was_appended_is_read_back_stamped_with_offset_and_epoch(tmp_path: Path) -> None:
    log = open_log(None, tmp_path / "orders-0")
    log.become_leader(4)
    assert append(log, b"a", b"b") == AppendInfo(0, 1)
    assert append(log, None, b"c", codec=1) == AppendInfo(2, 3)
    assert records_of(log) == {0: b"a", 1: b"b", 2: None, 3: b"c"}
    assert [header.leader_epoch for header, _data in batches_of(log)] == [4, 4]
    log.close()


def test_a_mailbox_is_one_write_and_a_refused_batch_does_not_stop_the_others() -> None:
    disk = MemoryDisk()
    log = open_log(disk, segment_bytes=1 << 20)
    log.become_leader(0)
    before = sum("write" in step and step.endswith(".log") for step in disk.trace)
    results = append_all(
        log,
        batch(b"a"),
        batch(b"x" * 2_000_000),
        batch(b"b", producer=(1, 0, 0)),
        batch(b"b", producer=(1, 0, 0)),
        batch(b"c"),
    )
    assert sum("write" in step and step.endswith(".log") for step in disk.trace) == before + 1
    assert results[0] == AppendInfo(0, 0)
    assert isinstance(results[1], MessageTooLargeError)
    assert results[2:] == [AppendInfo(1, 1), AppendInfo(1, 1, -1, True), AppendInfo(2, 2)]
    assert records_of(log) == {0: b"a", 1: b"b", 2: b"c"}


def test_a_batch_for_another_epoch_is_refused() -> None:
    log = open_log(MemoryDisk())
    log.become_leader(5)
    view, header = batch(b"a")
    with pytest.raises(FencedLeaderEpochError):
        log.append(view, header, epoch=4, now_ms=NOW)
    with pytest.raises(UnknownLeaderEpochError):
        log.append(view, header, epoch=6, now_ms=NOW)
    with pytest.raises(FencedLeaderEpochError):
        log.become_leader(4)


def test_segments_roll_by_size_by_age_and_by_a_full_index() -> None:
    log = open_log(MemoryDisk(), segment_bytes=500, segment_ms=1_000, index_interval_bytes=1, segment_index_bytes=24)
    log.become_leader(0)
    append(log, b"x" * 300)
    append(log, b"y" * 300)
    assert list(log.segments) == [0, 1]
    append(log, b"z", timestamp=NOW + 1_001)
    assert list(log.segments) == [0, 1, 2]
    for _ in range(4):
        append(log, b"i")
    assert list(log.segments)[-1] > 2
    log.configure(LogConfig(segment_index_bytes=24, index_interval_bytes=1))
    for _ in range(10):
        append(log, b"i")
    assert all(segment.index_count * 8 <= 24 for segment in log.segments.values())
    assert sorted(records_of(log)) == list(range(log.end_offset))


# Idempotent producers ------------------------------------------------------------------------------------------------


def test_a_repeated_batch_of_the_last_five_is_answered_with_its_first_offset_and_not_appended() -> None:
    disk = MemoryDisk()
    log = open_log(disk)
    log.become_leader(0)
    for number in range(6):
        append(log, b"a", b"b", producer=(9, 0, 2 * number))
    for number in range(1, 6):
        assert append(log, b"a", b"b", producer=(9, 0, 2 * number)) == AppendInfo(2 * number, 2 * number + 1, -1, True)
    with pytest.raises(OutOfOrderSequenceNumberError):
        append(log, b"a", b"b", producer=(9, 0, 0))
    assert log.end_offset == 12
    # ... also after a crash: a client with five in flight repeats them all
    log.close(clean=False)
    disk.crash_process()
    log = open_log(disk)
    log.become_leader(1)
    for number in range(1, 6):
        assert append(log, b"a", b"b", producer=(9, 0, 2 * number)).first_offset == 2 * number
    log.close()
    log = open_log(disk)
    log.become_leader(2)
    for number in range(1, 6):
        assert append(log, b"a", b"b", producer=(9, 0, 2 * number)).duplicate


def test_gaps_and_old_epochs_of_a_producer_are_refused() -> None:
    log = open_log(MemoryDisk())
    log.become_leader(0)
    append(log, b"a", producer=(9, 3, 0))
    with pytest.raises(OutOfOrderSequenceNumberError):
        append(log, b"b", producer=(9, 3, 2))
    with pytest.raises(InvalidProducerEpochError):
        append(log, b"b", producer=(9, 2, 1))
    with pytest.raises(OutOfOrderSequenceNumberError):
        append(log, b"b", producer=(9, 4, 1))
    append(log, b"b", producer=(9, 4, 0))
    append(log, b"unknown producers may begin anywhere", producer=(10, 0, 77))


def test_sequences_wrap_after_the_largest() -> None:
    log = open_log(MemoryDisk())
    log.become_leader(0)
    append(log, b"a", b"b", producer=(9, 0, 2**31 - 2))
    append(log, b"c", producer=(9, 0, 0))
    assert append(log, b"a", b"b", producer=(9, 0, 2**31 - 2)).duplicate
    append(log, b"d", b"e", b"f", producer=(9, 0, 1))
    append(log, b"x", producer=(8, 0, 2**31 - 1))
    append(log, b"y", producer=(8, 0, 0))


def test_silent_producers_are_forgotten_in_time_and_then_may_begin_anywhere() -> None:
    log = open_log(MemoryDisk(), retention_ms=-1)
    log.become_leader(0)
    append(log, b"a", producer=(9, 0, 0))
    log.apply_retention(NOW + DAY - 1)
    assert 9 in log.producers
    log.apply_retention(NOW + DAY + 1)
    assert 9 not in log.producers
    append(log, b"z", producer=(9, 0, 55))


def test_a_snapshot_is_read_back_whole_and_a_reader_of_one_entry_a_producer_ends_with_the_last() -> None:
    states = ProducerStates()
    for number in range(7):
        _view, header = batch(b"a", b"b", producer=(9, 1, 2 * number))
        states.note(header, 10 * number, NOW)
    data = states.encode_snapshot()
    assert ProducerStates.decode_snapshot(data).items() == states.items()
    assert len(data) == 10 + 5 * 46
    assert int.from_bytes(data[-46:][8 + 2 : 8 + 2 + 4], "big") == 13


# Time ----------------------------------------------------------------------------------------------------------------


def test_log_append_time_restamps_and_the_crc_still_holds() -> None:
    log = open_log(MemoryDisk(), log_append_time=True)
    log.become_leader(0)
    assert append(log, b"a", b"b", timestamp=5).append_time_ms == NOW
    header, _data = batches_of(log)[0]
    assert header.log_append_time and header.max_timestamp == NOW
    assert log.find_offset(NOW) is None
    log.advance_high_watermark(2)
    assert log.find_offset(NOW) == (0, NOW, 0)


def test_timestamps_out_of_bounds_are_refused() -> None:
    log = open_log(MemoryDisk(), timestamp_before_max_ms=1_000)
    log.become_leader(0)
    with pytest.raises(InvalidTimestampError):
        append(log, b"a", timestamp=NOW + 3_600_001)
    with pytest.raises(InvalidTimestampError):
        append(log, b"a", timestamp=NOW - 1_001)
    append(log, b"a", timestamp=NOW - 1_000)
    append(log, b"a", timestamp=NOW + 3_600_000)


@pytest.mark.parametrize("codec", [0, 1, 2, 3, 4])
def test_the_first_record_not_older_than_a_time_is_found_inside_its_batch(codec: int) -> None:
    log = open_log(MemoryDisk(), index_interval_bytes=100, segment_bytes=2_000)
    log.become_leader(3)
    for number in range(40):
        append(log, b"a" * 30, b"b", b"c", timestamp=NOW + 10 * number, codec=codec)
    log.advance_high_watermark(log.end_offset)
    assert len(log.segments) > 2
    for number in range(40):
        assert log.find_offset(NOW + 10 * number + 1) == (3 * number + 1, NOW + 10 * number + 1, 3)
        assert log.find_offset(NOW + 10 * number - 3) == (3 * number, NOW + 10 * number, 3)
    assert log.find_offset(NOW + 393) is None
    assert log.find_offset(0) == (0, NOW, 3)
    assert log.find_offset(-1) == (120, -1, 3)
    assert log.find_offset(-2) == (0, -1, 3)
    assert log.find_offset(-3) == (119, NOW + 392, 3)
    assert log.find_offset(-5) is None
    log.delete_before(50)
    assert log.find_offset(0) == (50, NOW + 162, 3)
    assert log.find_offset(-2) == (50, -1, 3)


def test_the_newest_record_is_found_below_the_watermark_only() -> None:
    log = open_log(MemoryDisk())
    log.become_leader(0)
    append(log, b"a", timestamp=NOW + 50)
    append(log, b"b", timestamp=NOW)
    append(log, b"c", timestamp=NOW + 99)
    assert log.find_offset(-3) is None
    log.advance_high_watermark(2)
    assert log.find_offset(-3) == (0, NOW + 50, 0)
    log.advance_high_watermark(3)
    assert log.find_offset(-3) == (2, NOW + 99, 0)


# Content -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name,codec", [("gzip", 1), ("snappy", 2), ("lz4", 3), ("zstd", 4), ("uncompressed", 0)])
def test_a_forced_compression_type_rebuilds_the_batch_and_keeps_its_producer(name: str, codec: int) -> None:
    log = open_log(MemoryDisk(), compression_type=name, segment_bytes=10_000)
    log.become_leader(0)
    for number in range(5):
        append(log, b"x" * 500, b"y", codec=number, producer=(3, 0, 2 * number))
    assert {header.codec for header, _data in batches_of(log)} == {codec}
    assert append(log, b"x" * 500, b"y", codec=2, producer=(3, 0, 4)).duplicate
    assert records_of(log)[8] == b"x" * 500


def test_a_bomb_is_refused_where_the_broker_decompresses() -> None:
    log = open_log(MemoryDisk(), compression_type="zstd", max_decompressed_bytes=10_000, segment_bytes=1 << 20)
    log.become_leader(0)
    with pytest.raises(InvalidRecordError):
        append(log, bytes(1_000_000), codec=1)
    assert log.end_offset == 0


def test_a_compacted_topic_refuses_records_without_key() -> None:
    log = open_log(MemoryDisk(), compact=True)
    log.become_leader(0)
    with pytest.raises(InvalidRecordError):
        append(log, b"a", key=None)


# Watermark, deletion, truncation -------------------------------------------------------------------------------------


def test_the_watermark_knows_its_place_in_the_file_and_never_falls() -> None:
    log = open_log(MemoryDisk())
    log.become_leader(0)
    sizes = [0]
    for number in range(4):
        append(log, b"%d" % number)
        sizes.append(log.size)
    assert log.watermark_position() == (0, 0)
    for offset in range(1, 5):
        assert log.advance_high_watermark(offset)
        assert log.watermark_position() == (0, sizes[offset])
    assert not log.advance_high_watermark(2)
    append(log, b"x" * 500)
    assert log.advance_high_watermark(99)
    assert log.high_watermark == 5
    assert log.watermark_position() == (4, log.active.size)


def test_retention_by_age_and_size_takes_whole_segments_below_the_watermark() -> None:
    disk = MemoryDisk()
    log = open_log(disk, segment_bytes=300, retention_ms=1_000)
    log.become_leader(0)
    for number in range(6):
        append(log, b"x" * 100, timestamp=NOW + 100 * number)
    assert log.apply_retention(NOW + 10_000) == 0
    log.advance_high_watermark(4)
    freed = log.apply_retention(NOW + 1_150)
    assert freed > 0
    assert log.start_offset == next(iter(log.segments)) == 2
    assert log.apply_retention(NOW + 10_000) > 0
    assert log.start_offset == 4
    log.advance_high_watermark(6)
    log.apply_retention(NOW + 10_000)
    assert (log.start_offset, log.end_offset, log.size, len(log.segments)) == (6, 6, 0, 1)
    assert any(name.endswith(".deleted") for name in disk.names)
    log.apply_retention(NOW + 200_000)
    assert not any(name.endswith(".deleted") for name in disk.names)
    log.configure(LogConfig(segment_bytes=300, retention_bytes=500, retention_ms=-1))
    for _ in range(10):
        append(log, b"y" * 100)
    log.advance_high_watermark(16)
    log.apply_retention(NOW)
    assert 500 <= log.size < 800
    log.close()
    again = open_log(disk)
    assert again.start_offset == min(records_of(again))


def test_delete_records_moves_the_start_durably_and_removes_what_lies_below() -> None:
    disk = MemoryDisk()
    log = open_log(disk, segment_bytes=300)
    log.become_leader(0)
    for _ in range(6):
        append(log, b"x" * 100)
    log.advance_high_watermark(5)
    with pytest.raises(OffsetOutOfRangeError):
        log.delete_before(6)
    assert log.delete_before(3) == 3
    assert log.delete_before(1) == 3
    assert min(records_of(log)) == 3
    assert next(iter(log.segments)) == 3
    log.sync()
    log.close(clean=False)
    disk.crash_host("lost", "lost")
    assert open_log(disk).start_offset == 3
    assert log.delete_before(-1) == 5


@pytest.mark.parametrize("watermark", [0, 20], ids=["in place", "by a new inode"])
def test_a_truncated_log_ends_where_it_was_cut_with_the_epochs_and_producers_of_then(watermark: int) -> None:
    disk = MemoryDisk()
    log = open_log(disk, segment_bytes=1_000)
    for number in range(20):
        log.become_leader(number // 5)
        append(log, b"%d" % number * 20, producer=(9, 0, number))
    log.sync()
    log.advance_high_watermark(watermark)
    expected = {offset: value for offset, value in records_of(log).items() if offset < 12}
    open_before = disk.open(f"{DIRECTORY}/{log.position_of(13)[0]:020d}.log", 0)
    content = disk.pread(open_before, 1 << 20, 0)
    log.truncate(12)
    if watermark:
        assert disk.pread(open_before, 1 << 20, 0) == content
    assert (log.end_offset, log.high_watermark, log.synced_end) == (12, min(watermark, 12), 12)
    assert records_of(log) == expected
    assert log.epochs.entries == [(0, 0), (1, 5), (2, 10)]
    assert log.producers.get(9).batches[-1].last_sequence == 11  # type: ignore[union-attr]
    log.become_leader(7)
    append(log, b"new", producer=(9, 0, 12))
    log.close(clean=False)
    disk.crash_process()
    again = open_log(disk)
    assert records_of(again) == {**expected, 12: b"new"}
    assert again.epoch_end(2) == (2, 12)
    assert again.epoch_end(5) == (2, 12)
    assert again.epoch_end(7) == (7, 13)
    assert again.epoch_end(8) == (-1, -1)


def test_truncating_into_a_batch_takes_the_whole_batch() -> None:
    log = open_log(MemoryDisk())
    log.become_leader(0)
    append(log, b"a", b"b")
    append(log, b"c", b"d", b"e")
    log.truncate(3)
    assert log.end_offset == 2
    assert records_of(log) == {0: b"a", 1: b"b"}


def test_a_reset_log_is_empty_at_its_new_start_also_after_a_start() -> None:
    disk = MemoryDisk()
    log = open_log(disk)
    log.become_leader(0)
    for _ in range(10):
        append(log, b"x" * 100)
    log.reset(1_000)
    assert (log.start_offset, log.high_watermark, log.end_offset) == (1_000, 1_000, 1_000)
    log.become_leader(1)
    append(log, b"y")
    assert records_of(log) == {1_000: b"y"}
    log.close(clean=False)
    disk.crash_process()
    assert records_of(open_log(disk)) == {1_000: b"y"}


def test_a_follower_appends_as_received_and_learns_epochs_and_producers() -> None:
    leader, follower = open_log(MemoryDisk()), open_log(MemoryDisk())
    for number in range(8):
        leader.become_leader(number // 3)
        append(leader, b"%d" % number * 50, producer=(4, 0, number))
    data = b"".join(bytes(part) for _header, part in batches_of(leader))
    assert follower.append_fetched(memoryview(data)[:-7], now_ms=NOW) == 7
    last = batches_of(leader)[-1][1]
    assert follower.append_fetched(last, now_ms=NOW) == 8
    assert records_of(follower) == records_of(leader)
    assert follower.epochs.entries == leader.epochs.entries
    assert [bytes(part) for _h, part in batches_of(follower)] == [bytes(part) for _h, part in batches_of(leader)]
    with pytest.raises(CorruptMessageError):
        follower.append_fetched(last, now_ms=NOW)
    damaged = bytearray(b"".join(stamped(last, 8, 2)))  # type: ignore[arg-type]
    damaged[-1] ^= 1
    with pytest.raises(CorruptMessageError):
        follower.append_fetched(damaged, now_ms=NOW)
    assert follower.end_offset == 8
    assert follower.producers.items()[0][1].batches == leader.producers.items()[0][1].batches


def test_holes_of_a_compacted_leader_survive_a_power_cut_on_the_follower() -> None:
    disk = MemoryDisk()
    leader = open_log(MemoryDisk(), compact=True, min_cleanable_dirty_ratio=0.0, segment_bytes=2_000)
    leader.become_leader(0)
    for number in range(30):
        append(leader, b"%d" % number * 60, key=b"k%d" % (number if number % 5 == 0 else 1))
    leader.roll()
    leader.sync()
    leader.advance_high_watermark(30)
    assert leader.compact(NOW) > 0
    follower = open_log(disk, segment_bytes=500)
    for _header, data in batches_of(leader):
        follower.append_fetched(data, now_ms=NOW)
    assert len(follower.segments) > 2
    follower.sync()
    follower.close(clean=False)
    disk.crash_host("lost", "lost")
    assert records_of(open_log(disk)) == records_of(leader)


def test_a_follower_that_begins_in_the_middle_of_a_batch_takes_it_whole_and_hides_its_head() -> None:
    leader, follower = open_log(MemoryDisk()), open_log(MemoryDisk())
    leader.become_leader(0)
    append(leader, b"a", b"b", b"c")
    append(leader, b"d")
    follower.reset(1)
    data = b"".join(bytes(part) for _header, part in batches_of(leader))
    assert follower.append_fetched(data, now_ms=NOW) == 4
    assert (follower.start_offset, follower.high_watermark) == (1, 1)
    assert records_of(follower) == {1: b"b", 2: b"c", 3: b"d"}


def trimmed(disk: MemoryDisk) -> Log:
    """From 19 to 30, all of it committed, and its files' names on the device since long."""
    log = open_log(disk)
    log.become_leader(0)
    for _ in range(30):
        append(log, b"old")
    log.sync()
    log.advance_high_watermark(30)
    log.delete_before(19)
    log.close()
    return open_log(disk)


@pytest.mark.parametrize("how", HOST_CRASHES)
@pytest.mark.parametrize("cut", [0, 10, 25])
def test_a_power_cut_does_not_bring_back_the_start_and_the_watermark_of_before_a_cut(
    cut: int, how: tuple[str, str]
) -> None:
    """After an unclean election a follower gives up what was committed; what it holds then must not be hidden, nor
    called committed, by a state of before."""
    disk = MemoryDisk()
    log = trimmed(disk)
    log.truncate(cut)
    start = log.start_offset
    assert start == min(cut, 19)
    log.become_leader(1)
    while log.end_offset < 40:
        append(log, b"new")
    log.sync()
    disk.crash_host(*how)
    found = open_log(disk)
    assert (found.start_offset, found.end_offset) == (start, 40) and found.high_watermark <= max(cut, start)
    assert list(records_of(found)) == list(range(start, 40))


@pytest.mark.parametrize("how", HOST_CRASHES)
def test_a_power_cut_in_a_cut_below_the_start_leaves_no_gap(how: tuple[str, str]) -> None:
    """The old log or a part of its beginning may be there, or an empty one that begins with the cut: never an empty
    one behind it, which would follow from there."""
    steps, done = 0, False
    while not done:
        disk = MemoryDisk()
        log = trimmed(disk)
        disk.crash_at, disk.steps = steps, 0
        try:
            log.truncate(5)
            done = True
        except Crash:
            pass
        disk.crash_host(*how)
        found = open_log(disk)
        bounds = (found.start_offset, found.end_offset)
        assert bounds == (5, 5) or (bounds[0] < bounds[1] and records_of(found)), (steps, bounds)
        steps += 1
    assert steps > 5


# Starting ------------------------------------------------------------------------------------------------------------


def test_the_cost_of_a_start_after_a_process_crash_does_not_grow_with_the_log() -> None:
    costs = []
    for count in (40, 400):
        disk = CountingDisk()
        log = open_log(disk, segment_bytes=2_000, index_interval_bytes=200)
        log.become_leader(0)
        for number in range(count):
            append(log, b"x" * 100, producer=(1, 0, number))
        log.advance_high_watermark(count)
        segments = len(log.segments)
        log.close(clean=False)
        disk.crash_process()
        disk.reads = disk.opens = 0
        open_log(disk, segment_bytes=2_000, index_interval_bytes=200)
        costs.append((disk.reads, disk.opens))
    assert segments > 30
    assert costs[1][0] <= costs[0][0] + 8 and costs[1][1] <= costs[0][1] + 2


class CountingDisk(MemoryDisk):
    reads = opens = 0

    def pread(self, fd: int, size: int, at: int) -> bytes:
        self.reads += 1
        return super().pread(fd, size, at)

    def open(self, path: str, flags: int, mode: int = 0o644) -> int:
        self.opens += 1
        return super().open(path, flags, mode)


def test_flush_decides_when_a_sync_is_due() -> None:
    log = open_log(MemoryDisk())
    log.become_leader(0)
    append(log, b"a")
    assert log.sync_due(NOW) and log.durable_end == 0
    log.sync()
    assert not log.sync_due(NOW) and log.durable_end == 1
    log.configure(LogConfig(flush="os"))
    append(log, b"b")
    assert not log.sync_due(NOW) and log.durable_end == 2
    log.roll()
    assert log.sync_due(NOW)
    handle = log.sync_handle()
    assert handle is not None
    handle.run()
    assert log.note_synced(handle) == 2
    log.configure(LogConfig(flush="interval", flush_ms=500, flush_messages=3))
    append(log, b"c")
    assert log.sync_due(NOW)
    assert not log.sync_due(NOW + 499)
    assert log.sync_due(NOW + 500)
    append(log, b"d", b"e")
    assert log.sync_due(NOW + 501)


# Epochs --------------------------------------------------------------------------------------------------------------


def test_epochs_follow_kafkas_rules() -> None:
    cache = EpochCache()
    assert cache.end_of(0, 10) == (-1, -1)
    assert cache.assign(2, 0) and not cache.assign(2, 5) and cache.assign(4, 6) and cache.assign(6, 6)
    assert cache.entries == [(2, 0), (6, 6)]
    assert cache.assign(9, 11)
    assert cache.end_of(1, 20) == (1, 0)
    assert cache.end_of(2, 20) == cache.end_of(5, 20) == (2, 6)
    assert cache.end_of(9, 20) == (9, 20)
    assert cache.end_of(10, 20) == (-1, -1)
    assert EpochCache.decode(cache.encode()).entries == cache.entries
    assert cache.truncate_start(7) and cache.entries == [(6, 7), (9, 11)]
    assert cache.truncate_end(11) and cache.entries == [(6, 7)]


def test_header_of_a_stored_batch_keeps_what_the_client_sent() -> None:
    log = open_log(MemoryDisk())
    log.become_leader(2)
    view, header = batch(b"a", b"b", producer=(5, 1, 0))
    log.append(view, header, epoch=2, now_ms=NOW)
    stored = read_header(batches_of(log)[0][1])
    assert (stored.crc, stored.producer_id, stored.producer_epoch, stored.count) == (header.crc, 5, 1, 2)
