"""What a partition's actor is told of the metadata log, and whose slice has to be made again. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from .. import messages as m
from ..metadata import BrokerChanged, BrokerRegistered, ConfigChanged, MetadataImage, MetadataRecord, PartitionChanged
from ..throttles import FOLLOWER_RATE, FOLLOWERS, LEADER_RATE, LEADERS, Shares, throttle_of

Key = tuple[str, int]

_THROTTLES = frozenset((LEADERS, LEADER_RATE, FOLLOWERS, FOLLOWER_RATE))


def make_slice(
    image: MetadataImage, node: int, broker_epoch: int, applied: int, state: PartitionChanged, among: Shares
) -> m.Slice:
    """The slice of one partition, as this node's actor needs it."""
    topic = image.topic_by_id(state.topic_id)
    peers = {}
    for peer in state.replicas:
        broker = image.brokers.get(peer)
        if peer != node and broker is not None:
            peers[peer] = m.Peer(
                host=broker.cluster_host,
                port=broker.cluster_port,
                broker_epoch=broker.broker_epoch,
                eligible=image.eligible(peer),
            )
    return m.Slice(
        topic_id=state.topic_id,
        partition=state.partition,
        leader=state.leader,
        leader_epoch=state.leader_epoch,
        partition_epoch=state.partition_epoch,
        replicas=state.replicas,
        isr=state.isr,
        broker_epoch=broker_epoch,
        peers=peers,
        applied=applied,
        throttle=0 if topic is None else throttle_of(image, topic, state, node, among),
        recovering=state.recovering,
    )


def same(one: m.Slice | None, other: m.Slice) -> bool:
    """Whether they say the same, whenever they were made."""
    return one is not None and msgspec.structs.replace(one, applied=other.applied) == other


class Dirty:
    """Which slices may have changed since they were last looked at: a broker's change is one pass, not one a record."""

    def __init__(self) -> None:
        self.everything: bool = False
        self._keys: dict[Key, None] = {}
        self._brokers: set[int] = set()

    def note(self, record: MetadataRecord) -> None:
        """This record has been applied."""
        match record:
            case PartitionChanged():
                self._keys[record.topic_id, record.partition] = None
            case BrokerRegistered() | BrokerChanged():
                self._brokers.add(record.node)
            case ConfigChanged() if record.key in _THROTTLES:
                self.everything = True
            case _:
                pass

    def take(self, keys: Iterable[Key], image: MetadataImage) -> list[Key]:
        """Those of ``keys`` to be looked at; from now on they are clean."""
        found = list(self._keys)
        if self.everything:
            found = list(keys)
        elif self._brokers:
            for key in keys:
                state = image.partition(*key)
                if key not in self._keys and state is not None and not self._brokers.isdisjoint(state.replicas):
                    found.append(key)
        self._keys.clear()
        self._brokers.clear()
        self.everything = False
        return found
