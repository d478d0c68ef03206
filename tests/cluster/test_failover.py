"""Three real nodes: short slices of the long runs of ``make chaos``, judged by the same checker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import in_flight
from tests.cluster.broker import until
from tests.cluster.chaos import Chaos
from tests.cluster.cluster import Cluster, running_cluster
from tests.cluster.histories import Run, create_topic
from tests.cluster.hung_follower import HELD_MAX_S, hang
from tests.interop.peers import KAFKA_LIBS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

IN_SYNC = {"min.insync.replicas": "2"}
# Processes of a node that are no actors of its Supervisor.
UNLISTED = ("command", "admin", "logger", "spare")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as one:
        yield one


def test_every_node_lists_the_processes_that_run(cluster: Cluster) -> None:
    create_topic(cluster.bootstrap, "listed", 3, 3, IN_SYNC)
    cluster.wait_healthy()

    def listed_as_they_run() -> dict[int, tuple[int, str]] | None:
        """A spare that was forked a moment ago goes by its Supervisor's title still."""
        running = {actor.pid: (actor.node, actor.kind) for actor in cluster.actors() if actor.kind not in UNLISTED}
        listed = {row["pid"]: (node, row["kind"]) for node in cluster.nodes for row in cluster.rows(node)}
        return running if listed == running else None

    running = until(listed_as_they_run, 10.0, "every node lists the processes that run")
    assert len([1 for _, kind in running.values() if kind == "partition"]) >= 3


# What strikes, how often, and how long no record may be acknowledged on a machine that tests something else beside.
SLICES = [
    pytest.param(["leader_kill"], 6, 2_000, id="leader kill"),
    pytest.param(["replica_kill", "coordinator_kill", "gateway_kill"], 3, 3_000, id="kill of others"),
    pytest.param(["controller_kill"], 2, 2_000, id="controller leader kill"),
    pytest.param(["leader_stop", "replica_stop"], 2, 5_000, id="stop of one process"),
    pytest.param(["node_kill"], 1, 5_000, id="node kill"),
    pytest.param(["node_stop"], 1, 5_000, id="node stop"),
    pytest.param(["all_kill"], 1, 30_000, id="all nodes at once"),
]


@pytest.mark.parametrize(("names", "count", "gap_ms"), SLICES)
def test_what_was_acknowledged_survives(
    cluster: Cluster, tmp_path: Path, names: list[str], count: int, gap_ms: float, request: pytest.FixtureRequest
) -> None:
    topic = "-".join(names)
    create_topic(cluster.bootstrap, topic, 2, 3, IN_SYNC)
    cluster.wait_healthy()
    run = Run(cluster, tmp_path, topic, 2)
    chaos = Chaos(cluster, run, seed=len(request.node.name))
    try:
        run.start(per_second=500)
        chaos.inflict(names, count=count)
        run.finish()
    finally:
        run.end()
    outcome, judgement = chaos.judge()
    assert outcome.valid is True, (outcome, judgement.findings.kept[:5], cluster.tail())
    assert outcome.acked > 200 and outcome.batches > 100, outcome
    assert max(gap for gaps in outcome.gaps.values() for gap in gaps) < gap_ms, outcome.gaps


@pytest.mark.parametrize("client", in_flight.CLIENTS)
def test_five_requests_in_flight_keep_their_order_when_the_leader_dies(cluster: Cluster, client: str) -> None:
    if client == "java" and not KAFKA_LIBS.is_dir():
        pytest.skip("Apache Kafka's jars are not there, try: make tools")
    outcome = in_flight.run(cluster, client, kills=3, seed=1)
    assert outcome.batches > 20


def test_a_hung_follower_holds_back_acks_all_alone_and_no_longer_than_the_lag_time(cluster: Cluster) -> None:
    create_topic(cluster.bootstrap, "hung", 1, 3, IN_SYNC)
    cluster.wait_healthy()
    waits = hang(cluster, "hung-0")
    assert waits.acks_all_ms < HELD_MAX_S * 1000, waits
    assert waits.acks_1_p99_ms < 500 and waits.fetch_p99_ms < 500, waits
    cluster.wait_healthy()


def test_the_judge_sees_what_acks_1_loses(cluster: Cluster, tmp_path: Path) -> None:
    """The positive control: the leader's node dies with records that its stopped followers never got."""
    create_topic(cluster.bootstrap, "loses", 1, 3, IN_SYNC)
    cluster.wait_healthy()
    run = Run(cluster, tmp_path, "loses", 1)
    try:
        run.start(per_second=300, acks="1", members=0)
        leader = cluster.leader("loses-0")
        cluster.pause(*cluster.actors("replica", name="loses-0"))
        acked = run.acked()
        until(lambda: run.acked() > acked + 20, 10, "records that only the leader has")
        cluster.kill_node(leader.node)
        cluster.resume_all()
        run.finish()
    finally:
        run.end()
    judgement = run.judge()
    found = judgement.findings.strict
    assert found["unseen"] or found["lost-write"], found
    # What the dead leader alone had was seen to go, and it is known in which epoch it was acknowledged.
    told = judgement.keys["loses-0"]
    assert run.gone and told["epochs_known"] == told["leaders_known"] == told["acked"], (run.gone, told)
