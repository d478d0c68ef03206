from __future__ import annotations

import pytest

from logeion.actors.metadata import ConfigChanged, MetadataImage, PartitionChanged
from logeion.actors.throttles import throttle_of
from tests.actors.gateway_world import ORDERS, RECORDS


def throttle(node: int, *configs: tuple[str, str, str, str]) -> int:
    image = MetadataImage()
    image.apply_all(RECORDS)
    image.apply_all(ConfigChanged(resource=kind, name=name, key=key, value=value) for kind, name, key, value in configs)
    partition = PartitionChanged(
        topic_id=ORDERS, partition=0, replicas=[1, 2], isr=[1], leader=1, leader_epoch=3, partition_epoch=1
    )
    return throttle_of(image, image.topics[ORDERS], partition, node)


def topic(key: str, value: str) -> tuple[str, str, str, str]:
    return "topic", "orders", f"{key}.replication.throttled.replicas", value


def rate(key: str, value: int, node: int | str) -> tuple[str, str, str, str]:
    return "broker", str(node), f"{key}.replication.throttled.rate", str(value)


@pytest.mark.parametrize("replicas", ["*", "0:2", "1:1,0:2"])
def test_a_named_replica_outside_the_isr_is_throttled(replicas: str) -> None:
    assert throttle(2, topic("follower", replicas), rate("follower", 1000, 2)) == 1000


def test_the_default_of_all_brokers_counts_where_a_broker_has_no_rate_of_its_own() -> None:
    everywhere = rate("follower", 500, "")
    assert throttle(2, topic("follower", "*"), everywhere) == 500
    assert throttle(2, topic("follower", "*"), everywhere, rate("follower", 900, 2)) == 900


def test_the_slower_side_decides() -> None:
    both = (topic("follower", "0:2"), topic("leader", "0:1"))
    assert throttle(2, *both, rate("follower", 1000, 2), rate("leader", 300, 1)) == 300


def test_nobody_else_is_throttled() -> None:
    assert throttle(2) == 0
    assert throttle(2, topic("follower", "0:3"), rate("follower", 1000, 2)) == 0
    assert throttle(2, topic("follower", "0:2"), rate("follower", 1000, 3)) == 0
    assert throttle(1, topic("follower", "*"), rate("follower", 1000, 1)) == 0
