from __future__ import annotations

import pytest

from logeion.actors.metadata import (
    BrokerChanged,
    BrokerRegistered,
    ConfigChanged,
    MetadataImage,
    PartitionChanged,
    TopicDeleted,
)
from logeion.actors.throttles import NOBODY, Shares, shares, throttle_of
from tests.actors.gateway_world import ORDERS, RECORDS

Setting = tuple[str, str, str, str]


def state(partition: int, replicas: list[int], isr: list[int], leader: int) -> PartitionChanged:
    return PartitionChanged(
        topic_id=ORDERS,
        partition=partition,
        replicas=replicas,
        isr=isr,
        leader=leader,
        leader_epoch=3,
        partition_epoch=1,
    )


def image_of(*configs: Setting, partitions: tuple[PartitionChanged, ...] = ()) -> MetadataImage:
    image = MetadataImage()
    image.apply_all(RECORDS)
    for node in (1, 2, 3):
        image.apply(BrokerRegistered(node=node, incarnation="a", directory_id="d", host="h", port=1, broker_epoch=node))
        image.apply(BrokerChanged(node=node, broker_epoch=node, fenced=False))
    # What the world has besides is where it should be.
    image.apply_all(state(partition, [1], [1], 1) for partition in range(3))
    image.apply_all(partitions)
    image.apply_all(ConfigChanged(resource=kind, name=name, key=key, value=value) for kind, name, key, value in configs)
    return image


def throttle(node: int, *configs: Setting, partitions: tuple[PartitionChanged, ...] = ()) -> int:
    """What the replica of partition 0 may fetch; all of them but the leader's are behind."""
    partitions = partitions or (state(0, [1, 2], [1], 1),)
    image = image_of(*configs, partitions=partitions)
    return throttle_of(image, image.topics[ORDERS], partitions[0], node, shares(image))


def topic(key: str, value: str) -> Setting:
    return "topic", "orders", f"{key}.replication.throttled.replicas", value


def rate(key: str, value: int, node: int | str) -> Setting:
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


def test_a_rate_is_the_brokers_and_the_replicas_that_catch_up_there_share_it() -> None:
    moving = tuple(state(partition, [1, 2], [1], 1) for partition in range(5))
    assert throttle(2, topic("follower", "*"), rate("follower", 1000, 2), partitions=moving) == 200
    done = (*moving[:2], *(state(partition, [1, 2], [1, 2], 1) for partition in range(2, 5)))
    assert throttle(2, topic("follower", "*"), rate("follower", 1000, 2), partitions=done) == 500
    assert throttle(2, topic("follower", "0:2"), rate("follower", 1000, 2), partitions=moving) == 1000


def test_a_leaders_rate_is_shared_by_all_that_fetch_from_it_wherever_they_are() -> None:
    moving = (state(0, [1, 2, 3], [1], 1), state(1, [1, 2], [1], 1), state(2, [3, 2], [3], 3))
    configs = (topic("leader", "*"), rate("leader", 900, 1), rate("leader", 100, 3))
    assert throttle(2, *configs, partitions=moving) == 300
    assert throttle(3, *configs, partitions=moving) == 300


def test_a_share_is_never_nothing_because_nothing_means_no_limit() -> None:
    moving = tuple(state(partition, [1, 2], [1], 1) for partition in range(5))
    assert throttle(2, topic("follower", "*"), rate("follower", 3, 2), partitions=moving) == 1
    assert throttle(2, topic("follower", "*"), rate("follower", 0, 2)) == 1


def test_who_cannot_fetch_takes_nothing_of_it() -> None:
    moving = (state(0, [1, 2, 3], [1], 1), state(1, [1, 2, 3], [], -1))
    image = image_of(topic("leader", "*"), topic("follower", "*"), partitions=moving)
    assert shares(image) == Shares({2: 1, 3: 1}, {1: 2})
    image.apply(BrokerChanged(node=3, broker_epoch=3, fenced=True))
    assert shares(image) == Shares({2: 1}, {1: 1})


def test_without_a_throttled_topic_nothing_is_counted() -> None:
    image = image_of(topic("follower", "*"), partitions=(state(0, [1, 2], [1], 1),))
    assert image.throttled == {"orders"}
    image.apply(
        ConfigChanged(resource="topic", name="orders", key="follower.replication.throttled.replicas", value=None)
    )
    assert image.throttled == set() and shares(image) == NOBODY
    gone = image_of(topic("follower", "*"))
    gone.apply(TopicDeleted(topic_id=ORDERS))
    assert gone.throttled == set() and shares(gone) == NOBODY
