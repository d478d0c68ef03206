"""Five requests in flight while the leader dies, with three foreign producers: order, and exactly once a sequence.

    python -m tests.cluster.in_flight --kills 50 [--clients librdkafka,java,kafka-python]

Each client sends as fast as it can in batches so small that many requests are needed; its leader is killed again and
again meanwhile. Then every value must stand in the log once and in the order of the sends, and the sequences in the
batch headers must follow each other.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import kafka
from confluent_kafka import Producer

from tests.cluster.broker import until
from tests.cluster.cluster import Cluster, running_cluster
from tests.cluster.histories import create_topic
from tests.interop import raw
from tests.interop.clients.bridge import Java
from tests.interop.peers import fetch_kafka

# How many values a client is given at a time.
VALUES = 4_000
BATCH_BYTES = 200
BETWEEN_S = (0.05, 0.6)
SEQUENCES = 2**31


class Outcome(NamedTuple):
    """What a client went through."""

    client: str
    kills: int
    values: int
    batches: int
    producers: int


def librdkafka(bootstrap: str, topic: str, rounds: Callable[[], Sequence[bytes] | None]) -> None:
    """confluent-kafka; a failed delivery is an error."""
    failures: list[Any] = []
    settings = {"bootstrap.servers": bootstrap, "enable.idempotence": True, "batch.size": BATCH_BYTES, "linger.ms": 0}
    producer = Producer({**settings, "max.in.flight.requests.per.connection": 5, "delivery.report.only.error": True})
    while values := rounds():
        for value in values:
            while True:
                try:
                    producer.produce(topic, value, partition=0, on_delivery=lambda error, _: failures.append(error))
                    break
                except BufferError:
                    producer.poll(0.01)
        left = producer.flush(60)
        assert not left, f"{left} records have no answer"
    assert not failures, failures[:3]


def kafka_python(bootstrap: str, topic: str, rounds: Callable[[], Sequence[bytes] | None]) -> None:
    """kafka-python; a failed future raises."""
    producer = kafka.KafkaProducer(
        bootstrap_servers=bootstrap.split(","),
        enable_idempotence=True,
        max_in_flight_requests_per_connection=5,
        batch_size=BATCH_BYTES,
        linger_ms=0,
    )
    try:
        while values := rounds():
            for future in [producer.send(topic, value, partition=0) for value in values]:
                future.get(60)
    finally:
        producer.close(5)


def java(bootstrap: str, topic: str, rounds: Callable[[], Sequence[bytes] | None]) -> None:
    """Apache Kafka's own, with a producer a round; idempotent and with five in flight by default."""
    fetch_kafka()
    client = Java(bootstrap)
    try:
        while values := rounds():
            client.produce_in_flight(topic, 0, values)
    finally:
        client.close()


CLIENTS = {"librdkafka": librdkafka, "java": java, "kafka-python": kafka_python}


def run(cluster: Cluster, name: str, *, kills: int, seed: int) -> Outcome:
    """Kill the leader so many times while the client sends; AssertionError if anything is lost, doubled or moved."""
    chance = random.Random(seed)
    topic = f"in-flight-{name}-{seed}"
    create_topic(
        cluster.bootstrap, topic, 1, min(3, cluster.count), {"min.insync.replicas": str(min(2, cluster.count))}
    )
    cluster.wait_healthy()
    sent: list[bytes] = []
    over = threading.Event()

    def next_values() -> list[bytes] | None:
        if over.is_set():
            return None
        values = [b"%d" % number for number in range(len(sent), len(sent) + VALUES)]
        sent.extend(values)
        return values

    failures: list[BaseException] = []

    def send() -> None:
        try:
            CLIENTS[name](cluster.bootstrap, topic, next_values)
        except BaseException as error:
            failures.append(error)

    sending = threading.Thread(target=send)
    sending.start()
    done = 0
    try:
        until(lambda: failures or end(cluster, topic) > 0, 30, f"the first record of {name}")
        while done < kills and not failures:
            leader = cluster.leader(f"{topic}-0")
            cluster.kill(leader)
            done += 1
            until(lambda leader=leader: cluster.leader(f"{topic}-0").epoch > leader.epoch, 30, cluster.tail())
            time.sleep(chance.uniform(*BETWEEN_S))
            if done % 4 == 0:
                cluster.wait_healthy()
    finally:
        over.set()
        sending.join(90)
    assert not sending.is_alive(), f"{name} does not end\n{cluster.tail()}"
    if failures:
        raise failures[0]
    cluster.wait_healthy()
    return judged(cluster, name, topic, sent, done)


def end(cluster: Cluster, topic: str) -> int:
    """The end that a consumer is told, 0 where nobody tells one."""
    consumer = kafka.KafkaConsumer(bootstrap_servers=cluster.bootstrap.split(","))
    try:
        where = kafka.TopicPartition(topic, 0)
        return int(consumer.end_offsets([where])[where])
    finally:
        consumer.close()


def judged(cluster: Cluster, name: str, topic: str, sent: list[bytes], kills: int) -> Outcome:
    """Everything that was sent stands there once, in order, and each producer's sequences are without a gap."""
    consumer = kafka.KafkaConsumer(
        bootstrap_servers=cluster.bootstrap.split(","), auto_offset_reset="earliest", consumer_timeout_ms=15_000
    )
    consumer.assign([kafka.TopicPartition(topic, 0)])
    read = []
    for record in consumer:
        read.append(record.value)
        if len(read) == len(sent):
            break
    consumer.close()
    assert end(cluster, topic) == len(sent), f"{name}: {len(sent)} sent, the log ends at {end(cluster, topic)}"
    wrong = [(at, mine, theirs) for at, (mine, theirs) in enumerate(zip(sent, read, strict=True)) if mine != theirs]
    assert not wrong, f"{name}: at {wrong[0][0]} {wrong[0][2]!r} instead of {wrong[0][1]!r}, {len(wrong)} such places"
    partition = cluster.partition(f"{topic}-0")
    assert partition is not None
    found = raw.batches(cluster.listener(partition.leader), topic, 0)
    expected: dict[int, int] = {}
    for batch in found:
        assert batch.producer_id >= 0, f"{name} does not send as an idempotent producer"
        assert batch.base_sequence == expected.get(batch.producer_id, 0), f"{name}: {batch}, not {expected}"
        expected[batch.producer_id] = (batch.base_sequence + batch.count) % SEQUENCES
    assert sum(batch.count for batch in found) == len(sent)
    return Outcome(name, kills, len(sent), len(found), len(expected))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--clients", default=",".join(CLIENTS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=3)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="logeion-flight-") as folder:
        with running_cluster(Path(folder), wanted.nodes) as cluster:
            for name in wanted.clients.split(","):
                print(run(cluster, name, kills=wanted.kills, seed=wanted.seed), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
