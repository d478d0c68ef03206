"""What a follower is sent: ranges of the segment files as they are, by ``sendfile``, always whole batches.

A follower asks for what follows its last answer, so where that ended is remembered and nothing has to be searched; only
a new one, or one that meets a compacted segment, is looked up. What is not in the page cache is read by a thread first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from logeion.log import index as indexes
from logeion.log.log import Log
from logeion.log.names import INDEX, LOG
from logeion.log.segment import Segment
from logeion.log.store import failed
from logeion.wire.buffers import FileRange

from ..cold import ColdReads
from ..lanes import Lane
from ..messages import LogFetched

# Up to this size copying costs less than a second system call and a descriptor.
SMALL = 16_384
# When a fetch is answered for which there are no bytes though the log ends later.
NOTHING_S = 1.0


class _Place(msgspec.Struct, gc=False):
    """``offset`` begins at byte ``position`` of the segment."""

    offset: int
    segment: Segment
    position: int


class Feeder:
    """Reads one partition's log for its followers' lanes."""

    def __init__(self, log: Log, loop: asyncio.AbstractEventLoop) -> None:
        self._log = log
        self._loop = loop
        self._cold = ColdReads(loop)
        # Where the next fetch of a lane will begin, if it takes all of the last answer.
        self._places: dict[Lane, _Place] = {}

    def send(self, lane: Lane, offset: int, max_bytes: int, message: LogFetched) -> None:
        """Tell ``message`` with batches from ``offset`` on. Raises ``StorageError``."""
        segment, position = self._place(lane, offset)
        size = self._size(segment, position, max_bytes)
        if position + size == segment.size and segment is self._log.active:
            self._places[lane] = _Place(self._log.end_offset, segment, segment.size)
        else:
            # Where the next batch begins is known, its offset is not: it is looked up by the next fetch's.
            self._places[lane] = _Place(-1, segment, position + size)
        if not size:
            # Compaction took all that was left up to an end that only a new record will move.
            self._loop.call_later(NOTHING_S, lane.tell, message)
        elif size <= SMALL:
            lane.tell(message, [segment.read(position, size)])
        else:
            self._send_range(lane, message, segment, position, size)

    def _send_range(self, lane: Lane, message: LogFetched, segment: Segment, position: int, size: int) -> None:
        part, close = self._open(segment, position, size)

        def tell() -> None:
            lane.tell(message, [part], close)

        if self._cold.warm([part], tell):
            tell()

    def forget(self, lane: Lane) -> None:
        """This lane is closed."""
        self._places.pop(lane, None)

    def close(self) -> None:
        """Read nothing more."""
        self._cold.close()

    def _place(self, lane: Lane, offset: int) -> tuple[Segment, int]:
        known = self._places.get(lane)
        segments = self._log.segments
        if known is not None and known.offset == offset:
            segment = known.segment
            if segments.get(segment.base) is segment:
                if known.position < segment.size:
                    return segment, known.position
                following = segments.bisect_right(segment.base)
                if following < len(segments):
                    later: Segment = segments.peekitem(following)[1]
                    if later.size and later.base == offset:
                        return later, 0
        base, position = self._log.position_of(offset)
        return segments[base], position

    def _size(self, segment: Segment, position: int, max_bytes: int) -> int:
        """How many bytes to take from ``position``: all there is, or up to a batch boundary that the index knows."""
        rest = segment.size - position
        if rest <= max_bytes:
            return rest
        first = next(segment.walk(position))[1].size
        if first >= max_bytes or not segment.index_count:
            return first
        with segment.reading(INDEX) as fd:
            pread = self._log.store.files.pread
            found = indexes.floor(
                lambda size, at: pread(fd, size, at),
                indexes.OFFSET_ENTRY,
                segment.index_count,
                position + max_bytes,
                field=1,
            )
        boundary = 0 if found is None else found[1]
        return boundary - position if boundary >= position + first else first

    def _open(self, segment: Segment, position: int, size: int) -> tuple[FileRange, Callable[[], None]]:
        files = self._log.store.files
        path = self._log.store.path(segment.name + LOG)
        try:
            fd = files.duplicate(segment.fd) if segment.fd >= 0 else files.open(path, 0)
        except OSError as error:
            raise failed(error, "open", path) from error
        return FileRange(fd, position, size), lambda: files.close(fd)
