"""A reader in another process: whole batches below the watermark, whatever the writer does meanwhile."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from logeion.log.files import Files
from logeion.log.log import Log
from logeion.log.view import Descriptors, LogView
from logeion.wire.batch import iter_headers
from logeion.wire.errors import OffsetOutOfRangeError, StorageError
from logeion.wire.records import read_records
from tests.log.disk import MemoryDisk
from tests.log.world import DIRECTORY, NOW, append, open_log


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


def _filled(disk: Files | None, directory: Path = DIRECTORY, *, count: int = 30, **changes: object) -> Log:
    log = open_log(disk, directory, segment_bytes=1_000, **changes)
    log.become_leader(0)
    for number in range(count):
        append(log, b"%03d" % number * 20, key=b"k%d" % (number % 3))
    log.sync()
    log.advance_high_watermark(count)
    return log


def _read(view: LogView, log: Log, offset: int, max_bytes: int = 500) -> bytes | None:
    segment, position = log.watermark_position()
    found = view.slice(offset, max_bytes, end_segment=segment, end_position=position, log_start=log.start_offset)
    if found is None:
        return None
    data = log.store.files.pread(found.fd, found.size, found.position)
    found.release()
    assert len(data) == found.size
    return data


def _all(view: LogView, log: Log, offset: int = 0, max_bytes: int = 500) -> list[int]:
    offsets: list[int] = []
    while (data := _read(view, log, offset, max_bytes)) is not None:
        got = [record.offset for record in read_records(data, max_bytes=1 << 20) if record.offset >= offset]
        headers = [header for _at, header in iter_headers(data)]
        assert sum(header.size for header in headers) == len(data), "a slice ends with a whole batch"
        assert len(data) <= max_bytes or len(headers) == 1
        offsets += got
        offset = headers[-1].next_offset
    return offsets


@pytest.mark.parametrize("max_bytes", [1, 170, 500, 100_000])
def test_everything_below_the_watermark_is_read_once_and_nothing_beyond(disk: MemoryDisk, max_bytes: int) -> None:
    log = _filled(disk)
    log.truncate(30)
    append(log, b"not yet")
    view = LogView(DIRECTORY, descriptors=Descriptors(disk))
    assert _all(view, log, 0, max_bytes) == list(range(30))
    assert _all(view, log, 17, max_bytes) == list(range(17, 30))
    assert _read(view, log, 30) is None


def test_a_slice_begins_with_the_batch_that_holds_the_offset(disk: MemoryDisk) -> None:
    log = open_log(disk)
    log.become_leader(0)
    append(log, b"a", b"b")
    append(log, b"c", b"d", b"e")
    log.advance_high_watermark(5)
    view = LogView(DIRECTORY, descriptors=Descriptors(disk))
    segment, position = log.watermark_position()
    found = view.slice(3, 1, end_segment=segment, end_position=position)
    assert found is not None and found.first_offset == 2


def test_rolls_and_deletions_are_noticed(disk: MemoryDisk) -> None:
    log = _filled(disk)
    view = LogView(DIRECTORY, descriptors=Descriptors(disk))
    assert len(_all(view, log)) == 30
    for number in range(30, 60):
        append(log, b"%03d" % number * 20)
    log.advance_high_watermark(60)
    assert _all(view, log, 25) == list(range(25, 60))
    log.delete_before(40)
    with pytest.raises(OffsetOutOfRangeError):
        _read(view, log, 10)
    segment, position = log.watermark_position()
    with pytest.raises(OffsetOutOfRangeError):
        view.slice(3, 100, end_segment=segment, end_position=position)
    assert _all(view, log, 40) == list(range(40, 60))


def test_a_slice_in_flight_survives_the_deletion_of_its_segment_and_the_eviction_of_its_file(tmp_path: Path) -> None:
    log = _filled(None, tmp_path / "orders-0")
    descriptors = Descriptors(limit=2)
    view = LogView(tmp_path / "orders-0", descriptors=descriptors)
    segment, position = log.watermark_position()
    found = view.slice(0, 500, end_segment=segment, end_position=position)
    assert found is not None
    expected = os.pread(found.fd, found.size, found.position)
    log.delete_before(20)
    log.apply_retention(NOW)
    log.apply_retention(NOW + 100_000)
    _all(view, log, 20)
    assert os.pread(found.fd, found.size, found.position) == expected
    assert found.file.fd >= 0
    found.release()
    assert found.file.fd == -1
    view.close()
    descriptors.close()
    log.close()


def test_no_more_files_are_open_than_the_limit(disk: MemoryDisk) -> None:
    log = _filled(disk)
    writer = len(disk.descriptors)
    descriptors = Descriptors(disk, limit=3)
    view = LogView(DIRECTORY, descriptors=descriptors)
    assert len(log.segments) > 3
    _all(view, log)
    assert len(descriptors) == 3
    assert len(disk.descriptors) == writer + 3
    view.close()
    assert len(disk.descriptors) == writer


def test_after_a_truncation_the_new_history_is_read_not_the_old(disk: MemoryDisk) -> None:
    log = _filled(disk, count=12)
    view = LogView(DIRECTORY, descriptors=Descriptors(disk))
    _all(view, log)
    log.truncate(7)
    log.become_leader(5)
    for number in range(7, 12):
        append(log, b"new%d" % number)
    log.advance_high_watermark(12)
    data = _read(view, log, 8, 1)
    assert data is not None
    assert [record.value for record in read_records(data, max_bytes=1 << 20)] == [b"new8"]


def test_compaction_in_between_loses_no_record(disk: MemoryDisk) -> None:
    log = _filled(disk, compact=True, min_cleanable_dirty_ratio=0.0)
    view = LogView(DIRECTORY, descriptors=Descriptors(disk))
    assert _all(view, log) == list(range(30))
    assert log.compact(NOW) > 0
    after = _all(view, log)
    assert after[-5:] == list(range(25, 30))
    assert {offset % 3 for offset in after} == {0, 1, 2}
    assert _all(view, log, 1) == [offset for offset in after if offset >= 1]


@pytest.mark.parametrize("damage", ["garbage", "missing", "unreadable"])
def test_an_index_that_cannot_be_used_only_costs_time(disk: MemoryDisk, damage: str) -> None:
    log = _filled(disk)
    for path in [path for path in disk.names if path.endswith(".index")]:
        if damage == "garbage":
            disk.names[path].data[:] = bytes(range(3, 3 + len(disk.names[path].data)))
        elif damage == "missing":
            disk.unlink(path)
        else:
            disk.fail("read", path, errno.EIO, times=1_000)
    view = LogView(DIRECTORY, descriptors=Descriptors(disk))
    for offset in range(30):
        data = _read(view, log, offset, 1)
        assert data is not None
        assert read_records(data, max_bytes=1 << 20)[0].offset == offset


def test_errors_name_the_file(disk: MemoryDisk) -> None:
    log = _filled(disk)
    view = LogView(DIRECTORY, descriptors=Descriptors(disk))
    disk.fail("read", ".log", errno.EIO)
    with pytest.raises(StorageError) as raised:
        _read(view, log, 0)
    assert str(raised.value.path).endswith("00000.log")
    with pytest.raises(StorageError) as raised:
        LogView(Path("/nowhere"), descriptors=Descriptors(Files())).slice(0, 1, end_segment=0, end_position=9)
    assert str(raised.value.path) == "/nowhere"
