"""How fast a replica that catches up may fetch (KIP-73), by the settings that Kafka's tools leave behind. Pure."""

from __future__ import annotations

from .metadata import MetadataImage, PartitionChanged, Topic

FOLLOWERS, FOLLOWER_RATE = "follower.replication.throttled.replicas", "follower.replication.throttled.rate"
LEADERS, LEADER_RATE = "leader.replication.throttled.replicas", "leader.replication.throttled.rate"


def throttle_of(image: MetadataImage, topic: Topic, partition: PartitionChanged, node: int) -> int:
    """Bytes a second for ``node``'s replica of this partition; 0 for no limit, as for all that are in the ISR."""
    if node in partition.isr:
        return 0
    configs = image.configs_of("topic", topic.name)
    rates = []
    if _named(configs.get(FOLLOWERS, ""), partition.partition, node):
        rates.append(_rate(image, node, FOLLOWER_RATE))
    if _named(configs.get(LEADERS, ""), partition.partition, partition.leader):
        rates.append(_rate(image, partition.leader, LEADER_RATE))
    return min((max(rate, 1) for rate in rates if rate is not None), default=0)


def _named(replicas: str, partition: int, node: int) -> bool:
    items = [item.strip() for item in replicas.split(",")]
    return "*" in items or f"{partition}:{node}" in items


def _rate(image: MetadataImage, node: int, key: str) -> int | None:
    """The broker's own, else the one of all brokers."""
    value = image.configs_of("broker", str(node)).get(key, image.configs_of("broker", "").get(key))
    return None if value is None else int(value)
