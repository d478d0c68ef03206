"""The broker of a test, beside pytest: its calls, and that nothing of it outlives the test's process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from kafka import KafkaConsumer

import logeion.testing
from logeion.testing import Broker, TopicFactory

LIMIT_S = 10.0


def left(folder: str) -> list[int]:
    """Processes that name the folder in their command or their environment."""
    found = []
    for process in psutil.process_iter(["cmdline", "pid"]):
        try:
            if any(folder in part for part in process.cmdline()) or f"{folder}/" in str(process.open_files()):
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_records_groups_and_offsets_are_told_in_plain_calls(
    logeion_broker: Broker, logeion_topic: TopicFactory
) -> None:
    topic = logeion_topic(partitions=2, configs={"retention.ms": "1000000"})
    told = logeion_broker.produce(topic, "v", "k", headers=[("h", b"1")], partition=1)
    assert (told.topic, told.partition, told.offset) == (topic, 1, 0)
    (record,) = logeion_broker.records(topic)
    assert (record.partition, record.offset, record.key, record.value) == (1, 0, b"k", b"v")
    assert record.headers == [("h", b"1")]
    assert logeion_broker.assert_produced(topic, key="k", value=b"v") == [record]
    assert logeion_broker.offset("readers", topic, 1) is None
    consumer = KafkaConsumer(
        topic,
        group_id=f"readers-{topic}",
        bootstrap_servers=logeion_broker.bootstrap,
        auto_offset_reset="earliest",
    )
    assert next(consumer).value == b"v"
    group = logeion_broker.wait_for_group(f"readers-{topic}")
    assert sorted(group.members[0].partitions) == [(topic, 0), (topic, 1)]
    consumer.commit()
    consumer.close()
    assert logeion_broker.offset(f"readers-{topic}", topic, 1) == 1


def test_what_was_not_produced_is_an_assertion_error_that_shows_what_is_there(
    logeion_broker: Broker, logeion_topic: TopicFactory
) -> None:
    topic = logeion_topic()
    logeion_broker.produce(topic, "other")
    with pytest.raises(AssertionError, match="b'other'"):
        logeion_broker.assert_produced(topic, value="wanted", timeout_s=0.05)
    with pytest.raises(AssertionError, match="group 'nobody'"):
        logeion_broker.wait_for_group("nobody", timeout_s=0.05)


def test_a_broker_for_unittest_leaves_no_file_and_no_process() -> None:
    with logeion.testing.broker({"topics.partitions": "3"}) as broker:
        folder = broker.folder
        topic = broker.topic(-1)
        assert {broker.produce(topic, partition=at).partition for at in range(3)} == {0, 1, 2}
        assert left(str(folder))
    assert not folder.exists()
    assert left(str(folder)) == []


def test_a_broker_that_cannot_start_says_why() -> None:
    with pytest.raises(logeion.testing.BrokerError, match="partitons"):
        with logeion.testing.broker({"topics.partitons": "3"}):
            pass


def test_a_killed_test_takes_broker_and_proxy_along(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib, logeion.testing\n"
        "broker = logeion.testing.Broker(pathlib.Path(sys.argv[1]))\n"
        "broker.start()\n"
        "print(broker.bootstrap, flush=True)\n"
        "time.sleep(60)\n"
    )
    folder = tmp_path / "broker"
    test = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
    assert test.stdout is not None
    with test.stdout as out:
        assert out.readline().startswith("127.0.0.1:")
    below = [child.pid for child in psutil.Process(test.pid).children(recursive=True)]
    assert len(below) > 4
    os.kill(test.pid, signal.SIGKILL)
    test.wait()
    deadline = time.monotonic() + LIMIT_S
    while alive := [pid for pid in below if psutil.pid_exists(pid)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.01)


def test_up_refuses_a_descriptor_that_it_was_not_given(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "logeion", "up", "--data", str(tmp_path / "data"), "--tied-to-fd", "900"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "no descriptor 900" in done.stderr
