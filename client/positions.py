"""Where a consumer stands and what a fetch brought. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from logeion.wire.batch import BatchHeader, iter_headers, verify_crc
from logeion.wire.errors import CorruptMessageError, LogeionError
from logeion.wire.records import Record, batch_records

RECORDS_BYTES_MAX = 256 * 1024 * 1024


class Start(msgspec.Struct, frozen=True):
    """Where to begin reading each partition.

    ``kind`` is "start", "end", "offset" (``value`` is one), "last" (the last ``value`` records of each partition) or
    "time" (``value`` is in milliseconds since 1970: the first record not older).
    """

    kind: str
    value: int = 0


class TopicPartition(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int


class Position:
    """One partition of a consumer: what it asks for next, what was fetched and is not parsed yet, what is finished.

    Whoever reads anew from elsewhere gets a new one, so what a program finishes late of an older assignment is never
    taken for news of this one.
    """

    __slots__ = (
        "batches",
        "buffered",
        "committed",
        "done",
        "error",
        "gone",
        "high_watermark",
        "next_fetch",
        "next_record",
        "out_of_range",
        "paused",
        "quiet_until",
        "stop_at",
        "tp",
    )

    def __init__(self, tp: TopicPartition, offset: int, stop_at: int | None) -> None:
        self.tp: TopicPartition = tp
        self.next_fetch: int = offset
        self.next_record: int = offset
        self.stop_at: int | None = stop_at
        self.high_watermark: int = -1
        self.gone: bool = False  # what it fetched is not to be handed out any more
        self.paused: bool = False
        # An answer's batches with the aborted transactions that it named: (producer id, first offset).
        self.batches: deque[tuple[memoryview, list[tuple[int, int]]]] = deque()
        self.buffered: int = 0
        self.done: int = -1  # the program is done with everything before this offset; -1: with nothing
        self.committed: int = -1
        self.error: LogeionError | None = None  # to be raised once what came before it was handed out
        self.out_of_range: bool = False  # so said the broker; what was fetched before is handed out first
        self.quiet_until: float = 0.0  # nothing is asked, nor the error said again, before that time

    @property
    def finished(self) -> bool:
        """Whether everything before ``stop_at`` was handed out."""
        return self.stop_at is not None and self.next_record >= self.stop_at

    @property
    def fetchable(self) -> bool:
        """Whether there is more to ask for."""
        if self.paused or self.error is not None or (self.out_of_range and self.batches):
            return False
        return self.stop_at is None or self.next_fetch < self.stop_at

    def seek(self, offset: int) -> None:
        """Reads on from here, forgetting what was fetched."""
        self.next_fetch = self.next_record = offset
        self.out_of_range = False
        self.batches.clear()
        self.buffered = 0

    def fetched(self, records: memoryview, high_watermark: int, aborted: Iterable[tuple[int, int]] = ()) -> int:
        """Keeps the whole batches of an answer; returns their bytes. Raises CorruptMessageError, keeping nothing."""
        self.high_watermark = high_watermark
        end, after = 0, self.next_fetch
        for at, header in iter_headers(records):
            end = at + header.size
            after = header.base_offset + header.last_offset_delta + 1
        if end:
            self.next_fetch = after
            self.batches.append((records[:end], sorted(aborted, key=lambda one: one[1])))
            self.buffered += end
        elif len(records) >= 17:
            raise CorruptMessageError(f"{self.tp.topic}[{self.tp.partition}]: an answer without one whole batch")
        return end

    def take(self) -> tuple[list[Record], int]:
        """(the records of the next fetched answer from the position on, bytes freed).

        A fetch may begin inside a batch, so what lies before the position is dropped. A batch that cannot be read
        becomes ``error``: what stands before it is handed out, and the position is the batch's.
        """
        view, aborted = self.batches.popleft()
        freed = len(view)
        records: list[Record] = []
        after = self.next_record
        aborting: set[int] = set()
        try:
            for at, header in iter_headers(view):
                last = header.base_offset + header.last_offset_delta
                while aborted and aborted[0][1] <= last:
                    aborting.add(aborted.pop(0)[0])
                batch = view[at : at + header.size]
                if header.is_control:
                    if header.producer_id in aborting and _aborts(batch, header):
                        aborting.discard(header.producer_id)
                elif not (header.is_transactional and header.producer_id in aborting):
                    verify_crc(batch, header)
                    records += batch_records(batch, header, max_bytes=RECORDS_BYTES_MAX)
                after = last + 1
        except LogeionError as error:
            error.args = (f"{self.tp.topic}[{self.tp.partition}]: {error}; to read on, seek past it",)
            self.error = error
            freed += sum(len(later) for later, _ in self.batches)
            self.batches.clear()
            self.next_fetch = max(self.next_record, after)
        self.buffered -= freed
        if records and records[0].offset < self.next_record:
            records = [record for record in records if record.offset >= self.next_record]
        if self.stop_at is not None and records and records[-1].offset >= self.stop_at:
            records = [record for record in records if record.offset < self.stop_at]
        self.next_record = max(self.next_record, after)
        return records, freed


def _aborts(batch: memoryview, header: BatchHeader) -> bool:
    """Whether this marker ends a transaction by throwing it away: its key is a version and a type, both i16."""
    (marker, *_) = batch_records(batch, header, max_bytes=RECORDS_BYTES_MAX) or (None,)
    return marker is not None and marker.key is not None and marker.key[2:4] == b"\0\0"
