"""SIGSTOP of what nobody but its own host can restart: the cluster is whole again without a SIGCONT."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from logeion.wire.schema.topics import CreatableTopic, CreateTopicsRequest
from tests.cluster.actors import Actor
from tests.cluster.broker import until
from tests.cluster.cluster import Cluster, exchange, running_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

CREATE_TOPICS, CREATE_TOPICS_VERSION = 19, 7
# What a hang of Node or Supervisor may cost on an idle machine, and what the tests allow on one that is not.
BACK_S, CONTROL_S, SLACK_S = 5.0, 3.0, 5.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("hangs")) as one:
        yield one


def creates(cluster: Cluster, node: int, topic: str) -> bool:
    """Whether this node lets a topic be created now (or has let an earlier attempt)."""
    wanted = CreatableTopic(name=topic, num_partitions=1, replication_factor=3)
    request = CreateTopicsRequest(topics=[wanted], timeout_ms=500)
    with contextlib.suppress(OSError):
        answer = exchange(cluster.listener(node), CREATE_TOPICS, CREATE_TOPICS_VERSION, request, 0.7)
        return answer.topics[0].error_code in (0, 36)
    return False


def back(cluster: Cluster, hung: Actor, watcher: int) -> bool:
    """Whether another process is in its place, and its node is let in as another node sees it."""
    with contextlib.suppress(OSError):
        return not hung.alive() and hung.node in cluster.view(watcher).brokers and cluster.view(hung.node).whole(3)
    return False


@pytest.mark.parametrize("kind", ["node", "supervisor"])
def test_a_node_whose_agent_hangs_serves_again_by_itself(cluster: Cluster, kind: str) -> None:
    cluster.wait_healthy()
    watcher = cluster.nodes[0]
    hung = cluster.actor(kind, node=cluster.nodes[1])
    cluster.pause(hung)
    began = time.monotonic()
    until(lambda: back(cluster, hung, watcher), BACK_S + SLACK_S, f"{hung} is replaced\n{cluster.tail()}")
    print(f"{kind}: {time.monotonic() - began:.2f} s")
    cluster.wait_healthy()


def test_topics_are_created_again_soon_when_the_leading_controller_hangs(cluster: Cluster) -> None:
    cluster.wait_healthy()
    hung = cluster.actor("controller", node=cluster.view(cluster.nodes[0]).controller)
    cluster.pause(hung)
    began = time.monotonic()
    # First at the node whose own Controller it is: the way of its requests leads over the one that hangs.
    for node in (hung.node, *(node for node in cluster.nodes if node != hung.node)):
        deadline = began + CONTROL_S + SLACK_S - time.monotonic()
        until(lambda node=node: creates(cluster, node, f"made-{node}"), deadline, f"{node} creates\n{cluster.tail()}")
        print(f"node {node}: {time.monotonic() - began:.2f} s")
    assert not hung.alive()
    cluster.wait_healthy()
