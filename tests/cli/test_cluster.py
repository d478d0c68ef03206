"""``logeion cluster`` and ``topic describe`` against a node that is alone; tests/cluster has several."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.cli.test_commands import logeion
from tests.cluster.broker import Broker, running_broker


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with running_broker(tmp_path_factory.mktemp("cluster-cli")) as one:
        assert logeion(one.bootstrap, "topic", "create", "orders", "-p", "2").returncode == 0
        yield one


@pytest.fixture
def bootstrap(broker: Broker) -> str:
    return broker.bootstrap


def as_json(bootstrap: str, *arguments: str) -> Any:
    done = logeion(bootstrap, *arguments, "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_whole_cluster_is_healthy(bootstrap: str) -> None:
    done = logeion(bootstrap, "cluster", "health", "--wait", "10")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "healthy: 1 node, 1 topic, 2 partitions, controller 1\n"
    found = as_json(bootstrap, "cluster", "health")
    assert found["healthy"] and found["controller"] == 1 and found["problems"] == []


def test_health_of_nobody_is_no_connection() -> None:
    done = logeion("127.0.0.1:1", "cluster", "health", "--wait", "0.3")
    assert done.returncode == 5 and "try: " in done.stderr


def test_nodes_and_the_cluster_are_described(bootstrap: str) -> None:
    [node] = as_json(bootstrap, "cluster", "nodes")
    assert (node["node"], node["state"], node["role"], node["leads"], node["replicas"]) == (
        1,
        "running",
        "controller",
        2,
        2,
    )
    described = as_json(bootstrap, "cluster", "describe")
    assert described["voters"] == [1] and described["features"]["metadata.version"] >= 1
    assert "controller" in logeion(bootstrap, "cluster", "nodes").stdout
    assert "metadata.version" in logeion(bootstrap, "cluster", "describe").stdout


def test_voters_and_features_are_shown(bootstrap: str) -> None:
    voters = as_json(bootstrap, "cluster", "voters")
    assert voters["leader"] == 1
    assert [(one["node"], one["role"]) for one in voters["members"]] == [(1, "controller")]
    [feature] = as_json(bootstrap, "cluster", "features")
    assert feature["name"] == "metadata.version" and 1 <= feature["level"] <= feature["highest"]
    too_high = logeion(bootstrap, "cluster", "features", "--set", "metadata.version=999")
    assert too_high.returncode == 1 and "metadata.version" in too_high.stderr
    assert logeion(bootstrap, "cluster", "features", "--set", "metadata.version=x").returncode == 2


def test_leaders_that_lead_already_need_no_election(bootstrap: str) -> None:
    assert logeion(bootstrap, "cluster", "elect").stdout == "nothing to do\n"
    assert logeion(bootstrap, "cluster", "elect", "orders:1").stdout == "nothing to do\n"
    assert logeion(bootstrap, "cluster", "elect", "nope").returncode == 3
    assert logeion(bootstrap, "cluster", "elect", "--unclean").returncode == 2


def test_a_move_to_nodes_that_are_not_there_is_refused(bootstrap: str) -> None:
    assert as_json(bootstrap, "cluster", "reassign") == []
    assert "moved orders-0" in logeion(bootstrap, "cluster", "reassign", "orders:0", "--to", "1", "--wait").stdout
    failed = logeion(bootstrap, "cluster", "reassign", "orders:0", "--to", "1,9")
    assert failed.returncode == 1 and "orders-0" in failed.stderr
    assert logeion(bootstrap, "cluster", "reassign", "orders:0", "--cancel").returncode == 1
    for wrong in (["orders"], ["--to", "1"], ["orders", "--to", "x"], ["orders", "--to", "1", "--cancel"]):
        assert logeion(bootstrap, "cluster", "reassign", *wrong).returncode == 2


def test_a_throttle_is_lifted_at_the_end_of_the_move_or_by_a_command(bootstrap: str) -> None:
    def throttled() -> list[str]:
        configs = as_json(bootstrap, "topic", "config", "orders")
        return [one["name"] for one in configs if "throttled" in one["name"] and one["value"]]

    move = ["cluster", "reassign", "orders", "--to", "1", "--throttle", "10MB/s"]
    assert logeion(bootstrap, *move).returncode == 0
    assert throttled() == ["leader.replication.throttled.replicas"]
    assert logeion(bootstrap, "cluster", "reassign", "--unthrottle").stdout == "no replica is throttled any more\n"
    assert throttled() == []
    assert logeion(bootstrap, *move, "--wait").returncode == 0
    assert throttled() == []
    for wrong in (
        ["orders", "--throttle", "1MB/s"],
        ["orders", "--to", "1", "--throttle", "fast"],
        ["orders", "--unthrottle"],
    ):
        assert logeion(bootstrap, "cluster", "reassign", *wrong).returncode == 2


def test_a_topic_shows_who_is_in_sync(bootstrap: str) -> None:
    described = as_json(bootstrap, "topic", "describe", "orders")
    assert described["min_in_sync"] == 1
    for partition in described["partitions"]:
        assert (partition["leader"], partition["in_sync"], partition["state"]) == (1, [1], "ok")
        assert (partition["offline"], partition["start"], partition["end"]) == ([], 0, 0)


def test_the_console_tells_the_same(broker: Broker) -> None:
    admin = broker.admin
    body = httpx.get(f"http://{admin}/api/cluster").json()
    assert body["healthy"] and body["controller"] == 1 and body["nodes"][0]["leads"] == 2
    page = httpx.get(f"http://{admin}/metrics").text
    assert "kafka_controller_kafkacontroller_activecontrollercount 1\n" in page
    assert 'kafka_topic_partitions{topic="orders"} 2\n' in httpx.get(f"http://{admin}/metrics/cluster").text
