"""A member with faststream (aiokafka below it), which commits by itself. Its pins want an environment of its own."""

from __future__ import annotations

import asyncio
from typing import Any

from faststream.kafka import KafkaBroker, KafkaMessage

from tests.interop.members.common import Ear, Owned, options, say


async def main() -> None:
    wanted = options()
    broker = KafkaBroker(wanted.bootstrap, logger=None)
    owned = Owned()

    @broker.subscriber(
        *wanted.topics,
        group_id=wanted.group,
        auto_offset_reset="earliest",
        heartbeat_interval_ms=wanted.heartbeat_ms,
        auto_commit_interval_ms=200,
    )
    async def take(body: Any, message: KafkaMessage) -> None:
        raw: Any = message.raw_message
        say("record", topic=raw.topic, partition=raw.partition, offset=raw.offset, value=raw.value.decode())

    ear = Ear()
    await broker.start()
    (subscriber,) = broker.subscribers
    while ear.heard() != "close":
        consumer = getattr(subscriber, "consumer", None)
        if consumer is not None:
            owned.now((p.topic, p.partition) for p in consumer.assignment())
        await asyncio.sleep(0.05)
    await broker.stop()
    say("closed")


if __name__ == "__main__":
    asyncio.run(main())
