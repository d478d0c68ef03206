"""Administration from ordinary code: each call of ``Admin`` and ``Groups``, waited for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from .admin import Admin as Core
from .admin import ClusterInfo, ConfigValue
from .background import Background, own_cluster
from .cluster import Cluster
from .groups import GroupInfo, GroupListing, Groups
from .metadata import TopicInfo
from .positions import TopicPartition
from .settings import ClientSettings, checked


class Admin:
    """Administrative calls. Each raises KafkaError as the broker answers it, or a ClientError."""

    _own_cluster: Cluster | None

    def __init__(self, *, config: Mapping[str, Any] | None = None, **settings: Unpack[ClientSettings]) -> None:
        """With a connection of its own; ``Client.admin`` shares one. Raises ConfigError, ConnectError."""
        loop, cluster = own_cluster(checked(ClientSettings, settings, config))
        self._begin(cluster, loop)
        self._own_cluster = cluster

    @classmethod
    def of(cls, cluster: Cluster, background: Background) -> Admin:
        """On a connection that others share."""
        self = cls.__new__(cls)
        self._begin(cluster, background)
        return self

    def _begin(self, cluster: Cluster, background: Background) -> None:
        self._core = Core(cluster)
        self._groups = Groups(cluster)
        self._run = background.run
        self._own_cluster = None

    def __enter__(self) -> Admin:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnects, if the connection is its own."""
        if self._own_cluster is not None:
            self._run(self._own_cluster.close())

    def create_topic(
        self,
        name: str,
        *,
        partitions: int = -1,
        replication_factor: int = -1,
        configs: Mapping[str, str] | None = None,
        validate_only: bool = False,
    ) -> None:
        """-1 is the broker's default (KIP-464). Returns once the topic has leaders. Raises TopicAlreadyExistsError."""
        self._run(
            self._core.create_topic(
                name,
                partitions=partitions,
                replication_factor=replication_factor,
                configs=configs,
                validate_only=validate_only,
            )
        )

    def delete_topic(self, name: str) -> None:
        """Raises UnknownTopicOrPartitionError."""
        self._run(self._core.delete_topic(name))

    def grow_topic(self, name: str, partitions: int) -> None:
        """To this many partitions in all. Keys move to other partitions. Raises InvalidPartitionsError."""
        self._run(self._core.grow_topic(name, partitions))

    def topics(self) -> list[TopicInfo]:
        """All topics by name, internal ones too."""
        return self._run(self._core.topics())

    def topic(self, name: str) -> TopicInfo:
        """Raises UnknownTopicOrPartitionError."""
        return self._run(self._core.topic(name))

    def topic_configs(self, name: str) -> list[ConfigValue]:
        """The topic's settings by name."""
        return self._run(self._core.topic_configs(name))

    def broker_configs(self, node: int, keys: Iterable[str] | None = None) -> list[ConfigValue]:
        """A broker's settings (these, or all)."""
        return self._run(self._core.broker_configs(node, keys))

    def alter_topic(self, name: str, *, set_values: Mapping[str, str] | None = None, unset: Iterable[str] = ()) -> None:
        """Sets and unsets single settings of a topic. Raises InvalidConfigError."""
        self._run(self._core.alter_topic(name, set_values=set_values, unset=unset))

    def delete_records(self, topic: str, partition: int, before: int) -> int:
        """Deletes what lies below offset ``before`` (-1: everything acknowledged); returns the log's new start."""
        return self._run(self._core.delete_records(topic, partition, before))

    def cluster(self) -> ClusterInfo:
        """The brokers there are now."""
        return self._run(self._core.cluster())

    def groups(self) -> list[GroupListing]:
        """The consumer groups of all brokers, by name."""
        return self._run(self._groups.ls())

    def group(self, name: str) -> GroupInfo:
        """Raises GroupIdNotFoundError."""
        return self._run(self._groups.describe(name))

    def group_offsets(self, name: str) -> dict[TopicPartition, int]:
        """All that the group has committed."""
        return self._run(self._groups.offsets(name))

    def commit_group_offsets(self, name: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Sets the positions of a group without members. Raises UnknownMemberIdError if it has some."""
        self._run(self._groups.commit(name, offsets))

    def delete_group(self, name: str) -> None:
        """Raises GroupIdNotFoundError, NonEmptyGroupError."""
        self._run(self._groups.delete(name))
