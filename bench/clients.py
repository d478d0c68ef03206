"""This client beside kafka-python, aiokafka and confluent-kafka: records a second and CPU a record, one broker.

`python -m bench.clients` takes the clients in turn in each of five rounds, each in a fresh process, on one Logeion
node (flush=os, so that the broker is not what is measured; `--bootstrap` for another), with records of 100 B and 1 KB,
acks=all, idempotent, linger 5 ms, batches of 64 KB, no compression: the same for all. CPU is that of the client's own
process. A smaller load goes first in each process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench.rawclient import RawClient
from bench.systems import logeion

LINGER_MS, BATCH = 5, 65_536
WARM = 5_000
Load = Callable[[str, str, int, int], None]
"""(bootstrap, topic, records, bytes a record): all acknowledged, or all read, when it returns."""


def ours_produce(bootstrap: str, topic: str, records: int, size: int) -> None:
    import logeion as client

    value = b"x" * size
    with client.Producer(bootstrap_servers=bootstrap, linger_ms=LINGER_MS, batch_size=BATCH) as producer:
        futures = [producer.send(topic, value) for _ in range(records)]
        producer.flush()
    assert all(future.succeeded() for future in futures)


def ours_consume(bootstrap: str, topic: str, records: int, size: int) -> None:
    import logeion as client

    with client.Consumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        for left, _ in zip(range(records - 1, -1, -1), consumer, strict=False):
            if not left:
                break


def aio_produce(bootstrap: str, topic: str, records: int, size: int) -> None:
    from logeion.aio import connect
    from logeion.client.errors import BufferFullError

    async def main() -> None:
        value = b"x" * size
        async with connect(bootstrap) as client, client.producer(linger_ms=LINGER_MS, batch_size=BATCH) as producer:
            await producer.prepare(topic)
            for _ in range(records):
                try:
                    producer.send_nowait(topic, value)
                except BufferFullError:
                    await producer.send(topic, value)
            await producer.flush()

    asyncio.run(main())


def aio_consume(bootstrap: str, topic: str, records: int, size: int) -> None:
    from logeion.aio import connect

    async def main() -> None:
        left = records
        async with connect(bootstrap) as client, client.consume(topic, auto_offset_reset="earliest") as consumer:
            async for batch in consumer.batches(max_records=2000, max_wait=0.01):
                left -= len(batch)
                if left <= 0:
                    return

    asyncio.run(main())


def kafka_python_produce(bootstrap: str, topic: str, records: int, size: int) -> None:
    from kafka import KafkaProducer

    value = b"x" * size
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=LINGER_MS, batch_size=BATCH)
    futures = [producer.send(topic, value) for _ in range(records)]
    producer.flush()
    producer.close()
    assert all(future.succeeded() for future in futures)


def kafka_python_consume(bootstrap: str, topic: str, records: int, size: int) -> None:
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    for left, _ in zip(range(records - 1, -1, -1), consumer, strict=False):
        if not left:
            break
    consumer.close()


def aiokafka_produce(bootstrap: str, topic: str, records: int, size: int) -> None:
    from aiokafka import AIOKafkaProducer

    async def main() -> None:
        value = b"x" * size
        producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap, linger_ms=LINGER_MS, max_batch_size=BATCH, enable_idempotence=True
        )
        await producer.start()
        for _ in range(records):
            await producer.send(topic, value)
        await producer.flush()
        await producer.stop()

    asyncio.run(main())


def aiokafka_consume(bootstrap: str, topic: str, records: int, size: int) -> None:
    from aiokafka import AIOKafkaConsumer

    async def main() -> None:
        left = records
        consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        while left > 0:
            for rows in (await consumer.getmany(timeout_ms=1000, max_records=2000)).values():
                left -= len(rows)
        await consumer.stop()

    asyncio.run(main())


def confluent_produce(bootstrap: str, topic: str, records: int, size: int) -> None:
    from confluent_kafka import Producer

    value = b"x" * size
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "linger.ms": LINGER_MS,
            "batch.size": BATCH,
            "queue.buffering.max.messages": 10_000_000,
            "queue.buffering.max.kbytes": 1_000_000,
        }
    )
    failed: list[Any] = []
    for _ in range(records):
        producer.produce(topic, value, on_delivery=lambda error, _: failed.append(error) if error else None)
        producer.poll(0)
    producer.flush()
    assert not failed


def confluent_consume(bootstrap: str, topic: str, records: int, size: int) -> None:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    left = records
    while left > 0:
        left -= len(consumer.consume(2000, 1.0))
    consumer.close()


CLIENTS: dict[str, tuple[Load, Load]] = {
    "logeion": (ours_produce, ours_consume),
    "logeion.aio": (aio_produce, aio_consume),
    "kafka-python": (kafka_python_produce, kafka_python_consume),
    "aiokafka": (aiokafka_produce, aiokafka_consume),
    "confluent-kafka": (confluent_produce, confluent_consume),
}


def child(name: str, what: str, bootstrap: str, topic: str, warm: str, records: int, size: int) -> None:
    """One measurement, printed as JSON."""
    work = CLIENTS[name][0 if what == "produce" else 1]
    work(bootstrap, warm, min(WARM, records), size)
    began, cpu = time.perf_counter(), time.process_time()
    work(bootstrap, topic, records, size)
    took, used = time.perf_counter() - began, time.process_time() - cpu
    print(json.dumps({"records_s": records / took, "cpu_us": 1e6 * used / records}))


def run(name: str, what: str, bootstrap: str, topic: str, warm: str, records: int, size: int) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.clients", "--child", name, what, bootstrap, topic, warm]
    done = subprocess.run([*command, str(records), str(size)], capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise SystemExit(f"{name} {what}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(bootstrap: str, rounds: int, records: dict[int, int]) -> dict[str, list[dict[str, float]]]:
    """Every client's figures by "<what> <size>", one of each a round."""
    found: dict[str, list[dict[str, float]]] = {}
    for number in range(rounds):
        for size, count in records.items():
            for name in CLIENTS:
                topic, warm = (f"bench-{uuid.uuid4().hex[:12]}" for _ in range(2))
                with RawClient(bootstrap) as client:
                    client.create_topic(topic, 1)
                    client.create_topic(warm, 1)
                for what in ("produce", "consume"):
                    figures = run(name, what, bootstrap, topic, warm, count, size)
                    found.setdefault(f"{name}|{what} {size} B", []).append(figures)
                    told = f"{figures['records_s']:,.0f}/s {figures['cpu_us']:.2f} us"
                    print(f"round {number + 1} {name} {what} {size} B: {told}", file=sys.stderr)
    return found


def report(found: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Medians as a table; ours against each of the others."""
    medians = {key: {unit: median(one[unit] for one in rows) for unit in rows[0]} for key, rows in found.items()}
    loads = sorted({key.partition("|")[2] for key in medians})
    for load in loads:
        mine = medians[f"logeion|{load}"]["records_s"]
        print(f"\n{load}")
        for name in CLIENTS:
            row = medians[f"{name}|{load}"]
            ratio = mine / row["records_s"]
            print(
                f"  {name:16} {row['records_s']:>12,.0f} records/s {row['cpu_us']:>8.2f} us CPU a record"
                f"   logeion is {ratio:.2f}x"
            )
    return medians


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--records", type=int, default=100_000, help="of 100 B; half as many of 1 KB")
    options.add_argument("--bootstrap", help="a broker that runs already")
    options.add_argument("--child", nargs=7, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.child:
        name, what, bootstrap, topic, warm, records, size = chosen.child
        child(name, what, bootstrap, topic, warm, int(records), int(size))
        return
    records = {100: chosen.records, 1000: chosen.records // 2}
    if chosen.bootstrap:
        report(measure(chosen.bootstrap, chosen.rounds, records))
        return
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        with logeion(Path(folder), flush="os") as peer:
            report(measure(peer.bootstrap, chosen.rounds, records))


if __name__ == "__main__":
    main()
