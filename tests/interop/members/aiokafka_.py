"""A member with aiokafka."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import KafkaError

from tests.interop.members.common import Ear, Options, Owned, options, say


class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, member: Member) -> None:
        self.member = member

    async def on_partitions_revoked(self, revoked: Any) -> None:
        await self.member.commit()

    async def on_partitions_assigned(self, assigned: Any) -> None:
        say("assigning", partitions=sorted([p.topic, p.partition] for p in assigned))


class Member:
    def __init__(self, wanted: Options) -> None:
        settings: dict[str, Any] = {"heartbeat_interval_ms": wanted.heartbeat_ms} if wanted.heartbeat_ms else {}
        if wanted.session_ms:
            settings["session_timeout_ms"] = wanted.session_ms
        if wanted.instance:
            settings["group_instance_id"] = wanted.instance
        if wanted.pattern:
            settings["metadata_max_age_ms"] = 1000
        self.wanted = wanted
        self.consumer = AIOKafkaConsumer(
            bootstrap_servers=wanted.bootstrap,
            group_id=wanted.group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            **settings,
        )
        self.owned = Owned()
        self.taken: dict[Any, int] = {}
        say("subscribing")
        if wanted.pattern:
            self.consumer.subscribe(pattern=wanted.pattern, listener=Listener(self))
        else:
            self.consumer.subscribe(topics=list(wanted.topics), listener=Listener(self))

    async def run(self) -> None:
        ear = Ear()
        await self.consumer.start()
        while True:
            match ear.heard():
                case "commit":
                    await self.commit()
                case "close":
                    await self.consumer.stop()
                    say("closed")
                    return
            got = await self.consumer.getmany(timeout_ms=50)
            self.owned.now((p.topic, p.partition) for p in self.consumer.assignment())
            for where, records in got.items():
                for each in records:
                    self.taken[where] = each.offset + 1
                    if not self.wanted.quiet:
                        value = each.value.decode() if each.value is not None else None
                        say("record", topic=each.topic, partition=each.partition, offset=each.offset, value=value)
            if self.taken and self.wanted.commits:
                await self.commit()

    async def commit(self) -> None:
        owned = self.consumer.assignment()
        offsets = {where: offset for where, offset in self.taken.items() if where in owned}
        self.taken.clear()
        if not offsets and self.wanted.commits:
            return
        generation = getattr(self.consumer._coordinator, "generation", -1)
        asked = time.monotonic()
        cause = ""
        if offsets:
            try:
                await self.consumer.commit(offsets)
            except KafkaError as error:
                cause = str(error)
        if cause:
            # Refused, say because it has not heard of a rebalance yet: the positions still stand.
            self.taken = {**offsets, **self.taken}
        say(
            "commit",
            offsets=sorted([w.topic, w.partition, o] for w, o in offsets.items()),
            generation=generation,
            ok=not cause,
            cause=cause,
            t=asked,
            until=time.monotonic(),
        )


async def main() -> None:
    await Member(options()).run()


if __name__ == "__main__":
    asyncio.run(main())
