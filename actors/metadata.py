"""The records of the metadata log, and the image they add up to.

The Controller commits them, every Node and Gateway applies them in order; the image is the only thing any of them
decides by. Pure: no I/O, no clock, no randomness.
"""

from __future__ import annotations

import msgspec


class MetadataEntry(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True, gc=False):
    """The root of the metadata records; the tag is the class's name."""


class ClusterCreated(MetadataEntry, frozen=True, kw_only=True):
    """The first record of a cluster."""

    cluster_id: str
    metadata_version: int = 1


class BrokerRegistered(MetadataEntry, frozen=True, kw_only=True):
    """A node's registration; its broker epoch is this record's offset (KIP-631)."""

    node: int
    incarnation: str
    directory_id: str
    host: str
    port: int
    broker_epoch: int
    rack: str | None = None
    admin: str = ""


class TopicCreated(MetadataEntry, frozen=True, kw_only=True):
    """A topic, by an id that is never used again (KIP-516; 32 hex digits)."""

    topic_id: str
    name: str
    internal: bool = False


class TopicDeleted(MetadataEntry, frozen=True, kw_only=True):
    """The topic, its partitions and its configuration are gone."""

    topic_id: str


class PartitionChanged(MetadataEntry, frozen=True, kw_only=True):
    """All that the controller says of one partition; replaces what it said before."""

    topic_id: str
    partition: int
    replicas: list[int]
    isr: list[int]
    leader: int
    leader_epoch: int
    partition_epoch: int
    elr: list[int] = []


class ConfigChanged(MetadataEntry, frozen=True, kw_only=True):
    """One key of a resource (``topic`` by name, ``broker`` by id or "" for all); no value: back to the default."""

    resource: str
    name: str
    key: str
    value: str | None = None


class ProducerIdsReserved(MetadataEntry, frozen=True, kw_only=True):
    """Ids below ``next_id`` are given away."""

    next_id: int


MetadataRecord = (
    ClusterCreated
    | BrokerRegistered
    | TopicCreated
    | TopicDeleted
    | PartitionChanged
    | ConfigChanged
    | ProducerIdsReserved
)
