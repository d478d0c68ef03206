"""aiokafka, driven from synchronous tests by a loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import aiokafka
from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.interop.clients import At, Client, ProduceFailed, Reader, Record


class AiokafkaReader:
    def __init__(self, loop: asyncio.AbstractEventLoop, consumer: aiokafka.AIOKafkaConsumer) -> None:
        self.loop = loop
        self.consumer = consumer

    def take(self, count: int, timeout_s: float = 20.0) -> list[Record]:
        async def take() -> list[Record]:
            got = []
            for _ in range(count):
                each = await asyncio.wait_for(self.consumer.getone(), timeout_s)
                got.append(
                    Record(
                        key=each.key,
                        value=each.value,
                        headers=tuple(each.headers),
                        timestamp=each.timestamp,
                        offset=each.offset,
                    )
                )
            return got

        return self.loop.run_until_complete(take())

    def close(self) -> None:
        self.loop.run_until_complete(self.consumer.stop())


class Aiokafka(Client):
    name = "aiokafka"

    def __init__(self, bootstrap: str) -> None:
        super().__init__(bootstrap)
        self.loop = asyncio.new_event_loop()

    def close(self) -> None:
        self.loop.close()

    def create_topic(self, topic: str, partitions: int, configs: dict[str, str]) -> None:
        self.loop.run_until_complete(self.create(topic, partitions, configs))

    async def create(self, topic: str, partitions: int, configs: dict[str, str]) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            answer = await admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=configs)])
            for _, code, *_ in answer.topic_errors:
                if code:
                    raise errors.for_code(code)(topic)
        finally:
            await admin.close()

    def delete_topic(self, topic: str) -> None:
        self.loop.run_until_complete(self.delete(topic))

    async def delete(self, topic: str) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            answer = await admin.delete_topics([topic])
            for _, code in answer.topic_error_codes:
                if code:
                    raise errors.for_code(code)(topic)
        finally:
            await admin.close()

    def partitions(self, topic: str) -> int:
        return self.loop.run_until_complete(self.count_partitions(topic))

    async def count_partitions(self, topic: str) -> int:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            seen = {each["topic"]: len(each["partitions"]) for each in await admin.describe_topics()}
        finally:
            await admin.close()
        return seen.get(topic, 0)

    def produce(
        self,
        topic: str,
        partition: int,
        records: Sequence[Record],
        *,
        codec: str = "none",
        max_bytes: int | None = None,
    ) -> None:
        limit = max_bytes or 1048576
        compression = None if codec == "none" else codec
        self.loop.run_until_complete(self.send(topic, partition, records, compression, limit))

    async def send(
        self, topic: str, partition: int, records: Sequence[Record], compression: str | None, limit: int
    ) -> None:
        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=self.bootstrap, compression_type=compression, max_request_size=limit
        )
        await producer.start()
        try:
            futures = [
                await producer.send(
                    topic,
                    each.value,
                    each.key,
                    partition=partition,
                    timestamp_ms=each.timestamp,
                    headers=list(each.headers),
                )
                for each in records
            ]
            await asyncio.wait_for(asyncio.gather(*futures), 20)
        except errors.KafkaError as error:
            raise ProduceFailed(str(error), getattr(error, "errno", None)) from error
        finally:
            await producer.stop()

    def produce_in_flight(self, topic: str, partition: int, values: Sequence[bytes]) -> None:
        self.loop.run_until_complete(self.send_in_flight(topic, partition, values))

    async def send_in_flight(self, topic: str, partition: int, values: Sequence[bytes]) -> None:
        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=self.bootstrap, enable_idempotence=True, max_batch_size=200
        )
        await producer.start()
        try:
            futures = [await producer.send(topic, value, partition=partition) for value in values]
            await asyncio.wait_for(asyncio.gather(*futures), 20)
        finally:
            await producer.stop()

    def read(self, topic: str, partition: int, at: At) -> Reader:
        return AiokafkaReader(self.loop, self.loop.run_until_complete(self.assigned(topic, partition, at)))

    async def assigned(self, topic: str, partition: int, at: At) -> aiokafka.AIOKafkaConsumer:
        consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=self.bootstrap)
        await consumer.start()
        where = aiokafka.TopicPartition(topic, partition)
        consumer.assign([where])
        if at == "start":
            await consumer.seek_to_beginning(where)
        elif at == "end":
            await consumer.seek_to_end(where)
        elif isinstance(at, str):
            consumer.seek(where, (await consumer.offsets_for_times({where: int(at[1:])}))[where].offset)
        else:
            consumer.seek(where, at)
        await consumer.position(where)
        return consumer
