"""``connect``: where a program begins."""

from __future__ import annotations

from typing import Any

from .admin import Admin
from .cluster import Cluster
from .consumer import Consumer
from .producer import Producer


class Client:
    """A connection to a cluster, shared by the producers, consumers and admin calls made from it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.admin = Admin(cluster)

    async def __aenter__(self) -> Client:
        try:
            await self.cluster.start()
        except BaseException:
            await self.cluster.close()
            raise
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        await self.cluster.close()

    def producer(self, **settings: Any) -> Producer:
        """See ``Producer`` for the settings."""
        return Producer(self.cluster, **settings)

    def consumer(self, **settings: Any) -> Consumer:
        """See ``Consumer`` for the settings."""
        return Consumer(self.cluster, **settings)


def connect(bootstrap: str = "localhost:9092", **settings: Any) -> Client:
    """A client of the cluster that these brokers (``host:port,…``) belong to; see ``Cluster`` for the settings.

    Connects when entered by ``async with``, which raises ConnectError if nobody answers.
    """
    return Client(Cluster(bootstrap, **settings))
