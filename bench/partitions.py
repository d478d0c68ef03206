"""Many partitions on three nodes of one machine: `python -m bench.partitions` takes 300 of RF 3.

Creates them, leaves them idle for a minute, starts the nodes again on what is there, and kills one node's whole tree.
What the nodes wrote is read for fencings, phase by phase: only the node that is killed may be fenced.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import report
from bench.processes import cpu_seconds, pss_bytes, tree
from bench.rawclient import RawClient
from tests.cluster.cluster import Cluster, running_cluster

NODES = 3
TOPIC = "many"
FIGURES = (
    *("create s", "idle CPU %", "PSS MiB", "processes", "cold start s", "leaders back s", "whole again s"),
    *("fenced creating", "fenced idle", "fenced starting", "fenced after the kill"),
)


def until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Seconds until the condition holds; asked every 50 ms, for asking costs the machine that is measured."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"{what} not within {seconds} s")
        time.sleep(0.05)
    return time.monotonic() - began


def led(cluster: Cluster, node: int, partitions: int, without: int) -> bool:
    """Whether every partition has a leader that is not ``without``, as ``node`` sees it."""
    try:
        view = cluster.view(node)
    except OSError:
        return False
    found = [one for one in view.partitions.values() if one.topic == TOPIC]
    return len(found) == partitions and all(one.leader >= 0 and one.leader != without for one in found)


def epochs(cluster: Cluster) -> int:
    """The sum of all leader epochs: it grows with every election."""
    return sum(one.epoch for one in cluster.view(cluster.nodes[0]).partitions.values())


def fencings(cluster: Cluster) -> int:
    """How often a node has said of itself or others, in what it wrote, that somebody was fenced."""
    return sum(" fenced" in line for line in cluster.log.read_text(errors="replace").splitlines())


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one cluster."""
    figures: dict[str, Any] = {}
    with running_cluster(folder, NODES, environment={"LOGEION_STORAGE__FLUSH": options.flush}) as cluster:
        assert cluster.process is not None
        began = time.monotonic()
        with RawClient(cluster.listener(cluster.nodes[0]), timeout_s=120) as client:
            client.create_topic(TOPIC, options.partitions, {"min.insync.replicas": "2"}, factor=NODES)
        cluster.wait_healthy(180)
        figures["create s"] = time.monotonic() - began
        seen = fencings(cluster)
        figures["fenced creating"] = seen
        print(figures, file=sys.stderr, flush=True)

        time.sleep(min(10.0, options.idle_seconds))  # what creating left to do is not idling
        root = cluster.process.pid
        before, elections = cpu_seconds(root), epochs(cluster)
        time.sleep(options.idle_seconds)
        figures["idle CPU %"] = 100 * (cpu_seconds(root) - before) / options.idle_seconds
        figures["PSS MiB"] = pss_bytes(root) / 2**20
        figures["processes"] = len(tree(root))
        figures["elections while idle"] = epochs(cluster) - elections
        figures["fenced idle"] = fencings(cluster) - seen
        print(figures, file=sys.stderr, flush=True)

        cluster.stop()
        seen = fencings(cluster)
        began = time.monotonic()
        cluster.start(180)
        figures["ready s"] = time.monotonic() - began
        cluster.wait_healthy(180)
        figures["cold start s"] = time.monotonic() - began
        figures["fenced starting"] = fencings(cluster) - seen
        print(figures, file=sys.stderr, flush=True)

        victim = cluster.nodes[-1]
        seen = fencings(cluster)
        began = time.monotonic()
        cluster.kill_node(victim)
        until(lambda: led(cluster, cluster.nodes[0], options.partitions, victim), 60, "all leaders back")
        figures["leaders back s"] = time.monotonic() - began
        cluster.wait_healthy(180)
        figures["whole again s"] = time.monotonic() - began
        figures["fenced after the kill"] = fencings(cluster) - seen
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--idle-seconds", type=float, default=60.0)
    parser.add_argument("--flush", choices=["ack", "interval", "os"], default="ack")
    options = parser.parse_args()
    found = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="logeion-bench-") as scratch:
            found.append(measure(Path(scratch), options))
            print(found[-1], flush=True)
    report.append("partitions", dict(vars(options)), found)
    print(report.heading(f"{options.partitions} partitions, RF 3, three nodes"))
    rows = [[number + 1, *(one[name] for name in FIGURES)] for number, one in enumerate(found)]
    print(report.table(["round", *FIGURES], rows))


if __name__ == "__main__":
    main()
