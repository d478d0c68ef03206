"""A sync fails and its process dies before it could say so: no later sync vouches for what it has not written."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from logeion.log import checkpoints, doubt, names
from logeion.log.files import Data
from logeion.log.log import Log
from logeion.wire.errors import MalformedError, StorageError
from tests.log.disk import HOST_CRASHES, Crash, DyingDisk, MemoryDisk
from tests.log.test_crash_points import Told, _check, _run
from tests.log.world import DIRECTORY, append, open_log, records_of

LOG_FILE = f"{DIRECTORY}/{0:020d}.log"
SYNCED_END = f"{DIRECTORY}/{names.SYNCED_END}"


def _died(step: int | None, *, compact: bool) -> tuple[DyingDisk, Told]:
    disk, told = DyingDisk(), Told()
    disk.directories.add("/data")
    disk.durable_directories.add("/data")
    disk.dies_at = step
    try:
        _run(disk, told, compact=compact)
    except (Crash, StorageError):
        assert step is not None
    disk.crash_process()
    disk.dies_at = None
    return disk, told


def _with_ack(disk: MemoryDisk) -> Log:
    return open_log(disk)


def _switched(disk: MemoryDisk) -> Log:
    log = open_log(disk, flush="os")
    append(log, b"in between")
    log.sync()
    log.configure(msgspec.structs.replace(log.config, flush="ack"))
    return log


def _switched_while_it_was_down(disk: MemoryDisk) -> Log:
    open_log(disk, flush="os").close()
    disk.crash_process()
    return open_log(disk)


@pytest.mark.parametrize("compact", [False, True], ids=["delete", "compact"])
@pytest.mark.parametrize("start", [_with_ack, _switched, _switched_while_it_was_down])
def test_what_the_next_process_vouches_for_outlives_a_power_cut_wherever_a_sync_failed(
    start: Callable[[MemoryDisk], Log], compact: bool
) -> None:
    whole = _died(None, compact=compact)[0]
    syncs = [step for step, what in enumerate(whole.trace) if what.startswith("sync ")]
    assert len(syncs) > 20
    for step in syncs:
        disk, told = _died(step, compact=compact)
        for content, kept in HOST_CRASHES:
            again = disk.fork()
            log = start(again)
            log.sync()
            told.durable_end = log.durable_end
            if start is _switched:
                told.sent.setdefault(log.end_offset - 1, []).append(b"in between")
            again.crash_host(content, kept)
            try:
                _check(open_log(again), told, process_crash=False)
            except Exception as error:
                raise AssertionError(f"step {step}, {whole.trace[step]}, {content}/{kept}: {error!r}") from error


class CountingDisk(MemoryDisk):
    """Counts the bytes that go into segments."""

    written = 0

    def pwritev(self, fd: int, buffers: Sequence[Data], at: int) -> int:
        if self.descriptors[fd][1].endswith(names.SEGMENT_FILES):
            self.written += sum(map(len, buffers))
        return super().pwritev(fd, buffers, at)


def _crashed(**changes: Any) -> tuple[CountingDisk, Log]:
    disk = CountingDisk()
    log = open_log(disk, segment_bytes=1 << 20, **changes)
    log.become_leader(1)
    for number in range(600):
        append(log, b"%d" % number * 100)
        if number < 599:
            log.sync()
    log.close(clean=False)
    disk.crash_process()
    disk.written = 0
    return disk, log


def test_a_start_after_a_process_crash_writes_little_more_again_than_was_in_flight() -> None:
    disk, before = _crashed()
    log = open_log(disk, segment_bytes=1 << 20)
    assert disk.written == 0 and before.size > 2 * doubt.TELL_BYTES
    log.sync()
    assert 0 < disk.written < 2 * doubt.TELL_BYTES
    assert log.synced_end == 600
    disk.written = 0
    append(log, b"more")
    log.sync()
    assert disk.written < 200


@pytest.mark.parametrize("flush", ["os", "interval"])
def test_where_nothing_is_promised_nothing_is_written_again(flush: str) -> None:
    disk, _before = _crashed(flush=flush)
    log = open_log(disk, segment_bytes=1 << 20, flush=flush)
    log.sync()
    assert disk.written == 0


def test_after_a_host_crash_and_after_a_clean_shutdown_nothing_is_in_doubt() -> None:
    disk, _before = _crashed()
    cut = disk.fork()
    cut.crash_host("kept", "kept")
    assert open_log(cut, segment_bytes=1 << 20).doubt is None
    open_log(disk, segment_bytes=1 << 20).close()
    disk.crash_process()
    assert open_log(disk, segment_bytes=1 << 20).doubt is None


@pytest.mark.parametrize("content", [b"", b"torn", None], ids=["empty", "torn", "missing"])
def test_a_synced_end_that_cannot_be_read_leaves_all_above_the_recovery_point_in_doubt(content: bytes | None) -> None:
    disk, before = _crashed()
    if content is None:
        disk.unlink(SYNCED_END)
    else:
        disk.names[SYNCED_END].data[:] = content
    log = open_log(disk, segment_bytes=1 << 20)
    assert log.doubt == (before.recovery_point, 600)
    log.sync()
    log.close(clean=False)
    disk.crash_host("lost", "lost")
    assert len(records_of(open_log(disk, segment_bytes=1 << 20))) == 600


def test_a_synced_end_that_cannot_fall_ends_a_truncation() -> None:
    disk, _before = _crashed()
    log = open_log(disk, segment_bytes=1 << 20)
    assert log.sync() == 600
    told = log.told_end
    disk.fail("write", names.SYNCED_END, errno.EIO)
    with pytest.raises(StorageError, match=names.SYNCED_END):
        log.truncate(5)
    with pytest.raises(StorageError):
        append(log, b"x")
    log.close(clean=False)
    disk.crash_process()
    assert checkpoints.decode_synced_end(bytes(disk.names[SYNCED_END].data)) == told > 5
    again = open_log(disk, segment_bytes=1 << 20)
    assert again.told_end == again.end_offset == 5


def test_a_synced_end_that_cannot_rise_costs_no_sync() -> None:
    disk, _before = _crashed()
    log = open_log(disk, segment_bytes=1 << 20)
    disk.fail("write", names.SYNCED_END, errno.EIO, times=9)
    append(log, b"x" * 2 * doubt.TELL_BYTES)
    assert log.sync() == 601
    assert any(names.SYNCED_END in warning for warning in log.warnings)


def test_a_write_that_fails_leaves_the_doubt_and_nothing_is_vouched_for() -> None:
    disk, before = _crashed()
    log = open_log(disk, segment_bytes=1 << 20)
    disk.fail("write", LOG_FILE, errno.EIO)
    with pytest.raises(StorageError, match="cannot write"):
        log.sync()
    assert log.synced_end <= before.told_end and log.doubt is not None
    assert log.sync() == 600


def test_the_synced_end_is_read_back_and_a_torn_one_is_told() -> None:
    data = checkpoints.encode_synced_end(77)
    assert checkpoints.decode_synced_end(data) == 77
    for torn in (data[:-1], data[:5], data + b"\0", b"\xff" + data[1:]):
        with pytest.raises(MalformedError):
            checkpoints.decode_synced_end(torn)
