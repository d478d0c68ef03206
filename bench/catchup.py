"""Does a consumer that catches up on cold data disturb one at the tail? Latency from send to receipt, quiet and not.

`python -m bench.catchup` writes 5 GB, drops it from the page cache, and reads it all while records go through the same
partition at a steady rate; smaller: `--gb 0.2 --rounds 1`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bench import report
from bench.load import RECORD_BYTES, quantile
from bench.rawclient import RawClient, batch
from bench.systems import SYSTEMS, warm_volume

TOPIC = "catchup"


def drop_cache(folder: Path) -> float | None:
    """Write out and drop every segment from the page cache; the share still resident, where `fincore` can tell."""
    paths = [path for path in folder.rglob("*.log") if path.parent != folder]
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    if shutil.which("fincore") is None:
        return None
    command = ["fincore", "--bytes", "--raw", "--noheadings", "--output", "RES,SIZE", *map(str, paths)]
    sizes = [line.split() for line in subprocess.run(command, capture_output=True, text=True).stdout.splitlines()]
    return sum(int(row[0]) for row in sizes) / max(1, sum(int(row[1]) for row in sizes))


def tail(bootstrap: str, seconds: float, rate: float) -> list[float]:
    """Send records at a steady rate and receive them at the tail: milliseconds each took."""
    from confluent_kafka import Consumer, Producer, TopicPartition

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "tail", "enable.auto.commit": False})
    _, end = consumer.get_watermark_offsets(TopicPartition(TOPIC, 0), timeout=30)
    consumer.assign([TopicPartition(TOPIC, 0, end)])
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0})
    producer.list_topics(TOPIC, 30)
    count = int(seconds * rate)

    def send() -> None:
        begin = time.monotonic()
        for i in range(count):
            time.sleep(max(0.0, begin + i / rate - time.monotonic()))
            producer.produce(TOPIC, str(time.monotonic_ns()), partition=0)
            producer.poll(0)
        producer.flush(30)

    sender = threading.Thread(target=send)
    sender.start()
    took = []
    while len(took) < count:
        message = consumer.poll(30)
        if message is None or message.error():
            raise RuntimeError(f"{len(took)} of {count} records arrived: {message and message.error()}")
        took.append((time.monotonic_ns() - int(message.value())) / 1e6)
    sender.join()
    consumer.close()
    return took[int(rate) :]  # the first second is connecting


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> Any:
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args} ended with {process.returncode}")
    return json.loads(output)


def measure(bootstrap: str, data: Path, records: int, options: argparse.Namespace) -> dict[str, Any]:
    watch = ("bench.catchup", "--tail", bootstrap, "--seconds", options.seconds, "--rate", options.rate)
    quiet = finish(start(*watch))
    resident = drop_cache(data)
    watcher = start(*watch)
    try:
        time.sleep(1.5)  # it connects meanwhile, and its first second is not counted
        reading = finish(start("bench.load", "consume", bootstrap, TOPIC, 1, records))
        busy = finish(watcher)
    finally:
        watcher.kill()
    speed = {"read_s": reading["seconds"], "read_mb_s": reading["mb_s"]}
    return {"quiet": quiet, "busy": busy, "resident": resident, **speed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", default="logeion-ack", choices=SYSTEMS)
    parser.add_argument("--gb", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=100.0, help="records a second at the tail (default 100)")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long the tail is watched (default 15)")
    parser.add_argument("--folder", type=Path, default=None, help="where the data goes (default: TMPDIR)")
    parser.add_argument("--tail", metavar="BOOTSTRAP", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tail:
        print(json.dumps(tail(options.tail, options.seconds, options.rate)))
        return
    system = SYSTEMS[options.system]
    records = int(options.gb * 1e9) // RECORD_BYTES // 900 * 900
    rounds = []
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="logeion-catchup-") as scratch:
        warm_volume(Path(scratch), int(options.gb * 1e9))
        with system.start(Path(scratch) / "node") as peer:
            with RawClient(peer.bootstrap) as client:
                client.create_topic(TOPIC, 1)
                client.settle(TOPIC, 1, bytes(RECORD_BYTES))
                client.produce_many(TOPIC, 1, batch(900, bytes(RECORD_BYTES)), records // 900)
            for _ in range(options.rounds):
                rounds.append(measure(peer.bootstrap, Path(scratch), records, options))
    parameters = {name: value for name, value in vars(options).items() if name not in ("folder", "tail")}
    report.append("catchup", parameters, rounds)
    rows: list[list[object]] = []
    for name in ("quiet", "busy"):
        p50 = report.median([statistics.median(each[name]) for each in rounds])
        p99 = report.median([quantile(each[name], 0.99) for each in rounds])
        worst = max(max(each[name]) for each in rounds)
        rows.append([f"tail, {'alone' if name == 'quiet' else 'while another catches up'}", p50, p99, worst])
    print(report.heading(f"Catching up: {system.title}"))
    print(report.table(["medians, ms", "p50", "p99", "worst of all"], rows))
    speed = report.median([each["read_mb_s"] for each in rounds])
    took = report.median([each["read_s"] for each in rounds])
    resident = report.median([each["resident"] for each in rounds])
    print(f"\n{options.gb} GB read in {report.show(took)} s ({report.show(speed)} MB/s),", end=" ")
    print(f"{report.show(resident)} of it still cached at the start; tail at {options.rate} records/s.")


if __name__ == "__main__":
    main()
