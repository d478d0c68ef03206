"""Producers and consumers as asyncio programs make them: alone or from a client, and started when first used."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar, Unpack, overload

from .cluster import Cluster, lone_cluster
from .errors import ClosedError
from .member import Callback
from .producer import Producer as CoreProducer
from .settings import StandaloneConsumerSettings, StandaloneProducerSettings, checked
from .subscriber import Subscriber, typed
from .topics import Topic

K = TypeVar("K")
V = TypeVar("V")


class Closable(Protocol):
    """What was started by being used, so that nobody's ``async with`` ends it."""

    async def close(self) -> None: ...


class Left:
    """What a client made, was started by being used, and is not closed: the client's end is theirs too."""

    def __init__(self) -> None:
        self._all: set[Closable] = set()

    def add(self, one: Closable) -> None:
        """It was started."""
        self._all.add(one)

    def discard(self, one: Closable) -> None:
        """It was closed."""
        self._all.discard(one)

    async def close(self, *, flush: bool) -> None:
        """Closes all of them, even if one of them raises."""
        async with contextlib.AsyncExitStack() as ends:
            for one in self._all:
                if isinstance(one, CoreProducer):
                    ends.push_async_callback(one.close, flush=flush)
                else:
                    ends.push_async_callback(one.close)


class Producer(CoreProducer):
    """Publishes records, from ``async with``, which flushes at the end, or from its first ``send`` on.

    Idempotent with acks="all" unless told otherwise: nothing is lost or doubled, and the order within a partition
    holds, through retries and failovers, until ``delivery_timeout_ms``. Make it where an event loop runs.
    """

    _own_cluster: Cluster | None
    _left: Left | None

    def __init__(
        self, *, config: Mapping[str, Any] | None = None, **settings: Unpack[StandaloneProducerSettings]
    ) -> None:
        """With a connection of its own; ``Client.producer`` shares one. Raises ConfigError."""
        taken = checked(StandaloneProducerSettings, settings, config)
        cluster = lone_cluster(taken)
        super().__init__(cluster, **taken)
        self._own_cluster, self._left = cluster, None

    @classmethod
    def of(cls, cluster: Cluster, left: Left, settings: Mapping[str, Any]) -> Producer:
        """On a connection that others share; the settings were checked. Raises ConfigError."""
        self = cls.__new__(cls)
        CoreProducer.__init__(self, cluster, **settings)
        self._own_cluster, self._left = None, left
        return self

    async def __aenter__(self) -> Producer:
        if self._closed:
            raise ClosedError("the producer was closed", "make another one")
        if self._own_cluster is not None:
            try:
                await self._own_cluster.start()
            except BaseException:
                await self._own_cluster.close()
                raise
        if not self._sender.started:
            await super().__aenter__()
        return self

    async def prepare(self, topic: str, *, auto_create: bool = True) -> int:
        """Learns how many partitions the topic has, so that ``send_nowait`` can place records. Raises KafkaError."""
        if not self._sender.started:  # every record comes after this, so nothing waits for a task that nobody started
            await self.__aenter__()
            if self._left is not None:
                self._left.add(self)
        return await super().prepare(topic, auto_create=auto_create)

    async def close(self, *, flush: bool = True, told: bool = False) -> None:
        """Ends it; what was not flushed fails with ClosedError, and the log says so unless it was ``told``."""
        try:
            await super().close(flush=flush, told=told)
        finally:
            if self._left is not None:
                self._left.discard(self)
            if self._own_cluster is not None:
                await self._own_cluster.close()


class Consumer(Subscriber[K, V]):
    """Iterate over it, or over its ``batches()``; a record counts as finished when the loop comes back for the next.

    Starts when it is first asked for a record; leaving its ``async with``, ``close`` or the end of its client commits
    what is finished and leaves the group. See ``Subscriber`` for what it does.
    """

    _own_cluster: Cluster | None
    _left: Left | None

    @overload
    def __init__(
        self,
        *topics: Topic[K, V],
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
        config: Mapping[str, Any] | None = None,
        **settings: Unpack[StandaloneConsumerSettings],
    ) -> None: ...

    @overload
    def __init__(
        self: Consumer[bytes, bytes],
        *topics: str,
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
        config: Mapping[str, Any] | None = None,
        **settings: Unpack[StandaloneConsumerSettings],
    ) -> None: ...

    def __init__(
        self,
        *topics: Any,
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
        config: Mapping[str, Any] | None = None,
        **settings: Unpack[StandaloneConsumerSettings],
    ) -> None:
        """With a connection of its own; ``Client.consume`` shares one. Raises ConfigError."""
        taken = checked(StandaloneConsumerSettings, settings, config)
        cluster = lone_cluster(taken)
        taken.pop("request_timeout_ms", None)
        super().__init__(
            cluster, typed(topics), on_assigned=on_assigned, on_revoked=on_revoked, on_lost=on_lost, **taken
        )
        self._own_cluster, self._left = cluster, None

    @classmethod
    def of(
        cls,
        cluster: Cluster,
        left: Left,
        topics: Sequence[Any],
        told: tuple[Callback | None, Callback | None, Callback | None],
        settings: Mapping[str, Any],
    ) -> Consumer[Any, Any]:
        """On a connection that others share; the settings were checked. Raises ConfigError."""
        self = cls.__new__(cls)
        assigned, revoked, lost = told
        Subscriber.__init__(
            self, cluster, typed(topics), on_assigned=assigned, on_revoked=revoked, on_lost=lost, **settings
        )
        self._own_cluster, self._left = None, left
        return self

    async def __aenter__(self) -> Consumer[K, V]:
        await super().__aenter__()
        if self._left is not None:
            self._left.discard(self)
        return self

    async def _start(self) -> None:
        if self._started:
            return
        if self._own_cluster is not None:
            try:
                await self._own_cluster.start()
            except BaseException:
                await self._own_cluster.close()
                raise
        await super()._start()
        if self._left is not None:
            self._left.add(self)

    async def close(self) -> None:
        """Commits what is finished (not the record in hand), leaves the group and stops reading."""
        try:
            await super().close()
        finally:
            if self._left is not None:
                self._left.discard(self)
            if self._own_cluster is not None:
                await self._own_cluster.close()
