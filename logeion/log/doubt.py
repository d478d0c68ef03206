"""Bytes that the kernel holds for clean although they may not be on the device, and what makes them dirty again.

A sync that fails leaves its pages clean, and Linux tells the error once: to whoever had the file open. If that process
dies before it could leave ``storage-failed`` (it is killed because it hung in this very sync, say), the next one reads
the bytes from the page cache, and its own sync succeeds without writing them. So what is known to be on the device is
kept in a small file, ``synced-end``, and after a process crash whatever lies above it is *in doubt*: before the first
sync that would vouch for it, it is written once more, the same bytes to the same place. That keeps to the rule that
files change by append and rename only: no reader can see it. After a host crash nothing is in doubt, for the page
cache was read from the device.

With flush=os and flush=interval nobody vouches for anything, and the synced end may lie far behind: nothing is written
again, but the doubt stays, also through a clean shutdown, until the topic is told to flush=ack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logeion.wire.errors import StorageError

from . import checkpoints, names
from .segment import Segment

if TYPE_CHECKING:
    from .log import Log

# How much may be synced before the file is written again: what a start after a crash writes once more at most, besides
# what was in flight. A write costs 10 µs.
TELL_BYTES = 64 * 1024
_PIECE = 1024 * 1024


def rise(log: Log) -> None:
    """Tell how far the log is on the device by now, if that is further than was told."""
    certain = min(log.synced_end, log.doubt[0]) if log.doubt is not None else log.synced_end
    if certain <= log.told_end:
        return
    try:
        _tell(log, certain)
    except StorageError as error:
        # Too low a synced end only costs a start some writes.
        log.store.warn(str(error))


def fall(log: Log) -> None:
    """The log was cut: what is appended from its end on is not on the device. Raises ``StorageError``: too high a
    synced end must not stay."""
    end = log.end_offset
    if log.doubt is not None:
        log.doubt = (log.doubt[0], min(log.doubt[1], end)) if log.doubt[0] < end else None
    if log.told_end > end:
        _tell(log, end)


def _tell(log: Log, end: int) -> None:
    # In place and without sync, like the state file: it is believed after process crashes only.
    store = log.store
    fd = store.open_write(names.SYNCED_END, create=log.told_end < 0)
    try:
        store.write(fd, names.SYNCED_END, [checkpoints.encode_synced_end(end)], 0)
    finally:
        store.files.close(fd)
    log.told_end = end


def dispel(log: Log) -> None:
    """Make what is in doubt dirty, and have the next sync cover it. Raises ``StorageError``; the doubt stays then."""
    if log.doubt is None:
        return
    begin, end = log.doubt
    for number in range(max(log.segments.bisect_right(begin) - 1, 0), len(log.segments)):
        segment: Segment = log.segments.peekitem(number)[1]
        if segment.base >= end:
            break
        found = segment.locate(begin) if begin > segment.base else (0, None)
        if found is not None:
            _write_again(segment, names.LOG, found[0])
        if segment is not log.active:
            # The active one's indexes are not synced before it is sealed.
            _write_again(segment, names.INDEX, 0)
            _write_again(segment, names.TIME_INDEX, 0)
            if segment not in log.unsynced:
                log.unsynced.append(segment)
    log.unsynced.sort(key=lambda segment: segment.base)
    log.doubt = None


def _write_again(segment: Segment, suffix: str, position: int) -> None:
    store, name = segment.store, segment.name + suffix
    fd = store.open_write(name)
    try:
        while data := segment.read(position, _PIECE, suffix):
            position += store.write(fd, name, [data], position)
    finally:
        store.files.close(fd)
