"""The tuples that kafka-python hands out, field by field."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from logeion.client.positions import TopicPartition as TopicPartition


class OffsetAndMetadata(NamedTuple):
    """A position to commit, or that was committed."""

    offset: int
    metadata: str | None = ""
    leader_epoch: int = -1


class OffsetAndTimestamp(NamedTuple):
    """The first record that is not older than what was asked for."""

    offset: int
    timestamp: int
    leader_epoch: int = -1


class ConsumerGroupMetadata(NamedTuple):
    """Who this consumer is in its group."""

    group_id: str | None = None
    generation_id: int = -1
    member_id: str = ""
    group_instance_id: str | None = None
    state: str = "<unjoined>"


class RecordMetadata(NamedTuple):
    """Where an acknowledged record stands; sizes are -1 where there is nothing."""

    topic: str
    partition: int
    topic_partition: TopicPartition
    offset: int
    timestamp: int
    checksum: int | None
    serialized_key_size: int
    serialized_value_size: int
    serialized_header_size: int


class ConsumerRecord(NamedTuple):
    """A record that was read; ``leader_epoch`` is None and ``timestamp_type`` 0 (the time of creation) always."""

    topic: str
    partition: int
    leader_epoch: int | None
    offset: int
    timestamp: int
    timestamp_type: int
    key: Any
    value: Any
    headers: list[tuple[str, bytes | None]]
    checksum: int | None
    serialized_key_size: int
    serialized_value_size: int
    serialized_header_size: int


class ConsumerRebalanceListener:
    """What to do when partitions come and go; called on a thread of the client, while ``poll`` waits."""

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """These go to somebody else once this returns."""

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """These are read from now on."""

    def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        """These have gone to somebody else already."""
        self.on_partitions_revoked(lost)


def size(data: bytes | None) -> int:
    """As kafka-python counts it."""
    return -1 if data is None else len(data)


def headers_size(headers: Collection[tuple[str, bytes | None]]) -> int:
    """As kafka-python counts it."""
    return sum(len(key.encode()) + len(value or b"") for key, value in headers) if headers else -1
