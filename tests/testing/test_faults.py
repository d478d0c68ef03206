"""Faults on the way to a live broker, seen by clients that are not ours and by ours."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import TopicAuthorizationFailedError

import logeion
from logeion.testing import Broker, Faults, TopicFactory


@pytest.fixture
def producer(kafka_bootstrap: str) -> Iterator[KafkaProducer]:
    made = KafkaProducer(bootstrap_servers=kafka_bootstrap, linger_ms=0, retry_backoff_ms=10)
    yield made
    made.close(timeout=5)


def test_an_error_is_answered_as_often_as_said_and_the_request_not_carried_out(
    logeion_broker: Broker, logeion_topic: TopicFactory, faults: Faults, producer: KafkaProducer
) -> None:
    topic = logeion_topic()
    fault = faults.error("Produce", "NOT_LEADER_OR_FOLLOWER").times(2)
    assert producer.send(topic, b"once").get(10).offset == 0
    assert fault.hits == 2
    assert [record.value for record in logeion_broker.records(topic)] == [b"once"]


def test_an_error_without_a_bound_lasts_until_it_is_removed(
    logeion_topic: TopicFactory, faults: Faults, producer: KafkaProducer
) -> None:
    topic = logeion_topic()
    assert producer.send(topic, b"before").get(10)
    refused = faults.error("Produce", 29)
    with pytest.raises(TopicAuthorizationFailedError):
        producer.send(topic, b"refused").get(10)
    faults.clear()
    assert refused.times(7).hits == 1
    other = KafkaProducer(bootstrap_servers=producer.config["bootstrap_servers"])
    assert other.send(topic, b"after").get(10)
    other.close()


def test_a_connection_that_ends_before_the_request_loses_nothing(
    logeion_broker: Broker, logeion_topic: TopicFactory, faults: Faults, producer: KafkaProducer
) -> None:
    topic = logeion_topic()
    fault = faults.disconnect("Produce").once()
    assert producer.send(topic, b"x").get(10)
    assert fault.hits == 1
    assert [record.value for record in logeion_broker.records(topic)] == [b"x"]


def test_a_connection_that_ends_in_the_middle_of_the_answer_doubles_nothing(
    logeion_broker: Broker, logeion_topic: TopicFactory, faults: Faults
) -> None:
    topic = logeion_topic()
    fault = faults.disconnect("Produce", at="response").once()
    with logeion.connect(logeion_broker.bootstrap) as client, client.producer() as producer:
        assert producer.send(topic, b"x").result(10).offset in (0, -1)
    assert fault.hits == 1
    assert [record.value for record in logeion_broker.records(topic)] == [b"x"]


def test_a_delayed_fetch_comes_later_and_goes_on_at_once_when_the_fault_is_removed(
    logeion_broker: Broker, logeion_topic: TopicFactory, faults: Faults
) -> None:
    topic = logeion_topic()
    logeion_broker.produce(topic, "late")
    fault = faults.delay("Fetch", 0.4).once()
    consumer = KafkaConsumer(topic, bootstrap_servers=logeion_broker.bootstrap, auto_offset_reset="earliest")
    began = time.monotonic()
    assert next(consumer).value == b"late"
    assert time.monotonic() - began >= 0.4
    assert fault.hits == 1
    hour = faults.delay("Fetch", 3600.0)
    deadline = time.monotonic() + 10.0
    while not hour.hits and time.monotonic() < deadline:
        consumer.poll(timeout_ms=20)
    faults.clear()
    logeion_broker.produce(topic, "next")
    assert next(consumer).value == b"next"
    consumer.close()


def test_metadata_without_a_leader_is_asked_for_again(
    logeion_topic: TopicFactory, faults: Faults, producer: KafkaProducer
) -> None:
    topic = logeion_topic()
    fault = faults.error("Metadata", "LEADER_NOT_AVAILABLE").times(3)
    assert producer.send(topic, b"x").get(10)
    assert fault.hits == 3


def test_the_brokers_own_calls_are_spared(logeion_broker: Broker, logeion_topic: TopicFactory, faults: Faults) -> None:
    topic = logeion_topic()
    fault = faults.disconnect("Produce")
    assert logeion_broker.produce(topic, "through").offset == 0
    assert fault.hits == 0


def test_answers_of_pipelined_requests_keep_their_order_around_a_refused_one(
    logeion_broker: Broker, logeion_topic: TopicFactory, faults: Faults
) -> None:
    topic = logeion_topic()
    fault = faults.error("Produce", "NOT_ENOUGH_REPLICAS").times(5)
    with logeion.connect(logeion_broker.bootstrap) as client, client.producer(linger_ms=0, batch_size=100) as producer:
        sent = [producer.send(topic, b"%03d" % n, partition=0) for n in range(200)]
        assert [one.result(20).offset for one in sent] == list(range(200))
    assert fault.hits == 5
    assert [record.value for record in logeion_broker.records(topic)] == [b"%03d" % n for n in range(200)]


def test_a_name_that_is_none_of_kafkas_is_refused_with_a_guess(faults: Faults) -> None:
    with pytest.raises(ValueError, match="did you mean 'Produce'"):
        faults.error("produce", "NOT_LEADER_OR_FOLLOWER")
    with pytest.raises(ValueError, match="did you mean 'NOT_LEADER_OR_FOLLOWER'"):
        faults.error("Produce", "NOT_LEADER_OR_FOLOWER")
    with pytest.raises(ValueError, match="'request' or 'response'"):
        faults.disconnect("Produce", at="never")
