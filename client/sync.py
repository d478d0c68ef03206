"""The client for ordinary code: the asyncio client behind calls that wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from .background import background
from .connecting import cluster_of
from .settings import ClientSettings, ProducerSettings
from .sync_admin import Admin as Admin
from .sync_producer import Producer as Producer


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
        self._made: list[Producer] = []
        self._closed = False
        try:
            self._background.run(self._cluster.start())
        except BaseException:
            self._background.run(self._cluster.close())
            raise
        self.admin = Admin(self._cluster, self._background)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.close()

    def producer(self, *, config: Mapping[str, Any] | None = None, **settings: Unpack[ProducerSettings]) -> Producer:
        """``config`` takes the settings by Kafka's dotted names. Raises ConfigError."""
        producer = Producer(self._cluster, self._background, config, **settings)
        self._made.append(producer)
        return producer

    def close(self) -> None:
        """Flushes and closes its producers, closes its consumers, and disconnects."""
        if self._closed:
            return
        self._closed = True
        try:
            for one in self._made:
                one.close()
        finally:
            self._background.run(self._cluster.close())


def connect(
    bootstrap: str | None = None, *, config: Mapping[str, Any] | None = None, **settings: Unpack[ClientSettings]
) -> Client:
    """A client of the cluster that these brokers (``host:port,…``; default localhost:9092) belong to.

    Raises ConnectError if nobody answers, ConfigError.
    """
    return Client(bootstrap, config=config, **settings)
