"""What a client knows of the cluster, from Metadata responses. Pure."""

from __future__ import annotations

import msgspec

from logeion.wire.apis import MetadataResponse
from logeion.wire.errors import (
    KafkaError,
    LeaderNotAvailableError,
    UnknownTopicOrPartitionError,
    for_code,
)

from .addresses import Address


class PartitionInfo(msgspec.Struct, frozen=True):
    """A partition: its leader's node id (-1 for none) and epoch (-1 unknown), replicas and those in sync."""

    index: int
    leader: int
    epoch: int
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]
    error_code: int = 0


class TopicInfo(msgspec.Struct, frozen=True):
    """A topic; its partitions stand in order of their index. ``topic_id`` is zeros where the broker has none."""

    name: str
    topic_id: str
    internal: bool
    partitions: tuple[PartitionInfo, ...]


class Metadata:
    """Brokers, topics and leaders as last heard; an older leader epoch never replaces a newer one (KIP-320)."""

    def __init__(self) -> None:
        self.brokers: dict[int, Address] = {}
        self.racks: dict[int, str | None] = {}
        self.topics: dict[str, TopicInfo] = {}
        self.failed: dict[str, KafkaError] = {}
        self.cluster_id: str | None = None
        self.controller_id: int = -1
        self.heard: int = 0  # responses taken in: whether there may be something new

    def apply(self, response: MetadataResponse, *, everything: bool) -> None:
        """Takes in a response; ``everything`` says that it listed all topics, so others are gone."""
        self.heard += 1
        self.brokers = {broker.node_id: Address(broker.host, broker.port) for broker in response.brokers}
        self.racks = {broker.node_id: broker.rack for broker in response.brokers}
        self.cluster_id = response.cluster_id
        self.controller_id = response.controller_id
        if everything:
            self.topics = {
                name: info for name, info in self.topics.items() if any(name == topic.name for topic in response.topics)
            }
            self.failed = {}
        for topic in response.topics:
            name = topic.name or ""
            if topic.error_code:
                self.topics.pop(name, None)
                self.failed[name] = for_code(topic.error_code)(f"topic {name!r}: {for_code(topic.error_code).__doc__}")
                continue
            self.failed.pop(name, None)
            known = self.topics.get(name)
            before = {}
            if known is not None and known.topic_id == topic.topic_id:
                before = {partition.index: partition for partition in known.partitions}
            partitions = []
            for entry in sorted(topic.partitions, key=lambda partition: partition.partition_index):
                old = before.get(entry.partition_index)
                if old is not None and 0 <= entry.leader_epoch < old.epoch:
                    partitions.append(old)
                    continue
                partitions.append(
                    PartitionInfo(
                        entry.partition_index,
                        entry.leader_id,
                        entry.leader_epoch,
                        tuple(entry.replica_nodes),
                        tuple(entry.isr_nodes),
                        entry.error_code,
                    )
                )
            self.topics[name] = TopicInfo(name, topic.topic_id, topic.is_internal, tuple(partitions))

    def topic(self, name: str) -> TopicInfo:
        """Raises the broker's error about it, or UnknownTopicOrPartitionError."""
        info = self.topics.get(name)
        if info is not None:
            return info
        raise self.failed.get(name) or UnknownTopicOrPartitionError(f"topic {name!r} is not known")

    def leader(self, topic: str, partition: int) -> int:
        """Its leader's node id. Raises UnknownTopicOrPartitionError or LeaderNotAvailableError."""
        for entry in self.topic(topic).partitions:
            if entry.index == partition:
                if entry.leader < 0 or entry.leader not in self.brokers:
                    raise LeaderNotAvailableError(f"{topic}[{partition}] has no leader at this moment")
                return entry.leader
        raise UnknownTopicOrPartitionError(
            f"topic {topic!r} has partitions 0 to {len(self.topic(topic).partitions) - 1}, none is {partition}"
        )
