"""A disk that fills up, fails, or holds what is not ours: typed errors with the path, and nothing acked lost."""

from __future__ import annotations

import errno

import pytest

from logeion.log.log import Log
from logeion.wire.errors import LogeionError, StorageError
from tests.log.disk import MemoryDisk
from tests.log.world import DIRECTORY, append, append_all, batch, open_log, records_of

LOG_FILE = f"{DIRECTORY}/{0:020d}.log"


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


@pytest.fixture
def log(disk: MemoryDisk) -> Log:
    log = open_log(disk, segment_bytes=10_000)
    log.become_leader(1)
    append(log, b"first", producer=(5, 0, 0))
    log.sync()
    return log


def test_a_full_disk_refuses_appends_by_name_and_takes_them_again_when_space_returns(
    disk: MemoryDisk, log: Log
) -> None:
    disk.capacity = disk._used() + 40
    with pytest.raises(StorageError) as raised:
        append(log, b"x" * 200, producer=(5, 0, 1))
    assert str(raised.value.path) == LOG_FILE
    assert LOG_FILE in str(raised.value) and "No space left" in str(raised.value)
    assert records_of(log) == {0: b"first"}
    assert len(disk.names[LOG_FILE].data) == log.size
    disk.heal()
    assert append(log, b"x" * 200, producer=(5, 0, 1)).first_offset == 1
    assert records_of(log) == {0: b"first", 1: b"x" * 200}


def test_after_a_failed_write_a_whole_mailbox_has_its_error_and_none_of_it_is_in_the_log(
    disk: MemoryDisk, log: Log
) -> None:
    disk.fail("write", ".log", errno.EIO)
    results = append_all(log, batch(b"a", producer=(5, 0, 1)), batch(b"b", producer=(5, 0, 2)))
    assert [type(result) for result in results] == [StorageError, StorageError]
    assert log.end_offset == 1
    again = append_all(log, batch(b"a", producer=(5, 0, 1)), batch(b"b", producer=(5, 0, 2)))
    assert not any(isinstance(result, LogeionError) for result in again)
    assert records_of(log) == {0: b"first", 1: b"a", 2: b"b"}


def test_a_write_error_whose_remains_cannot_be_cut_off_at_once_is_cut_off_before_the_next_append(
    disk: MemoryDisk, log: Log
) -> None:
    disk.capacity = disk._used() + 40
    disk.fail("cut", ".log", errno.EIO)
    with pytest.raises(StorageError):
        append(log, b"x" * 200)
    disk.heal()
    append(log, b"y")
    assert records_of(log) == {0: b"first", 1: b"y"}
    log.close(clean=False)
    disk.crash_process()
    assert records_of(open_log(disk)) == {0: b"first", 1: b"y"}


def test_a_roll_that_finds_no_space_leaves_the_log_as_it_was(disk: MemoryDisk, log: Log) -> None:
    log.configure(open_log(MemoryDisk(), segment_bytes=300).config)
    append(log, b"x" * 100)
    disk.fail("create", "00002.log", errno.ENOSPC)
    with pytest.raises(StorageError) as raised:
        append(log, b"z" * 100)
    assert str(raised.value.path).endswith("00002.log")
    assert records_of(log) == {0: b"first", 1: b"x" * 100}
    append(log, b"z" * 100)
    assert len(log.segments) == 2
    assert records_of(log) == {0: b"first", 1: b"x" * 100, 2: b"z" * 100}


def test_an_index_that_cannot_be_written_costs_no_append(disk: MemoryDisk, log: Log) -> None:
    disk.fail("write", ".index", errno.ENOSPC, times=3)
    for number in range(10):
        append(log, b"%d" % number * 60)
    assert log.position_of(8)[1] > 0
    assert len(records_of(log)) == 11


def test_a_failed_sync_fences_the_log_for_good_and_the_directory_says_so(disk: MemoryDisk, log: Log) -> None:
    append(log, b"second")
    disk.fail("sync", ".log", errno.EIO)
    with pytest.raises(StorageError) as raised:
        log.sync()
    assert str(raised.value.path) == LOG_FILE
    assert log.synced_end == 1
    for attempt in (lambda: append(log, b"third"), log.sync, lambda: log.become_leader(9)):
        with pytest.raises(StorageError, match="fenced at offset 1"):
            attempt()
    assert records_of(log) == {0: b"first", 1: b"second"}
    log.close()
    disk.crash_process()
    with pytest.raises(StorageError, match="a sync failed here") as refused:
        open_log(disk)
    assert str(refused.value.path) == f"{DIRECTORY}/storage-failed"
    accepted = Log.open(DIRECTORY, log.config, files=disk, now_ms=0, accept_cut=True)
    assert records_of(accepted) == {0: b"first"}
    accepted.close()
    assert records_of(open_log(disk)) == {0: b"first"}


def test_a_sync_that_fails_in_another_thread_fences_the_log_too(disk: MemoryDisk, log: Log) -> None:
    append(log, b"second")
    handle = log.sync_handle()
    assert handle is not None
    disk.fail("sync", ".log", errno.EIO)
    with pytest.raises(StorageError) as raised:
        handle.run()
    log.note_sync_failed(raised.value)
    assert log.failed is not None
    with pytest.raises(StorageError):
        append(log, b"third")


def test_a_truncation_that_fails_half_way_ends_this_start_and_the_next_one_is_right(disk: MemoryDisk, log: Log) -> None:
    for number in range(5):
        append(log, b"%d" % number)
    log.advance_high_watermark(6)
    disk.fail("rename", ".cleaned", errno.EIO)
    with pytest.raises(StorageError, match="cleaned"):
        log.truncate(3)
    with pytest.raises(StorageError):
        append(log, b"x")
    log.close(clean=False)
    disk.crash_process()
    disk.heal()
    again = open_log(disk)
    assert again.end_offset == len(records_of(again)) == 6
    again.truncate(3)
    assert again.end_offset == 3


def test_what_is_appended_while_a_sync_runs_is_not_reported_by_it(disk: MemoryDisk, log: Log) -> None:
    append(log, b"second")
    handle = log.sync_handle()
    assert handle is not None
    append(log, b"third")
    handle.run()
    assert log.note_synced(handle) == 2
    assert log.sync() == 3


def test_a_truncation_during_a_sync_makes_its_report_worthless(disk: MemoryDisk, log: Log) -> None:
    append(log, b"second")
    handle = log.sync_handle()
    assert handle is not None
    log.truncate(1)
    append(log, b"other")
    handle.run()
    assert log.note_synced(handle) == 1


@pytest.mark.parametrize("name", ["7.log", "copy of 00000000000000000000.log", "00000000000000000000.index.old"])
def test_a_foreign_file_that_looks_like_data_is_refused_by_name(disk: MemoryDisk, log: Log, name: str) -> None:
    log.close()
    disk.crash_process()
    disk.replace_file(f"{DIRECTORY}/{name}", b"what", durable=True)
    with pytest.raises(StorageError, match="foreign file") as raised:
        open_log(disk)
    assert str(raised.value.path) == f"{DIRECTORY}/{name}"
    disk.unlink(f"{DIRECTORY}/{name}")
    assert records_of(open_log(disk)) == {0: b"first"}


def test_any_other_foreign_file_is_left_alone_and_told(disk: MemoryDisk, log: Log) -> None:
    log.close()
    disk.crash_process()
    disk.replace_file(f"{DIRECTORY}/notes.txt", b"what", durable=True)
    again = open_log(disk)
    assert again.warnings == [f"foreign file {DIRECTORY}/notes.txt is ignored"]
    assert f"{DIRECTORY}/notes.txt" in disk.names


@pytest.mark.parametrize("damage", ["garbage", "missing", "empty", "unreadable", "foreign"])
@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
def test_an_index_that_cannot_be_used_is_written_anew(disk: MemoryDisk, damage: str, suffix: str) -> None:
    log = open_log(disk, segment_bytes=1_000)
    log.become_leader(1)
    for number in range(24):
        append(log, b"%02d" % number * 40, timestamp=1_000 * number)
    log.advance_high_watermark(24)
    expected = records_of(log)
    log.close(clean=False)
    disk.crash_process()
    for path in [path for path in disk.names if path.endswith(suffix)]:
        inode = disk.names[path]
        if damage == "garbage":
            inode.data[:] = bytes(range(7, 7 + len(inode.data)))
        elif damage == "missing":
            disk.unlink(path)
        elif damage == "empty":
            inode.data[:] = b""
        elif damage == "foreign":
            inode.data[:] = bytes(inode.data[8:]) + b"\0\0\0\x7f\0\0\0\x10"
        else:
            disk.fail("read", suffix, errno.EIO)
    again = open_log(disk, segment_bytes=1_000)
    assert records_of(again) == expected
    for offset in expected:
        base, position = again.position_of(offset)
        assert next(again.segments[base].walk(position))[1].base_offset == offset
    if damage in ("garbage", "missing", "unreadable"):
        assert any(warning.startswith((DIRECTORY.as_posix(), "cannot read")) for warning in again.warnings)


def test_a_damaged_log_file_is_reported_by_name_and_byte_and_never_cut(disk: MemoryDisk, log: Log) -> None:
    append(log, b"second")
    append(log, b"third")
    log.sync()
    log.close(clean=False)
    disk.crash_process()
    before = bytes(disk.names[LOG_FILE].data)
    disk.names[LOG_FILE].data[len(before) // 2 + 10] ^= 0xFF
    disk.names[LOG_FILE].data[16] = 9
    with pytest.raises(StorageError, match="damaged at byte 0") as raised:
        open_log(disk)
    assert str(raised.value.path) == LOG_FILE
    assert len(disk.names[LOG_FILE].data) == len(before)


def test_damage_below_the_recovery_point_is_reported_after_a_host_crash_too(disk: MemoryDisk, log: Log) -> None:
    append(log, b"second")
    log.sync()
    log.write_recovery_point(log.synced_end)
    log.store.sync_names()
    log.close(clean=False)
    disk.names[LOG_FILE].data[20] = 0
    disk.names[LOG_FILE].synced = bytes(disk.names[LOG_FILE].data[:30])
    disk.crash_host("lost", "lost")
    with pytest.raises(StorageError, match="below the recovery point") as raised:
        open_log(disk)
    assert str(raised.value.path) == LOG_FILE


def test_a_directory_in_use_is_refused(disk: MemoryDisk, log: Log) -> None:
    with pytest.raises(StorageError, match="in use by another process") as raised:
        open_log(disk)
    assert str(raised.value.path) == f"{DIRECTORY}/.lock"


def test_a_directory_of_another_topic_is_refused(disk: MemoryDisk, log: Log) -> None:
    log.close()
    disk.crash_process()
    with pytest.raises(StorageError, match="belongs to topic id 0011") as raised:
        Log.open(DIRECTORY, log.config, files=disk, now_ms=0, topic_id="f" * 32)
    assert str(raised.value.path) == f"{DIRECTORY}/partition.metadata"


def test_a_disk_that_cannot_be_read_is_reported_by_name(disk: MemoryDisk, log: Log) -> None:
    log.close()
    disk.crash_process()
    disk.fail("read", LOG_FILE, errno.EIO, times=9)
    with pytest.raises(StorageError) as raised:
        open_log(disk)
    assert str(raised.value.path) == LOG_FILE
    disk.heal()
    assert records_of(open_log(disk)) == {0: b"first"}


def test_no_descriptor_left_is_reported_by_name_and_passes(disk: MemoryDisk, log: Log) -> None:
    append(log, b"x" * 9_900)
    disk.fail("open", "00002.log", errno.EMFILE)
    with pytest.raises(StorageError, match="ulimit"):
        append(log, b"y" * 200)
    append(log, b"y" * 200)
    assert len(records_of(log)) == 3
