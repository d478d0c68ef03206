"""Logeion beside Apache Kafka and Tansu, on this machine, in one run.

`python -m bench.compare` is what the README's table shows: five rounds, the systems taken in turn in each, a fresh
broker in a fresh folder and a fresh client process every time, the volume warmed first, medians reported. Broker CPU
is that of its whole process tree. Smaller: `--rounds 1 --mb 50 --warm-mb 0 --acks 200 --idle-seconds 5`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from bench import load, report
from bench.load import RECORD_BYTES
from bench.processes import cpu_seconds, pss_bytes
from bench.rawclient import RawClient, first_ack
from bench.systems import SYSTEMS, System, warm_volume
from tests.interop.peers import KAFKA_JVM, Peer

Figures = dict[str, float | None]


def throughput(peer: Peer, folder: Path, records: int, warm_records: int, partitions: int) -> Figures:
    """Produce, then consume the same records; megabytes a second and the broker's CPU for each gigabyte.

    A smaller load on another topic goes first: a JVM compiles what it then runs, and a broker in use is a warm one. The
    volume is warmed right before the measured produce: the host takes freed pages back within seconds, and the first
    write to such a page would then count as the broker's (one of ours costs 0.8 CPU-s/GB warm, 1.7 cold).
    """
    with RawClient(peer.bootstrap) as client:
        client.create_topic("load", partitions)
        client.create_topic("warm", partitions)
    if warm_records:
        load.run("produce", peer.bootstrap, "warm", partitions, warm_records)
        load.run("consume", peer.bootstrap, "warm", partitions, warm_records)
    gigabytes = records * RECORD_BYTES / 1e9
    figures: Figures = {}
    for what in ("produce", "consume"):
        if what == "produce":
            warm_volume(folder, records * RECORD_BYTES * 11 // 10)
        before = cpu_seconds(peer.process.pid)
        result = load.run(what, peer.bootstrap, "load", partitions, records)
        used = cpu_seconds(peer.process.pid) - before
        figures[f"{what} MB/s"] = result["mb_s"]
        figures[f"{what} CPU-s/GB"] = used / gigabytes
    return figures


def one_at_a_time(peer: Peer, records: int) -> Figures:
    with RawClient(peer.bootstrap) as client:
        client.create_topic("acks", 1)
    result = load.run("acks", peer.bootstrap, "acks", 1, records)
    return {"ack p50 ms": result["p50_ms"], "ack p99 ms": result["p99_ms"]}


def idle(peer: Peer, seconds: float) -> Figures:
    """A node with one topic of one partition that nobody uses: memory and processor share of all its processes."""
    with RawClient(peer.bootstrap) as client:
        client.create_topic("idle", 1)
    time.sleep(min(5.0, seconds))  # what starting up left to do is not idling
    before = cpu_seconds(peer.process.pid)
    time.sleep(seconds)
    used = cpu_seconds(peer.process.pid) - before
    return {"idle PSS MiB": pss_bytes(peer.process.pid) / 2**20, "idle CPU %": 100 * used / seconds}


def start_to_first_ack(system: System, folder: Path) -> Figures:
    """From starting the process (directory formatted, no topics) to the first acknowledged record."""
    with system.start(folder, ready=lambda peer, port: None) as peer:
        return {"first ack s": first_ack(peer.bootstrap, "first", create=True) - peer.started}


def measure(system: System, folder: Path, options: argparse.Namespace) -> Figures:
    """One round of one system."""
    figures = start_to_first_ack(system, folder / "start")
    megabyte = 1_000_000
    with system.start(folder / "load") as peer:
        records, warm_records = (size * megabyte // RECORD_BYTES for size in (options.mb, options.warm_mb))
        figures |= throughput(peer, folder, records, warm_records, options.partitions)
    with system.start(folder / "acks") as peer:
        figures |= one_at_a_time(peer, options.acks)
    return figures


FIGURES = (
    *("produce MB/s", "produce CPU-s/GB", "consume MB/s", "consume CPU-s/GB"),
    *("ack p50 ms", "ack p99 ms", "first ack s", "idle PSS MiB", "idle CPU %"),
)


def rows(systems: list[System], rounds: dict[str, list[Figures]]) -> list[list[object]]:
    return [
        [system.title, *(report.median([figures.get(name) for figures in rounds[system.key]]) for name in FIGURES)]
        for system in systems
    ]


def ratios(systems: list[System], rounds: dict[str, list[Figures]]) -> list[list[object]]:
    """Ours over theirs, for each rival: medians against medians."""

    def of(key: str, name: str) -> float | None:
        return report.median([figures.get(name) for figures in rounds[key]])

    found = []
    for system in systems:
        ours = system.rival_of
        if ours in rounds:
            row: list[object] = [f"{SYSTEMS[ours].title} / {system.title}"]
            for name in FIGURES:
                mine, theirs = of(ours, name), of(system.key, name)
                row.append(mine / theirs if mine is not None and theirs else None)
            found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default=",".join(SYSTEMS), help=f"of {', '.join(SYSTEMS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mb", type=int, default=2000, help="megabytes of 1 KB records a round (default 2000)")
    parser.add_argument("--warm-mb", type=int, default=300, help="megabytes that go first, unmeasured (default 300)")
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--acks", type=int, default=2000, help="records sent one at a time (default 2000)")
    parser.add_argument("--idle-seconds", type=float, default=60.0, help="0 leaves it out (default 60)")
    parser.add_argument("--folder", type=Path, default=None, help="where the brokers keep their data (default: TMPDIR)")
    options = parser.parse_args()
    systems = [SYSTEMS[key] for key in options.systems.split(",")]
    rounds: dict[str, list[Figures]] = {system.key: [] for system in systems}
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="logeion-bench-") as scratch:
        for number in range(options.rounds):
            for system in systems:
                folder = Path(scratch) / f"{system.key}-{number}"
                folder.mkdir()
                rounds[system.key].append(measure(system, folder, options))
                shutil.rmtree(folder, ignore_errors=True)
                print(f"round {number + 1} {system.key}: {rounds[system.key][-1]}", file=sys.stderr)
        for system in systems:
            with system.start(Path(scratch) / f"{system.key}-idle") as peer:
                versions[system.title] = f"{peer.name} {peer.version}"
                if options.idle_seconds:
                    rounds[system.key].append(idle(peer, options.idle_seconds))
    named = ", ".join(f"{title}: {version}" for title, version in versions.items())
    parameters = {name: value for name, value in vars(options).items() if name != "folder"}
    parameters |= {"versions": versions, "kafka_jvm": KAFKA_JVM}
    report.append("compare", parameters, rounds)
    print(report.heading("Beside others"))
    print(report.table(["medians", *FIGURES], rows(systems, rounds)))
    compared = ratios(systems, rounds)
    if compared:
        print()
        print(report.table(["ours / theirs", *FIGURES], compared))
    sizes = f"{options.rounds} rounds of {options.mb} MB, {options.partitions} partition(s), {options.acks} acks"
    print(f"\n{sizes}. {named}.")


if __name__ == "__main__":
    main()
