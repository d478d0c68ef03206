"""The metadata log's bytes: an entry of the quorum is a record batch on disk, a snapshot is a file of batches.

One entry is one batch, so it is there whole or not at all. The batch's base offset and leader epoch are the entry's
offset and term; all the rest, from the magic byte on, is what voters send each other as ``Entry.data``, so it is the
same on every disk, with the CRC of whoever proposed it. A record's value is msgpack. What the quorum itself writes is a
control batch of one record, typed as in Kafka: a term's first entry, and a set of voters.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple, get_args

import msgspec

from logeion.wire.batch import MAGIC_AT, BatchHeader, iter_headers, verify_crc
from logeion.wire.errors import ConfigError, CorruptMessageError
from logeion.wire.records import Record, batch_records, build_batch

from ..metadata import MetadataRecord
from .raft.messages import Entry, VoterId

_STAMP = struct.Struct(">qii")
# Kafka's control records: version, type.
_CONTROL = struct.Struct(">hh")
_TERM_BEGINS, _VOTERS = 2, 6
# Records of one batch of a snapshot, so that no batch grows without bound.
_SNAPSHOT_BATCH = 1_000
BYTES_MAX = 2**31 - 1

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[MetadataRecord] = msgspec.msgpack.Decoder(MetadataRecord)
_voters: msgspec.msgpack.Decoder[tuple[VoterId, ...]] = msgspec.msgpack.Decoder(tuple[VoterId, ...])


# The names of the records that this release knows.
_KNOWN = frozenset(kind.__name__ for kind in get_args(MetadataRecord))


class UnknownRecordError(ConfigError):
    """The metadata log has a kind of record that this release does not know: starting it again is no help."""


class _Tagged(msgspec.Struct):
    """Any record, as far as its kind goes."""

    type: str


class Commit(NamedTuple):
    """Committed records in order; the first has the offset ``offset``. A snapshot replaces all before it.

    There are as many records as offsets, or none: what the quorum wrote for itself is nobody else's business.
    """

    offset: int
    records: list[MetadataRecord]
    next_offset: int
    snapshot: bool = False


def pack_records(records: Sequence[MetadataRecord], now_ms: int) -> bytes:
    """``Entry.data`` of a proposal; ``now_ms`` only labels the records."""
    return build_batch(_as_kafka(records, 0, now_ms))[MAGIC_AT:]


def unpack_records(data: bytes) -> list[MetadataRecord]:
    """The records of an ``Entry.data``. Raises ``CorruptMessageError``, ``UnknownRecordError``."""
    return read_records(_stamped(0, 0, data)) if data else []


def as_batch(entry: Entry) -> bytes:
    """The entry as it lies on disk."""
    if entry.data:
        return _stamped(entry.offset, entry.term, entry.data)
    kind = _TERM_BEGINS if entry.voters is None else _VOTERS
    return _control(kind, entry.voters or (), entry.offset, entry.term)


def entries_in(view: bytes) -> Iterator[Entry]:
    """The entries of whole batches. Raises ``CorruptMessageError``."""
    for at, header in iter_headers(view):
        verify_crc(view, header, at)
        batch = view[at : at + header.size]
        offset, term = header.base_offset, header.leader_epoch
        if not header.is_control:
            yield Entry(offset, term, header.last_offset_delta + 1, batch[MAGIC_AT:])
            continue
        yield Entry(offset, term, voters=_voters_in(batch, header))


def pack_snapshot(records: Sequence[MetadataRecord], now_ms: int) -> bytes:
    """``Snapshot.data``: batches that rebuild an image."""
    return b"".join(
        build_batch(_as_kafka(records[at : at + _SNAPSHOT_BATCH], at, now_ms))
        for at in range(0, len(records), _SNAPSHOT_BATCH)
    )


def as_file(voters: tuple[VoterId, ...], data: bytes) -> bytes:
    """A snapshot's file: the voters first."""
    return _control(_VOTERS, voters, 0, 0) + data


def from_file(content: bytes) -> tuple[tuple[VoterId, ...] | None, bytes]:
    """A snapshot's voters and data; those of a quorum of one used to be without voters.

    Raises ``CorruptMessageError``, also for a file that is cut short.
    """
    voters: tuple[VoterId, ...] | None = None
    begin = end = 0
    for at, header in iter_headers(content):
        verify_crc(content, header, at)
        end = at + header.size
        if at == 0 and header.is_control:
            voters, begin = _voters_in(content[:end], header), end
    if end != len(content):
        raise CorruptMessageError(f"{len(content) - end} bytes at the end are no batch")
    return voters, content[begin:]


def read_records(view: bytes) -> list[MetadataRecord]:
    """The metadata records of whole batches. Raises ``CorruptMessageError``, ``UnknownRecordError``."""
    found: list[MetadataRecord] = []
    for at, header in iter_headers(view):
        verify_crc(view, header, at)
        batch = memoryview(view)[at : at + header.size]
        found += (_read(record) for record in batch_records(batch, header, max_bytes=BYTES_MAX))
    return found


def _read(record: Record) -> MetadataRecord:
    value = record.value or b""
    try:
        return _decoder.decode(value)
    except msgspec.DecodeError as error:
        with contextlib.suppress(msgspec.DecodeError):
            kind = msgspec.msgpack.decode(value, type=_Tagged).type
            if kind not in _KNOWN:
                raise UnknownRecordError(
                    f"the metadata log has a {kind} record at offset {record.offset}, which this release does not "
                    "know: a newer one has written it, so run that one here"
                ) from error
        raise CorruptMessageError(f"the metadata record at offset {record.offset} cannot be read: {error}") from error


def _as_kafka(records: Sequence[MetadataRecord], first: int, now_ms: int) -> list[Record]:
    return [
        Record(offset=first + at, timestamp=now_ms, value=_encoder.encode(record)) for at, record in enumerate(records)
    ]


def _stamped(offset: int, term: int, data: bytes) -> bytes:
    return _STAMP.pack(offset, len(data) + _STAMP.size - 12, term) + data


def _control(kind: int, voters: tuple[VoterId, ...], offset: int, term: int) -> bytes:
    record = Record(offset=offset, timestamp=0, key=_CONTROL.pack(0, kind), value=_encoder.encode(voters))
    return build_batch([record], leader_epoch=term, control=True)


def _voters_in(batch: bytes, header: BatchHeader) -> tuple[VoterId, ...] | None:
    """The set of voters that a control batch states; none in a term's first entry."""
    [record] = batch_records(memoryview(batch), header, max_bytes=BYTES_MAX)
    try:
        version, kind = _CONTROL.unpack(record.key or b"")
        if kind == _TERM_BEGINS:
            return None
        if version == 0 and kind == _VOTERS:
            return _voters.decode(record.value or b"")
    except (struct.error, msgspec.DecodeError):
        pass
    raise CorruptMessageError(f"the control batch at offset {header.base_offset} is none of ours")
