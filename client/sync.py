"""The client for ordinary code: the asyncio client behind calls that wait."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Mapping
from typing import Any, TypeVar, Unpack, overload

from .background import background
from .connecting import cluster_of
from .settings import ClientSettings, ConsumerSettings, ProducerSettings, checked
from .sync_admin import Admin as Admin
from .sync_consumer import Consumer as Consumer
from .sync_consumer import Told
from .sync_producer import Producer as Producer
from .topics import Topic

K = TypeVar("K")
V = TypeVar("V")


class Client:
    """A connection to a cluster, shared by the producers, consumers and admin calls made from it.

    Connected from the start; leaving its ``with`` closes what was made from it.
    """

    def __init__(
        self,
        bootstrap: str | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        **settings: Unpack[ClientSettings],
    ) -> None:
        """``bootstrap`` is ``host:port,…``, by default localhost:9092. Raises ConfigError, ConnectError."""
        self._background = background()
        self._cluster = cluster_of(bootstrap, config, settings)
        # What was started is kept elsewhere until it is closed; the rest needs no end.
        self._made: weakref.WeakSet[Producer | Consumer[Any, Any]] = weakref.WeakSet()
        self._closed = False
        try:
            self._background.run(self._cluster.start())
        except BaseException:
            self._background.run(self._cluster.close())
            raise
        self.admin: Admin = Admin.of(self._cluster, self._background)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.close()

    def producer(self, *, config: Mapping[str, Any] | None = None, **settings: Unpack[ProducerSettings]) -> Producer:
        """``config`` takes the settings by Kafka's dotted names. Raises ConfigError."""
        producer = Producer.of(self._cluster, self._background, checked(ProducerSettings, settings, config))
        self._made.add(producer)
        return producer

    @overload
    def consume(
        self,
        *topics: Topic[K, V],
        group: str | None = None,
        on_assigned: Told | None = None,
        on_revoked: Told | None = None,
        on_lost: Told | None = None,
        config: Mapping[str, Any] | None = None,
        **settings: Unpack[ConsumerSettings],
    ) -> Consumer[K, V]: ...

    @overload
    def consume(
        self,
        *topics: str,
        group: str | None = None,
        on_assigned: Told | None = None,
        on_revoked: Told | None = None,
        on_lost: Told | None = None,
        config: Mapping[str, Any] | None = None,
        **settings: Unpack[ConsumerSettings],
    ) -> Consumer[bytes, bytes]: ...

    def consume(
        self,
        *topics: Any,
        group: str | None = None,
        on_assigned: Told | None = None,
        on_revoked: Told | None = None,
        on_lost: Told | None = None,
        config: Mapping[str, Any] | None = None,
        **settings: Unpack[ConsumerSettings],
    ) -> Consumer[Any, Any]:
        """Reads these topics, as a member of ``group`` or all of their partitions alone. Raises ConfigError."""
        if group is not None:
            settings["group_id"] = group

        consumer: Consumer[Any, Any] = Consumer.of(
            self._cluster,
            self._background,
            topics,
            (on_assigned, on_revoked, on_lost),
            checked(ConsumerSettings, settings, config),
        )
        self._made.add(consumer)
        return consumer

    def close(self) -> None:
        """Flushes and closes its producers, closes its consumers, and disconnects."""
        if self._closed:
            return
        self._closed = True
        # Each of them is closed even if another raises, a rebalance callback's mistake, say.
        with contextlib.ExitStack() as ends:
            ends.callback(lambda: self._background.run(self._cluster.close()))
            for one in list(self._made):
                ends.callback(one.close)


def connect(
    bootstrap: str | None = None, *, config: Mapping[str, Any] | None = None, **settings: Unpack[ClientSettings]
) -> Client:
    """A client of the cluster that these brokers (``host:port,…``; default localhost:9092) belong to.

    Raises ConnectError if nobody answers, ConfigError.
    """
    return Client(bootstrap, config=config, **settings)
