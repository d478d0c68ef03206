"""Publishing: a bounded accumulator and the one task that empties it."""

from __future__ import annotations

import asyncio
import contextlib
import operator
import time
from collections.abc import Callable
from typing import Any, TypeVar, overload

from logeion.wire.compression import CODECS
from logeion.wire.errors import ConfigError, LogeionError, UnknownTopicOrPartitionError

from .accumulator import Accumulator, Batch
from .cluster import Cluster
from .deliveries import Delivery as Delivery
from .deliveries import RecordMetadata as RecordMetadata
from .deliveries import as_bytes
from .errors import BufferFullError, ClosedError
from .partitioner import Partitioner
from .placement import Placement
from .record_bytes import Headers as Headers
from .record_bytes import checked_headers, checked_timestamp, size_bound
from .sender import REQUESTS_IN_FLIGHT, Sender
from .sender import unsent as unsent
from .topics import Topic

K = TypeVar("K")
V = TypeVar("V")

ACKS: dict[str | int, int] = {"all": -1, -1: -1, 1: 1, 0: 0}


class Producer:
    """Publishes records. Start it with ``async with``; leaving it flushes.

    Idempotent with acks="all" unless told otherwise: nothing is lost or doubled, and the order within a partition
    holds, through retries and failovers, until ``delivery_timeout_ms``. Then a record fails, even if a request with it
    is on its way that may take longer (``request_timeout_ms``): it may have been written all the same.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        acks: str | int = "all",
        enable_idempotence: bool | None = None,
        linger_ms: float = 5,
        batch_size: int = 1_000_000,
        max_request_size: int = 4 * 1024 * 1024,
        buffer_memory: int = 32 * 1024 * 1024,
        compression_type: str | None = None,
        delivery_timeout_ms: int = 120_000,
        request_timeout_ms: int = 30_000,
        max_block_ms: int = 60_000,
        partitioner: str | Partitioner = "murmur2",
        key_serializer: Callable[[Any], bytes | None] | None = None,
        value_serializer: Callable[[Any], bytes | None] | None = None,
    ) -> None:
        """Sizes in bytes, times in milliseconds. Raises ConfigError."""
        if acks not in ACKS:
            raise ConfigError(f"acks={acks!r}: it is 'all', 1 or 0")
        self._acks = ACKS[acks]
        if enable_idempotence and self._acks != -1:
            raise ConfigError(f"enable_idempotence=True needs acks='all', not {acks!r}")
        codec = CODECS.get(compression_type or "none")
        if codec is None:
            raise ConfigError(f"compression_type={compression_type!r}: it is one of {', '.join(CODECS)}")
        self._placement = Placement(cluster.metadata, partitioner)
        self._cluster = cluster
        self.max_block_s: float = max_block_ms / 1000
        self._key_serializer = key_serializer
        self._value_serializer = value_serializer
        self.plain: bool = key_serializer is None and value_serializer is None
        # What every record asks for, at hand.
        self._partitions = self._placement.counts
        self._sticky = self._placement.sticky
        self._current = self._sticky.current
        self._accumulator = Accumulator(
            batch_bytes=batch_size,
            linger_s=linger_ms / 1000,
            buffer_bytes=buffer_memory,
            delivery_timeout_s=delivery_timeout_ms / 1000,
            codec=codec,
            idempotent=enable_idempotence if enable_idempotence is not None else self._acks == -1,
            in_flight_max=REQUESTS_IN_FLIGHT,
            request_bytes_max=max_request_size,
        )
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._append = self._accumulator.append
        self._sender = Sender(
            cluster, self._accumulator, self._placement, acks=self._acks, request_timeout_s=request_timeout_ms / 1000
        )
        self._closed = False

    async def __aenter__(self) -> Producer:
        self._sender.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        # What was handed over before a mistake in the body is sent all the same; a cancelled body must not wait.
        await self.close(flush=kind is None or issubclass(kind, Exception))

    async def prepare(self, topic: str, *, auto_create: bool = True) -> int:
        """Learns how many partitions the topic has, so that ``send_nowait`` can place records. Raises KafkaError."""
        if not isinstance(topic, str):
            raise TypeError(f"a topic is a str or a Topic, not {type(topic).__name__}")

        async def known() -> int:
            info = await self._cluster.topic(topic, auto_create=auto_create)
            if not info.partitions:
                raise UnknownTopicOrPartitionError(f"topic {topic!r} has no partitions yet")
            return len(info.partitions)

        await self._cluster.retrying(known, what=f"metadata of {topic!r}", deadline_s=self.max_block_s)
        return self._placement.known(topic)

    def lacks(self, topic: str, partition: int | None) -> bool:
        """Whether metadata of the topic is needed before a record can go there: it is new, or has grown perhaps."""
        count = self._partitions.get(topic)
        return count is None or (partition is not None and partition >= count)

    async def look_up(self, topic: str, partition: int | None) -> None:
        """Asks once for what it ``lacks``. Raises KafkaError for a topic; of a partition ``place`` will."""
        if topic not in self._partitions:
            await self.prepare(topic)
        if self.lacks(topic, partition):
            with contextlib.suppress(LogeionError, TimeoutError):
                async with asyncio.timeout(self.max_block_s):
                    await self._cluster.refresh((topic,))
            self._placement.recount()

    @overload
    async def send(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        *,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> RecordMetadata: ...

    @overload
    async def send(
        self,
        topic: Topic[K, V],
        value: V | None = None,
        key: K | None = None,
        *,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> RecordMetadata: ...

    async def send(
        self,
        topic: Any,
        value: Any = None,
        key: Any = None,
        *,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> RecordMetadata:
        """Publishes one record and waits until it is acknowledged; for throughput see ``send_nowait``.

        A topic named by a str takes bytes (or what the serializers take), a ``Topic`` what it says.
        Waits at most ``max_block_ms`` for metadata or room. Raises KafkaError, DeadlineError, BufferFullError.
        """
        topic, value, key = self.encoded(topic, value, key)
        if headers:
            headers = checked_headers(headers)
        stamp = time.time_ns() // 1_000_000 if timestamp_ms is None else checked_timestamp(timestamp_ms)
        if self.lacks(topic, partition):
            await self.look_up(topic, partition)
        until = self._loop.time() + self.max_block_s
        while True:
            try:
                batch, index = self.place(topic, value, key, headers, partition, stamp)
                break
            except BufferFullError as full:
                try:
                    async with asyncio.timeout_at(until):
                        await self.room(size_bound(key, value, headers))
                except TimeoutError:
                    raise full from None
        return await Delivery(batch, index, stamp)

    def encoded(self, topic: Any, value: Any, key: Any) -> tuple[str, bytes | None, bytes | None]:
        """(topic's name, value, key) as they go out. Raises what the serializers or the topic's codec raise."""
        if self.plain and type(value) is bytes and (key is None or type(key) is bytes) and type(topic) is str:
            return topic, value, key
        if isinstance(topic, Topic):
            return topic.name, *topic.encode(value, key)
        if self._value_serializer is not None:
            value = self._value_serializer(value)
        if self._key_serializer is not None:
            key = self._key_serializer(key)
        return topic, as_bytes(value), as_bytes(key)

    @overload
    def send_nowait(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        *,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Delivery: ...

    @overload
    def send_nowait(
        self,
        topic: Topic[K, V],
        value: V | None = None,
        key: K | None = None,
        *,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Delivery: ...

    def send_nowait(
        self,
        topic: Any,
        value: Any = None,
        key: Any = None,
        *,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Delivery:
        """Hands over one record; the topic must have been ``prepare``d or sent to before.

        Raises BufferFullError (await ``room()`` and try again), UnknownTopicOrPartitionError, ClosedError.
        """
        topic, value, key = self.encoded(topic, value, key)
        if headers:
            headers = checked_headers(headers)
        stamp = time.time_ns() // 1_000_000 if timestamp_ms is None else checked_timestamp(timestamp_ms)
        batch, index = self.place(topic, value, key, headers, partition, stamp)
        return Delivery(batch, index, stamp)

    def place(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: Headers,
        partition: int | None,
        timestamp_ms: int,
    ) -> tuple[Batch, int]:
        """``send_nowait`` for what is bytes already, with headers and a timestamp that are ``checked_…``: the record's
        batch, and its place there. Raises as it does, and what a partitioner of the program's raises."""
        count = self._partitions.get(topic)
        if count is None:
            raise UnknownTopicOrPartitionError(f"topic {topic!r} is not prepared: await producer.prepare({topic!r})")
        if self._sender.ended:
            raise ClosedError(self._sender.ended)
        movable = False
        if partition is None:
            if key is None:
                movable = count > 1
                partition = self._current.get(topic, count)
                if partition >= count:
                    partition = self._sticky.partition(topic, count)
            else:
                partition = self._placement.by_key(key, count)
        elif not 0 <= (partition := operator.index(partition)) < count:
            self._no_partition(topic, partition)
        batch, index, closed = self._append(topic, partition, key, value, headers, timestamp_ms, self._clock, movable)
        if closed or not index:
            if movable and closed:
                self._placement.batch_closed((topic, partition))
                partition = self._sticky.partition(topic, count)
                batch, index, _ = self._append(topic, partition, key, value, headers, timestamp_ms, self._clock)
            self._sender.wake.set()
        return batch, index

    def _no_partition(self, topic: str, partition: int) -> None:
        """Metadata may be older than the partition."""
        self._placement.recount()
        count = self._partitions[topic]
        if not 0 <= partition < count:
            self._sender.refresh_soon()
            raise UnknownTopicOrPartitionError(f"topic {topic!r} has {count} partitions, none is {partition}")

    @property
    def unacknowledged(self) -> int:
        """Records that were taken and whose fate is not known."""
        return self._accumulator.records

    @property
    def has_room(self) -> bool:
        """Whether another record will be taken: less than the buffer waits for acknowledgement."""
        return self._accumulator.used < self._accumulator.buffer_bytes

    async def room(self, size: int = 0) -> None:
        """Until some of what fills the buffer is settled, and ``size`` bytes fit."""
        await self._sender.room(size)

    async def flush(self) -> None:
        """Sends everything now and waits until all of it is settled, one way or the other. What is sent meanwhile is
        not waited for."""
        await self._sender.flush()

    async def close(self, *, flush: bool = True, told: bool = False) -> None:
        """Ends it; what was not flushed fails with ClosedError, and the log says so unless it was ``told``."""
        if self._closed:
            return
        try:
            if flush:
                await self.flush()
        finally:
            self._closed = True
            await self._sender.end(told=told)
