"""Damaged requests into the port of a live node, beside a producer and a consumer who must not notice.

    python -m tests.cluster.fuzz_live --frames 20000 --seed 1 [--results FILE]

Frames are those of ``tests.wire.fuzz`` (one seed for every advertised key and version), damaged Produce requests whose
batches are good, to a topic that exists, and requests in good form whose content makes no sense. What comes back is an
answer with the request's correlation id, a closed connection, or nothing for a while (the request waits, as a Fetch
may). No process may end, and the gateway's memory stays what it was. A result is appended to ``--results`` as one JSON
line.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import selectors
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import psutil
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from logeion.wire.apis import (
    APIS,
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
    UnregisterBrokerRequest,
)
from logeion.wire.codec import decode_request, encode_request, parse_header
from logeion.wire.errors import LogeionError
from logeion.wire.records import Record, build_batch

from ..wire import fuzz
from ..wire.samples import SLOTS, frame, message_class, random_message
from .broker import Broker, running_broker, until

RESULTS = Path("bench/results/fuzz.jsonl")
# The topics of the damaged Produce requests and of the bystanders. All strings of the other seeds are "name".
TARGET, GOOD = "target", "good"
# What is obeyed rather than refused is no damaged request: one of these seeds names the one node there is.
UNREGISTER_BROKER, NODE = struct.pack(">h", 64), 1
# A frame without an answer after so many seconds waits for something; its connection is closed.
PATIENCE_S = 0.05
GROWTH_MAX = 32 << 20
# Shares of the frames: Produce requests with a batch, undamaged ones with random fields, and those sent in part only.
PRODUCED, STRANGE, TORN = 0.2, 0.1, 0.05
# Not expected in the node's log: unhandled errors, and ends that nobody asked for (SIGKILL ends a deleted partition).
BROKEN = re.compile(r"Traceback|actor ends|actor exited .* (status=[1-9]|signal=(?!9$))")
# A node with few partitions: one is a process, and damaged requests do create some.
SETTINGS = "[limits]\npartitions = 24\n"


def actors(broker: Broker) -> dict[str, dict[str, Any]]:
    """All actors of the node by id, as its admin HTTP shows them."""
    with urllib.request.urlopen(f"http://{broker.admin}/api/actors", timeout=5) as answer:
        return {row["id"]: row for row in json.load(answer)}


def same_processes(before: dict[str, dict[str, Any]], broker: Broker) -> list[str]:
    """What ended or was started again since ``before``; empty if nothing was. Coordinators of no member may go."""
    after, changes = actors(broker), broken(broker)
    for name, row in before.items():
        now = after.get(name)
        if row["kind"] == "coordinator":
            continue
        if now is None or now["pid"] != row["pid"]:
            changes.append(f"{name}: pid {row['pid']}, now {now and now['pid']}")
        elif now["restarts"] != row["restarts"]:
            changes.append(f"{name}: {now['restarts'] - row['restarts']} restarts")
    return changes


def broken(broker: Broker) -> list[str]:
    """Errors that no actor expected, and exits for them, in what the node wrote."""
    return [line for line in broker.log.read_text(errors="replace").splitlines() if BROKEN.search(line)]


def gateway_bytes(broker: Broker) -> int:
    """Private memory of the gateway (what it does not share with the process it was forked from)."""
    pid = next(row["pid"] for row in actors(broker).values() if row["kind"] == "gateway")
    return int(psutil.Process(pid).memory_full_info().uss)


class Bystanders:
    """A producer and a consumer at the tail of a topic of their own: they count what they see and how long it took."""

    def __init__(self, bootstrap: str, topic: str = GOOD, rate: float = 100.0) -> None:
        self._bootstrap, self._topic, self._rate = bootstrap, topic, rate
        self.sent = 0
        self.errors: list[str] = []
        self.received: list[int] = []
        self.milliseconds: list[float] = []
        self._stop = threading.Event()
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._produce), threading.Thread(target=self._consume)]

    def __enter__(self) -> Bystanders:
        settle_topic(self._bootstrap, self._topic, 1)
        for thread in self._threads:
            thread.start()
        until(lambda: len(self.received) >= 10, 20, "the first records of the bystanders")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._threads[0].join()
        deadline = time.monotonic() + 20
        while len(self.received) < self.sent and time.monotonic() < deadline:
            time.sleep(0.01)
        self._done.set()
        self._threads[1].join()

    def _produce(self) -> None:
        producer = Producer(
            {"bootstrap.servers": self._bootstrap, "acks": "all", "linger.ms": 0, "enable.idempotence": True},
        )

        def delivered(error: Any, _message: Any) -> None:
            if error is not None:
                self.errors.append(f"producer: {error}")

        while not self._stop.wait(1 / self._rate):
            producer.produce(self._topic, f"{self.sent} {time.monotonic_ns()}", partition=0, callback=delivered)
            self.sent += 1
            producer.poll(0)
        if left := producer.flush(20):
            self.errors.append(f"{left} records were never acknowledged")

    def _consume(self) -> None:
        consumer = Consumer(
            {"bootstrap.servers": self._bootstrap, "group.id": "bystander", "enable.auto.commit": False}
        )
        consumer.assign([TopicPartition(self._topic, 0, 0)])
        while not self._done.is_set():
            message = consumer.poll(0.1)
            if message is None:
                continue
            if message.error():
                self.errors.append(f"consumer: {message.error()}")
                continue
            number, sent_ns = message.value().split()
            self.received.append(int(number))
            self.milliseconds.append((time.monotonic_ns() - int(sent_ns)) / 1e6)
        consumer.close()

    def check(self) -> None:
        """They saw no error, and every record once and in order."""
        assert not self.errors, self.errors[:5]
        assert self.received == list(range(self.sent)), "records were lost, doubled or out of order"

    def p99(self) -> float:
        """Milliseconds from send to receipt, without the first records."""
        times = sorted(self.milliseconds[10:])
        return times[int(len(times) * 0.99)]


def settle_topic(bootstrap: str, topic: str, partitions: int, **config: str) -> None:
    """Create the topic and wait until each partition takes records."""
    settings = {name.replace("_", "."): value for name, value in config.items()}
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, partitions, 1, config=settings)])[topic].result(20)
    failures: list[Any] = []
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    if topic == TARGET:
        for partition in range(partitions):
            producer.produce(topic, b"x", partition=partition, on_delivery=lambda error, _: failures.append(error))
        producer.flush(20)
        assert failures == [None] * partitions, failures


def produce_frame(topic: str, partition: int, records: bytes, *, acks: int = -1, version: int = 9) -> bytes:
    """A Produce request without its length."""
    data = [PartitionProduceData(index=partition, records=records)]
    request = ProduceRequest(acks=acks, timeout_ms=1000, topic_data=[TopicProduceData(name=topic, partition_data=data)])
    return b"".join(bytes(piece) for piece in encode_request(0, version, 7, "fuzz", request))[4:]


def unregisters(raw: bytes) -> bool:
    """Whether this asks, in good form, to forget the node itself: it obeys, and its partitions begin anew."""
    if raw[:2] != UNREGISTER_BROKER:
        return False
    try:
        header = parse_header(raw)
        request = decode_request(header, raw)
    except LogeionError:
        return False
    return isinstance(request, UnregisterBrokerRequest) and request.broker_id == NODE


def damaged(seed: int) -> Iterator[tuple[bytes, float]]:
    """(frame without its length, share of it that is sent), without end, the same for the same seed."""
    rng = Random(f"{seed}:live")
    batches = [
        build_batch([Record(i, 1_700_000_000_000 + i, b"key", b"v" * 50, [("h", b"x")]) for i in range(3)], codec=codec)
        for codec in range(5)
    ]
    good = [produce_frame(TARGET, 0, batch, version=version) for batch in batches for version in range(3, 13)]
    slots = [slot for slot in SLOTS if slot[2] == "request" and APIS[slot[0]].advertised]
    for block in count():
        for _, raw in fuzz.frames(seed, block, kinds=("request",)):
            kind = rng.random()
            if kind < PRODUCED:
                raw = fuzz.mutated(rng.choice(good), rng.choice(good), rng)
            elif kind < PRODUCED + STRANGE:
                slot = rng.choice(slots)
                raw = frame(slot, random_message(message_class(slot), slot[1], rng))
            if unregisters(raw):
                continue
            yield raw, rng.random() if rng.random() < TORN else 1.0


class Sender:
    """Many connections, a frame each at a time."""

    def __init__(self, address: tuple[str, int], frames: Iterator[tuple[bytes, float]], total: int) -> None:
        self._address = address
        self._frames = frames
        self._left = total
        self._selector = selectors.DefaultSelector()
        self.outcomes: Counter[str] = Counter()
        self.slowest_s = 0.0

    def run(self, connections: int) -> None:
        for _ in range(connections):
            self._open()
        while waiting := [key.data for key in self._selector.get_map().values()]:
            for key, _ in self._selector.select(0.01):
                key.data.read()
            now = time.monotonic()
            for one in waiting:
                if one.sock.fileno() >= 0 and now - one.since > PATIENCE_S:
                    self.ended(one, "torn, and the client left" if one.torn else "waits")
        self._selector.close()

    def _open(self) -> None:
        if self._left <= 0:
            return
        sock = socket.create_connection(self._address, 5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one = Talk(self, sock)
        self._selector.register(sock, selectors.EVENT_READ, one)
        one.send()

    def next(self) -> tuple[bytes, float] | None:
        if self._left <= 0:
            return None
        self._left -= 1
        return next(self._frames)

    def answered(self, one: Talk) -> None:
        self.outcomes["answered"] += 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - one.since)
        if self._left > 0:
            one.send()
        else:
            self._close(one)

    def ended(self, one: Talk, outcome: str) -> None:
        self.outcomes[outcome] += 1
        self._close(one)
        self._open()

    def _close(self, one: Talk) -> None:
        self._selector.unregister(one.sock)
        one.sock.close()


class Talk:
    """One connection."""

    def __init__(self, sender: Sender, sock: socket.socket) -> None:
        self._sender, self.sock = sender, sock
        self._answer = bytearray()
        self._frame = b""
        self.torn = False
        self.since = time.monotonic()

    def send(self) -> None:
        asked = self._sender.next()
        assert asked is not None
        self._frame, share = asked
        self.torn = share < 1
        self.since = time.monotonic()
        whole = struct.pack(">i", len(self._frame)) + self._frame
        try:
            self.sock.sendall(whole[: int(len(whole) * share)])
        except OSError:
            self._sender.ended(self, "closed")

    def read(self) -> None:
        if self.sock.fileno() < 0:
            return
        try:
            data = self.sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._sender.ended(self, "closed")
            return
        self._answer += data
        if len(self._answer) < 8:
            return
        size, correlation = struct.unpack_from(">i4s", self._answer)
        if len(self._answer) < 4 + size:
            return
        assert correlation == self._frame[4:8], f"an answer to another request: {self._frame.hex()}"
        assert len(self._answer) == 4 + size, f"two answers to one request: {self._frame.hex()}"
        self._answer.clear()
        self._sender.answered(self)


def run(broker: Broker, frames: int, seed: int, connections: int = 16) -> dict[str, Any]:
    """Send the frames; figures of the run. AssertionError if a process ended, memory grew or a bystander noticed."""
    host, _, port = broker.bootstrap.rpartition(":")
    settle_topic(broker.bootstrap, TARGET, 4)
    stream = damaged(seed)
    with Bystanders(broker.bootstrap) as others:
        # Threads, caches and connections that any use brings are there before anything is counted.
        warm = min(frames // 10, 1000)
        outcomes = Counter[str]()
        before: dict[str, dict[str, Any]] = {}
        begin = time.monotonic()
        slowest = 0.0
        start_bytes = 0
        for part in (warm, frames - warm):
            start_bytes = gateway_bytes(broker)
            before = before or actors(broker)
            sender = Sender((host, int(port)), stream, part)
            sender.run(connections)
            outcomes += sender.outcomes
            slowest = max(slowest, sender.slowest_s)
        seconds = time.monotonic() - begin
        changes = same_processes(before, broker)
        grown = gateway_bytes(broker) - start_bytes
    others.check()
    assert not changes, changes
    assert sum(outcomes.values()) == frames
    assert grown < GROWTH_MAX, f"the gateway grew by {grown} bytes"
    return {
        "frames": frames,
        "seed": seed,
        "connections": connections,
        "outcomes": dict(outcomes.most_common()),
        "restarts": 0,
        "gateway_grew_kib": grown >> 10,
        "slowest_answer_ms": round(slowest * 1000, 1),
        "bystanders": {"records": others.sent, "errors": 0, "p99_ms": round(others.p99(), 1)},
        "seconds": round(seconds, 1),
    }


def fuzzed_broker(folder: Path) -> Any:
    """A node for damaged requests; a context manager."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "logeion.toml"
    settings.write_text(SETTINGS)
    return running_broker(folder, "--config", str(settings))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"append the figures here (default {RESULTS})")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="logeion-fuzz-") as scratch, fuzzed_broker(Path(scratch)) as broker:
        try:
            figures = run(broker, options.frames, options.seed, options.connections)
        except AssertionError:
            print(broker.tail(), file=sys.stderr)
            raise
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    about = {
        "fuzz": "live node",
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
    }
    line = json.dumps(about | figures)
    print(line)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    with options.results.open("a") as file:
        file.write(line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
