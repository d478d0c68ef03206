"""``logeion cluster unregister``: a node that is gone for good does not keep the cluster unhealthy for ever."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.cluster.broker import until
from tests.cluster.cluster import Cluster, running_cluster

UNHEALTHY = 10


def logeion(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    first = cluster.listener(cluster.nodes[0])
    return subprocess.run(
        [sys.executable, "-m", "logeion", *arguments, "-b", first], capture_output=True, text=True, timeout=60
    )


def healthy_nodes(cluster: Cluster) -> list[int]:
    """The nodes of a healthy cluster, else none."""
    found = json.loads(logeion(cluster, "cluster", "health", "-o", "json").stdout or "{}")
    return sorted(found["nodes"]) if found.get("healthy") else []


def test_a_node_is_forgotten_for_as_long_as_it_does_not_run(tmp_path: Path) -> None:
    with running_cluster(tmp_path, 3, "--no-restart") as cluster:
        cluster.wait_healthy()
        assert logeion(cluster, "cluster", "unregister", "9").returncode == 1

        # It runs: it registers again, and no process minds.
        before = cluster.actors("node")
        assert logeion(cluster, "cluster", "unregister", "3").returncode == 0
        until(lambda: healthy_nodes(cluster) == [1, 2, 3], 20, "three nodes again")
        assert cluster.actors("node") == before

        cluster.kill_node(3)
        until(lambda: logeion(cluster, "cluster", "health").returncode == UNHEALTHY, 20, "unhealthy")
        done = logeion(cluster, "cluster", "unregister", "3")
        assert (done.returncode, done.stdout) == (0, "node 3 is not registered any more\n"), done.stderr
        until(lambda: healthy_nodes(cluster) == [1, 2], 20, "healthy without it")
