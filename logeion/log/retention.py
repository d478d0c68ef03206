"""What leaves a log at its old end: segments past their age or size, and what DeleteRecords gave up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from logeion.wire.errors import OffsetOutOfRangeError

from . import checkpoints, names
from .segment import Segment

if TYPE_CHECKING:
    from .log import Log


def delete_before(log: Log, offset: int) -> int:
    """See ``Log.delete_before``."""
    log.check_usable()
    if offset == -1:
        offset = log.high_watermark
    if not 0 <= offset <= log.high_watermark:
        raise OffsetOutOfRangeError(
            f"cannot delete records before {offset}: the high watermark is {log.high_watermark}"
        )
    if offset > log.start_offset:
        log.store.replace(names.LOG_START, checkpoints.encode_offset(offset), durable=True)
        log.store.sync_names()
        _move_start(log, offset)
        remove_below_start(log)
    return log.start_offset


def apply(log: Log, now_ms: int) -> int:
    """See ``Log.apply_retention``."""
    log.check_usable()
    log.now_ms = now_ms
    config = log.config
    log.producers.expire(now_ms - config.producer_id_expiration_ms)
    before = log.size
    if config.delete:
        number = max(_too_many(log), _too_old(log, now_ms))
        if number == len(log.segments):
            log.roll()
        if number:
            _move_start(log, max(log.segments.peekitem(number)[0], log.start_offset))
    remove_below_start(log)
    _purge(log, now_ms)
    return int(before - log.size)


def remove_below_start(log: Log) -> None:
    """Put aside the segments all of whose offsets lie below the log start, oldest first; never the active one."""
    while len(log.segments) > 1 and log.segments.peekitem(1)[0] <= log.start_offset:
        put_aside(log, log.segments.popitem(0)[1])


def put_aside(log: Log, segment: Segment) -> None:
    """Rename a segment's files to ``.deleted``; they are removed ``file.delete.delay.ms`` later.

    Readers that have the file open keep its bytes; others find that the segment is gone.
    """
    segment.close()
    log.size -= segment.size
    if segment in log.unsynced:
        log.unsynced.remove(segment)
        log.generation += 1
    for suffix in names.SEGMENT_FILES:
        if log.store.put_aside(segment.name + suffix, names.DELETED):
            log.put_aside.append((None, segment.name + suffix + names.DELETED))
    if segment.base in log.snapshots:
        log.snapshots.remove(segment.base)
        log.store.unlink(segment.name + names.SNAPSHOT)


def _move_start(log: Log, offset: int) -> None:
    log.start_offset = offset
    if log.epochs.truncate_start(offset):
        log.write_epochs()
    log.write_state()


def _removable(log: Log) -> Iterator[Segment]:
    """From the oldest on, those of which every record is below the watermark; the active one only if it has any."""
    segments = log.segments.values()
    for number, segment in enumerate(segments):
        end = segments[number + 1].base if number + 1 < len(segments) else log.end_offset
        if end > log.high_watermark or (segment is log.active and not segment.size):
            return
        yield segment


def _too_many(log: Log) -> int:
    limit = log.config.retention_bytes
    if limit < 0:
        return 0
    excess = log.size - limit
    number = 0
    for segment in _removable(log):
        if segment is log.active or excess < segment.size:
            break
        excess -= segment.size
        number += 1
    return number


def _too_old(log: Log, now_ms: int) -> int:
    if log.config.retention_ms < 0:
        return 0
    number = 0
    for segment in _removable(log):
        newest = segment.newest()[0]
        # One that compaction emptied has no age of its own, and must not keep the ones after it.
        if segment.size and (newest < 0 or now_ms - newest <= log.config.retention_ms):
            break
        number += 1
    return number


def _purge(log: Log, now_ms: int) -> None:
    waiting: list[tuple[int | None, str]] = []
    for deadline, name in log.put_aside:
        due = now_ms + log.config.file_delete_delay_ms if deadline is None else deadline
        if due <= now_ms:
            log.store.unlink(name)
        else:
            waiting.append((due, name))
    log.put_aside = waiting
