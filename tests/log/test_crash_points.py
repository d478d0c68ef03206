"""A short run, stopped at every write, sync and rename: every start afterwards finds all that was reported durable."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from logeion.log.log import Log
from tests.log.disk import HOST_CRASHES, Crash, MemoryDisk
from tests.log.world import NOW, append, batches_of, open_log, records_of


@dataclass
class Told:
    """What the run had been told when it was stopped."""

    # Every value ever sent to an offset, newest last: garbage is what is not among them.
    sent: dict[int, list[bytes | None]] = field(default_factory=dict)
    written_end: int = 0
    durable_end: int = 0
    durable_start: int = 0
    watermark: int = 0
    # Offsets that a truncation or a compaction under way may or may not have taken.
    cutting_to: int | None = None
    compacted: bool = False


def _append(log: Log, told: Told, *values: bytes | None, sequence: int = -1, key: bytes = b"k") -> None:
    producer = (7, 0, sequence) if sequence >= 0 else (-1, -1, -1)
    for number, value in enumerate(values):
        told.sent.setdefault(log.end_offset + number, []).append(value)
    append(log, *values, producer=producer, key=key)
    told.written_end = log.end_offset


def _sync(log: Log, told: Told) -> None:
    log.sync()
    told.durable_end = log.synced_end
    if log.advance_high_watermark(log.synced_end):
        told.watermark = log.high_watermark


def _run(disk: MemoryDisk, told: Told, *, compact: bool) -> None:
    """Everything a log does in its life, in small."""
    changes: dict[str, Any] = {"compact": compact, "min_cleanable_dirty_ratio": 0.0, "delete": False}
    log = open_log(disk, **changes)
    log.become_leader(1)
    _append(log, told, b"a" * 40, b"b", sequence=0)
    _sync(log, told)
    for number in range(6):
        _append(log, told, b"c%d" % number * 40, b"d", sequence=2 + 2 * number, key=b"k%d" % (number % 2))
    _sync(log, told)
    _append(log, told, b"e")
    log.close()
    told.durable_end = log.end_offset

    log = open_log(disk, **changes)
    log.become_leader(2)
    for value in (b"f" * 100, b"g" * 100, b"h" * 100, b"i" * 100, b"j" * 100):
        _append(log, told, value, key=b"k1")
    _sync(log, told)
    if compact:
        told.compacted = True
        assert log.compact(NOW) > 0
    else:
        log.delete_before(5)
        told.durable_start = 5
    for value in (b"l" * 90, b"m" * 90, b"n" * 90):
        _append(log, told, value)
    log.sync()
    told.durable_end = log.synced_end
    cut = log.end_offset - 2
    told.cutting_to, told.durable_end, told.written_end = cut, cut, cut
    log.truncate(cut)
    told.cutting_to = None
    log.become_leader(3)
    _append(log, told, b"o" * 90, b"p")
    _sync(log, told)
    log.close()


def _check(log: Log, told: Told, *, process_crash: bool) -> None:
    records = records_of(log)
    for offset, value in records.items():
        assert value in told.sent[offset], f"garbage at offset {offset}"
    assert log.start_offset >= told.durable_start
    assert log.end_offset >= told.durable_end
    if not told.compacted:
        assert sorted(records) == list(range(log.start_offset, log.end_offset))
    for offset in range(max(told.durable_start, log.start_offset), told.durable_end):
        if told.compacted:
            newest = told.sent[offset][-1]
            assert offset not in records or records[offset] == newest
        else:
            assert records[offset] == told.sent[offset][-1], f"lost offset {offset}, reported durable"
    if process_crash:
        assert log.end_offset >= told.written_end
        if told.cutting_to is None:
            assert log.high_watermark >= told.watermark
    last_sequence = -1
    for header, _data in batches_of(log):
        assert log.epochs.epoch_at(max(header.base_offset, log.start_offset)) == header.leader_epoch
        if header.producer_id == 7:
            last_sequence = header.last_sequence
    state = log.producers.get(7)
    assert (state.batches[-1].last_sequence if state else -1) == last_sequence
    for offset in records:
        segment, position = log.position_of(offset)
        found = next(header for _at, header in log.segments[segment].walk(position))
        assert found.base_offset <= offset <= found.last_offset


def _restart(disk: MemoryDisk, told: Told, *, process_crash: bool) -> None:
    """Two starts and an append between them."""
    log = open_log(disk)
    _check(log, told, process_crash=process_crash)
    end = log.end_offset
    log.become_leader(9)
    append(log, b"after")
    log.sync()
    log.close(clean=False)
    disk.crash_process()
    log = open_log(disk)
    assert log.end_offset == end + 1
    assert records_of(log)[end] == b"after"
    log.close(clean=False)


def _stopped_at(step: int | None, *, compact: bool) -> tuple[MemoryDisk, Told]:
    disk, told = MemoryDisk(), Told()
    disk.directories.add("/data")
    disk.durable_directories.add("/data")
    disk.crash_at = step
    if step is None:
        _run(disk, told, compact=compact)
    else:
        with pytest.raises(Crash):
            _run(disk, told, compact=compact)
    return disk, told


@pytest.mark.parametrize("compact", [False, True], ids=["delete", "compact"])
def test_every_crash_point_of_a_short_run_recovers_to_all_that_was_reported_durable(compact: bool) -> None:
    steps = _stopped_at(None, compact=compact)[0].steps
    assert steps > 100
    for step in range(steps):
        disk, told = _stopped_at(step, compact=compact)
        try:
            for content, names in HOST_CRASHES:
                crashed = disk.fork()
                crashed.crash_host(content, names)
                _restart(crashed, told, process_crash=False)
            disk.crash_process()
            content = names = "process"
            _restart(disk, told, process_crash=True)
        except Exception as error:
            raise AssertionError(
                f"step {step} of {steps}, {content}/{names}, after {disk.trace[-4:]}: {error!r}"
            ) from error


@pytest.mark.parametrize("compact", [False, True], ids=["delete", "compact"])
def test_a_crash_during_recovery_is_recovered_from_too(compact: bool) -> None:
    steps = _stopped_at(None, compact=compact)[0].steps
    for step in range(0, steps, 3):
        stopped, told = _stopped_at(step, compact=compact)
        for content, names in [("torn", "kept"), ("lost", "lost"), ("process", "process")]:
            inner = 0
            while True:
                disk = stopped.fork()
                if content == "process":
                    disk.crash_process()
                else:
                    disk.crash_host(content, names)
                disk.crash_at = inner
                try:
                    open_log(disk).close(clean=False)
                except Crash:
                    pass
                else:
                    break
                try:
                    again = disk.fork()
                    again.crash_host("torn", "half")
                    _restart(again, told, process_crash=False)
                    disk.crash_process()
                    _restart(disk, told, process_crash=content == "process")
                except Exception as error:
                    where = f"step {step}, {content}/{names}, then step {inner} of the recovery"
                    raise AssertionError(f"{where} after {disk.trace[-4:]}: {error!r}") from error
                inner += 1
