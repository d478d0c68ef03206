"""``connect``: where a program begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, Unpack, overload

from logeion.wire.errors import ConfigError

from .aio_admin import Admin
from .aio_ends import Consumer as GroupConsumer
from .aio_ends import Left, Producer
from .cluster import Cluster
from .consumer import Consumer
from .member import Callback
from .settings import (
    ClientSettings,
    ConsumerSettings,
    FetchSettings,
    ProducerSettings,
    checked,
    cluster_settings,
)
from .topics import Topic

K = TypeVar("K")
V = TypeVar("V")


class Client:
    """A connection to a cluster, shared by the producers, consumers and admin calls made from it.

    Its end closes those that were started by being used, without an ``async with`` of their own.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.admin: Admin = Admin.of(cluster)
        self._left = Left()

    async def __aenter__(self) -> Client:
        try:
            await self.cluster.start()
        except BaseException:
            await self.cluster.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        try:
            # A cancelled program must not wait.
            await self._left.close(flush=kind is None or issubclass(kind, Exception))
        finally:
            await self.cluster.close()

    def producer(self, *, config: Mapping[str, Any] | None = None, **settings: Unpack[ProducerSettings]) -> Producer:
        """See ``Producer`` for the settings; ``config`` takes them by Kafka's dotted names. Raises ConfigError."""
        return Producer.of(self.cluster, self._left, checked(ProducerSettings, settings, config))

    def consumer(self, *, config: Mapping[str, Any] | None = None, **settings: Unpack[FetchSettings]) -> Consumer:
        """Reads partitions of the caller's choice; see ``Consumer`` for the settings. Raises ConfigError."""
        return Consumer(self.cluster, **checked(FetchSettings, settings, config))

    @overload
    def consume(
        self,
        *topics: Topic[K, V],
        group: str | None = None,
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
        config: Mapping[str, Any] | None = None,
        **settings: Unpack[ConsumerSettings],
    ) -> GroupConsumer[K, V]: ...

    @overload
    def consume(
        self,
        *topics: str,
        group: str | None = None,
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
        config: Mapping[str, Any] | None = None,
        **settings: Unpack[ConsumerSettings],
    ) -> GroupConsumer[bytes, bytes]: ...

    def consume(
        self,
        *topics: Any,
        group: str | None = None,
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
        config: Mapping[str, Any] | None = None,
        **settings: Unpack[ConsumerSettings],
    ) -> GroupConsumer[Any, Any]:
        """Reads these topics, as a member of ``group`` or all of their partitions alone. Raises ConfigError."""
        if group is not None:
            settings["group_id"] = group
        taken = checked(ConsumerSettings, settings, config)
        return GroupConsumer.of(self.cluster, self._left, topics, (on_assigned, on_revoked, on_lost), taken)


def connect(
    bootstrap: str | None = None, *, config: Mapping[str, Any] | None = None, **settings: Unpack[ClientSettings]
) -> Client:
    """A client of the cluster that these brokers (``host:port,…``; default localhost:9092) belong to.

    Connects when entered by ``async with``, which raises ConnectError if nobody answers. Raises ConfigError.
    """
    return Client(cluster_of(bootstrap, config, settings))


def cluster_of(bootstrap: str | None, config: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> Cluster:
    """Not connected yet. Raises ConfigError."""
    taken = checked(ClientSettings, settings, config)
    if bootstrap is not None:
        if "bootstrap_servers" in taken:
            raise ConfigError("the brokers are named twice: as the first argument and as bootstrap_servers")
        taken["bootstrap_servers"] = bootstrap
    addresses, options = cluster_settings(taken)
    return Cluster(addresses, **options)
