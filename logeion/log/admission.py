"""What a topic's configuration asks of a batch before it is written. Pure; most batches pass untouched.

A batch is decoded only where the topic's owner asked for it: a forced ``compression.type``, a compacted topic (each
record needs a key), or a bound on how old a record may be. Its CRC is taken as checked.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from logeion.wire.batch import CODEC_MASK, HEADER_SIZE, BatchHeader, pack_batch, read_header, restamp_time
from logeion.wire.compression import CODECS, compress, decompress
from logeion.wire.errors import (
    CorruptMessageError,
    InvalidRecordError,
    InvalidTimestampError,
    MessageTooLargeError,
    WireError,
)
from logeion.wire.records import Record, batch_records

from .config import LONG_MAX, LogConfig
from .files import Data


class Admitted(NamedTuple):
    """The batch as it will be written, but for offset and epoch; ``append_time_ms`` is -1 with CreateTime."""

    view: Data
    header: BatchHeader
    append_time_ms: int


def admit(view: Data, header: BatchHeader, config: LogConfig, now_ms: int) -> Admitted:
    """The batch, changed where the topic asks for it.

    Raises ``MessageTooLargeError`` (also after recompression), ``InvalidTimestampError`` (KIP-937, or a client that
    claims LogAppendTime), ``InvalidRecordError`` (records that cannot be read, or without key on a compacted topic).
    """
    _check_size(header, config)
    append_time = -1
    records: list[Record] | None = None
    if config.compact:
        records = _records(view, header, config)
        if any(record.key is None for record in records):
            raise InvalidRecordError("a record without key cannot be kept by a compacted topic")
    if config.log_append_time:
        if header.log_append_time:
            raise InvalidTimestampError("a producer must not set the timestamp type to LogAppendTime")
    else:
        if header.max_timestamp > now_ms + config.timestamp_after_max_ms:
            raise InvalidTimestampError(
                f"timestamp {header.max_timestamp} is more than {config.timestamp_after_max_ms} ms ahead of the broker"
            )
        if config.timestamp_before_max_ms != LONG_MAX:
            _check_age(records or _records(view, header, config), config, now_ms)
    wanted = _codec(config)
    if wanted is not None and wanted != header.codec:
        view, header = _recompress(view, header, wanted, config)
        _check_size(header, config)
    if config.log_append_time:
        append_time = now_ms
        view = restamp_time(view, now_ms)
        header = read_header(view)
    elif header.log_append_time:
        view = restamp_time(view, None)
        header = read_header(view)
    return Admitted(view, header, append_time)


def _check_size(header: BatchHeader, config: LogConfig) -> None:
    limit = min(config.max_message_bytes, config.segment_bytes)
    if header.size > limit:
        raise MessageTooLargeError(
            f"batch of {header.size} bytes, the topic takes {limit} (max.message.bytes, segment.bytes)"
        )


def _records(view: Data, header: BatchHeader, config: LogConfig) -> list[Record]:
    try:
        records = batch_records(
            memoryview(view), header, max_bytes=config.max_decompressed_bytes, max_records=config.max_decoded_records
        )
    except (CorruptMessageError, WireError) as error:
        raise InvalidRecordError(f"the records cannot be read: {error}") from error
    for delta, record in enumerate(records):
        if record.offset != delta:
            raise InvalidRecordError(f"record {delta} of the batch has offset delta {record.offset}")
    return records


def _check_age(records: list[Record], config: LogConfig, now_ms: int) -> None:
    oldest = min((record.timestamp for record in records if record.timestamp >= 0), default=now_ms)
    if oldest < now_ms - config.timestamp_before_max_ms:
        raise InvalidTimestampError(
            f"timestamp {oldest} is more than {config.timestamp_before_max_ms} ms behind the broker"
        )


def _codec(config: LogConfig) -> int | None:
    """The codec that ``compression.type`` forces; None keeps the producer's."""
    if config.compression_type == "producer":
        return None
    return CODECS["none" if config.compression_type == "uncompressed" else config.compression_type]


def _recompress(view: Data, header: BatchHeader, codec: int, config: LogConfig) -> tuple[bytes, BatchHeader]:
    body = memoryview(view)[HEADER_SIZE : header.size]
    try:
        plain = decompress(header.codec, body, config.max_decompressed_bytes)
    except WireError as error:
        raise InvalidRecordError(f"the records cannot be recompressed: {error}") from error
    attributes = (header.attributes & ~CODEC_MASK) | codec
    batch = pack_batch(msgspec.structs.replace(header, attributes=attributes), compress(codec, plain))
    return batch, read_header(batch)
