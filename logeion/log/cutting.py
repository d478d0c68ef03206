"""What leaves a log at its new end: truncation to what a leader has too, and beginning anew past a gap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logeion.wire.errors import StorageError

from . import checkpoints, doubt, names, retention
from .recovery import load_producers, walk_tail
from .segment import Segment
from .store import failed

if TYPE_CHECKING:
    from .log import Log


def truncate(log: Log, offset: int) -> None:
    """See ``Log.truncate``.

    A batch that spans ``offset`` goes as a whole. What no reader can have seen (at or above the watermark) is cut off
    in place; where something below it must go the segment becomes a new inode, so that whoever has the old one open
    reads on unharmed. Later segments go first: a crash on the way leaves a prefix.
    """
    log.check_usable()
    if offset >= log.end_offset:
        if log.epochs.truncate_end(offset):
            log.write_epochs()
        return
    if offset <= log.start_offset or offset <= log.segments.peekitem(0)[0]:
        reset(log, offset)
        return
    segment: Segment = log.segments.peekitem(log.segments.bisect_right(offset) - 1)[1]
    found = segment.locate(offset)
    end = offset if found is None else min(offset, found[1].base_offset)
    if end <= log.start_offset:
        reset(log, log.start_offset)
        return
    if end < log.recovery_point:
        # What will be written in its place is not on the device yet.
        log.write_recovery_point(end)
        log.store.sync_names()
    log.generation += 1
    _drop_snapshots(log, end)
    while log.active is not segment:
        _drop_last(log)
    if segment in log.unsynced:
        log.unsynced.remove(segment)
    if found is not None and end < log.high_watermark:
        _copy_head(log, segment, found[0])
    elif segment.index_fd < 0:
        segment.close()
        segment.open_for_append()
    if found is not None:
        _cut(log, segment, found[0], end)
    # The cut is on the device before anything that builds on it: an epoch file that knows of a new history would not
    # fit the old one if that came back.
    try:
        log.store.sync(log.active.fd, log.active.name + names.LOG)
        log.store.sync_names()
    except StorageError as error:
        log.note_sync_failed(error)
        raise
    log.end_offset = end
    lower, log.high_watermark = end < log.high_watermark, min(log.high_watermark, end)
    log.synced_end = min(log.synced_end, end)
    log.recovery_point = min(log.recovery_point, end)
    doubt.fall(log)
    if log.epochs.truncate_end(end):
        log.write_epochs()
    log.producers = load_producers(log.store, log.segments, log.snapshots, end, log.now_ms)
    log.forget_positions()
    if lower:
        log.write_lower_state()
    else:
        log.write_state()


def reset(log: Log, offset: int) -> None:
    """See ``Log.reset``. The new start is on disk first: a crash on the way ends in the same empty log (KAFKA-9491)."""
    log.check_usable()
    if offset < log.start_offset:
        # First, or a start on the way would begin where nothing is, and follow from there.
        log.start_offset = offset
        log.write_lower_state()
    lower = offset < log.high_watermark
    log.store.replace(names.LOG_START, checkpoints.encode_offset(offset), durable=True)
    log.write_recovery_point(min(offset, log.recovery_point))
    log.store.sync_names()
    log.generation += 1
    _drop_snapshots(log, -1)
    while log.segments:
        _drop_last(log)
    segment = Segment(log.store, offset)
    segment.open_for_append(create=True)
    log.segments[offset] = log.active = segment
    log.start_offset = log.high_watermark = log.end_offset = offset
    log.synced_end = min(log.synced_end, offset)
    doubt.fall(log)
    log.epochs.truncate_end(-1)
    log.write_epochs()
    log.producers = load_producers(log.store, log.segments, log.snapshots, offset, log.now_ms)
    log.forget_positions()
    if lower:
        log.write_lower_state()
    else:
        log.write_state()
    log.store.sync_names()


def _drop_last(log: Log) -> None:
    retention.put_aside(log, log.segments.popitem(-1)[1])
    if log.segments:
        log.active = log.segments.peekitem(-1)[1]


def _drop_snapshots(log: Log, above: int) -> None:
    while log.snapshots and log.snapshots[-1] > above:
        log.store.unlink(names.stem(log.snapshots.pop()) + names.SNAPSHOT)


def _cut(log: Log, segment: Segment, position: int, end: int) -> None:
    """Cut the open segment to ``position`` bytes, and its indexes with it."""
    log.size -= segment.size - position
    segment.cut(position, end - 1)
    if walk_tail(log.store, segment, lambda header: None) is None:
        segment.rebuild_indexes(log.config.index_interval_bytes)


def _copy_head(log: Log, segment: Segment, size: int) -> None:
    """Put a copy of the first ``size`` bytes in the segment's place, the old file aside."""
    store = log.store
    name = segment.name + names.LOG
    temporary = name + names.CLEANED
    with segment.reading() as source:
        target = store.open_write(temporary, create=True, empty=True)
        try:
            store.files.copy(source, target, size)
            store.files.fdatasync(target)
        except OSError as error:
            raise failed(error, "copy to", store.path(temporary)) from error
        finally:
            store.files.close(target)
    segment.close()
    try:
        store.unlink(name + names.DELETED)
        store.link(name, name + names.DELETED)
        log.put_aside.append((None, name + names.DELETED))
        store.rename(temporary, name)
    finally:
        segment.open_for_append()
