"""Encoded answers of Metadata, kept while they are true.

Clients ask for the same topics again and again, librdkafka whenever anything happens to any of its brokers; encoding
hundreds of partitions takes milliseconds, a copy of the encoded answer microseconds.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable

from logeion.wire.apis import Struct
from logeion.wire.buffers import Buffer
from logeion.wire.codec import RequestHeader, encode_response

# What is kept at most: entries of one state of the cluster, their bytes, and the bytes of one.
ENTRIES = 256
BYTES = 16_777_216
LARGEST = 1_048_576

_CORRELATION_ID = struct.Struct(">i")
_CORRELATION_AT = 4  # behind the frame's length


class Answers:
    """Frames by what was asked; all of them belong to one ``state``, and a new state empties the store."""

    def __init__(self) -> None:
        self._state: Hashable = None
        self._frames: dict[Hashable, bytes] = {}
        self._bytes = 0

    def find(self, state: Hashable, asked: Hashable, correlation_id: int) -> list[Buffer] | None:
        """The frame for this question in this state, with the correlation id of the request that asks now."""
        frame = self._frames.get(asked) if state == self._state else None
        if frame is None:
            return None
        fresh = bytearray(frame)
        _CORRELATION_ID.pack_into(fresh, _CORRELATION_AT, correlation_id)
        return [fresh]

    def keep(self, state: Hashable, asked: Hashable, header: RequestHeader, body: Struct) -> list[Buffer]:
        """Encode an answer, keep it and return it."""
        pieces = encode_response(header, body)
        frame = b"".join(pieces)  # type: ignore[arg-type]  # no records, so nothing but bytes
        if state != self._state or len(self._frames) >= ENTRIES or self._bytes + len(frame) > BYTES:
            self._state, self._bytes = state, 0
            self._frames.clear()
        if len(frame) <= LARGEST:
            self._frames[asked] = frame
            self._bytes += len(frame)
        return pieces
