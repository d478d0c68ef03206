"""Processes forked ahead: who starts next is one of them, and there is another soon after."""

from __future__ import annotations

import signal
from pathlib import Path

from confluent_kafka import Producer

from tests.cluster.actors import Actor
from tests.cluster.broker import until
from tests.cluster.cluster import Cluster, running_cluster
from tests.cluster.histories import create_topic

SOON_S = 10.0


def spare_of(cluster: Cluster, node: int, but: int = 0) -> Actor:
    """The spare of this node that has another pid than ``but``, once it is there."""

    def waiting() -> Actor | None:
        return next((one for one in cluster.actors("spare", node=node) if one.pid != but), None)

    found: Actor = until(waiting, SOON_S, f"a spare on node {node}\n{cluster.tail()}")
    return found


def test_a_killed_leader_comes_back_in_the_process_that_waited(tmp_path: Path) -> None:
    with running_cluster(tmp_path, 3) as cluster:
        create_topic(cluster.bootstrap, "orders", 1, 3, {"min.insync.replicas": "2"})
        cluster.wait_healthy()
        producer = Producer({"bootstrap.servers": cluster.bootstrap, "enable.idempotence": True, "log_level": 3})
        failed: list[object] = []
        for number in range(3):
            leader = cluster.leader("orders-0")
            spare = spare_of(cluster, leader.node)
            cluster.kill(leader)
            producer.produce("orders", b"%d" % number, on_delivery=lambda error, _: failed.append(error))
            assert producer.flush(20) == 0
            after = cluster.leader("orders-0")
            assert (after.pid, after.node, after.epoch > leader.epoch) == (spare.pid, leader.node, True)
            spare_of(cluster, leader.node, but=spare.pid)
        assert failed == [None] * 3

        # Without one that is of use, a fork does it; the spare that is dead or stopped is replaced.
        for useless in (signal.SIGKILL, signal.SIGSTOP):
            leader = cluster.leader("orders-0")
            spare = spare_of(cluster, leader.node)
            cluster.signal(spare.pid, useless)
            cluster.kill(leader)
            producer.produce("orders", b"last", on_delivery=lambda error, _: failed.append(error))
            assert producer.flush(20) == 0 and failed.pop() is None
            after = cluster.leader("orders-0")
            assert after.pid != spare.pid and after.epoch > leader.epoch
            spare_of(cluster, leader.node, but=spare.pid)
            until(lambda spare=spare: not spare.alive(), SOON_S, "the useless spare is gone")
        cluster.wait_healthy()


def test_a_node_alone_keeps_none_unless_it_is_told_to(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "told", 1, environment={"LOGEION_NODE__SPARES": "2"}) as cluster:
        until(lambda: len(cluster.actors("spare")) == 2, SOON_S, "two spares")
    with running_cluster(tmp_path / "refused", 3, environment={"LOGEION_NODE__SPARES": "0"}) as cluster:
        create_topic(cluster.bootstrap, "orders", 1, 3, {})
        cluster.wait_healthy()
        assert cluster.actors("spare") == []
