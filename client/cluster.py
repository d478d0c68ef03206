"""The brokers as one: connections by node, metadata, and the loop that tries again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar, cast

from logeion.wire.apis import MetadataRequest, MetadataRequestTopic, MetadataResponse
from logeion.wire.errors import LogeionError
from logeion.wire.fields import Struct

from .addresses import Address, parse_bootstrap
from .connection import Connection
from .errors import ClosedError, ConnectError, DeadlineError
from .metadata import Metadata, TopicInfo
from .retries import advise, backoff_s

METADATA = 3
T = TypeVar("T")
# A bootstrap address, or a broker and what the connection is for.
Key = Address | tuple[int, Address, str]


class Cluster:
    """Shared by a client's producers, consumers and admin calls. Use it in one event loop.

    ``request_timeout_s`` bounds one request, ``connect_timeout_s`` one attempt to connect; ``deadline_s`` is what a
    whole call with its retries may take unless it says otherwise.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        client_id: str = "logeion",
        request_timeout_s: float = 30.0,
        connect_timeout_s: float = 5.0,
        deadline_s: float = 60.0,
    ) -> None:
        self.bootstrap = parse_bootstrap(bootstrap)
        self.client_id = client_id
        self.request_timeout_s = request_timeout_s
        self.connect_timeout_s = connect_timeout_s
        self.deadline_s = deadline_s
        self.metadata = Metadata()
        self._connections: dict[Key, Connection] = {}
        self._opening: dict[Key, asyncio.Task[Connection]] = {}
        self._refreshing: dict[frozenset[str] | None, asyncio.Task[None]] = {}
        self._closed = False
        self._purposes = 0

    async def start(self) -> None:
        """Reaches a broker and learns the others. Raises ConnectError at once if none of the addresses answers."""
        await self.refresh(())

    async def close(self) -> None:
        """Closes every connection."""
        self._closed = True
        tasks = [*self._opening.values(), *self._refreshing.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        connections = list(self._connections.values())
        self._connections.clear()
        for connection in connections:
            connection.close()
        for connection in connections:
            await connection.wait_closed()

    def own_purpose(self, kind: str) -> str:
        """A name for connections that nobody shares (see ``call``); ``release`` them at the end."""
        self._purposes += 1
        return f"{kind} {self._purposes}"

    def release(self, purpose: str) -> None:
        """Closes the connections of this purpose."""
        for key in [key for key in self._connections if len(key) == 3 and key[2] == purpose]:
            self._connections.pop(key).close()

    async def retrying(self, attempt: Callable[[], Awaitable[T]], *, what: str, deadline_s: float | None = None) -> T:
        """Runs ``attempt`` until it succeeds, fails for good (see ``retries.advise``), or time is up.

        Raises what the last attempt raised; DeadlineError if the first one was still running.
        """
        limit = self.deadline_s if deadline_s is None else deadline_s
        loop = asyncio.get_running_loop()
        until = loop.time() + limit
        tries = 0
        last: LogeionError | None = None
        while True:
            tries += 1
            try:
                async with asyncio.timeout_at(until):
                    return await attempt()
            except TimeoutError:
                if last is not None:
                    raise last from None
                raise DeadlineError(f"{what}: nothing came of it within {limit:g} s", "allow more time") from None
            except LogeionError as error:
                last = error
                advice = advise(error)
                wait = backoff_s(tries)
                if not advice.retry or loop.time() + wait >= until:
                    raise
                await asyncio.sleep(wait)
                if advice.refresh:
                    # What the refresh cannot do, the next attempt will say.
                    with contextlib.suppress(LogeionError, TimeoutError):
                        async with asyncio.timeout_at(until):
                            await self.refresh(tuple(self.metadata.topics))

    async def call(
        self,
        api_key: int,
        body: Struct,
        *,
        node: int | None = None,
        timeout_s: float | None = None,
        purpose: str = "",
    ) -> Struct:
        """One request to this node, or to any that answers. Raises as ``Connection.request`` does; no retry here.

        What a broker may sit on for long (a fetch that waits, a join) names its ``purpose`` and has a connection of
        its own: brokers answer each connection in order, and a produce would wait behind it.
        """
        connection = await (self.any_connection() if node is None else self.connection(node, purpose))
        return await connection.request(api_key, body, timeout_s=timeout_s or self.request_timeout_s)

    async def refresh(self, topics: Iterable[str] | None = None, *, auto_create: bool = False) -> None:
        """Asks for brokers and these topics (None: all of them). Equal questions asked at once become one.

        Raises ConnectError, ConnectionLostError, DeadlineError.
        """
        key = None if topics is None else frozenset(topics)
        task = self._refreshing.get(key)
        if task is None or auto_create:
            task = asyncio.create_task(self._refresh(key, auto_create))
            self._refreshing[key] = task
            task.add_done_callback(lambda done: self._forget_refresh(key, done))
        await asyncio.shield(task)

    def _forget_refresh(self, key: frozenset[str] | None, done: asyncio.Task[None]) -> None:
        if self._refreshing.get(key) is done:
            del self._refreshing[key]
        if not done.cancelled():
            done.exception()

    async def _refresh(self, names: frozenset[str] | None, auto_create: bool) -> None:
        connection = await self.any_connection()
        wanted = None if names is None else [MetadataRequestTopic(name=name) for name in sorted(names)]
        request = MetadataRequest(topics=wanted, allow_auto_topic_creation=auto_create)
        answer = await connection.request(METADATA, request, timeout_s=self.request_timeout_s)
        self.metadata.apply(cast(MetadataResponse, answer), everything=names is None)

    async def topic(self, name: str, *, auto_create: bool = False, fresh: bool = False) -> TopicInfo:
        """The topic, from memory unless ``fresh``. Raises UnknownTopicOrPartitionError or what the broker says."""
        if fresh or name not in self.metadata.topics:
            await self.refresh((name,), auto_create=auto_create)
        return self.metadata.topic(name)

    async def connection(self, node: int, purpose: str = "") -> Connection:
        """The connection to this broker, opened if need be. Raises ConnectError."""
        address = self.metadata.brokers.get(node)
        if address is None:
            raise ConnectError(f"broker {node}", "metadata", "no broker has this id now", "see whether it is down")
        return await self._connection((node, address, purpose), address, "metadata")

    async def any_connection(self) -> Connection:
        """A connection that is open, or to the first broker that can be reached; bootstrap addresses come last."""
        for key, connection in self._connections.items():
            if not connection.closed and not (len(key) == 3 and key[2]):
                return connection
        failure: ConnectError | None = None
        for node in list(self.metadata.brokers):
            with contextlib.suppress(ConnectError):
                return await self.connection(node)
        for address in self.bootstrap:
            try:
                return await self._connection(address, address, "bootstrap")
            except ConnectError as error:
                failure = error
        assert failure is not None
        raise failure

    async def _connection(self, key: Key, address: Address, learned_from: str) -> Connection:
        if self._closed:
            raise ClosedError("the client was closed")
        connection = self._connections.get(key)
        if connection is not None:
            if not connection.closed:
                return connection
            del self._connections[key]
        task = self._opening.get(key)
        if task is None:
            task = asyncio.create_task(
                Connection.open(
                    address, client_id=self.client_id, timeout_s=self.connect_timeout_s, learned_from=learned_from
                )
            )
            self._opening[key] = task
            task.add_done_callback(lambda done: self._opened(key, done))
        return await asyncio.shield(task)

    def _opened(self, key: Key, done: asyncio.Task[Connection]) -> None:
        self._opening.pop(key, None)
        if done.cancelled() or done.exception() is not None:
            return
        if self._closed:
            done.result().close()
        else:
            self._connections[key] = done.result()
