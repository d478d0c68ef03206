"""The records of the metadata log, and the image they add up to.

The Controller commits them, every Node and Gateway applies them in order; the image is the only thing any of them
decides by. Pure: no I/O, no clock, no randomness.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import msgspec

from logeion.log.config import TOPIC_CONFIGS

METADATA_VERSION = "metadata.version"
QUORUM, ADDRESS = "quorum", "address"
# The topic configs that name its throttled replicas (KIP-73).
THROTTLED = frozenset(("leader.replication.throttled.replicas", "follower.replication.throttled.replicas"))

T = TypeVar("T")


class MetadataEntry(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True, gc=False):
    """The root of the metadata records; the tag is the class's name."""


class ClusterCreated(MetadataEntry, frozen=True, kw_only=True):
    """The first record of a cluster."""

    cluster_id: str
    metadata_version: int = 1


class BrokerRegistered(MetadataEntry, frozen=True, kw_only=True):
    """A node's registration; its broker epoch is this record's offset (KIP-631). It begins fenced.

    ``cluster_host`` and ``cluster_port`` are where other hosts' lanes are accepted (port 0: nowhere); ``boot_id`` tells
    a host's crash from its processes'; ``features`` maps a feature to the [min, max] levels this release supports.
    """

    node: int
    incarnation: str
    directory_id: str
    host: str
    port: int
    broker_epoch: int
    rack: str | None = None
    admin: str = ""
    cluster_host: str = ""
    cluster_port: int = 0
    boot_id: str = ""
    features: dict[str, list[int]] = {}


class BrokerChanged(MetadataEntry, frozen=True, kw_only=True):
    """Whether this registration is fenced (leads nothing, is in no ISR), and whether it is shutting down (KIP-841).

    ``unregistered``: it is there no more; to a release that does not know this, it is fenced, which is as good.
    """

    node: int
    broker_epoch: int
    fenced: bool
    shutting_down: bool = False
    unregistered: bool = False


class FeatureLevelSet(MetadataEntry, frozen=True, kw_only=True):
    """A feature's finalised level (KIP-584), 0 for none; ``metadata.version`` is one of them."""

    name: str
    level: int


class TopicCreated(MetadataEntry, frozen=True, kw_only=True):
    """A topic, by an id that is never used again (KIP-516; 32 hex digits)."""

    topic_id: str
    name: str
    internal: bool = False


class TopicDeleted(MetadataEntry, frozen=True, kw_only=True):
    """The topic, its partitions and its configuration are gone."""

    topic_id: str


class PartitionChanged(MetadataEntry, frozen=True, kw_only=True):
    """All that the controller says of one partition; replaces what it said before.

    ``leader`` -1: nobody. ``elr`` are eligible though out of the ISR, ``last_known`` the last leader of an empty ISR
    and ELR (KIP-966). ``recovering``: elected uncleanly, so alone in the ISR until it says that it serves.
    ``adding`` and ``removing`` are the replicas of a reassignment under way (KIP-455).
    """

    topic_id: str
    partition: int
    replicas: list[int]
    isr: list[int]
    leader: int
    leader_epoch: int
    partition_epoch: int
    elr: list[int] = []
    last_known: list[int] = []
    recovering: bool = False
    adding: list[int] = []
    removing: list[int] = []


class ConfigChanged(MetadataEntry, frozen=True, kw_only=True):
    """One key of a resource (``topic`` by name, ``broker`` by id or "" for all); no value: back to the default.

    ``quorum`` is no resource of clients: by a voter's id its ``address``, HOST:PORT. A release that does not know it
    keeps it and does nothing with it, so it needs no level of metadata.version.
    """

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
    | BrokerChanged
    | FeatureLevelSet
    | TopicCreated
    | TopicDeleted
    | PartitionChanged
    | ConfigChanged
    | ProducerIdsReserved
)

_NOTHING: Mapping[str, str] = MappingProxyType({})


class Topic(msgspec.Struct, kw_only=True):
    """One topic of the image. ``changed`` is the image's ``version`` at its last change: what was encoded from the
    topic at an equal ``changed`` is still right."""

    topic_id: str
    name: str
    internal: bool = False
    partitions: dict[int, PartitionChanged] = {}
    changed: int = 0


class MetadataImage:
    """What the records up to some offset add up to. Readers never change it; ``apply`` is called by its one owner.

    ``version`` grows with each record, so anything derived from the whole image can be cached by it; ``defaults`` are
    the node's own defaults of topic configs, which lie between a topic's configuration and Kafka's defaults.
    """

    def __init__(self, defaults: Mapping[str, str] = _NOTHING) -> None:
        self.cluster_id: str = ""
        self.metadata_version: int = 0
        self.version: int = 0
        # Grows with what Metadata answers show of brokers, as ``Topic.changed`` does for a topic.
        self.brokers_changed: int = 0
        self.brokers: dict[int, BrokerRegistered] = {}
        # Registered, and these: fenced (as every registration begins), on its way out.
        self.fenced: set[int] = set()
        self.shutting_down: set[int] = set()
        self.features: dict[str, int] = {}
        self.topics: dict[str, Topic] = {}
        # The names of those with throttled replicas: mostly none, and then nothing is counted.
        self.throttled: set[str] = set()
        # The voters of the metadata quorum and their cluster ports, once that set has been changed for the first time.
        self.voters: dict[int, tuple[str, int]] = {}
        self.next_producer_id: int = 0
        self.defaults: dict[str, str] = dict(defaults)
        self._ids: dict[str, str] = {}
        # By node, the partitions that have a replica there: a node that fails must not cost a look at all others.
        self._by_node: dict[int, dict[tuple[str, int], None]] = {}
        self._configs: dict[tuple[str, str], dict[str, str]] = {}

    def apply(self, record: MetadataRecord) -> None:
        """The next committed record. A record about a topic that is gone changes nothing."""
        self.version += 1
        match record:
            case ClusterCreated():
                self.cluster_id = record.cluster_id
                self._set_level(METADATA_VERSION, record.metadata_version)
            case BrokerRegistered():
                known = self.brokers.get(record.node)
                self.brokers[record.node] = record
                if known is None or known.broker_epoch != record.broker_epoch:
                    self.fenced.add(record.node)
                    self.shutting_down.discard(record.node)
                self.brokers_changed = self.version
            case BrokerChanged():
                broker = self.brokers.get(record.node)
                if broker is not None and broker.broker_epoch == record.broker_epoch:
                    _put(self.fenced, record.node, record.fenced and not record.unregistered)
                    _put(self.shutting_down, record.node, record.shutting_down)
                    if record.unregistered:
                        del self.brokers[record.node]
                    self.brokers_changed = self.version
            case FeatureLevelSet():
                self._set_level(record.name, record.level)
            case TopicCreated():
                self.topics[record.topic_id] = Topic(
                    topic_id=record.topic_id,
                    name=record.name,
                    internal=record.internal,
                    partitions={},
                    changed=self.version,
                )
                self._ids[record.name] = record.topic_id
            case TopicDeleted():
                gone = self.topics.pop(record.topic_id, None)
                for state in gone.partitions.values() if gone is not None else ():
                    self._index(state, state.replicas, [])
                if gone is not None and self._ids.get(gone.name) == gone.topic_id:
                    del self._ids[gone.name]
                    self._configs.pop(("topic", gone.name), None)
                    self.throttled.discard(gone.name)
            case PartitionChanged():
                topic = self.topics.get(record.topic_id)
                if topic is not None:
                    before = topic.partitions.get(record.partition)
                    if before is None or before.replicas != record.replicas:
                        self._index(record, before.replicas if before is not None else [], record.replicas)
                    topic.partitions[record.partition] = record
                    topic.changed = self.version
            case ConfigChanged():
                self._apply_config(record)
            case ProducerIdsReserved():
                self.next_producer_id = record.next_id

    def _index(self, state: PartitionChanged, before: list[int], after: list[int]) -> None:
        key = (state.topic_id, state.partition)
        for node in before:
            if node not in after:
                del self._by_node[node][key]
        for node in after:
            self._by_node.setdefault(node, {})[key] = None

    def _set_level(self, name: str, level: int) -> None:
        if level:
            self.features[name] = level
        else:
            self.features.pop(name, None)
        if name == METADATA_VERSION:
            self.metadata_version = level

    def _apply_config(self, record: ConfigChanged) -> None:
        where = (record.resource, record.name)
        values = self._configs.setdefault(where, {})
        if record.value is None:
            values.pop(record.key, None)
        else:
            values[record.key] = record.value
        if not values:
            del self._configs[where]
        if record.resource == "topic" and record.key in THROTTLED:
            _put(self.throttled, record.name, not THROTTLED.isdisjoint(values))
        if record.resource == QUORUM:
            host, _, port = values.get(ADDRESS, "").rpartition(":")
            if host and port.isdigit():
                self.voters[int(record.name)] = (host, int(port))
            else:
                self.voters.pop(int(record.name), None)
        topic = self.topic(record.name) if record.resource == "topic" else None
        if topic is not None:
            topic.changed = self.version

    def apply_all(self, records: Iterable[MetadataRecord]) -> None:
        """``apply`` in order."""
        for record in records:
            self.apply(record)

    def restored(self, records: Iterable[MetadataRecord]) -> MetadataImage:
        """A new image from a snapshot that replaces this one; nothing cached by ``version`` or ``changed`` fits it."""
        image = MetadataImage(self.defaults)
        image.version = self.version
        image.apply_all(records)
        return image

    def goes_back(self, applied: int, next_offset: int, records: Sequence[MetadataRecord]) -> bool:
        """Whether this snapshot is older than this image, which is all up to ``applied``, or is of another cluster.

        Whoever took it would take what it lacks for deleted.
        """
        if next_offset < applied:
            return True
        first = records[0] if records else None
        same = isinstance(first, ClusterCreated) and first.cluster_id == self.cluster_id
        return bool(self.cluster_id) and not same

    def eligible(self, node: int) -> bool:
        """Whether this node may lead and be in an ISR: registered, not fenced, not shutting down."""
        return node in self.brokers and node not in self.fenced and node not in self.shutting_down

    def topic(self, name: str) -> Topic | None:
        """The topic of this name."""
        topic_id = self._ids.get(name)
        return None if topic_id is None else self.topics[topic_id]

    def topic_by_id(self, topic_id: str) -> Topic | None:
        """The topic of this id (32 hex digits)."""
        return self.topics.get(topic_id)

    def partition(self, topic_id: str, partition: int) -> PartitionChanged | None:
        """What the controller last said of this partition."""
        topic = self.topics.get(topic_id)
        return None if topic is None else topic.partitions.get(partition)

    def partitions(self) -> Iterator[PartitionChanged]:
        """All partitions of all topics."""
        for topic in self.topics.values():
            yield from topic.partitions.values()

    def partitions_of(self, node: int) -> list[PartitionChanged]:
        """The partitions that have a replica on this node."""
        topics = self.topics
        return [topics[topic_id].partitions[partition] for topic_id, partition in self._by_node.get(node, ())]

    def offline(self) -> list[PartitionChanged]:
        """The partitions that nobody leads."""
        return [state for state in self.partitions() if state.leader == -1]

    def under_replicated(self) -> list[PartitionChanged]:
        """The partitions with replicas out of sync; those that a reassignment only adds are not missed yet."""
        return [state for state in self.partitions() if len(state.isr) < len(state.replicas) - len(state.adding)]

    def under_min_isr(self) -> list[PartitionChanged]:
        """The partitions that refuse acks=all."""
        found = []
        for topic in self.topics.values():
            least = self.min_isr(topic.name)
            found += [state for state in topic.partitions.values() if len(state.isr) < min(least, len(state.replicas))]
        return found

    def reassigning(self) -> list[PartitionChanged]:
        """The partitions whose reassignment is under way."""
        return [state for state in self.partitions() if state.adding or state.removing]

    def configs_of(self, resource: str, name: str) -> Mapping[str, str]:
        """What was set on this resource (``topic`` by name), without any default."""
        return self._configs.get((resource, name), _NOTHING)

    def topic_configs(self, name: str) -> dict[str, str]:
        """The topic's effective configuration; keys that are absent have Kafka's default."""
        return {**self.defaults, **self.configs_of("topic", name)}

    def topic_config(self, name: str, key: str) -> str:
        """One key of the topic's effective configuration, Kafka's default included."""
        value = self.configs_of("topic", name).get(key, self.defaults.get(key))
        return TOPIC_CONFIGS[key].default if value is None else value

    def min_isr(self, name: str) -> int:
        """The topic's ``min.insync.replicas``; what counts is never more than a partition's replicas."""
        return int(self.topic_config(name, "min.insync.replicas"))

    def unclean_election(self, name: str) -> bool:
        """Whether a replica that may miss records may lead rather than nobody."""
        return self.topic_config(name, "unclean.leader.election.enable").strip().lower() == "true"

    def records(self) -> list[MetadataRecord]:
        """A snapshot: applied to an empty image of the same ``defaults``, they make this one again."""
        found: list[MetadataRecord] = []
        if self.cluster_id:
            found.append(ClusterCreated(cluster_id=self.cluster_id, metadata_version=self.metadata_version))
        found += self.brokers.values()
        found += (
            BrokerChanged(
                node=node,
                broker_epoch=broker.broker_epoch,
                fenced=node in self.fenced,
                shutting_down=node in self.shutting_down,
            )
            for node, broker in self.brokers.items()
            if node not in self.fenced or node in self.shutting_down
        )
        found += (FeatureLevelSet(name=name, level=level) for name, level in self.features.items())
        for topic in self.topics.values():
            found.append(TopicCreated(topic_id=topic.topic_id, name=topic.name, internal=topic.internal))
            found += topic.partitions.values()
        for (resource, name), values in self._configs.items():
            found += (ConfigChanged(resource=resource, name=name, key=key, value=values[key]) for key in values)
        if self.next_producer_id:
            found.append(ProducerIdsReserved(next_id=self.next_producer_id))
        return found


def _put(among: set[T], one: T, present: bool) -> None:
    if present:
        among.add(one)
    else:
        among.discard(one)
