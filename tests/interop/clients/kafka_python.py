"""kafka-python 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import kafka
from kafka import errors
from kafka.admin import KafkaAdminClient, NewTopic

from tests.interop.clients import At, Client, ProduceFailed, Reader, Record


class KafkaPythonReader:
    def __init__(self, consumer: kafka.KafkaConsumer, partition: kafka.TopicPartition) -> None:
        self.consumer = consumer
        self.partition = partition
        self.pending: list[Record] = []

    def take(self, count: int, timeout_s: float = 20.0) -> list[Record]:
        while len(self.pending) < count:
            got = self.consumer.poll(timeout_ms=int(timeout_s * 1000))
            if not got:
                raise AssertionError(f"kafka-python: {len(self.pending)} of {count} records in {timeout_s} s")
            for each in got[self.partition]:
                self.pending.append(
                    Record(
                        key=each.key,
                        value=each.value,
                        headers=tuple((name, bytes(value)) for name, value in each.headers),
                        timestamp=each.timestamp,
                        offset=each.offset,
                    )
                )
        taken, self.pending = self.pending[:count], self.pending[count:]
        return taken

    def close(self) -> None:
        self.consumer.close()


class KafkaPython(Client):
    name = "kafka-python"

    def admin(self) -> Any:
        return KafkaAdminClient(bootstrap_servers=self.bootstrap)

    def create_topic(self, topic: str, partitions: int, configs: dict[str, str]) -> None:
        admin = self.admin()
        try:
            admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=configs)])
        finally:
            admin.close()

    def delete_topic(self, topic: str) -> None:
        admin = self.admin()
        try:
            admin.delete_topics([topic])
        finally:
            admin.close()

    def partitions(self, topic: str) -> int:
        consumer = kafka.KafkaConsumer(bootstrap_servers=self.bootstrap)
        try:
            return len(consumer.partitions_for_topic(topic) or ()) if topic in consumer.topics() else 0
        finally:
            consumer.close()

    def produce(
        self,
        topic: str,
        partition: int,
        records: Sequence[Record],
        *,
        codec: str = "none",
        max_bytes: int | None = None,
    ) -> None:
        limits = {"max_request_size": max_bytes} if max_bytes else {}
        producer = kafka.KafkaProducer(
            bootstrap_servers=self.bootstrap, compression_type=None if codec == "none" else codec, **limits
        )
        try:
            futures = [
                producer.send(
                    topic,
                    value=each.value,
                    key=each.key,
                    headers=list(each.headers),
                    partition=partition,
                    timestamp_ms=each.timestamp,
                )
                for each in records
            ]
            for future in futures:
                future.get(20)
        except errors.KafkaError as error:
            raise ProduceFailed(str(error), getattr(error, "errno", None)) from error
        finally:
            producer.close()

    def produce_in_flight(self, topic: str, partition: int, values: Sequence[bytes]) -> None:
        producer = kafka.KafkaProducer(bootstrap_servers=self.bootstrap, batch_size=200)
        try:
            futures = [producer.send(topic, value=value, partition=partition) for value in values]
            for future in futures:
                future.get(20)
        finally:
            producer.close()

    def read(self, topic: str, partition: int, at: At) -> Reader:
        consumer = kafka.KafkaConsumer(bootstrap_servers=self.bootstrap)
        where = kafka.TopicPartition(topic, partition)
        consumer.assign([where])
        if at == "start":
            consumer.seek_to_beginning(where)
        elif at == "end":
            consumer.seek_to_end(where)
        elif isinstance(at, str):
            consumer.seek(where, consumer.offsets_for_times({where: int(at[1:])})[where].offset)
        else:
            consumer.seek(where, at)
        consumer.position(where)
        return KafkaPythonReader(consumer, where)
