"""The same program with kafka-python and with ``logeion.compat.kafka``: each test runs with both."""

from __future__ import annotations

import importlib
import time
import uuid
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from tests.client.brokers import some_broker


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with some_broker(tmp_path_factory) as (address, _):
        yield address


@pytest.fixture(params=["kafka", "logeion.compat.kafka"])
def kafka(request: pytest.FixtureRequest) -> ModuleType:
    """The library, by the one line that a program changes."""
    errors = importlib.import_module(f"{request.param}.errors")
    module = importlib.import_module(request.param)
    assert module.__name__ in errors.__name__
    return module


@pytest.fixture
def admin(kafka: ModuleType, bootstrap: str) -> Iterator[Any]:
    client = kafka.KafkaAdminClient(bootstrap_servers=bootstrap)
    yield client
    client.close()


@pytest.fixture
def topic(admin: Any) -> str:
    name = f"compat-{uuid.uuid4().hex[:12]}"
    admin.create_topics({name: {"num_partitions": 2}}, wait_for_metadata=True)
    return name


@pytest.fixture
def producer(kafka: ModuleType, bootstrap: str) -> Iterator[Any]:
    made = kafka.KafkaProducer(bootstrap_servers=bootstrap)
    yield made
    made.close()


def errors_of(kafka: ModuleType) -> Any:
    return importlib.import_module(f"{kafka.__name__}.errors")


def polled(consumer: Any, count: int) -> list[Any]:
    """So many records, by polling."""
    found: list[Any] = []
    until = time.monotonic() + 30
    while len(found) < count and time.monotonic() < until:
        for rows in consumer.poll(timeout_ms=1000).values():
            found += rows
    assert len(found) == count
    return found


def test_a_record_goes_out_and_comes_back(kafka: ModuleType, bootstrap: str, producer: Any, topic: str) -> None:
    told: list[Any] = []
    future = producer.send(topic, b"value", b"key", headers=[("h", b"x")], partition=1, timestamp_ms=1_700_000_000_000)
    future.add_callback(told.append)
    where = future.get(timeout=10)
    assert where == (topic, 1, kafka.TopicPartition(topic, 1), 0, 1_700_000_000_000, None, 3, 5, 2)
    assert future.succeeded() and future.is_done and not future.failed()
    producer.flush()
    assert producer.partitions_for(topic) == {0, 1}
    consumer = kafka.KafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=10_000
    )
    record = next(consumer)
    consumer.close()
    assert (record.topic, record.partition, record.offset) == (topic, 1, 0)
    assert (record.key, record.value, record.headers) == (b"key", b"value", [("h", b"x")])
    assert (record.timestamp, record.timestamp_type) == (1_700_000_000_000, 0)
    assert (record.serialized_key_size, record.serialized_value_size, record.serialized_header_size) == (3, 5, 2)
    while not told:
        time.sleep(0.01)
    assert told == [where]


def test_serializers_and_deserializers(kafka: ModuleType, bootstrap: str, topic: str) -> None:
    with_str: Callable[[str], bytes] = str.encode
    made = kafka.KafkaProducer(bootstrap_servers=bootstrap, key_serializer=with_str, value_serializer=with_str)
    made.send(topic, "grün", key="k").get(10)
    made.close()
    consumer = kafka.KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        key_deserializer=bytes.decode,
        value_deserializer=bytes.decode,
    )
    (record,) = polled(consumer, 1)
    consumer.close()
    assert (record.key, record.value) == ("k", "grün")


def test_a_record_that_cannot_be_deserialized_stays_where_it_is_and_takes_no_other_along(
    kafka: ModuleType, bootstrap: str, producer: Any, topic: str
) -> None:
    for text in (b"1", b"2", b"three", b"4"):
        producer.send(topic, text, partition=0)
    producer.flush()
    where = kafka.TopicPartition(topic, 0)
    consumer = kafka.KafkaConsumer(
        bootstrap_servers=bootstrap, auto_offset_reset="earliest", value_deserializer=int, group_id=f"{topic}-int"
    )
    consumer.assign([where])
    found: list[int] = []
    deadline = time.monotonic() + 20
    with pytest.raises(Exception, match="three"):
        while time.monotonic() < deadline:
            found += [record.value for record in consumer.poll(200).get(where, ())]
    assert found == [1, 2] and consumer.position(where) == 2
    consumer.commit()
    assert consumer.committed(where) == 2
    if kafka.__name__ != "kafka":  # which raises again: it keeps the record at hand
        consumer.seek(where, 3)
        assert [record.value for record in polled(consumer, 1)] == [4]
    consumer.close()


def test_a_seek_by_the_listener_comes_before_the_first_record(
    kafka: ModuleType, bootstrap: str, producer: Any, topic: str
) -> None:
    for number in range(10):
        producer.send(topic, b"%d" % number, partition=0)
    producer.flush()
    consumer = kafka.KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id=f"{topic}-seek")

    class Listener(kafka.ConsumerRebalanceListener):  # type: ignore[misc, name-defined]
        def on_partitions_revoked(self, revoked: Any) -> None: ...

        def on_partitions_assigned(self, assigned: Any) -> None:
            time.sleep(0.2)  # nothing may happen: no record of before the seek
            for tp in assigned:
                consumer.seek(tp, 7 if tp.partition == 0 else 0)

    consumer.subscribe([topic], listener=Listener())
    assert [record.value for record in polled(consumer, 3)] == [b"7", b"8", b"9"]
    consumer.close()


@pytest.mark.not_on_tansu("committed metadata is not kept")
def test_a_group_goes_on_where_it_has_committed(
    kafka: ModuleType, bootstrap: str, producer: Any, admin: Any, topic: str
) -> None:
    for number in range(10):
        producer.send(topic, b"%d" % number, partition=0)
    producer.flush()
    settings = {"bootstrap_servers": bootstrap, "group_id": topic, "auto_offset_reset": "earliest"}
    settings["session_timeout_ms"] = 6000  # Tansu lets a new group wait for half of it
    first = kafka.KafkaConsumer(topic, enable_auto_commit=False, max_poll_records=4, **settings)
    assert [record.value for record in polled(first, 4)] == [b"0", b"1", b"2", b"3"]
    zero, one = (kafka.TopicPartition(topic, index) for index in (0, 1))
    assert first.position(zero) == 4 and first.assignment() == {zero, one}
    first.commit()
    assert first.committed(zero) == 4
    first.commit({zero: kafka.OffsetAndMetadata(6, "note", -1)})
    assert tuple(first.committed(zero, metadata=True))[:2] == (6, "note")
    assert first.subscription() == {topic}
    assert first.group_metadata().group_id == topic
    first.close()
    second = kafka.KafkaConsumer(topic, **settings)
    assert [record.value for record in polled(second, 4)] == [b"6", b"7", b"8", b"9"]
    second.close()
    found = admin.list_group_offsets([topic])[topic]
    assert found[zero].offset == 10
    assert topic in [one["group_id"] for one in admin.list_groups()]
    assert admin.delete_groups([topic]) == {topic: "OK"}


@pytest.mark.not_on_tansu("ListOffsets tells the beginning of the last batch for the end")
def test_partitions_that_are_assigned_are_sought_and_paused(
    kafka: ModuleType, bootstrap: str, producer: Any, topic: str
) -> None:
    for number in range(10):
        producer.send(topic, b"%d" % number, partition=0, timestamp_ms=1000 + number)
    producer.flush()
    tp = kafka.TopicPartition(topic, 0)
    consumer = kafka.KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    with pytest.raises(errors_of(kafka).IllegalStateError):
        consumer.position(tp)
    consumer.assign([tp])
    assert consumer.assignment() == {tp}
    assert len(polled(consumer, 10)) == 10
    assert consumer.position(tp) == 10 and consumer.highwater(tp) == 10
    consumer.seek(tp, 7)
    assert [record.value for record in polled(consumer, 3)] == [b"7", b"8", b"9"]
    consumer.seek_to_beginning(tp)
    assert polled(consumer, 10)[0].offset == 0
    assert consumer.beginning_offsets([tp]) == {tp: 0} and consumer.end_offsets([tp]) == {tp: 10}
    found = consumer.offsets_for_times({tp: 1004})[tp]
    assert (found.offset, found.timestamp) == (4, 1004)
    assert consumer.offsets_for_times({tp: 5000}) == {tp: None}
    consumer.seek(tp, 0)
    consumer.pause(tp)
    assert consumer.paused() == {tp} and consumer.poll(timeout_ms=200) == {}
    consumer.resume(tp)
    assert len(polled(consumer, 10)) == 10
    with pytest.raises(ValueError, match="Unassigned"):
        consumer.seek(kafka.TopicPartition(topic, 1), 0)
    with pytest.raises(errors_of(kafka).IllegalStateError):
        consumer.subscribe([topic])
    assert topic in consumer.topics() and consumer.partitions_for_topic(topic) == {0, 1}
    consumer.close()


def test_a_pattern_finds_topics_and_a_listener_is_told(
    kafka: ModuleType, bootstrap: str, producer: Any, topic: str
) -> None:
    told: list[tuple[str, set[Any]]] = []

    class Listener(kafka.ConsumerRebalanceListener):  # type: ignore[misc, name-defined]
        def on_partitions_revoked(self, revoked: Any) -> None:
            told.append(("revoked", set(revoked)))

        def on_partitions_assigned(self, assigned: Any) -> None:
            told.append(("assigned", set(assigned)))

    producer.send(topic, b"x", partition=0).get(10)
    consumer = kafka.KafkaConsumer(
        bootstrap_servers=bootstrap, group_id=topic, auto_offset_reset="earliest", session_timeout_ms=6000
    )
    consumer.subscribe(pattern=f"^{topic[:-2]}.*", listener=Listener())
    (record,) = polled(consumer, 1)
    assert record.value == b"x"
    everything = {kafka.TopicPartition(topic, index) for index in (0, 1)}
    assert ("assigned", everything) in told
    consumer.close()
    assert told[-1] == ("revoked", everything)


def test_iterating_ends_after_consumer_timeout_ms(kafka: ModuleType, bootstrap: str, producer: Any, topic: str) -> None:
    for number in range(3):
        producer.send(topic, b"%d" % number, partition=0)
    producer.flush()
    consumer = kafka.KafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=1500
    )
    assert [record.value for record in consumer] == [b"0", b"1", b"2"]
    consumer.close()


@pytest.mark.not_on_tansu("CreatePartitions is unknown to it")
def test_topics_and_their_configurations(kafka: ModuleType, admin: Any, topic: str) -> None:
    library = importlib.import_module(f"{kafka.__name__}.admin")
    errors = errors_of(kafka)
    assert topic in admin.list_topics()
    (found,) = admin.describe_topics([topic])
    assert found["name"] == topic and found["error_code"] == 0 and len(found["partitions"]) == 2
    assert set(found["partitions"][0]) >= {"partition_index", "leader_id", "replica_nodes", "isr_nodes"}
    assert admin.describe_topics(["nobody-has-this"])[0]["error_code"] == 3
    with pytest.raises(errors.TopicAlreadyExistsError):
        admin.create_topics([topic])
    assert admin.create_topics([topic], raise_errors=False)["topics"][0]["error_code"] == 36
    admin.create_partitions({topic: 3})
    assert len(admin.describe_topics([topic])[0]["partitions"]) == 3
    resource = library.ConfigResource("topic", topic, {"retention.ms": "1234567"})
    admin.alter_configs([resource])
    shown = admin.describe_configs([library.ConfigResource("topic", topic)])["topic"][topic]
    assert shown["retention.ms"]["value"] == "1234567" and "segment.bytes" not in shown
    cluster = admin.describe_cluster()
    assert cluster["brokers"][0]["port"] > 0 and cluster["cluster_id"]
    admin.delete_topics([topic])
    with pytest.raises(errors.UnknownTopicOrPartitionError):
        admin.delete_topics([topic])


@pytest.mark.not_on_tansu("MESSAGE_TOO_LARGE is unknown to it")
def test_mistakes_are_told_alike(kafka: ModuleType, bootstrap: str, producer: Any, topic: str) -> None:
    errors = errors_of(kafka)
    with pytest.raises(ValueError, match="Unrecognized configs"):
        kafka.KafkaProducer(bootstrap_servers=bootstrap, liger_ms=1)
    with pytest.raises(TypeError):
        producer.send(topic, "text")
    with pytest.raises(errors.MessageSizeTooLargeError):
        producer.send(topic, b"x" * 2_000_000).get(10)
    other = kafka.KafkaProducer(bootstrap_servers=bootstrap)
    other.close()
    with pytest.raises(errors.IllegalStateError):
        other.send(topic, b"x")


def test_where_the_shim_says_at_once_what_the_other_waits_for(bootstrap: str) -> None:
    shim: Any = importlib.import_module("logeion.compat.kafka")
    consumer = shim.KafkaConsumer(bootstrap_servers=bootstrap)
    with pytest.raises(shim.errors.IllegalStateError):
        next(consumer)
    consumer.close()
    with pytest.raises(shim.errors.NoBrokersAvailable, match="bootstrap"):
        shim.KafkaProducer(bootstrap_servers="127.0.0.1:9")
    with pytest.raises(shim.errors.KafkaConfigurationError, match="PLAINTEXT"):
        shim.KafkaProducer(bootstrap_servers=bootstrap, security_protocol="SSL")
