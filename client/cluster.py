"""The brokers as one: connections by node, metadata, and the loop that tries again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any, TypeVar, cast

from logeion.wire.apis import MetadataRequest, MetadataRequestTopic, MetadataResponse
from logeion.wire.errors import LogeionError
from logeion.wire.fields import Struct

from .addresses import Address, parse_bootstrap
from .connection import Connection
from .errors import ClosedError, ConnectError, DeadlineError
from .metadata import Metadata, TopicInfo
from .retries import advise, backoff_s
from .settings import ClientSettings, cluster_settings

METADATA = 3
# A broker that is silent for so long may hang: others are asked whether it is still there.
PATIENCE_S = 1.0
# So often at that pace; one that is only slow, or was asked to wait, costs less from then on.
ASKED_OFTEN, SELDOM_S = 30, 10.0
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
        self.bootstrap: list[Address] = parse_bootstrap(bootstrap)
        self.client_id = client_id
        self.request_timeout_s = request_timeout_s
        self.connect_timeout_s = connect_timeout_s
        self.deadline_s = deadline_s
        self.metadata: Metadata = Metadata()
        self._connections: dict[Key, Connection] = {}
        self._opening: dict[Key, asyncio.Task[Connection]] = {}
        self._refreshing: dict[frozenset[str] | None, asyncio.Task[None]] = {}
        self._closed = False
        self._purposes = 0
        self._watch: asyncio.TimerHandle | None = None
        self._watched = 0

    async def start(self) -> None:
        """Reaches a broker and learns the others. Raises ConnectError at once if none of the addresses answers."""
        await self.refresh(())

    async def close(self) -> None:
        """Closes every connection."""
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
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
        wanted = None if names is None else [MetadataRequestTopic(name=name) for name in sorted(names)]
        request = MetadataRequest(topics=wanted, allow_auto_topic_creation=auto_create)
        asked: dict[asyncio.Future[Struct], Connection] = {}
        while True:
            # One that stays silent is not waited for alone: the next is asked too, and the first answer counts.
            try:
                connection = await self.any_connection(set(asked.values()))
                asked[connection.send(METADATA, request, timeout_s=self.request_timeout_s)] = connection
                patience_s: float | None = PATIENCE_S
            except ConnectError:
                if not asked:
                    raise
                patience_s = None
            done, _ = await asyncio.wait(asked, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            for answer in done:
                del asked[answer]
                if answer.exception() is None or not asked:
                    self.metadata.apply(cast(MetadataResponse, answer.result()), everything=names is None)
                    return

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

    def open_connection(self, node: int) -> Connection | None:
        """The connection to this broker if it is open by now."""
        address = self.metadata.brokers.get(node)
        connection = None if address is None else self._connections.get((node, address, ""))
        return None if connection is None or connection.closed else connection

    async def any_connection(self, but: Collection[Connection] = ()) -> Connection:
        """A connection to a broker that answers: an open one, or to the first broker that can be reached, bootstrap
        addresses last; an open one that is silent if there is nothing else. Raises ConnectError."""
        shared = [
            (key, one)
            for key, one in self._connections.items()
            if not one.closed and not (len(key) == 3 and key[2]) and one not in but
        ]
        shared.sort(key=lambda entry: entry[1].silent_s)
        if shared and shared[0][1].silent_s < PATIENCE_S:
            return shared[0][1]
        had = {key for key, one in self._connections.items() if not one.closed}
        wanted: list[tuple[Key, Address, str]] = [
            ((node, address, ""), address, "metadata") for node, address in self.metadata.brokers.items()
        ]
        wanted += [(address, address, "bootstrap") for address in self.bootstrap]
        wanted = [one for one in wanted if one[0] not in had]
        try:
            return await self._first_of(wanted)
        except ConnectError:
            if shared:
                return shared[0][1]
            raise

    async def _first_of(self, wanted: list[tuple[Key, Address, str]]) -> Connection:
        """Tries one after the other, the next at the latest when PATIENCE_S have passed."""
        left = list(reversed(wanted))
        trying: set[asyncio.Task[Connection]] = set()
        failures: dict[str, ConnectError] = {}
        try:
            while left or trying:
                if left:
                    trying.add(asyncio.create_task(self._connection(*left.pop())))
                done, trying = await asyncio.wait(
                    trying, timeout=PATIENCE_S if left else None, return_when=asyncio.FIRST_COMPLETED
                )
                reached = None
                for task in done:
                    error = task.exception()
                    if error is None:
                        reached = task.result()
                    elif isinstance(error, ConnectError):
                        failures.setdefault(error.address, error)
                    else:
                        raise error
                if reached is not None:
                    return reached
        finally:
            for task in trying:
                task.cancel()
        raise all_failed(list(failures.values()))

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
            if self._watch is None:
                self._watch_on(PATIENCE_S)

    # A broker that hangs keeps its connections open. When the others no longer count it as one of them, what it was
    # asked is asked again elsewhere, long before the requests' own deadlines.

    def _watch_on(self, after_s: float) -> None:
        self._watch = asyncio.get_running_loop().call_later(after_s, self._look)

    def _look(self) -> None:
        self._connections = {key: one for key, one in self._connections.items() if not one.closed}
        self._watch = None
        if not self._connections:
            return
        if all(one.silent_s < PATIENCE_S for one in self._connections.values()):
            self._watched = 0
            self._watch_on(PATIENCE_S)
            return
        self._watched += 1
        self._watch_on(PATIENCE_S if self._watched < ASKED_OFTEN else SELDOM_S)
        key: frozenset[str] = frozenset()
        if key not in self._refreshing:
            task = self._refreshing[key] = asyncio.create_task(self._refresh(key, False))
            task.add_done_callback(self._looked)

    def _looked(self, done: asyncio.Task[None]) -> None:
        self._forget_refresh(frozenset(), done)
        if done.cancelled() or done.exception() is not None or self._closed:
            return
        for key, one in list(self._connections.items()):
            if len(key) == 3 and one.silent_s >= PATIENCE_S and self.metadata.brokers.get(key[0]) != key[1]:
                one.close(f"{one.address} does not answer, and the other brokers say that it is gone")


def all_failed(failures: list[ConnectError]) -> ConnectError:
    """One error for all the addresses that were tried: each with where it was known from and what the system said."""
    if not failures:
        return ConnectError("any broker", "metadata", "all of them are silent", "see whether the brokers run")
    if len(failures) == 1:
        return failures[0]
    told = "; ".join(f"{one.address} (known from {one.learned_from}): {one.cause}" for one in failures)
    origins = " and ".join(dict.fromkeys(one.learned_from for one in failures))
    hints = "; ".join(dict.fromkeys(one.hint for one in failures))
    return ConnectError(", ".join(one.address for one in failures), origins, told, hints)


def lone_cluster(settings: dict[str, Any]) -> Cluster:
    """Not connected yet, for what is made without a client; takes its settings out of these, which were checked.

    Raises ConfigError.
    """
    bootstrap, options = cluster_settings(settings)
    cluster = Cluster(bootstrap, **options)
    for name in ClientSettings.__annotations__:
        if name != "request_timeout_ms":
            settings.pop(name, None)
    return cluster
