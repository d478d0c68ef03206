"""Publishing: a bounded accumulator and the one task that empties it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast, overload

from logeion.wire.apis import (
    InitProducerIdRequest,
    InitProducerIdResponse,
    PartitionProduceData,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
)
from logeion.wire.compression import CODECS
from logeion.wire.errors import ConfigError, KafkaError, LogeionError, UnknownTopicOrPartitionError, for_code

from .accumulator import Accumulator, Batch, Slot
from .cluster import Cluster
from .connection import Connection
from .deliveries import Delivery as Delivery
from .deliveries import RecordMetadata as RecordMetadata
from .deliveries import as_bytes
from .errors import BufferFullError, ClosedError, ConnectionLostError, DeadlineError
from .partitioner import Partitioner, Sticky, by_crc32, by_murmur2
from .record_bytes import size_bound
from .retries import advise, backoff_s
from .topics import Topic

K = TypeVar("K")
V = TypeVar("V")
Headers = Sequence[tuple[str, bytes | None]]

log: logging.Logger = logging.getLogger("logeion.client")

PRODUCE, INIT_PRODUCER_ID = 0, 22
ACKS: dict[str | int, int] = {"all": -1, -1: -1, 1: 1, 0: 0}
PARTITIONERS: dict[str, Partitioner] = {"murmur2": by_murmur2, "crc32": by_crc32}
REQUESTS_IN_FLIGHT = 5


class Producer:
    """Publishes records. Start it with ``async with``; leaving it flushes.

    Idempotent with acks="all" unless told otherwise: nothing is lost or doubled, and the order within a partition
    holds, through retries and failovers, until ``delivery_timeout_ms``.
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
        if isinstance(partitioner, str) and partitioner not in PARTITIONERS:
            raise ConfigError(f"partitioner={partitioner!r}: it is one of {', '.join(PARTITIONERS)}, or a callable")
        self._partitioner = PARTITIONERS[partitioner] if isinstance(partitioner, str) else partitioner
        self._cluster = cluster
        self._request_timeout_s = request_timeout_ms / 1000
        self.max_block_s: float = max_block_ms / 1000
        self._key_serializer = key_serializer
        self._value_serializer = value_serializer
        self._sticky = Sticky()
        self._partitions: dict[str, int] = {}
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
        self._wake = asyncio.Event()
        self._room: list[asyncio.Future[None]] = []
        self._idle: list[asyncio.Future[None]] = []
        self._requests: set[asyncio.Task[None]] = set()
        self._busy: dict[int, int] = {}
        self._connecting: set[int] = set()
        self._trouble: dict[int, LogeionError] = {}
        self._dropped = 0
        self._sender: asyncio.Task[None] | None = None
        self._refresh_wanted = False
        self._refresh_timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.records_acked: int = 0

    async def __aenter__(self) -> Producer:
        self._sender = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        # What was handed over before a mistake in the body is sent all the same; a cancelled body must not wait.
        await self.close(flush=kind is None or issubclass(kind, Exception))

    async def prepare(self, topic: str, *, auto_create: bool = True) -> int:
        """Learns how many partitions the topic has, so that ``send_nowait`` can place records. Raises KafkaError."""

        async def known() -> int:
            info = await self._cluster.topic(topic, auto_create=auto_create)
            if not info.partitions:
                raise UnknownTopicOrPartitionError(f"topic {topic!r} has no partitions yet")
            return len(info.partitions)

        count: int = await self._cluster.retrying(known, what=f"metadata of {topic!r}", deadline_s=self.max_block_s)
        self._partitions[topic] = count
        return count

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
        if topic not in self._partitions:
            await self.prepare(topic)
        full: BufferFullError | None = None
        try:
            async with asyncio.timeout(self.max_block_s):
                while True:
                    try:
                        delivery = self.give(topic, value, key, headers, partition, timestamp_ms)
                        break
                    except BufferFullError as error:
                        full = error
                        await self.room(size_bound(key, value, headers))
        except TimeoutError:
            assert full is not None
            raise full from None
        return await delivery

    def encoded(self, topic: Any, value: Any, key: Any) -> tuple[str, bytes | None, bytes | None]:
        """(topic's name, value, key) as they go out. Raises what the serializers or the topic's codec raise."""
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
        return self.give(topic, value, key, headers, partition, timestamp_ms)

    def give(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: Headers,
        partition: int | None,
        timestamp_ms: int | None,
    ) -> Delivery:
        """``send_nowait`` for what is bytes already."""
        count = self._partitions.get(topic)
        if count is None:
            raise UnknownTopicOrPartitionError(f"topic {topic!r} is not prepared: await producer.prepare({topic!r})")
        if self._closed:
            raise ClosedError("the producer was closed")
        sticky = False
        if partition is None:
            sticky = key is None
            partition = self._sticky.partition(topic, count) if key is None else self._partitioner(key, count)
        elif not 0 <= partition < count:
            raise UnknownTopicOrPartitionError(f"topic {topic!r} has {count} partitions, none is {partition}")
        stamp = int(time.time() * 1000) if timestamp_ms is None else timestamp_ms
        batch, index, closed = self._accumulator.append(topic, partition, key, value, headers, stamp, self._loop.time())
        if closed or index == 0:
            if closed and sticky:
                self._sticky.batch_full(topic, partition, count)
            self._wake.set()
        return Delivery(batch, index, stamp)

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
        used, limit = self._accumulator.used, self._accumulator.buffer_bytes
        if not used or (used < limit // 2 and used + size <= limit):
            return
        waiter = self._loop.create_future()
        self._room.append(waiter)
        self._wake.set()
        await waiter

    async def flush(self) -> None:
        """Sends everything now and waits until all of it is settled, one way or the other."""
        while not self._accumulator.empty:
            self._accumulator.close_batches(self._loop.time(), flush=True)
            waiter = self._loop.create_future()
            self._idle.append(waiter)
            self._wake.set()
            await waiter

    async def close(self, *, flush: bool = True, told: bool = False) -> None:
        """Ends it; what was not flushed fails with ClosedError, and the log says so unless it was ``told``."""
        if self._closed:
            return
        try:
            if flush:
                await self.flush()
        finally:
            self._closed = True
            if self._refresh_timer is not None:
                self._refresh_timer.cancel()
            if self._accumulator.records and not told:
                log.warning("a producer was closed with %s", unsent(self._accumulator.records))
            tasks = [*self._requests, *([self._sender] if self._sender is not None else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._accumulator.fail_all(ClosedError("the producer was closed before this record was acknowledged"))
            self._release()

    # The one task that sends

    async def _run(self) -> None:
        try:
            await self._send_for_ever()
        except BaseException as cause:
            # Whoever waits must hear of it; what it was, the task's own exception says. A loop that ends cancels it.
            if (left := self._accumulator.records + self._dropped) and not self._closed:
                log.warning("a producer's event loop ended with %s", unsent(left))
            self._accumulator.fail_all(ClosedError(f"the producer stopped: {cause!r}"))
            self._release()
            raise

    async def _send_for_ever(self) -> None:
        accumulator = self._accumulator
        while True:
            now = self._loop.time()
            # Nobody lingers while somebody waits for room, or for all of it.
            accumulator.close_batches(now, flush=bool(self._room or self._idle))
            if accumulator.expire(now, self._why):
                self._release()
            if accumulator.needs_producer_id and not accumulator.empty:
                await self._new_producer_id()
            if self._refresh_wanted:
                self._refresh_wanted = False
                await self._refresh()
            await self._send_ready()
            wake_at = accumulator.next_wake(self._loop.time())
            try:
                async with asyncio.timeout_at(None if wake_at is None else max(wake_at, self._loop.time() + 0.001)):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def _new_producer_id(self) -> None:
        async def ask() -> InitProducerIdResponse:
            request = InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=2**31 - 1)
            answer = cast(InitProducerIdResponse, await self._cluster.call(INIT_PRODUCER_ID, request))
            if answer.error_code:
                raise for_code(answer.error_code)("no producer id")
            return answer

        try:
            answer = await self._cluster.retrying(
                ask, what="a producer id", deadline_s=self._accumulator.delivery_timeout_s
            )
        except LogeionError as error:
            self._accumulator.fail_all(error)
            self._release()
            return
        self._accumulator.set_producer_id(answer.producer_id, answer.producer_epoch)

    async def _refresh(self) -> None:
        try:
            await self._cluster.refresh(tuple(self._partitions))
        except LogeionError:
            self._refresh_soon()

    def _refresh_soon(self) -> None:
        if self._refresh_timer is None:
            self._refresh_timer = self._loop.call_later(0.05, self._ask_refresh)

    def _ask_refresh(self) -> None:
        self._refresh_timer = None
        self._refresh_wanted = True
        self._wake.set()

    async def _send_ready(self) -> None:
        accumulator = self._accumulator
        while True:
            now = self._loop.time()
            by_node: dict[int, list[Slot]] = {}
            for slot in accumulator.ready(now):
                try:
                    node = self._cluster.metadata.leader(*slot)
                except KafkaError:
                    self._refresh_soon()
                    continue
                if self._busy.get(node, 0) < REQUESTS_IN_FLIGHT:
                    by_node.setdefault(node, []).append(slot)
            sent = False
            for node, slots in by_node.items():
                connection = self._cluster.open_connection(node)
                if connection is None:
                    self._connect(node)
                    continue
                sent |= self._send_to(connection, node, slots)
                await asyncio.sleep(0)
            if not sent:
                return

    def _why(self, slot: Slot) -> LogeionError | None:
        """What keeps this partition's batches from being sent."""
        try:
            return self._trouble.get(self._cluster.metadata.leader(*slot))
        except KafkaError as error:
            return error

    def _connect(self, node: int) -> None:
        """Beside the sending to others, which a broker that cannot be reached must not hold up."""
        if node in self._connecting:
            return

        async def connect() -> None:
            try:
                await self._cluster.connection(node)
                self._trouble.pop(node, None)
                self._wake.set()
            except LogeionError as error:
                self._trouble[node] = error
                self._refresh_soon()
            finally:
                self._connecting.discard(node)

        self._connecting.add(node)
        task = asyncio.create_task(connect())
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    def _send_to(self, connection: Connection, node: int, slots: list[Slot]) -> bool:
        now = self._loop.time()
        batches: list[Batch] = []
        size = 0
        # Another partition goes first each time, so that a small limit starves none.
        turn = self._busy.get(node, 0) % len(slots)
        for slot in slots[turn:] + slots[:turn]:
            batch = self._accumulator.take(slot, now)
            if batch is None:
                continue
            batches.append(batch)
            size += batch.size
            if size >= self._accumulator.request_bytes_max:
                break
        if not batches:
            return False
        topics: dict[str, list[PartitionProduceData]] = {}
        for batch in batches:
            data = PartitionProduceData(index=batch.partition, records=self._accumulator.bytes_of(batch))
            topics.setdefault(batch.topic, []).append(data)
        timeout_s = self._request_timeout_s
        request = ProduceRequest(
            acks=self._acks,
            timeout_ms=int(timeout_s * 1000),
            topic_data=[TopicProduceData(name=name, partition_data=data) for name, data in topics.items()],
        )
        try:
            if self._acks == 0:
                connection.send_unanswered(PRODUCE, request)
                for batch in batches:
                    self._accumulator.succeeded(batch, -1)
                self._release()
                return True
            answer = connection.send(PRODUCE, request, timeout_s=timeout_s)
        except LogeionError as error:
            for batch in batches:
                self._settle_failure(batch, error)
            self._release()
            return True
        self._busy[node] = self._busy.get(node, 0) + 1
        task = asyncio.create_task(self._answered(node, batches, cast("asyncio.Future[Any]", answer)))
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        return True

    async def _answered(self, node: int, batches: list[Batch], answer: asyncio.Future[Any]) -> None:
        try:
            response = cast(ProduceResponse, await answer)
        except LogeionError as error:
            for batch in batches:
                self._settle_failure(batch, error)
        except asyncio.CancelledError:
            closed = ClosedError("the producer was closed before this record was acknowledged")
            self._dropped += sum(len(batch.entries) for batch in batches)
            for batch in batches:
                self._settle_failure(batch, closed)
            raise
        else:
            answers = {
                (topic.name, partition.index): partition
                for topic in response.responses
                for partition in topic.partition_responses
            }
            for batch in batches:
                entry = answers.get((batch.topic, batch.partition))
                if entry is None:
                    self._settle_failure(
                        batch, ConnectionLostError(f"no answer about {batch.topic}[{batch.partition}]")
                    )
                elif entry.error_code:
                    kind = for_code(entry.error_code)
                    told = entry.error_message or (kind.__doc__ or "").strip()
                    self._settle_failure(batch, kind(f"{batch.topic}[{batch.partition}]: {told}"))
                else:
                    self.records_acked += len(batch.entries)
                    self._accumulator.succeeded(batch, entry.base_offset, entry.log_append_time_ms)
        finally:
            self._busy[node] -= 1
            self._release()
            self._wake.set()

    def _settle_failure(self, batch: Batch, error: LogeionError) -> None:
        wait = backoff_s(batch.tries)
        again = self._accumulator.failed(batch, error, self._loop.time(), wait)
        if again and (advise(error).refresh or isinstance(error, DeadlineError)):
            self._refresh_wanted = True

    def _release(self) -> None:
        if self._room and self._accumulator.used < self._accumulator.buffer_bytes // 2:
            waiting, self._room = self._room, []
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)
        if self._idle and self._accumulator.empty:
            waiting, self._idle = self._idle, []
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)


def unsent(records: int) -> str:
    """What a log line says of so many."""
    return f"{records} records that were not acknowledged: they may be lost"
