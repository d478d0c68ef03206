"""What clients and operators see of three real nodes: leaders that move, groups that follow, the cluster's health."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer

from tests.cluster.broker import until
from tests.cluster.cluster import Cluster, running_cluster
from tests.cluster.histories import create_topic
from tests.interop.conftest import need_java
from tests.interop.peers import java

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

IN_SYNC = {"min.insync.replicas": "2"}
UNHEALTHY = 10


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("clients")) as one:
        yield one


def logeion(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "logeion", *arguments, "-b", cluster.bootstrap],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def as_json(cluster: Cluster, *arguments: str) -> Any:
    done = logeion(cluster, *arguments, "-o", "json")
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


class Sender:
    """An idempotent producer that sends numbers until it is told to stop, and what became of each."""

    def __init__(self, cluster: Cluster, topic: str, **settings: Any) -> None:
        self.acked: list[tuple[int, int]] = []
        self.errors: list[str] = []
        self.slowest_s = 0.0
        self._topic = topic
        self._producer = Producer(
            {"bootstrap.servers": cluster.bootstrap, "enable.idempotence": True, "linger.ms": 2, **settings}
        )
        self._end = threading.Event()
        self._sent = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.is_set():
            sent, number = time.monotonic(), self._sent

            def told(error: Any, message: Message, sent: float = sent, number: int = number) -> None:
                self.slowest_s = max(self.slowest_s, time.monotonic() - sent)
                if error is not None:
                    self.errors.append(str(error))
                else:
                    offset = message.offset()
                    assert offset is not None
                    self.acked.append((number, offset))

            self._producer.produce(self._topic, str(number).encode(), partition=0, on_delivery=told)
            self._sent += 1
            self._producer.poll(0.002)

    def finish(self) -> None:
        """Every record is acknowledged, once, and in the order in which it was sent."""
        self._end.set()
        self._thread.join()
        assert self._producer.flush(30) == 0
        assert self.errors == []
        assert [number for number, _ in self.acked] == list(range(self._sent))
        offsets = [offset for _, offset in self.acked]
        assert offsets == sorted(set(offsets))


def read(cluster: Cluster, topic: str, count: int) -> list[int]:
    """The first records of the partition, as numbers."""
    settings = {"bootstrap.servers": cluster.bootstrap, "group.id": "reader", "enable.auto.commit": False}
    consumer = Consumer({**settings, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    found: list[int] = []

    def more() -> bool:
        found.extend(int(one.value() or b"") for one in consumer.consume(1000, 0.2) if one.error() is None)
        return len(found) >= count

    until(more, 30, f"{count} records of {topic}")
    consumer.close()
    return found


def moved(cluster: Cluster, topic: str) -> int:
    """Have the next replica of partition 0 lead by preference; where it leads then."""
    before = until(lambda: cluster.partition(f"{topic}-0"), 5)
    replicas = [*before.replicas[1:], before.replicas[0]]
    nodes = ",".join(map(str, replicas))
    done = logeion(cluster, "cluster", "reassign", f"{topic}:0", "--to", nodes, "--wait")
    assert done.returncode == 0, done.stderr
    elected = logeion(cluster, "cluster", "elect", f"{topic}:0")
    assert elected.returncode == 0, elected.stderr
    until(lambda: cluster.partition(f"{topic}-0").leader == replicas[0], 5, f"node {replicas[0]} leads")
    return int(replicas[0])


def test_a_leader_that_moves_to_another_host_costs_a_producer_neither_an_error_nor_order(cluster: Cluster) -> None:
    create_topic(cluster.bootstrap, "moving", 1, 3, IN_SYNC)
    cluster.wait_healthy()
    sender = Sender(cluster, "moving")
    until(lambda: len(sender.acked) > 50, 10, "records acknowledged")
    for _ in range(4):
        moved(cluster, "moving")
        since = len(sender.acked)
        until(lambda since=since: len(sender.acked) > since + 50, 10, "records acknowledged by the next leader")
    sender.finish()
    assert read(cluster, "moving", len(sender.acked)) == list(range(len(sender.acked)))


def test_a_leader_that_dies_costs_a_producer_neither_an_error_nor_order(cluster: Cluster) -> None:
    create_topic(cluster.bootstrap, "dying", 1, 3, IN_SYNC)
    cluster.wait_healthy()
    sender = Sender(cluster, "dying")
    for _ in range(3):
        since = len(sender.acked)
        until(lambda since=since: len(sender.acked) > since + 50, 10, "records acknowledged")
        cluster.kill(cluster.leader("dying-0"))
    since = len(sender.acked)
    until(lambda: len(sender.acked) > since + 50, 10, "records acknowledged")
    sender.finish()
    assert read(cluster, "dying", len(sender.acked)) == list(range(len(sender.acked)))
    cluster.wait_healthy()


def coordinator(cluster: Cluster, group: str) -> int:
    return int(as_json(cluster, "group", "describe", group)["coordinator"])


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_members_follow_their_coordinator_to_another_node_without_losing_commits(
    cluster: Cluster, protocol: str
) -> None:
    topic = group = f"followed-{protocol}"
    create_topic(cluster.bootstrap, topic, 1, 3, IN_SYNC)
    cluster.wait_healthy()
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "enable.idempotence": True})
    settings = {
        "bootstrap.servers": cluster.bootstrap,
        "group.id": group,
        "group.protocol": protocol,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }
    if protocol == "classic":
        settings["session.timeout.ms"] = 6_000
    seen: list[int] = []
    consumer = Consumer(settings)
    consumer.subscribe([topic])

    def some(upto: int) -> Callable[[], bool]:
        def work() -> bool:
            for message in consumer.consume(100, 0.1):
                if message.error() is None:
                    seen.append(int(message.value() or b""))
            return len(seen) >= upto

        return work

    for number in range(20):
        producer.produce(topic, str(number).encode())
    producer.flush(10)
    until(some(20), 30, "the first records")
    consumer.commit(asynchronous=False)
    before = cluster.partition("__consumer_offsets-0")
    assert before is not None and len(before.replicas) == 3
    cluster.kill_node(before.leader)
    after = until(
        lambda: (
            (now := cluster.partition("__consumer_offsets-0", before.replicas[1]))
            and now.leader >= 0
            and now.leader != before.leader
            and now
        ),
        20,
        "another node leads the offsets partition",
    )
    for number in range(20, 40):
        producer.produce(topic, str(number).encode())
    assert producer.flush(20) == 0
    until(some(40), 30, "the records after the move")
    assert seen == list(range(40)), "nothing was read twice, so nothing that was committed is lost"
    committed = until(lambda: _commit(consumer), 20, "a commit at the new coordinator")
    assert committed[0].offset == 40
    assert after.epoch > before.epoch
    consumer.close()
    cluster.wait_healthy()
    assert as_json(cluster, "group", "describe", group)["partitions"][0]["committed"] == 40


def _commit(consumer: Consumer) -> Any:
    from confluent_kafka import KafkaException

    try:
        return consumer.commit(asynchronous=False)
    except KafkaException:
        consumer.poll(0.1)
        return None


def metrics(cluster: Cluster, node: int) -> dict[str, float]:
    """What the node's page says that has no labels."""
    with urllib.request.urlopen(f"http://{cluster.admin(node)}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    pairs = [line.split() for line in lines if not line.startswith("#") and "{" not in line]
    return {name: float(value) for name, value in pairs}


def test_health_tells_of_a_node_that_is_away_and_of_what_it_costs(cluster: Cluster) -> None:
    create_topic(cluster.bootstrap, "watched", 3, 3, IN_SYNC)
    cluster.wait_healthy()
    assert logeion(cluster, "cluster", "health", "--wait", "20").returncode == 0
    told = [metrics(cluster, node) for node in cluster.nodes]
    assert sum(one["kafka_controller_kafkacontroller_activecontrollercount"] for one in told) == 1
    assert sum(one["kafka_server_replicamanager_underreplicatedpartitions"] for one in told) == 0
    led = sum(one["kafka_server_replicamanager_leadercount"] for one in told)
    assert led == sum(one["kafka_server_replicamanager_partitioncount"] for one in told) / 3
    victim = 3
    cluster.pause_node(victim)
    try:
        found = until(
            lambda: (found := as_json(cluster, "cluster", "health", "--timeout", "5"))["fenced"] == [victim] and found,
            20,
            "the node is fenced",
        )
        assert not found["healthy"] and found["offline"] == []
        assert {"watched"} <= {one["topic"] for one in found["under_replicated"]}
        shown = logeion(cluster, "cluster", "health", "--timeout", "5")
        assert shown.returncode == UNHEALTHY and f"node {victim} is fenced" in shown.stdout
        described = as_json(cluster, "topic", "describe", "watched", "--timeout", "5")
        assert {one["state"] for one in described["partitions"]} == {"under-replicated"}
        assert all(one["offline"] == [victim] for one in described["partitions"])
        states = {one["node"]: one["state"] for one in as_json(cluster, "cluster", "nodes", "--timeout", "5")}
        assert states == {1: "running", 2: "running", 3: "fenced"}
        with urllib.request.urlopen(f"http://{cluster.admin(1)}/api/cluster", timeout=5) as answer:
            told = json.load(answer)
        assert not told["healthy"] and [one["state"] for one in told["nodes"]] == ["running", "running", "fenced"]
        with urllib.request.urlopen(f"http://{cluster.admin(1)}/metrics/cluster", timeout=5) as answer:
            assert "kafka_brokers 2\n" in answer.read().decode()
    finally:
        cluster.resume_all()
    assert logeion(cluster, "cluster", "health", "--wait", "30").returncode == 0
    cluster.wait_healthy()


KAFKAS_TOOLS = {
    "quorum": "org.apache.kafka.tools.MetadataQuorumCommand",
    "features": "org.apache.kafka.tools.FeatureCommand",
    "elect": "org.apache.kafka.tools.LeaderElectionCommand",
    "reassign": "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
    "topics": "org.apache.kafka.tools.TopicCommand",
    "log-dirs": "org.apache.kafka.tools.LogDirsCommand",
    "configs": "kafka.admin.ConfigCommand",
}


def test_kafkas_own_tools_move_replicas_and_leaders_and_see_the_quorum(cluster: Cluster, tmp_path: Any) -> None:
    need_java()
    create_topic(cluster.bootstrap, "tooled", 1, 3, IN_SYNC)
    cluster.wait_healthy()

    def tool(name: str, *arguments: str) -> str:
        command = java(KAFKAS_TOOLS[name], "--bootstrap-server", cluster.listener(1), *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"{name} {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    status = tool("quorum", "describe", "--status")
    leader = cluster.view(1).controller
    assert f"LeaderId:               {leader}" in status and status.count('"id"') == 3
    assert "Feature: metadata.version" in tool("features", "describe")

    before = until(lambda: cluster.partition("tooled-0"), 5)
    wanted = [*before.replicas[1:], before.replicas[0]]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"version": 1, "partitions": [{"topic": "tooled", "partition": 0, "replicas": wanted}]}))
    about = ("--reassignment-json-file", str(plan))
    assert "Successfully started" in tool("reassign", *about, "--execute", "--throttle", "1000000")
    shown = tool("configs", "--describe", "--entity-type", "brokers", "--entity-name", "1")
    assert "follower.replication.throttled.rate=1000000" in shown
    until(lambda: "is completed" in tool("reassign", *about, "--verify"), 30, "the move is done")
    shown = tool("configs", "--describe", "--entity-type", "brokers", "--entity-name", "1")
    assert "throttled.rate" not in shown
    tool("elect", "--election-type", "preferred", "--topic", "tooled", "--partition", "0")
    until(lambda: cluster.partition("tooled-0").leader == wanted[0], 10, "the preferred replica leads")
    assert "No partition" not in tool("elect", "--election-type", "preferred", "--all-topic-partitions")
    assert f"Leader: {wanted[0]}" in tool("topics", "--describe", "--topic", "tooled")
    assert tool("topics", "--describe", "--under-replicated-partitions") == ""
    held = json.loads(tool("log-dirs", "--describe", "--topic-list", "tooled").splitlines()[-1])
    names = [part["partition"] for one in held["brokers"] for folder in one["logDirs"] for part in folder["partitions"]]
    assert names == ["tooled-0"] * 3


def test_voters_are_shown_and_one_at_a_time_is_changed(cluster: Cluster) -> None:
    cluster.wait_healthy()
    shown = as_json(cluster, "cluster", "voters")
    assert sorted(one["node"] for one in shown["members"]) == [1, 2, 3]
    leaver = next(one["node"] for one in shown["members"] if one["node"] != shown["leader"])
    removed = as_json(cluster, "cluster", "voters", "--remove", str(leaver))
    assert sorted(one["node"] for one in removed["members"] if one["role"] != "observer") == sorted(
        {1, 2, 3} - {leaver}
    )
    added = as_json(cluster, "cluster", "voters", "--add", str(leaver))
    assert sorted(one["node"] for one in added["members"] if one["role"] != "observer") == [1, 2, 3]
