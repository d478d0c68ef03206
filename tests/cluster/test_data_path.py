"""Produce and fetch through real processes: ``logeion up``, kafka-python, and ``kill -9``."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

kafka = pytest.importorskip("kafka")


class Node:
    """A node in the foreground of a process of its own."""

    def __init__(self, data: Path, log: Path) -> None:
        self.ready = data.with_suffix(".ready")
        self._log = log.open("wb")
        command = [sys.executable, "-m", "logeion", "up", "--port", "0", "--admin-port", "0"]
        command += ["--bind", "127.0.0.1", "--data", str(data), "--ready-file", str(self.ready)]
        self.process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
        until(self.ready.exists, 20)
        self.address = self.ready.read_text().split()[0]

    def actors(self, name: str) -> list[psutil.Process]:
        """The processes below this node of this name (for a partition its topic and number)."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if " ".join(process.cmdline()).partition("] ")[2].partition(" epoch ")[0].strip() == name:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def kill(self, name: str) -> None:
        """``kill -9`` the one actor of this name."""
        (process,) = self.actors(name)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(5)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self._log.close()


def until(condition: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    directory = tmp_path_factory.mktemp("node")
    node = Node(directory / "data", directory / "log")
    yield node
    node.stop()


def consume(address: str, topic: str, count: int, *, start: int = 0) -> list[bytes]:
    """``count`` values of partition 0 from ``start`` on."""
    consumer = kafka.KafkaConsumer(bootstrap_servers=address, consumer_timeout_ms=15_000)
    partition = kafka.TopicPartition(topic, 0)
    consumer.assign([partition])
    consumer.seek(partition, start)
    values = []
    for record in consumer:
        values.append(record.value)
        if len(values) == count:
            break
    consumer.close()
    return values


def test_what_was_produced_is_read_back_in_order_from_any_offset(node: Node) -> None:
    producer = kafka.KafkaProducer(bootstrap_servers=node.address, acks="all")
    futures = [producer.send("plain", b"%d" % number) for number in range(500)]
    assert [future.get(timeout=20).offset for future in futures] == list(range(500))
    producer.close()
    assert consume(node.address, "plain", 500) == [b"%d" % number for number in range(500)]
    assert consume(node.address, "plain", 3, start=497) == [b"497", b"498", b"499"]


def test_a_fetch_at_the_end_is_answered_as_soon_as_a_record_comes(node: Node) -> None:
    producer = kafka.KafkaProducer(bootstrap_servers=node.address, acks="all")
    producer.send("tail", b"first").get(timeout=20)
    consumer = kafka.KafkaConsumer(bootstrap_servers=node.address, fetch_max_wait_ms=10_000)
    consumer.assign([kafka.TopicPartition("tail", 0)])
    consumer.seek_to_end()
    assert consumer.position(kafka.TopicPartition("tail", 0)) == 1
    waits = []
    for number in range(5):
        sent = threading.Timer(0.2, producer.send, ("tail", b"%d" % number))
        sent.start()
        began = time.monotonic()
        (records,) = consumer.poll(timeout_ms=9_000).values()
        waits.append(time.monotonic() - began)
        assert [record.value for record in records] == [b"%d" % number]
    assert max(waits) < 2, "parked fetches waited for their deadline, not for the record"
    consumer.close()
    producer.close()


def test_killing_the_partition_costs_an_idempotent_producer_a_pause_but_no_error_and_no_record(node: Node) -> None:
    producer = kafka.KafkaProducer(bootstrap_servers=node.address, acks="all", enable_idempotence=True)
    producer.send("killed", b"0").get(timeout=20)
    errors: list[BaseException] = []
    count = 1
    for _ in range(3):
        for _ in range(300):
            producer.send("killed", b"%d" % count).add_errback(errors.append)
            count += 1
        node.kill("partition killed-0")
        for _ in range(300):
            producer.send("killed", b"%d" % count).add_errback(errors.append)
            count += 1
        producer.flush(timeout=20)
        until(lambda: node.actors("partition killed-0"), 5)
    producer.close()
    assert errors == []
    assert consume(node.address, "killed", count) == [b"%d" % number for number in range(count)]


def test_a_parked_fetch_survives_the_kill_of_its_partition_and_of_nobody_else(node: Node) -> None:
    producer = kafka.KafkaProducer(bootstrap_servers=node.address, acks="all", enable_idempotence=True)
    producer.send("parked", b"0").get(timeout=20)
    consumer = kafka.KafkaConsumer(bootstrap_servers=node.address, fetch_max_wait_ms=15_000)
    consumer.assign([kafka.TopicPartition("parked", 0)])
    consumer.seek_to_end()
    consumer.position(kafka.TopicPartition("parked", 0))
    gateways = [process.pid for process in node.actors("gateway")]
    consumer.poll(timeout_ms=300)  # leaves a fetch parked at the gateway
    node.kill("partition parked-0")
    producer.send("parked", b"1").get(timeout=20)
    (records,) = consumer.poll(timeout_ms=10_000).values()
    assert [record.value for record in records] == [b"1"]
    assert [process.pid for process in node.actors("gateway")] == gateways
    consumer.close()
    producer.close()


def test_a_restarted_gateway_comes_back_on_its_port_with_everything_there(node: Node) -> None:
    producer = kafka.KafkaProducer(bootstrap_servers=node.address, acks="all")
    producer.send("gateway", b"0").get(timeout=20)
    node.kill("gateway")
    producer.send("gateway", b"1").get(timeout=20)
    producer.close()
    assert consume(node.address, "gateway", 2) == [b"0", b"1"]


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("an oversized frame", struct.pack(">i", 2**31 - 1) + b"x" * 100),
        ("a negative length", struct.pack(">i", -5) + b"x" * 100),
        ("an unknown key", struct.pack(">ihhih", 10, 999, 0, 1, -1)),
        ("an unknown version", struct.pack(">ihhih", 10, 3, 99, 1, -1)),
        ("a request cut short", struct.pack(">ihhih", 10, 0, 9, 1, -1)),
    ],
)
def test_bad_frames_close_the_connection_and_disturb_nobody(node: Node, name: str, frame: bytes) -> None:
    gateways = [process.pid for process in node.actors("gateway")]
    host, _, port = node.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        sock.sendall(frame)
        assert sock.recv(100) == b"", name
    assert [process.pid for process in node.actors("gateway")] == gateways


def test_an_unknown_version_of_api_versions_is_answered_in_the_form_of_version_0(node: Node) -> None:
    host, _, port = node.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        sock.sendall(struct.pack(">ihhih", 10, 18, 77, 4711, -1))
        size, correlation, code, count, key = struct.unpack(">iihih", sock.recv(100)[:16])
    assert (size, correlation, code, count, key) == (16, 4711, 35, 1, 18)
