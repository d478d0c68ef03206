"""``connect``: where a program begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, Unpack, overload

from logeion.wire.errors import ConfigError

from .admin import Admin
from .cluster import Cluster
from .consumer import Consumer
from .member import Callback
from .producer import Producer
from .settings import (
    ClientSettings,
    ConsumerSettings,
    FetchSettings,
    ProducerSettings,
    checked,
    cluster_settings,
)
from .subscriber import Subscriber, typed
from .topics import Topic

K = TypeVar("K")
V = TypeVar("V")


class Client:
    """A connection to a cluster, shared by the producers, consumers and admin calls made from it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.admin: Admin = Admin(cluster)

    async def __aenter__(self) -> Client:
        try:
            await self.cluster.start()
        except BaseException:
            await self.cluster.close()
            raise
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        await self.cluster.close()

    def producer(self, *, config: Mapping[str, Any] | None = None, **settings: Unpack[ProducerSettings]) -> Producer:
        """See ``Producer`` for the settings; ``config`` takes them by Kafka's dotted names. Raises ConfigError."""
        return Producer(self.cluster, **checked(ProducerSettings, settings, config))

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
    ) -> Subscriber[K, V]: ...

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
    ) -> Subscriber[bytes, bytes]: ...

    def consume(
        self,
        *topics: Any,
        group: str | None = None,
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
        config: Mapping[str, Any] | None = None,
        **settings: Unpack[ConsumerSettings],
    ) -> Subscriber[Any, Any]:
        """Reads these topics, as a member of ``group`` or all of their partitions alone. Raises ConfigError."""
        if group is not None:
            settings["group_id"] = group
        return Subscriber(
            self.cluster,
            typed(topics),
            on_assigned=on_assigned,
            on_revoked=on_revoked,
            on_lost=on_lost,
            config=config,
            **settings,
        )


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
