"""What the pytest fixtures cost: `python -m bench.plugin` (40 s). Medians, in seconds; the budgets are issue targets.

A broker and three nodes started and stopped, the first record of a new group (kafka-python at its defaults), 100 tests
with a topic each against 100 empty ones, and one acknowledged record after the other through the proxy.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kafka import KafkaConsumer

import logeion
from logeion.testing import Broker, broker, cluster

ROUNDS = 5
TESTS = 100
REQUESTS = 300
EMPTY = "import pytest\n\n@pytest.mark.parametrize('n', range({count}))\ndef test_it(n{fixtures}):\n    {body}\n"


def starts() -> tuple[float, float]:
    """Seconds until ready, seconds until gone."""
    ready, gone = [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            running = Broker(Path(folder) / "broker")
            began = time.perf_counter()
            running.start()
            ready.append(time.perf_counter() - began)
            began = time.perf_counter()
            running.stop()
            gone.append(time.perf_counter() - began)
    return statistics.median(ready), statistics.median(gone)


def cluster_starts() -> tuple[float, float]:
    """The same for three nodes."""
    ready, gone = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        with cluster():
            ready.append(time.perf_counter() - began)
            began = time.perf_counter()
        gone.append(time.perf_counter() - began)
    return statistics.median(ready), statistics.median(gone)


def first_group_record() -> float:
    """Seconds from the construction of the consumer to the first record, in a broker that has never had a group."""
    with broker() as running:
        topic = running.topic()
        running.produce(topic, "x")
        began = time.perf_counter()
        consumer = KafkaConsumer(topic, group_id="g", bootstrap_servers=running.bootstrap, auto_offset_reset="earliest")
        next(consumer)
        took = time.perf_counter() - began
        consumer.close()
    return took


def suite(fixtures: str, body: str) -> float:
    """Seconds that pytest says a suite of so many tests took, the broker's start included."""
    with tempfile.TemporaryDirectory() as folder:
        test = Path(folder) / "test_it.py"
        test.write_text(EMPTY.format(count=TESTS, fixtures=fixtures, body=body))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    took = re.search(r"passed in ([0-9.]+)s", done.stdout)
    assert took is not None, done.stdout
    return float(took[1])


def round_trips() -> tuple[float, float]:
    """Milliseconds until a record is acknowledged that goes through the proxy: the median, and the 99th percentile."""
    with broker() as running:
        topic = running.topic()
        with logeion.connect(running.bootstrap) as client, client.producer(linger_ms=0) as producer:
            took = []
            for _ in range(REQUESTS):
                began = time.perf_counter()
                producer.send(topic, b"x").result(10)
                took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000, sorted(took)[int(REQUESTS * 0.99)] * 1000


def main() -> None:
    """Print one line a figure."""
    ready, gone = starts()
    print(f"broker ready              {ready:6.2f} s   (budget 0.7)")
    print(f"broker gone               {gone:6.2f} s   (budget 1)")
    ready, gone = cluster_starts()
    print(f"three nodes ready         {ready:6.2f} s   (budget 4)")
    print(f"three nodes gone          {gone:6.2f} s")
    print(f"first record of a group   {first_group_record():6.2f} s   (budget 1)")
    with_topic = suite(", logeion_topic", "logeion_topic()")
    without = suite(", logeion_broker", "pass")
    print(f"{TESTS} tests, a topic each   {with_topic - without:6.2f} s   added to {without:.2f} s (budget 5)")
    median, slow = round_trips()
    print(f"acknowledged record       {median:6.2f} ms  p50 through the proxy, {slow:.2f} ms p99")


if __name__ == "__main__":
    main()
