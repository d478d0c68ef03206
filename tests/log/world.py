"""What the log's tests share: batches, a log on a disk of one's choice, and its contents as a reader finds them."""

from __future__ import annotations

from pathlib import Path

from logeion.log.config import LogConfig
from logeion.log.files import Files
from logeion.log.log import AppendInfo, Log
from logeion.wire.batch import BatchHeader, check_produced, read_header, verify_crc
from logeion.wire.errors import LogeionError
from logeion.wire.records import Record, batch_records, build_batch

NOW = 1_700_000_000_000
TOPIC_ID = "00112233445566778899aabbccddeeff"
DIRECTORY = Path("/data/orders-0")


def batch(
    *values: bytes | None,
    key: bytes | None = b"k",
    timestamp: int = NOW,
    codec: int = 0,
    producer: tuple[int, int, int] = (-1, -1, -1),
) -> tuple[memoryview, BatchHeader]:
    """A batch as a client sends it, one record a value; ``producer`` is (id, epoch, first sequence)."""
    records = [Record(number, timestamp + number, key, value) for number, value in enumerate(values)]
    data = build_batch(
        records, codec=codec, producer_id=producer[0], producer_epoch=producer[1], base_sequence=producer[2]
    )
    return memoryview(data), check_produced(data, 1 << 24)


def open_log(files: Files | None, directory: Path = DIRECTORY, **changes: object) -> Log:
    """A log with small segments; ``changes`` are fields of LogConfig."""
    config = LogConfig(**{"segment_bytes": 600, "index_interval_bytes": 150, **changes})  # type: ignore[arg-type]
    return Log.open(directory, config, files=files, now_ms=NOW, topic_id=TOPIC_ID)


def append(log: Log, *values: bytes | None, **options: object) -> AppendInfo:
    """Append one batch in the log's epoch."""
    view, header = batch(*values, **options)  # type: ignore[arg-type]
    return log.append(view, header, epoch=log.epoch, now_ms=NOW)


def append_all(log: Log, *batches: tuple[memoryview, BatchHeader]) -> list[AppendInfo | LogeionError]:
    """Append a mailbox."""
    return log.append_many(batches, epoch=log.epoch, now_ms=NOW)


def batches_of(log: Log) -> list[tuple[BatchHeader, memoryview]]:
    """Every batch from the log start to the end, read from the files, CRC checked."""
    found = []
    for segment in log.segments.values():
        for position, header in segment.walk(0):
            data = memoryview(segment.read(position, header.size))
            verify_crc(data, read_header(data))
            if header.last_offset >= log.start_offset:
                found.append((header, data))
    return found


def records_of(log: Log) -> dict[int, bytes | None]:
    """Offset to value, from the log start on."""
    return {
        record.offset: record.value
        for header, data in batches_of(log)
        for record in batch_records(data, header, max_bytes=1 << 24)
        if record.offset >= log.start_offset
    }
