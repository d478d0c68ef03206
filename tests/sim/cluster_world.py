"""The whole cluster in one thread: Raft, controllers, nodes, leaders, followers and clients on failing machines.

A world is a seed. Everything that decides is the real thing (machines, log, epochs, producers' state); what it runs on
is simulated: time, processes, lanes, Raft's network, disks, power. The judge (``cluster_judge``) looks at every step.
After the faults comes a calm in which all must come to one end: each partition led, all replicas equal and in sync,
everything acknowledged readable.

    python -m tests.sim.cluster_world --seeds 1000 --start 0 [--jobs 2] [--plant NAME]
    python -m tests.sim.cluster_world --seeds 1000 --start 15 --step 16      (those in which clients talk to gateways)
    python -m tests.sim.cluster_world --seeds 1000 --start 11 --step 16                 (those with consumer groups)
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import multiprocessing
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import msgspec

from logeion.actors.node import local, removal
from tests.sim import unclean
from tests.sim.aio import simulated
from tests.sim.cluster_judge import Key, Truth
from tests.sim.engine import Violated
from tests.sim.faults import Faults
from tests.sim.followers import ReplicaProcess
from tests.sim.leaders import PartitionProcess
from tests.sim.network import Port
from tests.sim.unclean import CLASS, UNCLEAN
from tests.sim.world import Settings, World

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results" / "sim.jsonl"
# A seed that has not come to rest by then, after all was healed, never will.
CALM_S = 40.0
CHUNK = 25
# One seed of so many is a seesaw: what only a truncation before another election shows, the others hardly see.
SEESAW = 8
# One of so many is hunted.
HUNTED = 32
# In one of so many the quorum's voters come and go. Once all is whole nobody may stand for so long.
MOVING = 16
QUIET_S = 4.0
# In one of so many, clients talk to gateways.
GATEWAYS = 16
# One of so many has consumer groups.
GROUPS = 16


class Crashed(AssertionError):
    """A process of the product ended of an exception that nobody expected."""


def drawn(seed: int) -> Settings:
    """What this seed's cluster is like."""
    if seed % UNCLEAN == CLASS:
        return Settings(**unclean.drawn(seed))  # type: ignore[arg-type]
    chance = random.Random(seed * 7919 + 1)
    if seed % SEESAW == 5:
        return Settings(
            voters=1,
            segment_bytes=chance.choice((1_048_576, 1024)),
            rebalance_s=chance.choice((0.0, 0.2)),
            fetch_bytes=chance.choice((16_384, 256)),
            slow_disk=chance.choice((0.002, 0.05)),
            seesaw=True,
            late_s=chance.choice((0.0, 1.0)),
        )
    if seed % HUNTED == 9:
        # The quorum stays: it is to name other leaders.
        return Settings(
            nodes=4,
            voters=1,
            assigned=chance.sample((2, 3, 4), 3),
            fetch_bytes=256,
            slow_disk=chance.choice((0.002, 0.05)),
            # As in real life: who is gone is fenced, and may register anew, before it counts as lagging.
            heartbeat_s=0.2,
            session_s=0.6,
            lag_time_max_s=1.5,
            hunted=True,
        )
    if seed % MOVING == 3:
        return Settings(
            nodes=chance.choice((4, 4, 5)),
            voters=chance.choice((1, 3, 3, 3, 3, 3)),
            fetch_bytes=chance.choice((16_384, 256)),
            slow_disk=chance.choice((0.002, 0.004, 0.05)),
            # One that is far behind gets a snapshot, which says who votes, in pieces.
            snapshot_bytes=chance.choice((1_048_576, 1_500)),
            raft_bytes=chance.choice((1_048_576, 400)),
            # Voters whose patience is nearly the same stand soon, and against each other.
            patience=chance.choice((2.0, 1.05)),
            moves_voters=True,
        )
    if seed % GROUPS == 11:
        return Settings(
            nodes=chance.choice((3, 3, 3, 4)),
            voters=chance.choice((1, 3, 3)),
            partitions=3,
            groups=chance.choice((1, 2, 3)),
            gateways=1,
            offsets_partitions=chance.choice((1, 1, 2)),
            segment_bytes=chance.choice((1_048_576, 1_048_576, 2048)),
            rebalance_s=chance.choice((0.0, 2.0)),
            fetch_bytes=chance.choice((16_384, 256)),
            slow_disk=chance.choice((0.002, 0.004, 0.05)),
            snapshot_bytes=chance.choice((1_048_576, 1_500)),
        )
    nodes = chance.choice((3, 3, 3, 4))
    min_isr = chance.choice((2, 2, 2, 1))
    settings = Settings(
        nodes=nodes,
        voters=chance.choice((1, 3, 3)),
        partitions=chance.choice((1, 1, 2)),
        min_isr=min_isr,
        flush=chance.choice(("ack", "ack", "ack", "os")),
        segment_bytes=chance.choice((1_048_576, 1_048_576, 1024)),
        rebalance_s=chance.choice((0.0, 2.0)),
        wait_ms=chance.choice((30_000, 500)),
        fetch_bytes=chance.choice((16_384, 256)),
        slow_disk=chance.choice((0.002, 0.004, 0.05)),
        late_s=chance.choice((0.0, 0.0, 0.0, 1.0)),
        # Metadata snapshots, and pieces of them: who is far behind gets one instead of the log.
        snapshot_bytes=chance.choice((1_048_576, 1_048_576, 1_048_576, 1_500)),
        raft_bytes=chance.choice((1_048_576, 1_048_576, 400)),
        moves_min_isr=chance.random() < 0.15,
    )
    if seed % GATEWAYS == 15:
        settings.gateways = chance.choice((1, 1, 2))
        settings.failover_wait_ms = chance.choice((3000, 300))
        settings.stranded = chance.random() < 0.4
        if settings.stranded:
            # Who is cut off is soon replaced.
            settings.heartbeat_s, settings.session_s, settings.election_s = 0.2, 0.6, 0.4
    return settings


class ClusterWorld(World):
    """One seed's life: boot, faults, calm."""

    def __init__(self, seed: int, settings: Settings | None = None) -> None:
        super().__init__(seed, settings or drawn(seed))
        chance = self.engine.random
        self.faulty_s = chance.choice((1.0, 2.0, 3.5))
        self.pace = chance.choice((0.08, 0.2, 0.4)) if not self.settings.seesaw else 0.08
        if self.settings.hunted:
            # A leader that is gone is missed after a while only.
            self.faulty_s, self.pace = 3.0, 0.5
        if self.settings.unclean:
            # Long enough for somebody to be left behind, missed and succeeded, twice.
            self.faulty_s, self.pace = chance.choice((4.0, 6.0)), chance.choice((0.3, 0.6))
        if self.settings.gateways and not self.settings.groups:
            # A host that is cut off is replaced after a session only; what it tells its clients then is what matters.
            self.faulty_s += 1.0
        if self.settings.stranded:
            self.faulty_s, self.pace = 4.5, 0.3
        if self.settings.groups:
            self.faulty_s, self.pace = chance.choice((3.0, 6.0)), chance.choice((0.1, 0.2, 0.5))
        self.faults: Faults | None = None

    def live(self) -> None:
        """From the first process to the last judgement."""
        with mock.patch.object(local, "OFFLINE_RETRY_S", 3.0), mock.patch.object(removal, "OFFLINE_RETRY_S", 3.0):
            with simulated() if self.settings.gateways else contextlib.nullcontext():
                self._live()

    def _live(self) -> None:
        self.boot()
        chance = self.engine.random
        until = self.engine.time + self.faulty_s
        if self.groups is not None:
            self.groups.begin(until)
        for key in self.keys() if self.groups is None else ():
            if self.settings.seesaw or self.settings.hunted:
                for _ in range(3 if self.settings.seesaw else 1):
                    self.add_producer(key, pace=0.02, until=until)
                self.add_careless(key, pace=0.02, until=until)
            for _ in range(chance.choice((1, 2))):
                self.add_producer(key, pace=chance.choice((0.03, 0.1, 0.3)), until=until)
            if chance.random() < 0.7:
                self.add_careless(key, pace=chance.choice((0.05, 0.3)), until=until)
            for _ in range(3 if self.settings.stranded else 1):
                self.add_consumer(key)
        self.faults = Faults(self, until, self.pace)
        self.faults.begin()
        self.run(until + 1e-6)
        self.run_until(self.settled, CALM_S, "without faults, and not settled")
        self.check_equal()
        if self.settings.moves_voters:
            term = self.quorum.term()
            self.run(self.engine.time + QUIET_S)
            self.quorum.check_quiet(term)
        if self.settings.gateways:
            self.run_until(self.inspect_gateways, 10.0, "a gateway does not tell who leads", every=1)
        for truth in self.judge.truths.values():
            self.gateway_judge.nothing_twice(truth)
        if self.crashes:
            raise Crashed(self.crashes[0])

    def diverged(self, leader: PartitionProcess, lane: Port) -> None:
        if self.faults is not None:
            self.faults.ambushes.diverged(leader, lane)

    def elected(self, truth: Truth) -> None:
        if self.faults is not None:
            self.faults.ambushes.elected(truth)
        if self.groups is not None:
            self.groups.elected(truth)

    def committed(self, truth: Truth, host: int) -> None:
        if self.faults is not None:
            self.faults.ambushes.committed(truth, host)
        if self.groups is not None:
            self.groups.judge.committed(truth)

    def quorum_led(self, host: int) -> None:
        if self.faults is not None:
            self.faults.voter_faults.leads(host)

    def keys(self) -> list[Key]:
        """The partitions."""
        return list(self.judge.truths)

    def settled(self) -> bool:
        """Everybody agrees, and nobody waits."""
        if self.faults is not None and (self.faults.recreation.busy or self.faults.voter_faults.asking):
            return False
        if self.groups is not None and not self.groups.settled():
            return False
        for client in self.clients:
            if client.alive and not client.done:  # type: ignore[attr-defined]
                return False
        if self.settings.moves_voters and not self.quorum.is_whole():
            return False
        if self.settings.gateways and not self.gateway_judge.agrees():
            return False
        return all(self._is_whole(truth) for truth in self.judge.truths.values())

    def _is_whole(self, truth: Truth) -> bool:
        newest = truth.newest
        if newest is None or newest.leader < 0 or len(newest.isr) < len(newest.replicas) or newest.adding:
            return False
        leader = self.hosts[newest.leader].processes.get(f"partition/{truth.directory}")
        if not isinstance(leader, PartitionProcess) or leader.log is None or leader.state != "running":
            return False
        if leader.start.epoch != newest.leader_epoch or leader.machine.resigned:
            return False
        end = leader.log.end_offset
        if leader.log.high_watermark != end or (truth.end != end and truth.end):
            return False
        followers = [self.hosts[node].processes.get(f"replica/{truth.directory}") for node in newest.replicas]
        return all(
            isinstance(process, ReplicaProcess)
            and process.log is not None
            # One that has not heard of a new leader may still hold more than that has.
            and process.log.high_watermark == process.log.end_offset == end
            for node, process in zip(newest.replicas, followers, strict=True)
            if node != newest.leader
        )

    def check_equal(self) -> None:
        """All replicas hold the same bytes, and those are the truth."""
        for truth in self.judge.truths.values():
            assert truth.newest is not None
            for node in truth.newest.replicas:
                replica = self.judge.replica(node, truth)
                view = replica.here
                view.refresh()
                # What a leader of a history that is over was told to delete, only some have deleted.
                start = max(truth.start, replica.log_start)
                held = [batch for batch in view.batches if batch.next > start]
                true = [batch for batch in truth.batches.values() if batch.next > start]
                mine = (
                    [(batch.base, batch.epoch, batch.body) for batch in held if batch.base >= true[0].base]
                    if true
                    else []
                )
                if mine != [(batch.base, batch.epoch, batch.body) for batch in true]:
                    raise Violated(f"split replica: {truth.describe()} on {node} holds other batches at the end")

    def digest(self) -> str:
        """Of all that was ever noted and of all disks."""
        found = hashlib.sha256("\n".join(self.engine.trace).encode())
        for host in self.hosts.values():
            for path, names in host.disk.names.items():
                for name, inode in names.items():
                    found.update(f"{host.number}{path}/{name}".encode() + inode.data)
        return found.hexdigest()


def run_seed(seed: int, *, settings: Settings | None = None) -> ClusterWorld:
    """Run one world to its end; raises ``Violated`` or ``Crashed`` with the seed and the command that repeats it."""
    world = ClusterWorld(seed, settings)
    tell(world)
    return world


def tell(world: ClusterWorld) -> None:
    """Run this world to its end; raises as ``run_seed`` does."""
    seed = world.seed
    repeat = f"repeat: python -m tests.sim.cluster_world --seeds 1 --start {seed} --trace"
    try:
        world.live()
    except Violated as violation:
        raise type(violation)(f"seed {seed} at {world.engine.time:.4f} s: {violation}\n{repeat}") from violation
    except Crashed as crash:
        raise Crashed(f"seed {seed}: {crash}\n{repeat}") from crash


# Many seeds -----------------------------------------------------------------------------------------------------------


class Report(msgspec.Struct):
    """What a run of seeds came to; one line of ``bench/results/sim.jsonl``."""

    start: int
    seeds: int
    failed: list[str] = []
    seconds: float = 0.0
    cpu_s: float = 0.0
    seeds_per_s: float = 0.0
    steps: int = 0
    acks: int = 0
    group_acks: int = 0
    elections: int = 0
    faults: dict[str, int] = {}
    gateways: dict[str, int] = {}
    jobs: int = 1
    commit: str = ""
    date: str = ""
    kind: str = "cluster"


def run_chunk(bounds: tuple[int, int, int]) -> Report:
    """Some seeds, one after the other; the failing ones are named."""
    began = time.process_time()
    report = Report(bounds[0], 0)
    gc.disable()
    gc.collect()
    gc.freeze()
    # What ``close`` leaves behind is collected with the next chunk: some hundred kilobytes a seed.
    for seed in range(*bounds):
        report.seeds += 1
        world = ClusterWorld(seed)
        try:
            tell(world)
        except (Violated, Crashed) as failure:
            report.failed.append(str(failure))
            continue
        finally:
            world.close()
        report.steps += world.engine.steps
        report.acks += world.judge.acks
        report.group_acks += world.groups.judge.acks if world.groups is not None else 0
        report.elections += world.judge.elections
        for name, count in world.faults.counts.items() if world.faults is not None else ():
            report.faults[name] = report.faults.get(name, 0) + count
        for name, count in world.gateway_judge.counts.items():
            report.gateways[name] = report.gateways.get(name, 0) + count
    report.cpu_s = time.process_time() - began
    return report


def chunks(start: int, seeds: int, step: int = 1) -> list[tuple[int, int, int]]:
    end = start + seeds * step
    return [(at, min(at + CHUNK * step, end), step) for at in range(start, end, CHUNK * step)]


@contextlib.contextmanager
def workers(jobs: int) -> Iterator[object]:
    """``map`` over so many processes."""
    if jobs == 1:
        yield map
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield pool.imap


def commit_of() -> str:
    """The commit that runs, with a + if the tree differs from it."""
    root = RESULTS.parents[2]
    run = lambda *words: subprocess.run(  # noqa: E731
        ["git", *words], cwd=root, capture_output=True, text=True, check=False
    ).stdout.strip()
    return run("rev-parse", "--short", "HEAD") + ("+" if run("status", "--porcelain", "-uno") else "")


def add(total: Report, part: Report) -> None:
    total.seeds += part.seeds
    total.failed += part.failed
    total.cpu_s += part.cpu_s
    total.steps += part.steps
    total.acks += part.acks
    total.group_acks += part.group_acks
    total.elections += part.elections
    for name, count in part.faults.items():
        total.faults[name] = total.faults.get(name, 0) + count
    for name, count in part.gateways.items():
        total.gateways[name] = total.gateways.get(name, 0) + count


def covered(commit: str | None = None) -> int:
    """The first seed that no line of the results covers without a gap from 0 on."""
    end = 0
    if RESULTS.exists():
        rows = [msgspec.json.decode(line, type=Report) for line in RESULTS.read_bytes().splitlines() if line]
        rows = [row for row in rows if row.kind == "cluster" and (commit is None or row.commit == commit)]
        for row in sorted(rows, key=lambda row: row.start):
            if row.start <= end:
                end = max(end, row.start + row.seeds)
    return end


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0, help="the first seed; -1: where the results file ends")
    parser.add_argument("--step", type=int, default=1, help="each so many only: the seeds of one class")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--plant", help="plant this bug (see tests.sim.planted) and stop at the first seed that sees it"
    )
    parser.add_argument("--keep", action="store_true", help="append what was found to bench/results/sim.jsonl")
    parser.add_argument("--go-on", action="store_true", help="do not stop at the first seed that fails")
    parser.add_argument("--trace", action="store_true", help="tell each seed's story")
    options = parser.parse_args(arguments)
    if options.keep and options.step != 1:
        parser.error("only seeds without a gap are kept")
    if options.plant:
        from tests.sim.planted import main as planted

        return planted(["--only", options.plant, "--seeds", str(options.seeds), "--start", str(options.start)])
    start = covered() if options.start < 0 else options.start
    if options.trace:
        return trace(start, options.seeds)
    began, commit = time.monotonic(), commit_of()
    total, unsaved = fresh(start, options.jobs, commit), fresh(start, options.jobs, commit)
    since = began
    with workers(options.jobs) as spread:
        for part in spread(run_chunk, chunks(start, options.seeds, options.step)):  # type: ignore[operator]
            add(total, part)
            add(unsaved, part)
            for failure in part.failed:
                print(failure, flush=True)
            if options.keep and time.monotonic() - since > 60:
                keep(unsaved, time.monotonic() - since)
                since, unsaved = time.monotonic(), fresh(start + total.seeds, options.jobs, commit)
            if total.failed and not options.go_on:
                break
    if options.keep and unsaved.seeds:
        keep(unsaved, time.monotonic() - since)
    finish(total, time.monotonic() - began)
    print(msgspec.json.encode(total).decode())
    return 1 if total.failed else 0


def fresh(start: int, jobs: int, commit: str) -> Report:
    return Report(
        start, 0, jobs=jobs, commit=commit, date=time.strftime("%Y-%m-%d %H:%M"), failed=[], faults={}, gateways={}
    )


def finish(report: Report, seconds: float) -> None:
    report.seconds, report.cpu_s = round(seconds, 1), round(report.cpu_s, 1)
    report.seeds_per_s = round(report.seeds / max(seconds, 0.001), 1)


def keep(report: Report, seconds: float) -> None:
    """Append to the results file."""
    finish(report, seconds)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("ab") as out:
        out.write(msgspec.json.encode(report) + b"\n")


def trace(start: int, seeds: int) -> int:
    """Tell the story of these seeds, and how each ends."""
    status = 0
    for seed in range(start, start + seeds):
        world = ClusterWorld(seed)
        try:
            world.live()
        except (Violated, Crashed) as failure:
            status = 1
            world.note(f"{type(failure).__name__}: {failure}")
        print(f"seed {seed}: {world.settings}")
        print("\n".join(world.engine.trace))
        print(f"steps {world.engine.steps}, acks {world.judge.acks}, digest {world.digest()[:16]}")
    return status


if __name__ == "__main__":
    sys.exit(main())
