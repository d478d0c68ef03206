"""Faults of the disk under one partition of a live node: the others serve on, and nothing acknowledged is lost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from ..tools import require_root, require_tool
from .broker import Broker, running_broker, until
from .fuzz_live import actors, same_processes, settle_topic

SICK, WELL = "sick", "well"
ATTACH_S = 10.0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with running_broker(tmp_path / "node") as broker:
        for topic in (SICK, WELL):
            settle_topic(broker.bootstrap, topic, 1)
        yield broker


def directory(broker: Broker, topic: str = SICK) -> Path:
    return broker.data / f"{topic}-0"


def row(broker: Broker, topic: str = SICK) -> dict[str, Any]:
    return actors(broker)[f"partition/{topic}-0"]


def produce(
    broker: Broker, topic: str, values: list[bytes], *, seconds: float = 5.0, batch: int = 1000
) -> list[int | None]:
    """Send these in their order, at most ``batch`` together; the error code of each, None if there was none."""
    producer = Producer(
        {
            "bootstrap.servers": broker.bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            "delivery.timeout.ms": int(seconds * 1000),
            "linger.ms": 0,
            "batch.num.messages": batch,
        }
    )
    outcome: list[int | None] = [None] * len(values)
    for number, value in enumerate(values):

        def delivered(error: KafkaError | None, _message: Any, number: int = number) -> None:
            outcome[number] = None if error is None else int(error.code())

        producer.produce(topic, value, partition=0, on_delivery=delivered)
    assert producer.flush(seconds + 10) == 0
    return outcome


def consume(broker: Broker, topic: str) -> list[bytes]:
    """All values from the start to the end."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "none", "enable.auto.commit": False})
    try:
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
        consumer.assign([TopicPartition(topic, 0, 0)])
        values: list[bytes] = []
        deadline = time.monotonic() + 20
        while len(values) < end:
            assert time.monotonic() < deadline, f"{len(values)} of {end} records"
            message = consumer.poll(1)
            if message is not None and not message.error():
                values.append(message.value())
        return values
    finally:
        consumer.close()


def fine(broker: Broker, topic: str) -> bool:
    """Whether it takes a record now."""
    return produce(broker, topic, [b"fine"], seconds=2.0) == [None]


class Steady:
    """A producer to the healthy partition, all the while; none of its records may fail or wait."""

    def __init__(self, broker: Broker) -> None:
        self._producer = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all", "linger.ms": 0})
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.errors: list[str] = []
        self.milliseconds: list[float] = []

    def __enter__(self) -> Steady:
        self._thread.start()
        until(lambda: self.milliseconds, 10, "the first record of the other partition")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert not self.errors, self.errors[:3]
        assert max(self.milliseconds[1:]) < 2000, "the healthy partition stopped for a while"

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            begin = time.monotonic()

            def delivered(error: KafkaError | None, _message: Any, begin: float = begin) -> None:
                if error is not None:
                    self.errors.append(str(error))
                self.milliseconds.append((time.monotonic() - begin) * 1000)

            self._producer.produce(WELL, b"steady", partition=0, on_delivery=delivered)
            self._producer.flush(10)


@contextlib.contextmanager
def injected(broker: Broker, call: str, path: Path, report: Path) -> Iterator[None]:
    """This system call on this file ends in EIO while this lasts, whichever process of the partition calls it."""
    strace = require_tool("strace", "apt-get install strace")
    pid, parent = row(broker)["pid"], actors(broker)["supervisor/1"]["pid"]
    command = [strace, "-f", "-qq", "-o", str(report), "-P", str(path), "-e", f"trace={call}"]
    command += ["-e", f"inject={call}:error=EIO", "-p", str(pid), "-p", str(parent)]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        until(lambda: tracer.poll() is not None or traced(pid), ATTACH_S, "strace attaches")
        if tracer.poll() is not None:
            assert tracer.stderr is not None
            pytest.fail(f"strace ended: {tracer.stderr.read().decode()}")
        yield
    finally:
        tracer.terminate()
        tracer.wait(10)


def traced(pid: int) -> bool:
    """Whether a tracer has all threads of the process."""
    with contextlib.suppress(OSError):
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return all(not re.search(r"TracerPid:\s+0\b", (task / "status").read_text()) for task in tasks)
    return False


def shown(broker: Broker) -> str:
    """What ``logeion actors`` says of the sick partition."""
    command = [sys.executable, "-m", "logeion", "actors", "-b", broker.bootstrap, "-o", "json"]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout)
    return str(next(one for one in rows if one["id"] == f"partition/{SICK}-0"))


# A full disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Broker]:
    """A node with one partition on a file system of 4 MiB."""
    require_root()
    mount, umount = require_tool("mount", "apt-get install mount"), require_tool("umount", "apt-get install mount")
    broker = Broker(tmp_path / "node")
    place = directory(broker)
    place.mkdir(parents=True)
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=4m", "logeion-test", str(place)], capture_output=True)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.decode().strip()}")
    try:
        with running_broker(tmp_path / "node") as running:
            for topic in (SICK, WELL):
                settle_topic(running.bootstrap, topic, 1)
            yield running
    finally:
        subprocess.run([umount, "-l", str(place)], check=True)


def test_a_full_disk_refuses_loses_nothing_and_is_used_again_once_there_is_room(small_disk: Broker) -> None:
    broker = small_disk
    assert os.path.ismount(directory(broker)), "the node works on the small file system"
    until(lambda: fine(broker, SICK), 10, SICK)
    before = actors(broker)
    with Steady(broker):
        values = [b"%06d" % number + os.urandom(20_000) for number in range(300)]
        outcome = produce(broker, SICK, values, seconds=3.0)
        refused = [error for error in outcome if error is not None]
        assert len(refused) > 50, "6 MB do not fit"
        # KAFKA_STORAGE_ERROR is retriable, so librdkafka tried until its own time was over.
        assert set(refused) <= {KafkaError._MSG_TIMED_OUT, KafkaError.KAFKA_STORAGE_ERROR}
        acked = [value for value, error in zip(values, outcome, strict=True) if error is None]
        stored = [value for value in consume(broker, SICK) if value != b"fine"]
        assert [value for value in stored if value in set(acked)] == acked, "all that was acknowledged, in order"
        subprocess.run(["mount", "-o", "remount,size=16m", str(directory(broker))], check=True)
        until(lambda: fine(broker, SICK), 10, "appends after the disk has room")
    assert not same_processes(before, broker), "a full disk ends no process"
    stored = [value for value in consume(broker, SICK) if value != b"fine"]
    assert [value for value in stored if value in set(acked)] == acked


def test_a_waiting_producer_goes_on_by_itself_when_there_is_room_again(small_disk: Broker) -> None:
    broker = small_disk
    until(lambda: fine(broker, SICK), 10, SICK)
    grow = threading.Timer(
        2.0, subprocess.run, (["mount", "-o", "remount,size=16m", str(directory(broker))],), {"check": True}
    )
    values = [b"%06d" % number + os.urandom(20_000) for number in range(300)]
    grow.start()
    try:
        assert produce(broker, SICK, values, seconds=30.0) == [None] * 300
    finally:
        grow.join()
    assert [value for value in consume(broker, SICK) if value != b"fine"] == values


# A broken disk --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["pwritev,pwritev2", "fdatasync"], ids=["write", "sync"])
def test_an_io_error_takes_the_partition_offline_and_says_where(broker: Broker, tmp_path: Path, call: str) -> None:
    acked = [b"%d" % number for number in range(100)]
    assert produce(broker, SICK, acked) == [None] * 100
    path = segments(broker)[-1]
    with Steady(broker):
        with injected(broker, call, path, tmp_path / "strace"):
            lost = produce(broker, SICK, [b"lost %d" % number for number in range(10)], seconds=4.0)
            assert all(error is not None for error in lost), (
                "nothing is acknowledged that could not be written or synced"
            )
            until(lambda: row(broker)["state"] == "failed", 10, "offline")
            assert str(path) in row(broker)["cause"]
            assert str(path) in shown(broker)
        if call == "fdatasync":
            # What the device holds is unknown for good: it stays offline until an operator accepts what is left.
            errors = produce(broker, SICK, [b"after"], seconds=2.0)
            assert errors[0] is not None
    # Tried again every now and then, and at once by a node that starts.
    broker.stop()
    if call == "fdatasync":
        broker.start()
        until(lambda: row(broker)["state"] == "failed", 10, "offline after a restart")
        assert str(path) in row(broker)["cause"]
        broker.stop()
        command = [sys.executable, "-m", "logeion", "log", "accept-cut", "--yes", str(directory(broker))]
        subprocess.run(command, check=True, capture_output=True, timeout=20, stdin=subprocess.DEVNULL)
    broker.start()
    until(lambda: fine(broker, SICK), 20, "the partition serves again")
    stored = [value for value in consume(broker, SICK) if value != b"fine"]
    assert stored[:100] == acked


# Damaged files --------------------------------------------------------------------------------------------------------


def segments(broker: Broker) -> list[Path]:
    return sorted(directory(broker).glob("*.log"))


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[tuple[Broker, list[bytes]]]:
    """A node that was stopped with some segments of the sick partition on disk, and what they hold."""
    with running_broker(tmp_path / "node") as broker:
        settle_topic(broker.bootstrap, SICK, 1, segment_bytes="65536")
        settle_topic(broker.bootstrap, WELL, 1)
        values = [b"%d " % number + os.urandom(5_000) for number in range(50)]
        assert produce(broker, SICK, values, batch=1) == [None] * 50
        assert produce(broker, WELL, [b"well"]) == [None]
        assert len(segments(broker)) > 2
        broker.stop()
        yield broker, values


def unreadable(path: Path) -> None:
    """Not even root can read it: a directory has its name."""
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(os.urandom(800)), lambda path: path.unlink()], ids=["garbage", "missing"]
)
def test_an_index_that_cannot_be_used_is_made_again(
    stopped: tuple[Broker, list[bytes]], suffix: str, damage: Any
) -> None:
    broker, values = stopped
    for segment in segments(broker):
        damage(segment.with_suffix(suffix))
    broker.start()
    until(lambda: fine(broker, SICK), 10, SICK)
    assert consume(broker, SICK)[:50] == values


def expect_offline(broker: Broker, path: Path) -> None:
    """The node serves, but for this partition, whose cause names the file."""
    begin = time.monotonic()
    broker.start()
    assert time.monotonic() - begin < 10, "one bad partition holds nobody up"
    assert consume(broker, WELL) == [b"well"]
    assert fine(broker, WELL)
    until(lambda: row(broker)["state"] == "failed", 20, "offline")
    assert str(path) in row(broker)["cause"], row(broker)
    assert str(path) in shown(broker)
    errors = produce(broker, SICK, [b"x"], seconds=2.0)
    assert errors[0] is not None
    assert broker.pids("gateway")


def test_an_index_that_cannot_be_read_is_named(stopped: tuple[Broker, list[bytes]]) -> None:
    broker, _ = stopped
    path = segments(broker)[0].with_suffix(".index")
    unreadable(path)
    expect_offline(broker, path)


@pytest.mark.parametrize("name", ["00000000000000000007.log", "00000000000000000099.log"])
def test_a_foreign_file_that_looks_like_a_segment_is_named(stopped: tuple[Broker, list[bytes]], name: str) -> None:
    broker, values = stopped
    path = directory(broker) / name
    path.write_bytes(b"not a log at all" * 1000)
    expect_offline(broker, path)
    assert path.read_bytes() == b"not a log at all" * 1000, "nobody has touched it"
    broker.stop()
    path.unlink()
    broker.start()
    until(lambda: fine(broker, SICK), 10, SICK)
    assert consume(broker, SICK)[:50] == values


def test_any_other_foreign_file_is_left_alone(stopped: tuple[Broker, list[bytes]]) -> None:
    broker, values = stopped
    (directory(broker) / "notes.txt").write_text("mine")
    (broker.data / "lost+found").mkdir()
    (broker.data / "readme").write_text("mine too")
    broker.start()
    until(lambda: fine(broker, SICK), 10, SICK)
    assert consume(broker, SICK)[:50] == values
    assert (directory(broker) / "notes.txt").read_text() == "mine"
    assert (broker.data / "readme").read_text() == "mine too" and (broker.data / "lost+found").is_dir()


def test_a_damaged_log_file_is_named_and_never_cut(stopped: tuple[Broker, list[bytes]]) -> None:
    broker, _ = stopped
    path = segments(broker)[1]
    whole = path.read_bytes()
    path.write_bytes(whole[:3000] + bytes(b ^ 0xFF for b in whole[3000:3050]) + whole[3050:])
    broker.start()
    until(lambda: fine(broker, WELL), 10, WELL)
    command = [sys.executable, "-m", "logeion", "log", "verify", str(directory(broker))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode and str(path) in done.stdout + done.stderr
    assert path.stat().st_size == len(whole)


def test_a_directory_of_another_partition_is_named(stopped: tuple[Broker, list[bytes]]) -> None:
    broker, _ = stopped
    shutil.copy(directory(broker, WELL) / "partition.metadata", directory(broker) / "partition.metadata")
    expect_offline(broker, directory(broker))


def test_the_node_is_made_of_processes_that_are_gone_at_the_end(broker: Broker) -> None:
    assert all(psutil.pid_exists(one["pid"]) for one in actors(broker).values())
