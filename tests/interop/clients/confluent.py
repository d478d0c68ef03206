"""confluent-kafka: librdkafka at the version of its wheel."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import confluent_kafka
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, TIMESTAMP_NOT_AVAILABLE, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.interop.clients import At, Client, ProduceFailed, Reader, Record


class ConfluentReader:
    def __init__(self, consumer: confluent_kafka.Consumer) -> None:
        self.consumer = consumer
        self.first: Any = None

    def take(self, count: int, timeout_s: float = 20.0) -> list[Record]:
        got: list[Record] = []
        deadline = time.monotonic() + timeout_s
        while len(got) < count:
            each = self.consumer.poll(deadline - time.monotonic())
            if each is None:
                raise AssertionError(f"confluent-kafka: {len(got)} of {count} records in {timeout_s} s")
            if each.error():
                raise AssertionError(str(each.error()))
            kind, timestamp = each.timestamp()
            got.append(
                Record(
                    key=each.key(),
                    value=each.value(),
                    headers=tuple(each.headers() or ()),
                    timestamp=None if kind == TIMESTAMP_NOT_AVAILABLE else timestamp,
                    offset=each.offset(),
                )
            )
        return got

    def close(self) -> None:
        self.consumer.close()


class Confluent(Client):
    name = "confluent-kafka"

    @cached_property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap})

    def create_topic(self, topic: str, partitions: int, configs: dict[str, str]) -> None:
        self.admin.create_topics([NewTopic(topic, partitions, config=configs)])[topic].result(20)

    def delete_topic(self, topic: str) -> None:
        self.admin.delete_topics([topic])[topic].result(20)

    def partitions(self, topic: str) -> int:
        seen = self.admin.list_topics(timeout=20).topics.get(topic)
        return len(seen.partitions) if seen else 0

    def produce(
        self,
        topic: str,
        partition: int,
        records: Sequence[Record],
        *,
        codec: str = "none",
        max_bytes: int | None = None,
    ) -> None:
        limits = {"message.max.bytes": max_bytes} if max_bytes else {}
        self.send(topic, partition, records, {"compression.type": codec, **limits})

    def produce_in_flight(self, topic: str, partition: int, values: Sequence[bytes]) -> None:
        settings = {"enable.idempotence": True, "batch.num.messages": 4, "linger.ms": 0}
        self.send(topic, partition, [Record(value=value) for value in values], settings)

    def send(self, topic: str, partition: int, records: Sequence[Record], settings: dict[str, Any]) -> None:
        failures: list[Any] = []

        def delivered(error: Any, _: Any) -> None:
            if error is not None:
                failures.append(error)

        producer = confluent_kafka.Producer({"bootstrap.servers": self.bootstrap, **settings})
        try:
            for each in records:
                producer.produce(
                    topic,
                    each.value,
                    each.key,
                    partition,
                    on_delivery=delivered,
                    timestamp=each.timestamp or 0,
                    headers=list(each.headers),
                )
        except confluent_kafka.KafkaException as error:
            failures.append(error.args[0])
        left = producer.flush(20)
        if failures:
            raise ProduceFailed(failures[0].str(), failures[0].code())
        assert left == 0, f"{left} records not acknowledged in 20 s"

    def read(self, topic: str, partition: int, at: At) -> Reader:
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": "assigned-only", "enable.auto.commit": False}
        )
        offset: int
        if at == "start":
            offset = OFFSET_BEGINNING
        elif at == "end":
            _, offset = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=20)
        elif isinstance(at, str):
            (found,) = consumer.offsets_for_times([TopicPartition(topic, partition, int(at[1:]))], timeout=20)
            offset = found.offset
        else:
            offset = at
        assert offset != OFFSET_END
        consumer.assign([TopicPartition(topic, partition, offset)])
        return ConfluentReader(consumer)
