"""Administration for asyncio: the calls of ``admin.Admin``, and those about groups by the names the sync face has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from .admin import Admin as Core
from .cluster import Cluster, lone_cluster
from .groups import GroupInfo, GroupListing, Groups
from .positions import TopicPartition
from .settings import ClientSettings, checked


class Admin(Core):
    """Administrative calls. Each raises KafkaError as the broker answers it, or a ClientError."""

    _own_cluster: Cluster | None

    def __init__(self, *, config: Mapping[str, Any] | None = None, **settings: Unpack[ClientSettings]) -> None:
        """With a connection of its own, for ``async with``; ``Client.admin`` shares one. Raises ConfigError."""
        cluster = lone_cluster(checked(ClientSettings, settings, config))
        super().__init__(cluster)
        self._groups = Groups(cluster)
        self._own_cluster = cluster

    @classmethod
    def of(cls, cluster: Cluster) -> Admin:
        """On a connection that others share."""
        self = cls.__new__(cls)
        Core.__init__(self, cluster)
        self._groups = Groups(cluster)
        self._own_cluster = None
        return self

    async def __aenter__(self) -> Admin:
        if self._own_cluster is not None:
            await self._own_cluster.start()
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Disconnects, if the connection is its own."""
        if self._own_cluster is not None:
            await self._own_cluster.close()

    async def groups(self) -> list[GroupListing]:
        """The consumer groups of all brokers, by name."""
        return await self._groups.ls()

    async def group(self, name: str) -> GroupInfo:
        """Raises GroupIdNotFoundError."""
        return await self._groups.describe(name)

    async def group_offsets(self, name: str) -> dict[TopicPartition, int]:
        """All that the group has committed."""
        return await self._groups.offsets(name)

    async def commit_group_offsets(self, name: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Sets the positions of a group without members. Raises UnknownMemberIdError if it has some."""
        await self._groups.commit(name, offsets)

    async def delete_group(self, name: str) -> None:
        """Raises GroupIdNotFoundError, NonEmptyGroupError."""
        await self._groups.delete(name)
