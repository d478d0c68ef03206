"""What an operator counts on and rarely sees: elections from the ELR, unclean ones, racks, moves, an upgrade.

One cluster for all: node 1 is the only voter and keeps no copies, so that the others may die in any order. It is
founded by an older release, as far as metadata.version goes, and upgraded at the end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from logeion.wire.schema.topics import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
)
from tests.cluster.broker import until
from tests.cluster.served import Served, served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

CREATE_TOPICS, CREATE_TOPICS_VERSION = 19, 7
# What a machine that tests something else beside may take for an election.
ELECTED_S = 15.0
SETTINGS = "[controller]\nrebalance_ms = 1000\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served"), ["a", "a", "b", "c"], SETTINGS, older=True) as one:
        yield one


def create(cluster: Served, topic: str, replicas: Sequence[int], partitions: int = 1, **configs: str) -> None:
    """A topic whose partitions have these replicas, the preferred leader first."""
    wanted = CreatableTopic(
        name=topic,
        num_partitions=-1,
        replication_factor=-1,
        assignments=[
            CreatableReplicaAssignment(partition_index=number, broker_ids=list(replicas))
            for number in range(partitions)
        ],
        configs=[CreatableTopicConfig(name=key.replace("_", "."), value=value) for key, value in configs.items()],
    )
    answer = cluster.request(
        CREATE_TOPICS, CREATE_TOPICS_VERSION, CreateTopicsRequest(topics=[wanted], timeout_ms=9000)
    )
    assert answer.topics[0].error_code == 0, answer
    until(lambda: cluster.partition(topic).isr == tuple(replicas), ELECTED_S, f"{topic} is whole")


def send(cluster: Served, topic: str, values: Sequence[bytes], partition: int = 0) -> None:
    """All acknowledged by all that are in sync."""
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "acks": "all", "linger.ms": 5, "log_level": 3})
    failed: list[object] = []
    for value in values:
        producer.produce(
            topic, value, partition=partition, on_delivery=lambda error, _: failed.append(error) if error else None
        )
    assert producer.flush(20) == 0 and not failed, failed


def values(cluster: Served, topic: str) -> list[bytes]:
    """All that can be read of partition 0 now."""
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "none", "log_level": 3})
    where = TopicPartition(topic, 0)
    _, end = until(lambda: consumer.get_watermark_offsets(where, timeout=5), 20)
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[bytes] = []

    def more() -> bool:
        found.extend(one.value() or b"" for one in consumer.consume(100, 0.2) if one.error() is None)
        return len(found) >= end

    until(more, 20, f"{end} records of {topic}")
    consumer.close()
    return found


def leads(cluster: Served, topic: str, node: int) -> None:
    until(lambda: cluster.partition(topic).leader == node, ELECTED_S, f"{node} leads {topic}\n{cluster.tail(1)}")


def in_sync(cluster: Served, topic: str, *nodes: int) -> None:
    until(lambda: set(cluster.partition(topic).isr) == set(nodes), ELECTED_S, f"in sync are {nodes}\n{cluster.tail(1)}")


def test_replicas_are_spread_over_racks(cluster: Served) -> None:
    cluster.ask("topic", "create", "spread", "--partitions", "12", "--replication-factor", "3")
    rack = {1: "a", 2: "a", 3: "b", 4: "c"}
    placed = [cluster.partition("spread", number).replicas for number in range(12)]
    assert all({rack[node] for node in replicas} == {"a", "b", "c"} for replicas in placed), placed
    # Both nodes of a rack have their part, and leaders are spread, too.
    assert {node for replicas in placed for node in replicas} == {1, 2, 3, 4}
    assert len({replicas[0] for replicas in placed}) >= 3
    cluster.ask("topic", "delete", "spread", "--yes")


def test_who_left_the_isr_last_leads_again_first_and_the_preferred_one_follows_by_itself(cluster: Served) -> None:
    create(cluster, "elr", [2, 3, 4], min_insync_replicas="2")
    sent = [b"%d" % number for number in range(200)]
    send(cluster, "elr", sent)
    cluster.kill(4)
    in_sync(cluster, "elr", 2, 3)
    send(cluster, "elr", [b"without 4"])
    for node in (3, 2):
        cluster.kill(node)
        until(
            lambda node=node: node not in cluster.partition("elr").isr or cluster.partition("elr").leader < 0, ELECTED_S
        )
    until(lambda: cluster.partition("elr").leader == -1, ELECTED_S, "nobody leads")
    # 4 has not all that was acknowledged, 3 has: it was the last but one, and is in the ELR.
    cluster.start(4)
    eligible = cluster.json("topic", "describe", "elr")["partitions"][0]["eligible"]
    assert 3 in eligible and 4 not in eligible, eligible
    assert cluster.partition("elr").leader == -1
    cluster.start(3)
    leads(cluster, "elr", 3)
    in_sync(cluster, "elr", 3, 4)
    assert values(cluster, "elr") == [*sent, b"without 4"]
    cluster.start(2)
    # controller.rebalance_ms moves it back; nobody has asked.
    leads(cluster, "elr", 2)
    cluster.healthy()
    assert values(cluster, "elr") == [*sent, b"without 4"]


def test_an_unclean_election_saves_what_is_left_when_the_only_copy_in_sync_is_lost(cluster: Served) -> None:
    create(cluster, "unclean", [3, 4])
    send(cluster, "unclean", [b"both"] * 10)
    cluster.kill(4)
    in_sync(cluster, "unclean", 3)
    send(cluster, "unclean", [b"lost"] * 5)
    cluster.kill(3, lose=True)
    cluster.start(4)
    until(lambda: cluster.partition("unclean").leader == -1, ELECTED_S, "nobody leads")
    refused = cluster.ask("cluster", "elect", "unclean:0", code=1)
    assert "unclean-0" in refused
    assert "elected unclean-0" in cluster.ask("cluster", "elect", "unclean:0", "--unclean", "--yes")
    leads(cluster, "unclean", 4)
    send(cluster, "unclean", [b"after"])
    assert values(cluster, "unclean") == [b"both"] * 10 + [b"after"]
    # The lost one comes back empty, and gets all of it.
    cluster.start(3)
    in_sync(cluster, "unclean", 3, 4)
    cluster.healthy()
    assert values(cluster, "unclean") == [b"both"] * 10 + [b"after"]


def test_a_throttled_move_takes_its_time_however_many_partitions_it_has(cluster: Served) -> None:
    """Four partitions of 1 MB at 2 MB/s: two seconds by the broker's rate, half a second if each had one of its own."""
    create(cluster, "heavy", [2], partitions=4)
    for partition in range(4):
        send(cluster, "heavy", [b"x" * 10_000] * 100, partition)
    began = time.monotonic()
    cluster.ask("cluster", "reassign", "heavy", "--to", "3", "--throttle", "2MB/s", "--wait")
    took = time.monotonic() - began
    assert took > 1.2, took
    assert {cluster.partition("heavy", number).replicas for number in range(4)} == {(3,)}
    assert not [one for one in cluster.json("topic", "config", "heavy") if "throttled" in one["name"] and one["value"]]


def test_an_upgrade_of_one_node_after_another_is_finalised_at_its_end(cluster: Served) -> None:
    def level() -> int:
        [feature] = cluster.json("cluster", "features")
        return int(feature["level"])

    assert level() == 1
    for node in (1, 4, 3, 2):
        if node == 2:
            refused = cluster.ask("cluster", "features", "--set", "metadata.version=2", code=1)
            assert "node 2 does not support level 2" in refused
        cluster.stop(node)
        cluster.older.discard(node)
        cluster.start(node)
    cluster.healthy()
    assert level() == 1, "nothing is finalised by itself"
    cluster.ask("cluster", "features", "--set", "metadata.version=2")
    assert level() == 2
    send(cluster, "elr", [b"upgraded"])
    # The older release is not let in any more, and says why.
    cluster.stop(4)
    cluster.older.add(4)
    cluster.launch(4)
    until(lambda: "supports metadata.version from 1 to 1" in cluster.tail(4), 20, cluster.tail(4))
    cluster.kill(4)
    cluster.older.discard(4)
    cluster.start(4)
