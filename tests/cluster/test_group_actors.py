"""What happens to a group when the actors around it die, idle, or are not there at all."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kafka
import pytest
from kafka.admin import KafkaAdminClient, NewTopic

from logeion.actors.coordinator.records import GroupRecord, OffsetKey, OffsetValue, encode
from logeion.log.config import LogConfig
from logeion.log.files import Files
from logeion.log.log import Log
from logeion.wire.batch import read_header
from logeion.wire.records import Record, build_batch
from tests.cluster.broker import Broker, running_broker, until
from tests.interop.members.driver import MemberProcess, until_owned, until_told

Where = kafka.TopicPartition
QUICK = """
[groups]
idle_exit_ms = 300
min_session_timeout_ms = 500
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    settings = tmp_path / "settings.toml"
    settings.write_text(QUICK)
    with running_broker(tmp_path / "broker", "--config", str(settings)) as one:
        yield one


@pytest.fixture
def admin(broker: Broker) -> Iterator[Any]:
    client = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    yield client
    client.close()


@pytest.fixture
def start(broker: Broker, tmp_path: Path) -> Iterator[Callable[..., MemberProcess]]:
    members: list[MemberProcess] = []

    def make(**options: Any) -> MemberProcess:
        errors = tmp_path / f"member-{len(members)}.err"
        members.append(MemberProcess.python("confluent", errors, bootstrap=broker.bootstrap, **options))
        return members[-1]

    yield make
    for member in members:
        member.end()


def coordinators(broker: Broker, group: str = "") -> list[int]:
    """The Coordinators that run, the group index not counted."""
    found = broker.processes()
    name = re.compile(rf"logeion\[1\] coordinator {re.escape(group) if group else '.*'} epoch")
    return [pid for pid, title in found.items() if name.match(title) and "__consumer_offsets-0 " not in title]


def commit(broker: Broker, group: str, topic: str, offset: int) -> None:
    """As one who reads by assignment and only keeps positions in a group."""
    consumer = kafka.KafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=group, enable_auto_commit=False)
    consumer.assign([Where(topic, 0)])
    consumer.commit({Where(topic, 0): kafka.OffsetAndMetadata(offset, "", -1)})
    consumer.close()


def committed(admin: Any, group: str) -> dict[tuple[str, int], int]:
    found = admin.list_group_offsets({group: None})[group]
    return {(where.topic, where.partition): one.offset for where, one in found.items()}


def test_an_idle_coordinator_goes_and_what_it_knew_is_answered_without_it(broker: Broker, admin: Any) -> None:
    admin.create_topics([NewTopic("t", 1, 1)])
    commit(broker, "simple", "t", 7)
    until(lambda: not coordinators(broker), 5, "an idle coordinator ends")
    assert committed(admin, "simple") == {("t", 0): 7}
    assert admin.describe_groups(["simple"])["simple"]["group_state"] == "Empty"
    assert [one["group_id"] for one in admin.list_groups()] == ["simple"]
    assert not coordinators(broker), "asking started no process"
    commit(broker, "simple", "t", 9)
    assert coordinators(broker, "simple"), "wanted, so it is back"
    assert committed(admin, "simple") == {("t", 0): 9}


def test_a_group_outlives_the_leader_of_its_offsets_and_everything_else(
    broker: Broker, admin: Any, start: Callable[..., MemberProcess]
) -> None:
    admin.create_topics([NewTopic("t", 4, 1)])
    members = [start(group="g", topics=["t"], commits=True) for _ in range(2)]
    everything = {("t", partition) for partition in range(4)}
    until_owned(members, everything, 20)
    producer = kafka.KafkaProducer(bootstrap_servers=broker.bootstrap)
    sent = 0
    for victim in ("partition __consumer_offsets-0", "coordinator __consumer_offsets-0", "node", "controller"):
        before = len(members[0].of("assigning")) + len(members[1].of("assigning"))
        os.kill(broker.pid_of(f"logeion[1] {victim}"), signal.SIGKILL)
        for partition in range(4):
            producer.send("t", f"{victim} {partition}".encode(), partition=partition).get(10)
            sent += 1
        until_told(lambda: sum(len(one.records) for one in members) == sent, 20, members)  # noqa: B023
        until_told(lambda: sum(committed(admin, "g").values()) == sent, 20, members)  # noqa: B023
        after = len(members[0].of("assigning")) + len(members[1].of("assigning"))
        assert after == before, f"the death of {victim} moved partitions\n{broker.tail()}"
    producer.close()
    assert all(event["ok"] for one in members for event in one.of("commit"))


def test_a_group_outlives_the_gateway(broker: Broker, admin: Any, start: Callable[..., MemberProcess]) -> None:
    admin.create_topics([NewTopic("t", 2, 1)])
    member = start(group="g", topics=["t"], commits=True)
    until_owned([member], {("t", 0), ("t", 1)}, 20)
    port = broker.bootstrap
    os.kill(broker.pid_of("logeion[1] gateway"), signal.SIGKILL)
    until(broker.serves, 5)
    assert broker.bootstrap == port
    producer = kafka.KafkaProducer(bootstrap_servers=broker.bootstrap)
    producer.send("t", b"after", partition=1).get(10)
    producer.close()
    until_told(lambda: len(member.records) == 1, 20, [member])
    until_told(lambda: member.of("commit"), 20, [member])


def test_a_restart_of_the_whole_node_keeps_generation_and_positions(
    broker: Broker, start: Callable[..., MemberProcess]
) -> None:
    """Nobody rebalances if all are back within their sessions; whoever is not is out, though nobody asks."""
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    admin.create_topics([NewTopic("t", 1, 1)])
    member = start(group="g", topics=["t"], session_ms=1_000)
    until_owned([member], {("t", 0)}, 20)
    member.kill()
    commit(broker, "simple", "t", 5)
    admin.close()
    broker.stop(signal.SIGTERM)
    broker.start()
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    assert committed(admin, "simple") == {("t", 0): 5}
    assert admin.describe_groups(["g"])["g"]["group_state"] == "Stable"
    until(lambda: admin.describe_groups(["g"])["g"]["group_state"] != "Stable", 15, "the dead member is missed")
    until(lambda: not coordinators(broker), 15, "and its coordinator goes again")
    admin.close()


def test_positions_in_a_deleted_topic_go_with_it(broker: Broker, admin: Any) -> None:
    admin.create_topics([NewTopic("t", 1, 1), NewTopic("kept", 1, 1)])
    commit(broker, "running", "t", 3)
    commit(broker, "idle", "t", 4)
    commit(broker, "idle", "kept", 5)
    admin.delete_topics(["t"])
    until(lambda: committed(admin, "running") == {}, 10, "a running group forgets")
    until(lambda: committed(admin, "idle") == {("kept", 0): 5}, 15, "so does an idle one")
    admin.create_topics([NewTopic("t", 1, 1)])
    assert committed(admin, "running") == {}


def fill(directory: Path, groups: int) -> None:
    """Positions of so many groups, written as their Coordinators would have, into the log of a stopped broker."""
    log = Log.open(directory, LogConfig.from_topic({"cleanup.policy": "compact"}), files=Files(), now_ms=0)
    log.become_leader(1)
    now = time.time_ns() // 1_000_000
    for begin in range(0, groups, 500):
        stored = [
            encode(GroupRecord(OffsetKey(f"g{number}", "t", partition), OffsetValue(offset=number, commit_time_ms=now)))
            for number in range(begin, begin + 500)
            for partition in range(3)
        ]
        batch = memoryview(build_batch([Record(at, now, key, value) for at, (key, value) in enumerate(stored)]))
        log.append(batch, read_header(batch), epoch=1, now_ms=now)
    log.sync()
    log.advance_high_watermark(log.end_offset)
    log.close(clean=True)


def test_ten_thousand_groups_start_no_process_and_are_known_in_two_seconds(broker: Broker) -> None:
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    admin.create_topics([NewTopic("t", 3, 1)])
    commit(broker, "g0", "t", 1)
    admin.close()
    broker.stop()
    fill(broker.data / "__consumer_offsets-0", 10_000)
    broker.start()
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    assert len(admin.list_groups()) == 10_000
    assert committed(admin, "g4321") == {("t", partition): 4321 for partition in range(3)}
    assert admin.describe_groups(["g1"])["g1"]["group_state"] == "Empty"
    admin.close()
    assert not coordinators(broker)
    indexed = re.findall(r"(\d+) groups indexed in ([0-9.]+) s", broker.tail(200))
    assert indexed[-1][0] == "10000" and float(indexed[-1][1]) < 2.0
