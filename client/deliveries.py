"""What became of a record that was given to a producer. Pure but for waiting."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from logeion.wire.errors import LogeionError

from .accumulator import Batch

log: logging.Logger = logging.getLogger("logeion.client")


class RecordMetadata(NamedTuple):
    """Where a record stands: ``offset`` is -1 when nobody knows (acks=0, or a duplicate the broker has forgotten);
    ``timestamp_ms`` is the broker's for a topic of LogAppendTime."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class Delivery:
    """A record that was given to a producer: awaitable, with the RecordMetadata or the error as its result."""

    __slots__ = ("_batch", "_index", "_timestamp_ms")

    def __init__(self, batch: Batch, index: int, timestamp_ms: int) -> None:
        self._batch = batch
        self._index = index
        self._timestamp_ms = timestamp_ms

    def done(self) -> bool:
        """Whether its fate is known."""
        return self._batch.done

    def exception(self) -> LogeionError | None:
        """What became of it: None for success, or not yet."""
        return self._batch.error

    def result(self) -> RecordMetadata:
        """Raises its error; asyncio.InvalidStateError before it is done."""
        batch = self._batch
        if not batch.done:
            raise asyncio.InvalidStateError("the record is not acknowledged yet")
        if batch.error is not None:
            raise batch.error
        offset = batch.base_offset + self._index if batch.base_offset >= 0 else -1
        stamp = batch.log_append_time_ms if batch.log_append_time_ms >= 0 else self._timestamp_ms
        return RecordMetadata(batch.topic, batch.partition, offset, stamp)

    def add_done_callback(self, callback: Callable[[Delivery], object]) -> None:
        """Calls it with this delivery once it is done; at once if it is. What it raises is logged, no more."""
        if self._batch.done:
            self._tell(callback)
        else:
            self._batch.callbacks.append(lambda _: self._tell(callback))

    def _tell(self, callback: Callable[[Delivery], object]) -> None:
        # A mistake of the program's must not end the task that settles the other records of this answer.
        try:
            callback(self)
        except Exception:
            log.exception("a callback of a record of %s[%d] raised", self._batch.topic, self._batch.partition)

    def __await__(self) -> Generator[Any, None, RecordMetadata]:
        if not self._batch.done:
            arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._batch.callbacks.append(lambda _: None if arrived.done() else arrived.set_result(None))
            yield from arrived.__await__()
        return self.result()


def as_bytes(data: Any) -> bytes | None:
    """For a topic that has no type. Raises TypeError."""
    if data is None or type(data) is bytes:
        return data
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    raise TypeError(
        f"a topic named by a str takes bytes, not {type(data).__name__}; "
        "use Topic(name, key=…, value=…) or a serializer"
    )
