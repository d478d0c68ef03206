"""The cluster of a test: its faults do what they say, and each test finds it whole."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from kafka import KafkaProducer

import logeion.testing
from logeion.testing import Cluster, TopicFactory
from tests.testing.test_broker import left
from tests.testing.test_plugin import run

pytest_plugins = ["pytester"]


def producer_of(cluster: Cluster) -> KafkaProducer:
    return KafkaProducer(bootstrap_servers=cluster.bootstrap, linger_ms=0)


def test_a_killed_node_stays_away_until_it_is_restarted(logeion_cluster: Cluster, logeion_topic: TopicFactory) -> None:
    topic = logeion_topic()
    producer = producer_of(logeion_cluster)
    assert producer.send(topic, b"one").get(20).offset == 0
    leader = logeion_cluster.leader(topic)
    logeion_cluster.kill(leader)
    assert logeion_cluster.leader(topic) != leader
    assert producer.send(topic, b"two").get(20).offset == 1
    with pytest.raises(AssertionError, match=f"node {leader} was killed"):
        logeion_cluster.wait_healthy(0.5)
    logeion_cluster.restart(leader)
    logeion_cluster.wait_healthy()
    assert logeion_cluster.isr(topic) == {1, 2, 3}
    assert [record.value for record in logeion_cluster.records(topic)] == [b"one", b"two"]
    producer.close()


def test_every_test_begins_with_a_whole_cluster(logeion_cluster: Cluster, logeion_topic: TopicFactory) -> None:
    began = time.monotonic()
    logeion_cluster.wait_healthy(0)
    assert time.monotonic() - began < 1.0
    logeion_cluster.pause(1)
    logeion_cluster.kill(2)  # with two away nothing can be decided; what comes after this test must cope


def test_a_paused_node_leaves_the_isr_and_comes_back(logeion_cluster: Cluster, logeion_topic: TopicFactory) -> None:
    topic = logeion_topic()
    leader = logeion_cluster.leader(topic)
    logeion_cluster.pause(leader)
    assert logeion_cluster.leader(topic) != leader
    deadline = time.monotonic() + 20
    while leader in logeion_cluster.isr(topic):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    logeion_cluster.resume(leader)
    logeion_cluster.wait_healthy()
    assert logeion_cluster.isr(topic) == {1, 2, 3}


def test_an_actor_is_killed_and_comes_back_by_itself(logeion_cluster: Cluster, logeion_topic: TopicFactory) -> None:
    topic = logeion_topic(name="led")
    before = logeion_cluster.actor(f"partition/{topic}-0")
    assert before.node == logeion_cluster.leader(topic)
    logeion_cluster.kill(before)
    deadline = time.monotonic() + 20
    while logeion_cluster.actor(f"partition/{topic}-0").pid == before.pid:
        assert time.monotonic() < deadline
    replica = logeion_cluster.actor(f"replica/{topic}-0")
    assert replica.node != logeion_cluster.actor(f"partition/{topic}-0").node
    logeion_cluster.pause(replica)
    logeion_cluster.produce(topic, "two are enough")
    logeion_cluster.resume(replica)


def test_a_node_that_runs_is_restarted_in_order(logeion_cluster: Cluster, logeion_topic: TopicFactory) -> None:
    topic = logeion_topic()
    leader = logeion_cluster.leader(topic)
    before = {actor["pid"] for actor in logeion_cluster.actors() if actor["node"] == leader}
    logeion_cluster.restart(leader)
    logeion_cluster.wait_healthy()
    assert not before & {actor["pid"] for actor in logeion_cluster.actors()}
    logeion_cluster.produce(topic, "x")


def test_what_is_none_of_the_clusters_is_refused(logeion_cluster: Cluster) -> None:
    with pytest.raises(ValueError, match="no node 7"):
        logeion_cluster.kill(7)
    with pytest.raises(AssertionError, match="partition/nowhere-0"):
        logeion_cluster.actor("partition/nowhere-0", timeout_s=0.1)


def test_a_cluster_for_unittest_leaves_no_file_and_no_process() -> None:
    with logeion.testing.cluster(2, {"topics.partitions": "2"}) as cluster:
        folder = cluster.folder
        assert cluster.nodes == [1, 2]
        topic = cluster.topic(-1)
        assert {cluster.leader(topic, at) for at in range(2)} <= {1, 2}
        pids = [int(actor["pid"]) for actor in cluster.actors()]
        assert left(str(folder))
        cluster.kill(2)
        cluster.pause(1)
    assert not folder.exists()
    assert left(str(folder)) == []
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists() and os.getpgid(pid) in pids]


def test_a_failure_brings_log_topics_and_actors_of_the_cluster(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_fails(logeion_cluster, logeion_topic, logeion_client):
            topic = logeion_topic(name="orders")
            with logeion_client.producer() as producer:
                producer.send(topic, b"a value to be seen").result(20)
            logeion_cluster.kill(logeion_cluster.leader(topic))
            assert False

        def test_passes(logeion_cluster):
            logeion_cluster.wait_healthy(0)
            assert logeion_cluster.nodes == [1, 2, 3]
        """
    )
    result = run(pytester)
    result.assert_outcomes(passed=1, failed=1)
    shown = result.stdout.str()
    for title in ("logeion cluster log", "logeion topics", "logeion actors"):
        assert shown.count(f"- {title} -") == 1, shown
    result.stdout.fnmatch_lines(["orders:", "*0* @ 0 None: b'a value to be seen'", "*partition/orders-0 *running*"])


def test_each_worker_of_xdist_has_a_cluster_of_its_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os, pathlib, pytest

        @pytest.mark.parametrize("n", range(2))
        def test_there(n, logeion_cluster, logeion_topic):
            logeion_cluster.produce(logeion_topic(name="same-name"), "x")
            pathlib.Path(f"seen-{os.environ['PYTEST_XDIST_WORKER']}").write_text(logeion_cluster.bootstrap)
        """
    )
    run(pytester, "-n", "2", "--dist", "each").assert_outcomes(passed=4)
    assert len({path.read_text() for path in Path(pytester.path).glob("seen-*")}) == 2
