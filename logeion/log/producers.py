"""What a partition remembers of its idempotent producers (KIP-98, KIP-360): enough to drop a batch sent twice.

Pure: no I/O, no clock. ``ProducerStates`` decides, the log writes; ``encode_snapshot`` and ``decode_snapshot`` are the
bytes of Kafka's ``.snapshot`` files.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import fastcrc

from logeion.wire.batch import BatchHeader
from logeion.wire.errors import InvalidProducerEpochError, MalformedError, OutOfOrderSequenceNumberError

# Kafka clients have at most five batches in flight, so a retry is one of the last five.
REMEMBERED = 5
MAX_SEQUENCE = 2**31 - 1

_HEAD = struct.Struct(">hIi")
_ENTRY = struct.Struct(">qhiqiqiq")
_CRC_FROM = 6


class ProducerBatch(NamedTuple):
    """One appended batch: its sequences and offsets, both inclusive."""

    first_sequence: int
    last_sequence: int
    first_offset: int
    last_offset: int


class Producer(NamedTuple):
    """One producer: its epoch, its last batches (oldest first) and when it last appended (milliseconds)."""

    epoch: int
    batches: tuple[ProducerBatch, ...]
    last_append_ms: int


def next_sequence(sequence: int, by: int = 1) -> int:
    """The sequence ``by`` records later: after 2^31-1 comes 0."""
    return (sequence + by) & MAX_SEQUENCE


class ProducerStates:
    """All producers of a partition, the one that appended longest ago first."""

    def __init__(self) -> None:
        self._producers: dict[int, Producer] = {}

    def __len__(self) -> int:
        return len(self._producers)

    def __contains__(self, producer_id: int) -> bool:
        return producer_id in self._producers

    def get(self, producer_id: int) -> Producer | None:
        """One producer's state."""
        return self._producers.get(producer_id)

    def items(self) -> list[tuple[int, Producer]]:
        """All of them, longest silent first."""
        return list(self._producers.items())

    def check(self, header: BatchHeader) -> ProducerBatch | None:
        """Whether this batch may be appended: None, or the earlier batch that it repeats.

        Raises ``InvalidProducerEpochError`` for an epoch below the producer's, ``OutOfOrderSequenceNumberError`` for a
        gap, and for a repetition of a batch older than the last five. A producer of which nothing is known may begin
        anywhere: its state may have expired.
        """
        known = self._producers.get(header.producer_id)
        if known is None:
            return None
        if header.producer_epoch < known.epoch:
            raise InvalidProducerEpochError(
                f"producer {header.producer_id} sent epoch {header.producer_epoch}, its epoch here is {known.epoch}"
            )
        first = header.base_sequence
        if header.producer_epoch > known.epoch:
            if first != 0:
                raise OutOfOrderSequenceNumberError(
                    f"producer {header.producer_id} began epoch {header.producer_epoch} at sequence {first}, not at 0"
                )
            return None
        last = next_sequence(first, header.last_offset_delta)
        for batch in known.batches:
            if batch.first_sequence == first and batch.last_sequence == last:
                return batch
        expected = next_sequence(known.batches[-1].last_sequence)
        if first != expected:
            raise OutOfOrderSequenceNumberError(
                f"producer {header.producer_id} epoch {known.epoch} sent sequence {first}, expected {expected}"
            )
        return None

    def note(self, header: BatchHeader, first_offset: int, now_ms: int) -> Producer | None:
        """Remember an appended batch without checking it; returns the state before, for ``restore``."""
        before = self._producers.pop(header.producer_id, None)
        first = header.base_sequence
        batch = ProducerBatch(
            first, next_sequence(first, header.last_offset_delta), first_offset, first_offset + header.last_offset_delta
        )
        if before is not None and before.epoch == header.producer_epoch:
            batches = (*before.batches, batch)[-REMEMBERED:]
        else:
            batches = (batch,)
        self._producers[header.producer_id] = Producer(header.producer_epoch, batches, now_ms)
        return before

    def restore(self, producer_id: int, before: Producer | None) -> None:
        """Undo the last ``note`` of this producer: its batch was not written."""
        self._producers.pop(producer_id, None)
        if before is not None:
            self._producers[producer_id] = before

    def expire(self, before_ms: int) -> int:
        """Forget the producers that last appended before this time; returns how many."""
        silent = [producer_id for producer_id, state in self._producers.items() if state.last_append_ms < before_ms]
        for producer_id in silent:
            del self._producers[producer_id]
        return len(silent)

    def encode_snapshot(self) -> bytes:
        """Kafka's snapshot, version 1.

        Kafka keeps a producer's last batch only; we write one entry a batch, oldest first. A reader that keeps one
        entry a producer, as Kafka does, ends with the last, which is what it wants.
        """
        entries = bytearray()
        count = 0
        for producer_id, state in self._producers.items():
            for batch in state.batches:
                entries += _ENTRY.pack(
                    producer_id,
                    state.epoch,
                    batch.last_sequence,
                    batch.last_offset,
                    batch.last_offset - batch.first_offset,
                    state.last_append_ms,
                    -1,
                    -1,
                )
                count += 1
        body = count.to_bytes(4, "big") + entries
        return _HEAD.pack(1, fastcrc.crc32.iscsi(body), count) + entries

    @classmethod
    def decode_snapshot(cls, data: bytes) -> ProducerStates:
        """The states of a snapshot file; raises ``MalformedError`` if length, version or CRC are wrong."""
        if len(data) < _HEAD.size:
            raise MalformedError(f"a producer snapshot has at least {_HEAD.size} bytes, not {len(data)}")
        version, crc, count = _HEAD.unpack_from(data)
        if version != 1 or count < 0 or len(data) != _HEAD.size + count * _ENTRY.size:
            raise MalformedError(f"a producer snapshot of version {version} with {count} entries in {len(data)} bytes")
        if fastcrc.crc32.iscsi(memoryview(data)[_CRC_FROM:]) != crc:
            raise MalformedError("the CRC of the producer snapshot is wrong")
        states = cls()
        for row in _ENTRY.iter_unpack(memoryview(data)[_HEAD.size :]):
            producer_id, epoch, last_sequence, last_offset, delta, timestamp = row[:6]
            batch = ProducerBatch(
                (last_sequence - delta) & MAX_SEQUENCE, last_sequence, last_offset - delta, last_offset
            )
            before = states._producers.pop(producer_id, None)
            earlier = before.batches if before is not None and before.epoch == epoch else ()
            states._producers[producer_id] = Producer(epoch, (*earlier, batch)[-REMEMBERED:], timestamp)
        return states
