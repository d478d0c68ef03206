"""Which offset belongs to a time: the time index narrows it to a few batches, only the batch that matters is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logeion.wire.batch import BatchHeader, verify_crc
from logeion.wire.errors import CorruptMessageError, StorageError, WireError
from logeion.wire.records import Record, batch_records

from . import index as indexes
from .config import LogConfig
from .names import LOG, TIME_INDEX
from .segment import Segment

if TYPE_CHECKING:
    from .log import Log

LATEST, EARLIEST, MAX_TIMESTAMP, EARLIEST_LOCAL = -1, -2, -3, -4

Found = tuple[int, int, int]


def find_offset(log: Log, timestamp: int) -> Found | None:
    """See ``Log.find_offset`` (KIP-33, KIP-79, KIP-734)."""
    if timestamp == LATEST:
        return log.high_watermark, -1, log.epochs.epoch_at(log.high_watermark)
    if timestamp in (EARLIEST, EARLIEST_LOCAL):
        return log.start_offset, -1, log.epochs.epoch_at(log.start_offset)
    if timestamp == MAX_TIMESTAMP:
        return _newest(log)
    if timestamp < 0:
        return None
    for segment in log.segments.values():
        if segment.newest()[0] < timestamp:
            continue
        found = _in_segment(log, segment, timestamp)
        if found is not None:
            return found if found[0] < log.high_watermark else None
    return None


def _newest(log: Log) -> Found | None:
    best: Segment | None = None
    for segment in log.segments.values():
        if segment.base < log.high_watermark and segment.size and (best is None or segment.newest() > best.newest()):
            best = segment
    if best is None or best.newest()[0] < 0:
        return None
    newest, offset = best.newest()
    found = _in_segment(log, best, newest) if offset < log.high_watermark else None
    if found is None or found[0] >= log.high_watermark:
        # The newest lies above the watermark, or below the log start: what is between decides.
        return _newest_by_headers(log)
    return found


def _newest_by_headers(log: Log) -> Found | None:
    best: tuple[Segment, int, BatchHeader] | None = None
    for segment in log.segments.values():
        if segment.base >= log.high_watermark:
            break
        for position, header in segment.walk(0):
            if header.next_offset > log.high_watermark:
                break
            if header.last_offset >= log.start_offset and (
                best is None or header.max_timestamp > best[2].max_timestamp
            ):
                best = (segment, position, header)
    if best is None or best[2].max_timestamp < 0:
        return None
    return _in_batch(log, best[0], best[1], best[2], best[2].max_timestamp)


def _in_segment(log: Log, segment: Segment, timestamp: int) -> Found | None:
    """The first record of this segment that is not older and not below the log start."""
    begin = max(segment.base, log.start_offset)
    if segment.time_count:
        with segment.reading(TIME_INDEX) as fd:
            # Nothing at or before the entry's offset is newer than the entry: older entries can be passed over.
            entry = indexes.floor(
                lambda size, at: log.store.files.read_exactly(fd, size, at),
                indexes.TIME_ENTRY,
                segment.time_count,
                timestamp - 1,
            )
        if entry is not None:
            begin = max(begin, segment.base + entry[1])
    start = segment.locate(begin)
    if start is None:
        return None
    for position, header in segment.walk(start[0]):
        if header.max_timestamp >= timestamp and header.last_offset >= log.start_offset:
            found = _in_batch(log, segment, position, header, timestamp)
            if found is not None:
                return found
    return None


def _in_batch(log: Log, segment: Segment, position: int, header: BatchHeader, timestamp: int) -> Found | None:
    records = read_batch(segment, position, header, log.config)
    if records is None:
        # From its first record on, a reader misses nothing that is new enough.
        return max(header.base_offset, log.start_offset), header.max_timestamp, header.leader_epoch
    for record in records:
        if record.timestamp >= timestamp and log.start_offset <= record.offset <= header.last_offset:
            return record.offset, record.timestamp, header.leader_epoch
    return None


def read_batch(segment: Segment, position: int, header: BatchHeader, config: LogConfig) -> list[Record] | None:
    """The records of one batch within the limits of ``config``, CRC checked; ``StorageError`` if that is wrong.

    None if its producer wrote what cannot be read: batches are taken unread, so that is no damage of this disk.
    """
    data = memoryview(segment.read(position, header.size))
    try:
        verify_crc(data, header)
    except CorruptMessageError as error:
        path = segment.store.path(segment.name + LOG)
        raise StorageError(f"{path} is damaged at byte {position}: {error}", path) from error
    try:
        return batch_records(
            data, header, max_bytes=config.max_decompressed_bytes, max_records=config.max_decoded_records
        )
    except (CorruptMessageError, WireError):
        return None
