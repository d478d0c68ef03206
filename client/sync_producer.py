"""Publishing from ordinary code: ``send`` puts a record on a bounded stage, the background loop takes it from there."""

from __future__ import annotations

import asyncio
import operator
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from typing import Any, TypeVar, Unpack, overload

from logeion.wire.errors import LogeionError

from .accumulator import Batch
from .background import Background, closed, log, opened, own_cluster
from .cluster import Cluster
from .deliveries import Delivery, RecordMetadata
from .errors import BufferFullError, ClosedError
from .producer import Headers, unsent
from .producer import Producer as Core
from .record_bytes import checked_headers, checked_timestamp, size_bound
from .settings import StandaloneProducerSettings, checked
from .topics import Topic

K = TypeVar("K")
V = TypeVar("V")

STAGE_BYTES = 1024 * 1024
STAGE_S = 0.001


class SendFuture:
    """What becomes of one record. Callbacks run on the client's own thread: they must not wait for the client."""

    __slots__ = ("_batch", "_error", "_index", "_producer", "_timestamp_ms", "_waiting")

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._batch: Batch | None = None
        self._error: BaseException | None = None
        self._waiting: list[Callable[[], object]] | None = None  # made when somebody waits: few records have any

    def done(self) -> bool:
        """Whether its fate is known."""
        return self._error is not None or (self._batch is not None and self._batch.done)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What went wrong, None for success; waits for it ``timeout`` seconds (None: as long as it takes).

        Raises TimeoutError.
        """
        if not self.done():
            self._producer.await_future(self, timeout)
        return self._error if self._batch is None else self._batch.error

    def result(self, timeout: float | None = None) -> RecordMetadata:
        """Waits, then where the record stands. Raises its error, or TimeoutError after ``timeout`` seconds."""
        error = self.exception(timeout)
        if error is not None:
            raise error
        assert self._batch is not None
        return Delivery(self._batch, self._index, self._timestamp_ms).result()

    get = result

    def succeeded(self) -> bool:
        """Whether it is acknowledged by now."""
        return self.done() and self.exception() is None

    def add_callback(self, callback: Callable[..., object], *args: Any) -> SendFuture:
        """Calls ``callback(*args, RecordMetadata)`` once it is acknowledged; at once if it is."""

        def tell() -> None:
            if self.exception() is None:
                _told(lambda: callback(*args, self.result()))

        return self._watch(tell)

    def add_errback(self, callback: Callable[..., object], *args: Any) -> SendFuture:
        """Calls ``callback(*args, error)`` if it fails."""

        def tell() -> None:
            error = self.exception()
            if error is not None:
                _told(lambda: callback(*args, error))

        return self._watch(tell)

    def _watch(self, tell: Callable[[], object]) -> SendFuture:
        self._producer.background.loop.call_soon_threadsafe(self.attach, tell)
        return self

    # On the background loop only

    def attach(self, tell: Callable[[], object]) -> None:
        """Calls it once the record's fate is known."""
        if self._batch is not None:
            if self._batch.done:
                tell()
            else:
                self._batch.callbacks.append(lambda _: tell())
        elif self._error is not None:
            tell()
        elif self._waiting is None:
            self._waiting = [tell]
        else:
            self._waiting.append(tell)

    def given(self, batch: Batch, index: int, timestamp_ms: int) -> None:
        """The producer took the record."""
        self._batch = batch
        self._index = index
        self._timestamp_ms = timestamp_ms
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            for tell in waiting:
                self.attach(tell)

    def refused(self, error: BaseException) -> None:
        """It did not."""
        self._error = error
        waiting, self._waiting = self._waiting, None
        for tell in waiting or ():
            tell()


def _told(call: Callable[[], object]) -> None:
    """A callback's mistake is its own: the loop that sends reports it and goes on."""
    asyncio.get_running_loop().call_soon(call)


# future, topic, value, key, headers, partition, timestamp in ms, bytes: a plain tuple, because one is made per record
_Staged = tuple[SendFuture, str, bytes | None, bytes | None, Headers, int | None, int, int]


class Producer:
    """Publishes records, alone or made by ``Client.producer``.

    Leaving its ``with`` flushes, so does the interpreter's exit. Idempotent with acks="all" unless told otherwise. May
    be used by several threads at once.
    """

    _own_cluster: Cluster | None

    def __init__(
        self, *, config: Mapping[str, Any] | None = None, **settings: Unpack[StandaloneProducerSettings]
    ) -> None:
        """With a connection of its own; ``Client.producer`` makes one that shares. Raises ConfigError, ConnectError."""
        taken = checked(StandaloneProducerSettings, settings, config)
        loop, cluster = own_cluster(taken)
        try:
            self._begin(cluster, loop, taken)
        except BaseException:
            loop.run(cluster.close())
            raise
        self._own_cluster = cluster

    @classmethod
    def of(cls, cluster: Cluster, background: Background, settings: dict[str, Any]) -> Producer:
        """On a connection that others share; the settings were checked. Raises ConfigError."""
        self = cls.__new__(cls)
        self._begin(cluster, background, settings)
        return self

    def _begin(self, cluster: Cluster, background: Background, taken: dict[str, Any]) -> None:
        self.background = background
        self._own_cluster = None
        buffer = taken.get("buffer_memory", 32 * 1024 * 1024)
        self._stage_limit = min(STAGE_BYTES, max(buffer // 4, 1))
        taken["buffer_memory"] = max(buffer - self._stage_limit, 1)
        self._core = background.run(_start(cluster, taken))
        self._plain = self._core.plain
        self._stage: deque[_Staged] = deque()
        self._staged_bytes = 0
        self._staged = self._given = 0  # records that went in and out, so that a flush knows which were before it
        self._scheduled = False
        # Taken by itself where nobody waits: a condition enters it by way of Python, and every record does. A signal's
        # handler may send too, while its thread has the lock.
        self._lock = threading.RLock()
        self._room = threading.Condition(self._lock)
        self._topics: set[str] = set()
        self._drainer: asyncio.Task[None] | None = None
        self._closed = False
        opened(self)

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.close()

    @overload
    def send(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        *,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> SendFuture: ...

    @overload
    def send(
        self,
        topic: Topic[K, V],
        value: V | None = None,
        key: K | None = None,
        *,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> SendFuture: ...

    def send(
        self,
        topic: Any,
        value: Any = None,
        key: Any = None,
        *,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> SendFuture:
        """Hands over one record and returns what will become of it.

        Blocks at most ``max_block_ms`` for the topic's metadata (once) and for room, then raises KafkaError,
        DeadlineError or BufferFullError; the record was not taken then. Raises TypeError for a value that is not the
        topic's, TypeError or ValueError for headers, a partition or a timestamp that make no sense, ClosedError after
        ``close``. What a partitioner of yours raises is the future's error.
        """
        name: str
        data: bytes | None
        key_data: bytes | None
        if self._plain and type(value) is bytes and (key is None or type(key) is bytes) and type(topic) is str:
            name, data, key_data = topic, value, key
        else:
            name, data, key_data = self._core.encoded(topic, value, key)
        if headers:
            headers = checked_headers(headers)
        stamp = time.time_ns() // 1_000_000 if timestamp_ms is None else checked_timestamp(timestamp_ms)
        if name not in self._topics:
            self.background.run(self._core.prepare(name))
            self._topics.add(name)
        if partition is not None:
            partition = operator.index(partition)
            if self._core.lacks(name, partition) and threading.current_thread() is not self.background.thread:
                self.background.run(self._core.look_up(name, partition))
        if headers:
            size = size_bound(key_data, data, headers)
        else:
            size = 24 + (len(key_data) if key_data else 0) + (len(data) if data else 0)
        future = SendFuture(self)
        with self._lock:
            if self._closed:
                raise ClosedError("the producer was closed")
            if self._staged_bytes and self._staged_bytes + size > self._stage_limit:
                self._wait_for_room(size)
            self._stage.append((future, name, data, key_data, headers, partition, stamp, size))
            self._staged_bytes += size
            self._staged += 1
            if not self._scheduled:
                self._scheduled = True
                self.background.loop.call_soon_threadsafe(self._soon)
        return future

    def _wait_for_room(self, size: int) -> None:
        self.background.loop.call_soon_threadsafe(self._drain)
        limit = self._core.max_block_s
        if threading.current_thread() is self.background.thread:
            limit = 0.0  # a callback sends: the loop cannot wait for itself

        def room() -> bool:
            return self._closed or not self._staged_bytes or self._staged_bytes + size <= self._stage_limit

        if not self._room.wait_for(room, limit):
            raise BufferFullError(
                f"no room for another record within {limit:g} s (max_block_ms): "
                "as much as buffer_memory allows is not acknowledged",
                "see whether the brokers answer; allow more with buffer_memory",
            )
        if self._closed:
            raise ClosedError("the producer was closed")

    def flush(self, timeout: float | None = None) -> None:
        """Until everything sent before is settled, one way or the other. Raises TimeoutError after these seconds."""
        with self._lock:
            mark = self._staged
        self.background.run(self._flush(mark), timeout)

    def close(self, timeout: float | None = None) -> None:
        """Flushes, at most ``timeout`` seconds, and ends it. What is not acknowledged then fails with ClosedError."""
        with self._lock:
            if self._closed:
                return
        try:
            self.flush(timeout)
        except TimeoutError:
            log.warning("a producer was closed with %s", self._unsent())
        finally:
            with self._lock:
                self._closed = True
                self._room.notify_all()
            closed(self)
            self.background.run(self._end())
            if self._own_cluster is not None:
                self.background.run(self._own_cluster.close())

    def close_at_exit(self, timeout_s: float) -> None:
        """The interpreter exits: send what there is, and say what could not be sent."""
        try:
            self.close(timeout_s)
        except (LogeionError, CancelledError) as error:
            log.warning("a producer could not be closed at exit: %s", error)

    def _unsent(self) -> str:
        return unsent(len(self._stage) + self._core.unacknowledged)

    def await_future(self, future: SendFuture, timeout: float | None) -> None:
        """Until its fate is known. Raises TimeoutError."""
        if threading.current_thread() is self.background.thread:
            raise ClosedError("a callback of the client waits for the client", "use add_callback, or another thread")
        known = threading.Event()
        loop = self.background.loop
        loop.call_soon_threadsafe(self._drain)
        loop.call_soon_threadsafe(future.attach, known.set)
        if not known.wait(timeout):
            raise TimeoutError(f"the record is not acknowledged within {timeout:g} s")

    # On the background loop only

    def _soon(self) -> None:
        self.background.loop.call_later(STAGE_S, self._drain)

    def _drain(self) -> None:
        if self._drainer is None:
            self._give()
            if self._stage:
                self._drainer = self.background.loop.create_task(self._give_when_there_is_room())

    def _give(self) -> None:
        """Gives the producer what is staged, as long as it has room."""
        place, stage = self._core.place, self._stage
        freed = 0
        while stage:
            future, topic, value, key, headers, partition, stamp, size = stage[0]
            try:
                batch, index = place(topic, value, key, headers, partition, stamp)
                future.given(batch, index, stamp)
            except BufferFullError:
                break
            except Exception as error:  # a partitioner is the program's: whatever it raises concerns this record
                future.refused(error)
            stage.popleft()
            self._given += 1
            freed += size
        with self._lock:
            self._staged_bytes -= freed
            self._scheduled = bool(stage)
            if freed:
                self._room.notify_all()

    async def _give_when_there_is_room(self) -> None:
        try:
            while self._stage:
                *_, size = self._stage[0]
                await self._core.room(size)
                self._give()
        finally:
            self._drainer = None

    async def _flush(self, mark: int) -> None:
        while True:
            self._drain()
            given = self._given
            await self._core.flush()
            if given >= mark:
                return
            await asyncio.sleep(0)

    async def _end(self) -> None:
        if self._drainer is not None:
            self._drainer.cancel()
        await self._core.close(flush=False, told=True)
        while self._stage:
            future, *_ = self._stage.popleft()
            future.refused(ClosedError("the producer was closed before this record was sent"))


async def _start(cluster: Cluster, settings: dict[str, Any]) -> Core:
    return await Core(cluster, **settings).__aenter__()
