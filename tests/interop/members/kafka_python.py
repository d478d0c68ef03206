"""A member with kafka-python."""

from __future__ import annotations

import time
from typing import Any

import kafka
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from tests.interop.members.common import Ear, Options, Owned, options, say


class Listener(kafka.ConsumerRebalanceListener):  # type: ignore[misc]
    def on_partitions_revoked(self, revoked: Any) -> None:
        """No commit here: this client cannot wait for an answer in a callback."""

    def on_partitions_assigned(self, assigned: Any) -> None:
        say("assigning", partitions=sorted([p.topic, p.partition] for p in assigned))


class Member:
    def __init__(self, wanted: Options) -> None:
        settings: dict[str, Any] = {"heartbeat_interval_ms": wanted.heartbeat_ms} if wanted.heartbeat_ms else {}
        if wanted.session_ms:
            settings["session_timeout_ms"] = wanted.session_ms
        if wanted.strategy == "cooperative-sticky":
            settings["partition_assignment_strategy"] = [CooperativeStickyAssignor]
        if wanted.instance:
            settings["group_instance_id"] = wanted.instance
        self.wanted = wanted
        self.consumer = kafka.KafkaConsumer(
            bootstrap_servers=wanted.bootstrap,
            group_id=wanted.group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            metadata_max_age_ms=1000 if wanted.pattern else 300_000,
            **settings,
        )
        self.taken: dict[Any, int] = {}
        self.owned = Owned()
        say("subscribing")
        named: dict[str, Any] = {"pattern": wanted.pattern} if wanted.pattern else {"topics": list(wanted.topics)}
        self.consumer.subscribe(listener=Listener(), **named)

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
            # Polls shorter than a join or a metadata refresh takes can leave this client (3.0.12) half joined for ever.
            got = self.consumer.poll(timeout_ms=1000)
            self.owned.now((p.topic, p.partition) for p in self.consumer.assignment())
            for where, records in got.items():
                for each in records:
                    self.taken[where] = each.offset + 1
                    if not self.wanted.quiet:
                        value = each.value.decode() if each.value is not None else None
                        say("record", topic=each.topic, partition=each.partition, offset=each.offset, value=value)
            if self.taken and self.wanted.commits:
                self.commit()

    def commit(self) -> None:
        """What was taken of what is still owned."""
        owned = self.consumer.assignment()
        offsets = {where: offset for where, offset in self.taken.items() if where in owned}
        self.taken.clear()
        if not offsets and self.wanted.commits:
            return
        generation = self.consumer._coordinator.generation()
        asked = time.monotonic()
        cause = ""
        try:
            if offsets:
                self.consumer.commit({w: kafka.OffsetAndMetadata(o, "", -1) for w, o in offsets.items()})
        except kafka.errors.KafkaError as error:
            cause = str(error)
        if cause:
            # Refused, say because it has not heard of a rebalance yet: the positions still stand.
            self.taken = {**offsets, **self.taken}
        say(
            "commit",
            offsets=sorted([w.topic, w.partition, o] for w, o in offsets.items()),
            generation=generation.generation_id if generation is not None else -1,
            ok=not cause,
            cause=cause,
            t=asked,
            until=time.monotonic(),
        )


if __name__ == "__main__":
    Member(options()).run()
