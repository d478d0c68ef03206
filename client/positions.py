"""Where a consumer stands and what a fetch brought. Pure."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import msgspec

from logeion.wire.batch import iter_headers, verify_crc
from logeion.wire.errors import CorruptMessageError
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
    """One partition of a consumer: what it asks for next, what was fetched and is not parsed yet."""

    __slots__ = (
        "batches",
        "buffered",
        "gone",
        "high_watermark",
        "next_fetch",
        "next_record",
        "paused",
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
        self.batches: deque[memoryview] = deque()
        self.buffered: int = 0

    @property
    def finished(self) -> bool:
        """Whether everything before ``stop_at`` was handed out."""
        return self.stop_at is not None and self.next_record >= self.stop_at

    @property
    def fetchable(self) -> bool:
        """Whether there is more to ask for."""
        return not self.paused and (self.stop_at is None or self.next_fetch < self.stop_at)

    def seek(self, offset: int) -> None:
        """Reads on from here, forgetting what was fetched."""
        self.next_fetch = self.next_record = offset
        self.batches.clear()
        self.buffered = 0

    def fetched(self, records: memoryview, high_watermark: int) -> int:
        """Keeps the whole batches of an answer; returns their bytes. Raises CorruptMessageError."""
        self.high_watermark = high_watermark
        end = 0
        for at, header in iter_headers(records):
            end = at + header.size
            self.next_fetch = header.base_offset + header.last_offset_delta + 1
        if end:
            self.batches.append(records[:end])
            self.buffered += end
        elif len(records) >= 17:
            raise CorruptMessageError(f"{self.tp.topic}[{self.tp.partition}]: an answer without one whole batch")
        return end

    def take(self) -> tuple[list[Record], int]:
        """(the records of the next fetched answer from the position on, bytes freed).

        A fetch may begin inside a batch, so what lies before the position is dropped. Raises CorruptMessageError.
        """
        view = self.batches.popleft()
        self.buffered -= len(view)
        records: list[Record] = []
        for at, header in iter_headers(view):
            batch = view[at : at + header.size]
            if not header.is_control:
                verify_crc(batch, header)
                records += batch_records(batch, header, max_bytes=RECORDS_BYTES_MAX)
            after = header.base_offset + header.last_offset_delta + 1
        if records and records[0].offset < self.next_record:
            records = [record for record in records if record.offset >= self.next_record]
        if self.stop_at is not None and records and records[-1].offset >= self.stop_at:
            records = [record for record in records if record.offset < self.stop_at]
        self.next_record = max(self.next_record, after)
        return records, len(view)
