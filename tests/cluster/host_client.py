"""A client on another host: confluent-kafka, in a process that a test starts inside a namespace. Nothing of ours.

It produces to every partition in turn, idempotently, until its standard input ends, and tells each second how many
acknowledgements each partition has given; then it reads everything back and tells what became of it.
"""

from __future__ import annotations

import json
import select
import sys
import time
from collections import Counter
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

PER_SECOND = 300
READ_S = 30.0


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def main(bootstrap: str, topic: str, partitions: int) -> None:
    acked: dict[int, dict[int, int]] = {partition: {} for partition in range(partitions)}
    failed: Counter[str] = Counter()
    last = dict.fromkeys(range(partitions), time.monotonic())
    longest = dict.fromkeys(range(partitions), 0.0)

    def answered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failed[str(error)] += 1
            return
        partition, offset, value = message.partition(), message.offset(), message.value()
        assert partition is not None and isinstance(value, bytes)
        # Of a duplicate, whose first answer was lost, it is not told where it is.
        acked[partition][int(value)] = -1 if offset is None else offset
        now = time.monotonic()
        longest[partition] = max(longest[partition], now - last[partition])
        last[partition] = now

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            # How soon it notices that a host says nothing any more; its default is 60 s.
            "socket.timeout.ms": 2_000,
            "request.timeout.ms": 1_000,
            "retry.backoff.ms": 50,
            "retry.backoff.max.ms": 200,
            "reconnect.backoff.max.ms": 500,
            "topic.metadata.refresh.interval.ms": 2_000,
        }
    )
    number, told = 0, 0.0
    due = time.monotonic()
    while not select.select([sys.stdin], [], [], 0)[0]:
        try:
            producer.produce(topic, b"%d" % number, partition=number % partitions, on_delivery=answered)
            number += 1
        except BufferError:
            producer.poll(0.05)
        due = max(due + 1 / PER_SECOND, time.monotonic() - 1.0)
        producer.poll(max(0.0, due - time.monotonic()))
        if time.monotonic() > told + 0.2:
            told = time.monotonic()
            say(acked=[len(acked[partition]) for partition in range(partitions)])
    left = producer.flush(60)
    found = read(bootstrap, topic, partitions, {p: max(acked[p].values(), default=-1) + 1 for p in acked})
    say(
        sent=number,
        acked=sum(map(len, acked.values())),
        failed=dict(failed),
        unanswered=left,
        lost=sum(len(acked[p].keys() - found[p].values()) for p in acked),
        misplaced=sum(1 for p in acked for value, at in acked[p].items() if at >= 0 and found[p].get(at) != value),
        doubled=sum(len(values) - len(set(values)) for values in map(dict.values, found.values())),
        disordered=sum(1 for values in map(dict.values, found.values()) if list(values) != sorted(values)),
        longest_s=[round(longest[p], 3) for p in range(partitions)],
    )


def read(bootstrap: str, topic: str, partitions: int, ends: dict[int, int]) -> dict[int, dict[int, int]]:
    """Offset -> value of each partition, in the order read, up to these ends at least."""
    settings: dict[str, Any] = {"bootstrap.servers": bootstrap, "group.id": "reader", "enable.auto.commit": False}
    consumer = Consumer(settings)
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    found: dict[int, dict[int, int]] = {partition: {} for partition in range(partitions)}
    at = dict.fromkeys(range(partitions), 0)
    deadline = time.monotonic() + READ_S
    while any(at[p] < ends[p] for p in at) and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is None or message.error() is not None:
            continue
        partition, offset, value = message.partition(), message.offset(), message.value()
        assert partition is not None and offset is not None and isinstance(value, bytes)
        found[partition][offset] = int(value)
        at[partition] = offset + 1
    consumer.close()
    return found


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
