"""Administration beyond topics, by the clients that have it."""

from __future__ import annotations

import time
from collections.abc import Callable

import kafka
import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)
from kafka.admin import KafkaAdminClient

from tests.interop.clients import Client, Record

MakeTopic = Callable[..., str]
ClientNamed = Callable[[str], Client]


@pytest.fixture(scope="module")
def admin(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap})


def configs_of(admin: AdminClient, topic: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    return {name: entry.value for name, entry in admin.describe_configs([resource])[resource].result(20).items()}


def wait_for_config(admin: AdminClient, topic: str, name: str, value: str) -> None:
    deadline = time.monotonic() + 10
    while (seen := configs_of(admin, topic)[name]) != value:
        assert time.monotonic() < deadline, f"{name} is {seen}, not {value}"
        time.sleep(0.05)


def test_configs_are_described_altered_and_put_back(admin: AdminClient, make_topic: MakeTopic) -> None:
    topic = make_topic(retention_ms="3600000")
    before = configs_of(admin, topic)
    assert before["retention.ms"] == "3600000"
    assert before["cleanup.policy"] == "delete"

    def alter(kind: AlterConfigOpType, value: str | None) -> None:
        entry = ConfigEntry("max.message.bytes", value, incremental_operation=kind)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result(20)

    alter(AlterConfigOpType.SET, "2000000")
    wait_for_config(admin, topic, "max.message.bytes", "2000000")
    alter(AlterConfigOpType.DELETE, None)
    wait_for_config(admin, topic, "max.message.bytes", before["max.message.bytes"])


def test_an_unknown_config_and_a_wrong_value_are_refused(admin: AdminClient, topic_name: str) -> None:
    for configs in ({"retention.msec": "1"}, {"retention.ms": "soon"}):
        with pytest.raises(KafkaException) as refused:
            admin.create_topics([NewTopic(topic_name, 1, config=configs)])[topic_name].result(20)
        assert refused.value.args[0].name() == "INVALID_CONFIG"


def test_a_topic_that_exists_and_names_that_cannot_be_are_refused(admin: AdminClient, make_topic: MakeTopic) -> None:
    topic = make_topic()
    for name, error in ((topic, "TOPIC_ALREADY_EXISTS"), ("no spaces", "TOPIC_EXCEPTION"), ("..", "TOPIC_EXCEPTION")):
        with pytest.raises(KafkaException) as refused:
            admin.create_topics([NewTopic(name, 1)])[name].result(20)
        assert refused.value.args[0].name() == error


def test_a_topic_grows_and_never_shrinks(admin: AdminClient, make_topic: MakeTopic, client_named: ClientNamed) -> None:
    topic = make_topic(partitions=2)
    admin.create_partitions([NewPartitions(topic, 5)])[topic].result(20)
    client = client_named("confluent-kafka")
    deadline = time.monotonic() + 10
    while client.partitions(topic) != 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    client.produce(topic, 4, [Record(value=b"in a new partition")])
    with pytest.raises(KafkaException) as refused:
        admin.create_partitions([NewPartitions(topic, 3)])[topic].result(20)
    assert refused.value.args[0].name() == "INVALID_PARTITIONS"


def test_deleted_records_are_gone_and_the_log_starts_later(
    admin: AdminClient, make_topic: MakeTopic, client_named: ClientNamed
) -> None:
    topic = make_topic()
    client = client_named("kafka-python")
    client.produce(topic, 0, [Record(value=str(i).encode()) for i in range(10)])
    where = TopicPartition(topic, 0, 4)
    assert admin.delete_records([where])[where].result(20).low_watermark == 4
    reader = client.read(topic, 0, "start")
    try:
        assert [each.offset for each in reader.take(6)] == [4, 5, 6, 7, 8, 9]
    finally:
        reader.close()


def test_a_topic_made_again_under_its_name_is_empty(
    admin: AdminClient, topic_name: str, client_named: ClientNamed
) -> None:
    client = client_named("kafka-python")
    for _ in range(2):
        client.create_topic(topic_name, 1, {})
        client.produce(topic_name, 0, [Record(value=b"only")])
        reader = client.read(topic_name, 0, "start")
        try:
            assert [each.offset for each in reader.take(1)] == [0]
        finally:
            reader.close()
        client.delete_topic(topic_name)
        deadline = time.monotonic() + 10
        while client.partitions(topic_name):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_the_cluster_and_its_directories_are_described(bootstrap: str, make_topic: MakeTopic) -> None:
    topic = make_topic(partitions=2)
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        cluster = admin.describe_cluster()
        assert len(cluster["brokers"]) >= 1
        assert cluster["cluster_id"]
        (described,) = admin.describe_topics([topic])
        assert len(described["partitions"]) == 2
        assert topic in str(admin.describe_log_dirs())
    finally:
        admin.close()


def test_a_consumer_sees_offsets_by_time_and_at_both_ends(
    bootstrap: str, make_topic: MakeTopic, client_named: ClientNamed
) -> None:
    topic = make_topic()
    base = 1_600_000_000_000
    client_named("kafka-python").produce(
        topic, 0, [Record(value=b"v", timestamp=base + i * 1000) for i in range(10)], codec="gzip"
    )
    consumer = kafka.KafkaConsumer(bootstrap_servers=bootstrap)
    try:
        where = kafka.TopicPartition(topic, 0)
        assert consumer.beginning_offsets([where]) == {where: 0}
        assert consumer.end_offsets([where]) == {where: 10}
        found = consumer.offsets_for_times({where: base + 4500})[where]
        assert (found.offset, found.timestamp) == (5, base + 5000)
        assert consumer.offsets_for_times({where: base + 100_000})[where] is None
    finally:
        consumer.close()
