"""What lies in a partition's directory, batch by batch, for people and scripts. Takes no lock and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from logeion.wire.compression import CODECS
from logeion.wire.errors import CorruptMessageError, WireError
from logeion.wire.records import batch_records

from . import names
from .files import Files
from .verify import OfflineLog

_CODEC_NAMES = {number: name for name, number in CODECS.items()}
# A batch that becomes more than this is shown without its records.
_MAX_DECOMPRESSED = 256 << 20


def dump(directory: Path, *, records: bool = False, files: Files | None = None) -> Iterator[dict[str, Any]]:
    """One object a batch, in offset order, with its records if asked for (bytes as text, undecodable ones escaped).

    The walk of a segment ends where it is damaged; the last object then has ``error``. Raises ``StorageError`` if the
    directory cannot be read or holds no segment.
    """
    log = OfflineLog(directory, files)
    for segment in log.segments:
        name = names.stem(segment.base) + names.LOG
        for position, header, _walk in log.walk(segment, check=False):
            row: dict[str, Any] = {
                "segment": segment.base,
                "position": position,
                "size": header.size,
                "base_offset": header.base_offset,
                "last_offset": header.last_offset,
                "count": header.count,
                "leader_epoch": header.leader_epoch,
                "codec": _CODEC_NAMES.get(header.codec, str(header.codec)),
                "timestamp_type": "LogAppendTime" if header.log_append_time else "CreateTime",
                "base_timestamp": header.base_timestamp,
                "max_timestamp": header.max_timestamp,
                "producer_id": header.producer_id,
                "producer_epoch": header.producer_epoch,
                "base_sequence": header.base_sequence,
                "transactional": header.is_transactional,
                "control": header.is_control,
                "crc": f"{header.crc:08x}",
            }
            if records:
                data = memoryview(log.read(segment, position, header.size))
                try:
                    row["records"] = [
                        {
                            "offset": record.offset,
                            "timestamp": record.timestamp,
                            "key": _text(record.key),
                            "value": _text(record.value),
                            "headers": [[key, _text(value)] for key, value in record.headers],
                        }
                        for record in batch_records(data, header, max_bytes=_MAX_DECOMPRESSED)
                    ]
                except (CorruptMessageError, WireError) as error:
                    row["error"] = str(error)
            yield row
        if log.last_walk.fault:
            yield {
                "segment": segment.base,
                "position": log.last_walk.position,
                "error": f"{log.store.path(name)}: {log.last_walk.fault}",
            }


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "backslashreplace")
