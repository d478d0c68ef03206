"""The batches that go to disk in one write, and when they must begin a new segment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logeion.wire.batch import BatchHeader

from . import index as indexes
from .files import Data
from .producers import Producer
from .segment import Placed

if TYPE_CHECKING:
    from .log import Log

# Relative offsets in the indexes are 31 bits wide.
MAX_RELATIVE = 2**31 - 1


class Run:
    """The batches of one write: pieces, places, and how to undo what was noted of their producers."""

    __slots__ = ("buffers", "next_offset", "placed", "position", "slots", "undo")

    def __init__(self, position: int, next_offset: int) -> None:
        self.buffers: list[Data] = []
        self.placed: list[Placed] = []
        self.undo: list[tuple[int, Producer | None]] = []
        self.slots: list[int] = []
        self.position: int = position
        self.next_offset: int = next_offset


def must_roll(log: Log, run: Run, header: BatchHeader, now_ms: int) -> bool:
    """Whether this batch, after those of the run, belongs into a new segment: size, age, or a full index."""
    segment, config = log.active, log.config
    if not segment.size and not run.placed:
        return False
    if run.position + header.size > config.segment_bytes:
        return True
    # A producer's batch has base offset 0, a leader's the offset it keeps.
    if max(run.next_offset, header.base_offset) + header.last_offset_delta - segment.base > MAX_RELATIVE:
        return True
    if (segment.index_count + len(run.placed) + 1) * indexes.OFFSET_ENTRY.size > config.segment_index_bytes:
        return True
    if segment.size:
        began = segment.first_timestamp()
        reached = max(header.max_timestamp, now_ms if config.log_append_time else -1)
        return began >= 0 and reached - began > config.segment_ms - config.segment_jitter_ms
    return False
