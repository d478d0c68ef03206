"""One load by confluent-kafka in a process of its own: `python -m bench.load produce|consume|acks …` prints JSON.

A fresh process each time, so that no system is measured by a client that an earlier one has warmed or bloated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import confluent_kafka
from confluent_kafka import Consumer, Producer, TopicPartition

RECORD_BYTES = 1024


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def produce(bootstrap: str, topic: str, partitions: int, records: int) -> dict[str, Any]:
    """1 KB records in 1 MB batches, acks=all, without keys; every failed delivery counts."""
    failures: list[str] = []

    def failed(error: Any, _: Any) -> None:
        failures.append(str(error))

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "batch.size": 1_000_000,
            "linger.ms": 50,
            "delivery.report.only.error": True,
            "on_delivery": failed,
        }
    )
    producer.list_topics(topic, 30)
    value = bytes(range(256)) * (RECORD_BYTES // 256)
    send = producer.produce
    begin = time.monotonic()
    for i in range(records):
        while True:
            try:
                send(topic, value, partition=i // 1000 % partitions)
                break
            except BufferError:
                producer.poll(0.01)
    left = producer.flush(120)
    seconds = time.monotonic() - begin
    if failures or left:
        raise RuntimeError(f"{len(failures)} failed ({failures[:1]}), {left} not acknowledged")
    return {"seconds": seconds, "mb_s": records * RECORD_BYTES / 1e6 / seconds}


def consume(bootstrap: str, topic: str, partitions: int, records: int) -> dict[str, Any]:
    """Read all of it from the start, by assignment, at librdkafka's defaults."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench", "enable.auto.commit": False})
    consumer.list_topics(topic, 30)
    begin = time.monotonic()
    consumer.assign([TopicPartition(topic, each, 0) for each in range(partitions)])
    got = size = 0
    while got < records:
        messages = consumer.consume(min(1000, records - got), 30)
        if not messages:
            raise RuntimeError(f"{got} of {records} records, then nothing for 30 s")
        for message in messages:
            if message.error():
                raise RuntimeError(str(message.error()))
            size += len(message.value())
        got += len(messages)
    seconds = time.monotonic() - begin
    consumer.close()
    if (got, size) != (records, records * RECORD_BYTES):
        raise RuntimeError(f"{got} records of {size} bytes, not {records}")
    return {"seconds": seconds, "mb_s": size / 1e6 / seconds}


def acks(bootstrap: str, topic: str, _: int, records: int) -> dict[str, Any]:
    """One record at a time: sent, acknowledged by all, then the next."""
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0})
    producer.list_topics(topic, 30)
    value = bytes(RECORD_BYTES)
    failures: list[str] = []

    def delivered(error: Any, _: Any) -> None:
        if error is not None:
            failures.append(str(error))

    took = []
    for i in range(records + 50):
        begin = time.monotonic()
        producer.produce(topic, value, partition=0, on_delivery=delivered)
        if producer.flush(30):
            raise RuntimeError("no ack in 30 s")
        if i >= 50:
            took.append((time.monotonic() - begin) * 1000)
    if failures:
        raise RuntimeError(failures[0])
    return {"p50_ms": statistics.median(took), "p99_ms": quantile(took, 0.99)}


LOADS = {"produce": produce, "consume": consume, "acks": acks}


def run(load: str, bootstrap: str, topic: str, partitions: int, records: int) -> dict[str, Any]:
    """The same in a fresh process."""
    arguments = [load, bootstrap, topic, str(partitions), str(records)]
    done = subprocess.run([sys.executable, "-m", "bench.load", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("load", choices=LOADS)
    parser.add_argument("bootstrap")
    parser.add_argument("topic")
    parser.add_argument("partitions", type=int)
    parser.add_argument("records", type=int)
    options = parser.parse_args()
    result = LOADS[options.load](options.bootstrap, options.topic, options.partitions, options.records)
    print(json.dumps(result | {"client": f"confluent-kafka {confluent_kafka.__version__}"}))


if __name__ == "__main__":
    main()
