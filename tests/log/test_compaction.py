"""Compaction: the last value of every key, tombstones for a while, producers' last sequences."""

from __future__ import annotations

import errno

import pytest

from logeion.log.compaction import compaction
from logeion.log.config import LogConfig
from logeion.log.log import Log
from logeion.wire.errors import StorageError
from tests.log.disk import MemoryDisk
from tests.log.world import NOW, append, batches_of, open_log, records_of

HOUR = 3_600_000


def _log(disk: MemoryDisk | None = None, **changes: object) -> Log:
    options = {"compact": True, "delete": False, "segment_bytes": 700, "min_cleanable_dirty_ratio": 0.0, **changes}
    log = open_log(disk or MemoryDisk(), **options)  # type: ignore[arg-type]
    log.become_leader(0)
    return log


def _settle(log: Log) -> None:
    log.roll()
    log.sync()
    log.advance_high_watermark(log.end_offset)


def _latest(log: Log) -> dict[int, bytes | None]:
    return records_of(log)


@pytest.mark.parametrize("codec", [0, 4])
def test_the_last_value_of_each_key_is_kept_at_its_offset(codec: int) -> None:
    disk = MemoryDisk()
    log = _log(disk)
    for number in range(40):
        append(log, b"%d" % number * 30, key=b"key-%d" % (number % 4) * (1 + number % 4 * 3), codec=codec)
    _settle(log)
    before, segments = log.size, len(log.segments)
    assert log.compact(NOW) == before - log.size > 0
    assert sorted(records_of(log)) == [36, 37, 38, 39]
    assert log.end_offset == 40 and log.start_offset == 0
    assert len(log.segments) <= segments
    assert log.compact(NOW) == 0
    log.close()
    again = open_log(disk, compact=True)
    assert sorted(records_of(again)) == [36, 37, 38, 39]
    assert again.find_offset(0) == (36, NOW, 0)
    assert again.position_of(0) == again.position_of(36)


def test_a_batch_with_some_records_kept_keeps_its_offsets_and_sequences() -> None:
    log = _log()
    append(log, b"a", b"b", b"c", key=b"x", producer=(7, 1, 0))
    append(log, b"d", key=b"y", producer=(7, 1, 3))
    _settle(log)
    log.compact(NOW)
    first = batches_of(log)[0][0]
    assert (first.base_offset, first.last_offset, first.base_sequence, first.count) == (0, 2, 0, 1)
    assert records_of(log) == {2: b"c", 3: b"d"}


def test_a_producers_last_batch_stays_without_records_so_that_its_sequence_is_known() -> None:
    disk = MemoryDisk()
    log = _log(disk)
    append(log, b"a", key=b"x", producer=(7, 1, 0))
    append(log, b"b", key=b"x", producer=(7, 1, 1))
    append(log, b"c", key=b"x")
    _settle(log)
    log.compact(NOW)
    assert records_of(log) == {2: b"c"}
    assert [(header.base_offset, header.count) for header, _data in batches_of(log)] == [(1, 0), (2, 1)]
    for name in [name for name in disk.names if name.endswith(".snapshot")]:
        disk.unlink(name)
    log.close(clean=False)
    disk.crash_process()
    again = _log(disk)
    assert again.producers.get(7).batches[-1].last_sequence == 1  # type: ignore[union-attr]


def test_tombstones_are_kept_until_their_horizon_has_passed() -> None:
    log = _log(delete_retention_ms=HOUR)
    append(log, b"a", key=b"x")
    append(log, None, key=b"x")
    append(log, b"b", key=b"y")
    _settle(log)
    log.compact(NOW)
    assert records_of(log) == {1: None, 2: b"b"}
    assert batches_of(log)[0][0].delete_horizon_ms == NOW + HOUR
    append(log, b"c", key=b"z")
    _settle(log)
    log.compact(NOW + HOUR)
    assert records_of(log) == {1: None, 2: b"b", 3: b"c"}
    append(log, b"d", key=b"w")
    _settle(log)
    log.compact(NOW + HOUR + 1)
    assert records_of(log) == {2: b"b", 3: b"c", 4: b"d"}


def test_nothing_unsynced_above_the_watermark_or_in_the_active_segment_is_touched() -> None:
    log = _log()
    for number in range(12):
        append(log, b"%d" % number * 100, key=b"x")
    everything = records_of(log)
    log.compact(NOW)
    assert records_of(log) == everything
    log.sync()
    log.compact(NOW)
    assert records_of(log) == everything
    log.advance_high_watermark(4)
    log.compact(NOW)
    assert max(everything.keys() - records_of(log).keys(), default=-1) < 4


def test_a_log_is_compacted_only_when_it_is_dirty_enough_or_overdue() -> None:
    log = _log(min_cleanable_dirty_ratio=0.6)
    for number in range(10):
        append(log, b"%d" % number * 30, key=b"%d" % number)
    _settle(log)
    log.compact(NOW)
    append(log, b"x" * 100, key=b"1")
    _settle(log)
    assert log.compact(NOW) == 0
    assert 1 in records_of(log)
    log.configure(LogConfig(compact=True, segment_bytes=700, min_cleanable_dirty_ratio=0.6, max_compaction_lag_ms=HOUR))
    assert log.compact(NOW) == 0
    log.compact(NOW + HOUR + 1)
    assert 1 not in records_of(log)


def test_young_records_are_left_alone() -> None:
    log = _log(min_compaction_lag_ms=HOUR)
    append(log, b"a", key=b"x")
    append(log, b"b", key=b"x")
    _settle(log)
    log.compact(NOW + HOUR - 1)
    assert len(records_of(log)) == 2
    log.compact(NOW + HOUR + 1)
    assert records_of(log) == {1: b"b"}


def test_appends_and_rolls_between_the_steps_of_a_compaction_are_safe_and_a_truncation_ends_it() -> None:
    log = _log()
    for number in range(12):
        append(log, b"%d" % number * 60, key=b"x")
    _settle(log)
    for number, _ in enumerate(compaction(log, NOW)):
        append(log, b"new", key=b"n%d" % number)
    records = records_of(log)
    assert [offset for offset in records if offset < 12] == [11]
    assert sorted(records)[1:] == list(range(12, log.end_offset))
    _settle(log)
    expected = records_of(log)
    steps = compaction(log, NOW)
    next(steps)
    log.truncate(log.end_offset - 1)
    assert list(steps) == [] or records_of(log).keys() <= expected.keys()
    assert records_of(log).keys() == expected.keys() - {max(expected)}


def test_a_swap_that_fails_half_way_ends_this_start_and_the_next_one_finishes_it() -> None:
    disk = MemoryDisk()
    log = _log(disk)
    for number in range(12):
        append(log, b"%d" % number * 60, key=b"x")
    _settle(log)
    disk.fail("link", ".swap", errno.EIO)
    with pytest.raises(StorageError):
        log.compact(NOW)
    with pytest.raises(StorageError):
        append(log, b"y", key=b"y")
    log.close(clean=False)
    disk.crash_process()
    again = _log(disk)
    # the first group was decided, the others had not begun
    assert min(records_of(again)) == list(again.segments)[1] > 0
    again.compact(NOW)
    assert records_of(again) == {11: b"11" * 60}
    assert again.end_offset == 12


def test_compact_and_delete_together_remove_old_segments_too() -> None:
    log = _log(delete=True, retention_ms=HOUR, segment_bytes=200)
    append(log, b"a" * 100, key=b"x", timestamp=NOW - 2 * HOUR)
    _settle(log)
    append(log, b"b", key=b"y")
    _settle(log)
    log.compact(NOW)
    log.apply_retention(NOW)
    assert records_of(log) == {1: b"b"}
    assert log.start_offset == 1
