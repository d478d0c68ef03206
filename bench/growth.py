"""Does a broker's cost grow with what it holds?

CPU a record on an empty and a full log, over one and many partitions, and the restart after `kill -9` with little and
with much data.

`python -m bench.growth` fills 20 GB (be sure there is room: `--folder`); smaller: `--gb 0.2 --mb 50 --rounds 1`.
Batches are built beforehand and always the same, so that only the broker differs.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import report
from bench.processes import cpu_seconds, tree
from bench.rawclient import RawClient, batch, first_ack
from bench.systems import SYSTEMS, System, kill_tree, warm_volume
from tests.interop.peers import Peer

RECORDS_A_BATCH = 900  # of 1 KB: the 1 MB batches of the other figures
BATCH = batch(RECORDS_A_BATCH, bytes(1024))


def cpu_us_a_record(peer: Peer, work: Callable[[], None], records: int) -> float:
    before = cpu_seconds(peer.process.pid)
    work()
    return (cpu_seconds(peer.process.pid) - before) / records * 1e6


def produce_and_fetch(peer: Peer, topic: str, partitions: int, batches: int) -> tuple[float, float | None]:
    """CPU microseconds a record, produced and (one partition only) fetched again from where the produce began."""
    with RawClient(peer.bootstrap) as client:
        client.settle(topic, partitions)
        begin = client.end_offset(topic, 0)
        records = batches * RECORDS_A_BATCH
        produced = cpu_us_a_record(peer, lambda: client.produce_many(topic, partitions, BATCH, batches), records)
        if partitions > 1:
            return produced, None
        end = client.end_offset(topic, 0)
        return produced, cpu_us_a_record(peer, lambda: void(client.fetch_many(topic, 0, begin, end)), records)


def void(_: object) -> None:
    """For a lambda whose value nobody wants."""


def growing_log(peer: Peer, options: argparse.Namespace) -> dict[str, list[float | None]]:
    """Rounds on a new topic and on the full one, in turn."""
    batches = options.mb * 1_000_000 // len(BATCH)
    with RawClient(peer.bootstrap) as client:
        client.create_topic("full", 1)
        client.settle("full", 1)
        client.produce_many("full", 1, BATCH, int(options.gb * 1e9) // len(BATCH))
    found: dict[str, list[float | None]] = {"empty": [], "full": [], "empty, fetch": [], "full, fetch": []}
    for number in range(options.rounds):
        with RawClient(peer.bootstrap) as client:
            client.create_topic(f"empty-{number}", 1)
        for name, topic in (("empty", f"empty-{number}"), ("full", "full")):
            warm_volume(options.scratch, options.mb * 1_000_000)
            produced, fetched = produce_and_fetch(peer, topic, 1, batches)
            found[name].append(produced)
            found[f"{name}, fetch"].append(fetched)
    return found


def growing_partitions(peer: Peer, options: argparse.Namespace) -> dict[str, list[float | None]]:
    batches = options.mb * 1_000_000 // len(BATCH)
    found: dict[str, list[float | None]] = {"1": [], str(options.partitions): []}
    with RawClient(peer.bootstrap) as client:
        for count in (1, options.partitions):
            client.create_topic(f"over-{count}", count)
            client.settle(f"over-{count}", count)
    for _ in range(options.rounds):
        for count in (1, options.partitions):
            warm_volume(options.scratch, options.mb * 1_000_000)
            found[str(count)].append(produce_and_fetch(peer, f"over-{count}", count, batches)[0])
    return found


def killed_and_back(system: System, folder: Path, topic: str) -> float:
    """Start on the folder's data, write, kill -9 the whole tree, start again: seconds from start to first ack."""
    with system.start(folder) as peer:
        with RawClient(peer.bootstrap) as client:
            client.settle(topic, 1)
            client.produce_many(topic, 1, BATCH, 20)
        kill_tree(tree(peer.process.pid))
    with system.start(folder, ready=lambda peer, port: None) as peer:
        return first_ack(peer.bootstrap, topic, create=False) - peer.started


def restarts(system: System, full: Path, options: argparse.Namespace) -> dict[str, list[float | None]]:
    small = options.scratch / "small"
    with system.start(small) as peer, RawClient(peer.bootstrap) as client:
        client.create_topic("full", 1)
        client.settle("full", 1)
    found: dict[str, list[float | None]] = {"little": [], "much": []}
    for _ in range(options.rounds):
        found["little"].append(killed_and_back(system, small, "full"))
        found["much"].append(killed_and_back(system, full, "full"))
    return found


def show(title: str, unit: str, found: dict[str, list[float | None]]) -> list[list[object]]:
    """A row a pair: the median of the small case, of the large one, and their ratio."""
    names = list(found)
    rows: list[list[object]] = []
    for i in range(0, len(names), 2):
        small, large = (report.median(found[name]) for name in names[i : i + 2])
        ratio = large / small if small and large is not None else None
        rows.append([f"{title}: {names[i]} -> {names[i + 1]}", unit, small, large, ratio])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", default="logeion-os", choices=SYSTEMS)
    parser.add_argument("--gb", type=float, default=20.0, help="how full the full log is (default 20)")
    parser.add_argument("--mb", type=int, default=1000, help="megabytes measured a round (default 1000)")
    parser.add_argument("--partitions", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="where the data goes (default: TMPDIR)")
    options = parser.parse_args()
    system = SYSTEMS[options.system]
    result: dict[str, dict[str, list[float | None]]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="logeion-growth-") as scratch:
        options.scratch = Path(scratch)
        with system.start(options.scratch / "many") as peer:
            result["partitions"] = growing_partitions(peer, options)
        shutil.rmtree(options.scratch / "many", ignore_errors=True)
        with system.start(options.scratch / "full") as peer:
            result["log"] = growing_log(peer, options)
        result["restart"] = restarts(system, options.scratch / "full", options)
    parameters = {name: value for name, value in vars(options).items() if name not in ("folder", "scratch")}
    parameters |= {"bytes_a_batch": len(BATCH), "records_a_batch": RECORDS_A_BATCH}
    report.append("growth", parameters, result)
    print(report.heading(f"Growth: {system.title}"))
    rows = show("produce, log", "CPU us/record", {name: result["log"][name] for name in ("empty", "full")})
    rows += show("fetch, log", "CPU us/record", {name: result["log"][f"{name}, fetch"] for name in ("empty", "full")})
    rows += show("produce, partitions", "CPU us/record", result["partitions"])
    rows += show("restart, data", "s to first ack", result["restart"])
    print(report.table(["median", "unit", "small", "large", "ratio"], rows))
    print(
        f"\n{options.rounds} rounds of {options.mb} MB in batches of {RECORDS_A_BATCH} records, full = {options.gb} GB."
    )


if __name__ == "__main__":
    main()
