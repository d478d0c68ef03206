"""How fast a replica that catches up may fetch (KIP-73), by the settings that Kafka's tools leave behind. Pure."""

from __future__ import annotations

from collections import Counter

import msgspec

from .metadata import MetadataImage, PartitionChanged, Topic

FOLLOWERS, FOLLOWER_RATE = "follower.replication.throttled.replicas", "follower.replication.throttled.rate"
LEADERS, LEADER_RATE = "leader.replication.throttled.replicas", "leader.replication.throttled.rate"


class Shares(msgspec.Struct, frozen=True):
    """How many replicas that catch up share a broker's rate: those on it, and those that fetch from it."""

    followers: dict[int, int] = {}
    leaders: dict[int, int] = {}


NOBODY = Shares()


def shares(image: MetadataImage) -> Shares:
    """Who catches up under a throttle now. A rate is a broker's, as Kafka's is, and each replica a process of its own:
    so each gets its part of it, by what all nodes read in the metadata log."""
    followers: Counter[int] = Counter()
    leaders: Counter[int] = Counter()
    for name in image.throttled:
        topic = image.topic(name)
        for partition in topic.partitions.values() if topic is not None else ():
            behind = [node for node in partition.replicas if node not in partition.isr and image.eligible(node)]
            if partition.leader < 0 or not behind:
                continue
            configs = image.configs_of("topic", name)
            followers.update(node for node in behind if _named(configs.get(FOLLOWERS, ""), partition.partition, node))
            if _named(configs.get(LEADERS, ""), partition.partition, partition.leader):
                leaders[partition.leader] += len(behind)
    return Shares(dict(followers), dict(leaders))


def throttle_of(image: MetadataImage, topic: Topic, partition: PartitionChanged, node: int, among: Shares) -> int:
    """Bytes a second for ``node``'s replica of this partition; 0 for no limit, as for all that are in the ISR."""
    if node in partition.isr or topic.name not in image.throttled:
        return 0
    configs = image.configs_of("topic", topic.name)
    rates = []
    if _named(configs.get(FOLLOWERS, ""), partition.partition, node):
        rates.append(_rate(image, node, FOLLOWER_RATE, among.followers))
    if _named(configs.get(LEADERS, ""), partition.partition, partition.leader):
        rates.append(_rate(image, partition.leader, LEADER_RATE, among.leaders))
    return min((rate for rate in rates if rate is not None), default=0)


def _named(replicas: str, partition: int, node: int) -> bool:
    items = [item.strip() for item in replicas.split(",")]
    return "*" in items or f"{partition}:{node}" in items


def _rate(image: MetadataImage, node: int, key: str, among: dict[int, int]) -> int | None:
    """One replica's part of the broker's own rate, else of the one of all brokers; one that is not counted (its node is
    about to be let in) takes what each of the others has."""
    value = image.configs_of("broker", str(node)).get(key, image.configs_of("broker", "").get(key))
    return None if value is None else max(1, int(value) // max(1, among.get(node, 0)))
