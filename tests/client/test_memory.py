"""How much a client holds when the other side stands still: bounded, whatever the program goes on doing."""

from __future__ import annotations

import json
import subprocess
import sys

import logeion
from logeion.testing import Broker, Faults, TopicFactory

MIB = 1 << 20
# The defaults: 32 MiB of records that are not acknowledged, 32 MiB that were fetched ahead.
BUFFER = 32 * MIB
MEASURED = """
import json, logeion, resource, sys, time
from logeion.client.errors import BufferFullError
from pathlib import Path

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

def peak():
    # Not ru_maxrss: that begins with what the parent had when it forked.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024

client = logeion.connect(sys.argv[1], request_timeout_ms=120_000)
"""
PRODUCING = (
    MEASURED
    + """
producer = client.producer(max_block_ms=1000, request_timeout_ms=120_000)
producer.send(sys.argv[2], b"first").result(10)
before, taken = held(), 0
print(flush=True); sys.stdin.readline()
try:
    while taken < 200_000:
        producer.send(sys.argv[2], bytes(1000))
        taken += 1
    cause = "no end"
except BufferFullError as error:
    cause = str(error)
print(json.dumps({"before": before, "peak": peak(), "taken": taken, "cause": cause}), flush=True)
sys.stdin.readline()
producer.flush(60)
"""
)
READING = (
    MEASURED
    + """
with client.consume(sys.argv[2], auto_offset_reset="earliest") as records:
    before, seen = held(), 0
    for record in records:
        seen += 1
        if seen <= 20:
            time.sleep(0.1)  # a loop that is slower than any broker
        if seen == 20:
            stalled = peak()
        if seen == 150_000:
            break
print(json.dumps({"before": before, "stalled": stalled, "peak": peak(), "seen": seen}), flush=True)
"""
)


def program(code: str, broker: Broker, topic: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, broker.bootstrap, topic],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_producer_of_a_stalled_broker_holds_what_its_buffer_says(
    logeion_broker: Broker, logeion_topic: TopicFactory, faults: Faults
) -> None:
    topic = logeion_topic()
    with program(PRODUCING, logeion_broker, topic) as running:
        assert running.stdin is not None and running.stdout is not None
        running.stdout.readline()
        faults.delay("Produce", 3600)  # nothing is answered, and soon nothing is read any more
        running.stdin.write("\n")
        running.stdin.flush()
        found = json.loads(running.stdout.readline())
        faults.clear()
        running.communicate("\n", timeout=50)
    assert running.returncode == 0
    assert "buffer_memory" in found["cause"]
    grown = found["peak"] - found["before"]
    print(f"{found['taken']} records of 1000 B taken, {grown / MIB:.0f} MiB above {found['before'] / MIB:.0f}")
    assert 0.8 * BUFFER < found["taken"] * 1024 < 1.05 * BUFFER
    assert grown < 3.0 * BUFFER
    assert len(logeion_broker.tail(topic, 1)) == 1
    assert logeion_broker.tail(topic, 1)[0].offset == found["taken"]


def test_a_consumer_with_a_slow_loop_holds_what_its_buffer_says(
    logeion_broker: Broker, logeion_topic: TopicFactory
) -> None:
    topic = logeion_topic()
    with logeion.connect(logeion_broker.bootstrap) as client, client.producer() as producer:
        for _ in range(150_000):
            producer.send(topic, bytes(1000))
    with program(READING, logeion_broker, topic) as running:
        out, _ = running.communicate(timeout=55)
    assert running.returncode == 0
    found = json.loads(out)
    stalled, grown = found["stalled"] - found["before"], found["peak"] - found["before"]
    print(f"stalled {stalled / MIB:.0f} MiB, in all {grown / MIB:.0f} MiB above {found['before'] / MIB:.0f}")
    assert found["seen"] == 150_000
    assert grown < 3.0 * BUFFER
