"""Reading from ordinary code: a ``Subscriber`` on the background loop, iterated here."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from typing import Any, Generic, TypeVar, Unpack, overload

from logeion.wire.errors import LogeionError

from .background import Background, background, closed, log, opened, own_cluster
from .cluster import Cluster
from .positions import TopicPartition
from .settings import StandaloneConsumerSettings, checked
from .subscriber import Subscriber, typed
from .topics import Record, Topic

K = TypeVar("K")
V = TypeVar("V")
Told = Callable[[list[TopicPartition]], object]


class Batch(list[Record[K, V]]):
    """Records that are finished together: when the loop comes back, or with ``commit``."""

    def __init__(self, records: Iterable[Record[K, V]], consumer: Consumer[K, V]) -> None:
        super().__init__(records)
        self._consumer = consumer

    def commit(self) -> None:
        """These records are finished: commits that now. Raises KafkaError; nothing happens without a group."""
        self._consumer.commit()


class Consumer(Generic[K, V]):
    """Iterate over it; a record counts as finished when the loop comes back for the next one. Use in one thread.

    Alone, or made by ``Client.consume``. Starts when first used; leaving its ``with`` or closing the client closes it,
    which commits what is finished. The callbacks run on threads of their own, while the loop waits for its next record.
    """

    _own_cluster: Cluster | None

    @overload
    def __init__(
        self,
        *topics: Topic[K, V],
        on_assigned: Told | None = None,
        on_revoked: Told | None = None,
        on_lost: Told | None = None,
        config: Mapping[str, Any] | None = None,
        **settings: Unpack[StandaloneConsumerSettings],
    ) -> None: ...

    @overload
    def __init__(
        self: Consumer[bytes, bytes],
        *topics: str,
        on_assigned: Told | None = None,
        on_revoked: Told | None = None,
        on_lost: Told | None = None,
        config: Mapping[str, Any] | None = None,
        **settings: Unpack[StandaloneConsumerSettings],
    ) -> None: ...

    def __init__(
        self,
        *topics: Any,
        on_assigned: Told | None = None,
        on_revoked: Told | None = None,
        on_lost: Told | None = None,
        config: Mapping[str, Any] | None = None,
        **settings: Unpack[StandaloneConsumerSettings],
    ) -> None:
        """With a connection of its own; ``Client.consume`` makes one that shares. Raises ConfigError, ConnectError."""
        taken = checked(StandaloneConsumerSettings, settings, config)
        loop, cluster = own_cluster(taken)
        taken.pop("request_timeout_ms", None)
        try:
            self._begin(cluster, loop, topics, (on_assigned, on_revoked, on_lost), taken)
        except BaseException:
            loop.run(cluster.close())
            raise
        self._own_cluster = cluster

    @classmethod
    def of(
        cls,
        cluster: Cluster,
        background: Background,
        topics: Sequence[Any],
        told: tuple[Told | None, Told | None, Told | None],
        settings: dict[str, Any],
    ) -> Consumer[Any, Any]:
        """On a connection that others share; the settings were checked. Raises ConfigError."""
        self = cls.__new__(cls)
        self._begin(cluster, background, topics, told, settings)
        return self

    def _begin(
        self,
        cluster: Cluster,
        background: Background,
        topics: Sequence[Any],
        told: tuple[Told | None, Told | None, Told | None],
        settings: dict[str, Any],
    ) -> None:
        assigned, revoked, lost = map(on_thread, told)

        async def make() -> Subscriber[Any, Any]:
            return Subscriber(
                cluster, typed(topics), on_assigned=assigned, on_revoked=revoked, on_lost=lost, **settings
            )

        self._core: Subscriber[K, V] = background.run(make())
        self._background = background
        self._own_cluster = None
        self._started = False
        self._closed = False

    def __enter__(self) -> Consumer[K, V]:
        self._start()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.close()

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._background.run(self._core.__aenter__())
            opened(self)

    def __iter__(self) -> Iterator[Record[K, V]]:
        self._start()
        while True:
            yield from self._core.here()
            self._background.run(self._core.fill())

    def batches(self, *, max_records: int | None = None, max_wait: float = 0.2) -> Iterator[Batch[K, V]]:
        """Batches of up to ``max_records`` (default: ``max_poll_records``): what came within ``max_wait`` seconds of
        the first of them."""
        self._start()
        while True:
            yield Batch(self._background.run(self._core.batch(max_records, max_wait)), self)

    def poll(self, timeout: float = 0.0) -> Record[K, V] | None:
        """The next record, or None when none came within ``timeout`` seconds."""
        self._start()
        record = self._core.take()
        if record is None:
            with contextlib.suppress(TimeoutError):
                self._background.run(self._fill(timeout))
            record = self._core.take()
        return record

    async def _fill(self, timeout: float) -> None:
        async with asyncio.timeout(timeout):
            await self._core.fill()

    @property
    def assignment(self) -> list[TopicPartition]:
        """The partitions that are read now."""
        return self._core.assignment

    def commit(self) -> None:
        """Commits what is finished, the record in hand included. Raises KafkaError if the group refuses it."""
        self._background.run(self._core.commit())

    def committed(self) -> dict[TopicPartition, int]:
        """All that the group has committed; nothing without a group."""
        return self._background.run(self._core.committed())

    def seek(self, tp: TopicPartition, offset: int) -> None:
        """Reads on from here. Raises KeyError for a partition that is not assigned."""
        self._background.run(self._core.seek(tp, offset))

    def seek_to_time(self, timestamp_ms: int) -> None:
        """Reads on, in each assigned partition, from the first record not older; from the end where there is none."""
        self._background.run(self._core.seek_to_time(timestamp_ms))

    def seek_to_beginning(self) -> None:
        """Reads each assigned partition from its start."""
        self._background.run(self._core.seek_to_beginning())

    def pause(self, *partitions: TopicPartition) -> None:
        """Hands out nothing more of these (default: of all) until ``resume``. Raises KeyError if not assigned."""
        self._background.run(self._core.pause(*partitions))

    def resume(self, *partitions: TopicPartition) -> None:
        """The opposite of ``pause``."""
        self._background.run(self._core.resume(*partitions))

    def close(self) -> None:
        """Commits what is finished (not the record in hand), leaves the group and stops reading."""
        if self._closed:
            return
        self._closed = True
        closed(self)
        try:
            if self._started:
                self._background.run(self._core.close())
        finally:
            if self._own_cluster is not None:
                self._background.run(self._own_cluster.close())

    def close_at_exit(self, timeout_s: float) -> None:
        """The interpreter exits: leave the group, so that others need not wait for the session to end."""
        try:
            self.close()
        except (LogeionError, CancelledError, TimeoutError) as error:
            log.warning("a consumer could not be closed at exit: %s", error)


def on_thread(told: Told | None) -> Any:
    """The callback as the loop calls it: it may wait for the client, so it gets a thread. A coroutine is awaited on
    the client's own loop: what it waits for must not be this client's ordinary calls."""
    if told is None or inspect.iscoroutinefunction(told):
        return told

    async def call(partitions: list[TopicPartition]) -> None:
        result = await background().in_thread(lambda: told(partitions))
        if inspect.isawaitable(result):
            await result

    return call
