"""Three nodes of Logeion beside three brokers of Apache Kafka, on this machine, in one run: RF 3, acks=all.

`python -m bench.replicated` takes five rounds, the systems in turn in each, a fresh cluster in a fresh folder and a
fresh client process every time, the volume warmed first, medians reported. Kafka's three nodes are broker and
controller each, at their defaults. CPU is that of all processes of a cluster. Smaller: `--rounds 1 --mb 50 --warm-mb 0
--acks 200`.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import load, report
from bench.load import RECORD_BYTES
from bench.processes import cpu_seconds, pss_bytes
from bench.rawclient import RawClient
from bench.systems import SYNC_EACH, warm_volume
from tests.cluster.cluster import running_cluster
from tests.interop.peers import KAFKA_JVM, java, kafka_properties, kafka_version, running, wait_ready

Figures = dict[str, float | None]
NODES = 3
IN_SYNC = {"min.insync.replicas": "2"}
FIGURES = ("produce MB/s", "produce CPU-s/GB", "ack p50 ms", "ack p99 ms", "PSS MiB")


@dataclass(frozen=True)
class Trio:
    """A running cluster: where clients reach it, and the processes at the roots of its trees."""

    bootstrap: str
    roots: list[int]

    def cpu_seconds(self) -> float:
        return sum(cpu_seconds(root) for root in self.roots)

    def pss_bytes(self) -> int:
        return sum(pss_bytes(root) for root in self.roots)

    def create_topic(self, topic: str, partitions: int) -> None:
        """With a replica on every node; tried until the nodes know each other."""
        with RawClient(self.bootstrap.split(",")[0]) as client:
            client.create_topic(topic, partitions, IN_SYNC, factor=NODES)


@contextlib.contextmanager
def logeion_trio(folder: Path, *, flush: str) -> Iterator[Trio]:
    """`logeion up -n 3`."""
    with running_cluster(folder, NODES, environment={"LOGEION_STORAGE__FLUSH": flush}) as cluster:
        assert cluster.process is not None
        yield Trio(cluster.bootstrap, [cluster.process.pid])


def quiet_ports(count: int) -> list[int]:
    """Free ports below those that the kernel gives to outgoing connections: formatting three folders takes seconds."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(15_000, 30_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            found.append(port)
    return found


@contextlib.contextmanager
def kafka_trio(folder: Path, *, overrides: Mapping[str, str] | None = None) -> Iterator[Trio]:
    """Three nodes of Apache Kafka, each broker and voter, with Kafka's own replication factors."""
    every = quiet_ports(2 * NODES)
    ports, controller_ports = every[:NODES], every[NODES:]
    voters = ",".join(f"{node}@127.0.0.1:{controller_ports[node - 1]}" for node in range(1, NODES + 1))
    roots = []
    with contextlib.ExitStack() as stack:
        for node, port, controller_port in zip(range(1, NODES + 1), ports, controller_ports, strict=True):
            home = folder / f"kafka-{node}"
            home.mkdir(parents=True)
            properties = home / "server.properties"
            settings = {"node.id": str(node), "controller.quorum.voters": voters, **(overrides or {})}
            text = kafka_properties(home / "data", port, controller_port, settings)
            single = ("controller.quorum.bootstrap.servers", "offsets.topic", "transaction.state", "share.coordinator")
            kept = [line for line in text.splitlines(keepends=True) if not line.startswith(single)]
            properties.write_text("".join(kept))
            form = ["format", "-t", "AAAAAAAAQACAAAAAAAAAAQ", "-c", str(properties)]
            subprocess.run(java("kafka.tools.StorageTool", *form), check=True, capture_output=True)
            command = java("kafka.Kafka", str(properties), jvm=KAFKA_JVM)
            # They need each other to be ready: all are started before one is waited for.
            peer = stack.enter_context(
                running("Apache Kafka", kafka_version(), command, port, home / "kafka.log", lambda peer, port: None)
            )
            roots.append((peer, port))
        for peer, port in roots:
            wait_ready(peer, port)
        yield Trio(",".join(f"127.0.0.1:{port}" for port in ports), [peer.process.pid for peer, _ in roots])


@dataclass(frozen=True)
class System:
    """A cluster with one durability setting, and which of ours it is compared with."""

    key: str
    title: str
    start: Callable[[Path], AbstractContextManager[Trio]]
    rival_of: str | None = None


SYSTEMS = {
    system.key: system
    for system in (
        System("logeion-os", "Logeion, flush=os", partial(logeion_trio, flush="os")),
        System("kafka", "Apache Kafka, default", kafka_trio, rival_of="logeion-os"),
        System("logeion-ack", "Logeion, flush=ack", partial(logeion_trio, flush="ack")),
        System(
            "kafka-sync",
            "Apache Kafka, log.flush.interval.messages=1",
            partial(kafka_trio, overrides=SYNC_EACH),
            rival_of="logeion-ack",
        ),
    )
}


def measure(system: System, folder: Path, options: argparse.Namespace) -> Figures:
    """One round of one system: megabytes a second, then one record at a time."""
    megabyte = 1_000_000
    records, warm_records = (size * megabyte // RECORD_BYTES for size in (options.mb, options.warm_mb))
    figures: Figures = {}
    with system.start(folder) as trio:
        trio.create_topic("load", options.partitions)
        trio.create_topic("warm", options.partitions)
        trio.create_topic("acks", 1)
        if warm_records:
            load.run("produce", trio.bootstrap, "warm", options.partitions, warm_records)
        warm_volume(folder, NODES * records * RECORD_BYTES * 11 // 10)
        before = trio.cpu_seconds()
        figures["produce MB/s"] = load.run("produce", trio.bootstrap, "load", options.partitions, records)["mb_s"]
        figures["produce CPU-s/GB"] = (trio.cpu_seconds() - before) / (records * RECORD_BYTES / 1e9)
        result = load.run("acks", trio.bootstrap, "acks", 1, options.acks)
        figures |= {"ack p50 ms": result["p50_ms"], "ack p99 ms": result["p99_ms"]}
        figures["PSS MiB"] = trio.pss_bytes() / 2**20
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default=",".join(SYSTEMS), help=f"of {', '.join(SYSTEMS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mb", type=int, default=1000, help="megabytes of 1 KB records a round (default 1000)")
    parser.add_argument("--warm-mb", type=int, default=200, help="megabytes that go first, unmeasured (default 200)")
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--acks", type=int, default=2000, help="records sent one at a time (default 2000)")
    parser.add_argument("--folder", type=Path, default=None, help="where the nodes keep their data (default: TMPDIR)")
    options = parser.parse_args()
    systems = [SYSTEMS[key] for key in options.systems.split(",")]
    rounds: dict[str, list[Figures]] = {system.key: [] for system in systems}
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="logeion-bench-") as scratch:
        for number in range(options.rounds):
            for system in systems:
                folder = Path(scratch) / f"{system.key}-{number}"
                folder.mkdir()
                rounds[system.key].append(measure(system, folder, options))
                shutil.rmtree(folder, ignore_errors=True)
                print(f"round {number + 1} {system.key}: {rounds[system.key][-1]}", file=sys.stderr, flush=True)
    parameters = {name: value for name, value in vars(options).items() if name != "folder"}
    report.append("replicated", parameters | {"kafka": kafka_version(), "kafka_jvm": KAFKA_JVM}, rounds)
    medians = {
        key: [report.median([one.get(name) for one in found]) for name in FIGURES] for key, found in rounds.items()
    }
    print(report.heading("Three nodes, RF 3, acks=all"))
    print(report.table(["medians", *FIGURES], [[system.title, *medians[system.key]] for system in systems]))
    compared = [
        [f"{SYSTEMS[ours].title} / {system.title}", *map(report.ratio, medians[ours], medians[system.key])]
        for system in systems
        if (ours := system.rival_of) in rounds and ours is not None
    ]
    if compared:
        print()
        print(report.table(["ours / theirs", *FIGURES], compared))
    print(
        f"\n{options.rounds} rounds of {options.mb} MB, {options.partitions} partition(s), {options.acks} acks. "
        f"Apache Kafka {kafka_version()}."
    )


if __name__ == "__main__":
    main()
