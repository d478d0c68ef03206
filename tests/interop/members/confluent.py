"""A member with confluent-kafka, of either group protocol."""

from __future__ import annotations

import time
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.interop.members.common import Ear, Options, Owned, options, say


class Member:
    def __init__(self, wanted: Options) -> None:
        settings: dict[str, Any] = {
            "bootstrap.servers": wanted.bootstrap,
            "group.id": wanted.group,
            "group.protocol": wanted.protocol,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
        if wanted.protocol == "classic":
            if wanted.heartbeat_ms:
                settings["heartbeat.interval.ms"] = wanted.heartbeat_ms
            if wanted.session_ms:
                settings["session.timeout.ms"] = wanted.session_ms
            if wanted.strategy:
                settings["partition.assignment.strategy"] = wanted.strategy
        elif wanted.strategy:
            settings["group.remote.assignor"] = wanted.strategy
        if wanted.instance:
            settings["group.instance.id"] = wanted.instance
        if wanted.pattern:
            settings["topic.metadata.refresh.interval.ms"] = 1000
        self.wanted = wanted
        self.consumer = Consumer(settings)
        self.owned = Owned()
        self.taken: dict[tuple[str, int], int] = {}
        say("subscribing")
        topics = [f"^{wanted.pattern}"] if wanted.pattern else list(wanted.topics)
        self.consumer.subscribe(topics, on_assign=self.assigning, on_revoke=self.revoked)

    def assigning(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        say("assigning", partitions=sorted([p.topic, p.partition] for p in partitions))

    def revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.commit()

    def run(self) -> None:
        ear = Ear()
        while True:
            match ear.heard():
                case "commit":
                    self.commit()
                case "close":
                    self.consumer.close()
                    say("closed")
                    return
            got = self.consumer.consume(500, 0.05)
            self.owned.now((p.topic, p.partition) for p in self.consumer.assignment())
            for each in got:
                if each.error():
                    say("error", text=str(each.error()))
                    continue
                self.taken[each.topic(), each.partition()] = each.offset() + 1
                if not self.wanted.quiet:
                    value = each.value().decode() if each.value() is not None else None
                    say("record", topic=each.topic(), partition=each.partition(), offset=each.offset(), value=value)
            if self.taken and self.wanted.commits:
                self.commit()

    def commit(self) -> None:
        owned = {(p.topic, p.partition) for p in self.consumer.assignment()}
        offsets = {where: offset for where, offset in self.taken.items() if where in owned}
        self.taken.clear()
        asked = time.monotonic()
        cause = ""
        if offsets:
            try:
                partitions = [TopicPartition(topic, number, offset) for (topic, number), offset in offsets.items()]
                for done in self.consumer.commit(offsets=partitions, asynchronous=False):
                    cause = str(done.error) if done.error else cause
            except KafkaException as error:
                cause = str(error)
        elif self.wanted.commits:
            return
        if cause:
            # Refused, say because it has not heard of a rebalance yet: the positions still stand.
            self.taken = {**offsets, **self.taken}
        say(
            "commit",
            offsets=sorted([topic, number, offset] for (topic, number), offset in offsets.items()),
            generation=-1,
            ok=not cause,
            cause=cause,
            t=asked,
            until=time.monotonic(),
        )


if __name__ == "__main__":
    Member(options()).run()
