"""Faults on a real cluster under load, judged by the strict checker.

    python -m tests.cluster.chaos --minutes 10 --seed 7              all faults in turn, some on top of each other
    python -m tests.cluster.chaos --faults leader_kill --count 100   a hundred of one (or several, by commas)
    python -m tests.cluster.chaos --summary                          all runs of bench/results/chaos.jsonl together

confluent-kafka and aiokafka (idempotent, acks=all, each with followers and a group) write and read a topic of RF 3 with
min.insync.replicas=2. Between faults there are quiet periods, and most begin when the cluster is whole again. In the
end everything is read back through every node, and every replica's bytes are compared. Prints and appends: seed,
faults, operations, anomalies, and for each fault how long its partitions gave no acknowledgement. A run that does not
come to its end is appended too, with the cause. Ends with 1 if anything was found, or nothing could be judged.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.report import commit, machine
from tests.checker.gaps import percentiles
from tests.checker.judge import Judgement
from tests.checker.report import report
from tests.cluster.cluster import Cluster, running_cluster
from tests.cluster.faults import FAULTS, WEIGHTS, Faults
from tests.cluster.histories import REQUEST_MS, Run, create_topic
from tests.tools import ROOT

RESULTS = ROOT / "bench/results/chaos.jsonl"
TOPIC = "load"
HEAL_S = 60.0
# Quiet after a fault is healed: mostly short, and every fourth time long.
QUIET_S, LONG_QUIET_S, LONG = (0.1, 0.5), (1.0, 3.0), 0.25
# When all faults rotate, how many do not wait for the one before to heal.
COMBINED = 0.2


class Outcome(msgspec.Struct, kw_only=True):
    """What a run showed. Times are milliseconds; ``gaps`` and the like hold one number a fault, by its name."""

    seed: int
    seconds: float
    counts: dict[str, int] = {}
    gaps: dict[str, list[float]] = {}
    heals: dict[str, list[float]] = {}
    controls: dict[str, list[float]] = {}
    operations: int = 0
    acked: int = 0
    unsure: int = 0
    # Sends that were surely not appended, and acknowledged ones of which it is known which epoch answered them.
    refused: int = 0
    dated: int = 0
    # Records that a replica's log had for a time only.
    gone: int = 0
    replicas: int = 0
    batches: int = 0
    anomalies: dict[str, int] = {}
    valid: bool | str = "unknown"
    notes: list[str] = []


class Chaos:
    """A run: the cluster is up and its topic is under load when ``inflict`` is called."""

    def __init__(self, cluster: Cluster, run: Run, seed: int) -> None:
        self.cluster = cluster
        self.run = run
        self.chance = random.Random(seed)
        self.faults = Faults(cluster, run.keys, self.chance, run.crash)
        self.outcome = Outcome(seed=seed, seconds=0.0)
        self._began = time.monotonic()
        # What was being done, for when it does not succeed.
        self._doing = "the start"
        # What each fault of the history may have held up, in their order.
        self.keys: list[tuple[str, list[str] | None]] = []

    def inflict(self, names: Sequence[str], *, count: int = 0, minutes: float = 0.0) -> None:
        """So many faults, or so many minutes of them."""
        began = self._began = time.monotonic()
        weights = [WEIGHTS.get(name, 1) for name in names]
        combine = minutes > 0 and len(names) > 1
        done = 0
        while done < count or (not count and time.monotonic() < began + minutes * 60):
            (name,) = self.chance.choices(names, weights) if combine else (names[done % len(names)],)
            self.one(name, heal=not (combine and self.chance.random() < COMBINED))
            done += 1
            if done % 10 == 0:
                self._say(f"{done} faults in {time.monotonic() - began:.0f} s: {self.outcome.counts}")
        self._doing = "the end"
        self.cluster.wait_healthy(HEAL_S)
        self.outcome.seconds = round(time.monotonic() - began, 1)

    def one(self, name: str, *, heal: bool = True) -> None:
        """One fault, and quiet after it."""
        self._doing = name
        struck = FAULTS[name](self.faults)
        self._doing = f"{name} ({struck.note})"
        if heal:
            self.cluster.wait_healthy(HEAL_S)
            self.outcome.heals.setdefault(name, []).append(_ms(time.monotonic() - struck.began))
        self.run.fault(struck.began, name, keys=struck.keys, majority=struck.majority, note=struck.note)
        self.keys.append((name, struck.keys))
        self.outcome.counts[name] = self.outcome.counts.get(name, 0) + 1
        if struck.control_s is not None:
            self.outcome.controls.setdefault(name, []).append(_ms(struck.control_s))
        if heal:
            long = self.chance.random() < LONG
            time.sleep(self.chance.uniform(*(LONG_QUIET_S if long else QUIET_S)))

    def judge(self) -> tuple[Outcome, Judgement]:
        """What it all came to, once ``run`` has finished, or was salvaged."""
        judgement = self.run.judge()
        outcome = self.outcome
        for (name, keys), gaps in zip(self.keys, judgement.fault_gaps, strict=True):
            held = [gap for key, gap in gaps.items() if keys is None or key in keys]
            outcome.gaps.setdefault(name, []).append(max(held, default=0.0))
        outcome.operations = judgement.events.operations
        outcome.acked = sum(entry["acked"] for entry in judgement.keys.values())
        outcome.dated = sum(entry["leaders_known"] for entry in judgement.keys.values())
        outcome.unsure = self.run.counted("send info") + self.run.history.counts["send info"]
        outcome.refused = self.run.counted("send fail")
        outcome.replicas, outcome.batches, outcome.gone = self.run.replicas, self.run.batches, self.run.gone
        outcome.anomalies = dict(judgement.findings.strict)
        outcome.valid = "unknown" if judgement.valid is None else judgement.valid
        outcome.notes = [f"{load.name}: {load.counts}" for load in (*self.run.crashed, *self.run.loads)]
        return outcome, judgement

    def failed(self, error: BaseException) -> Outcome:
        """What is known of a run that did not come to its end: a run left out of the count would flatter it."""
        self.outcome.seconds = round(time.monotonic() - self._began, 1)
        cause = f"ended by {self._doing}: {str(error) or repr(error)}"[:2000]
        try:
            self.run.salvage()
            self.judge()
        except Exception as second:
            cause += f"; and not judged: {second!r}"[:500]
        if self.outcome.valid is True:
            self.outcome.valid = "unknown"
        self.outcome.notes.insert(0, cause)
        return self.outcome

    @staticmethod
    def _say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def shown(outcome: Outcome) -> str:
    """A few lines for people."""
    lines = [
        f"seed {outcome.seed}: {sum(outcome.counts.values())} faults in {outcome.seconds:.0f} s, {outcome.acked} "
        f"records acknowledged ({outcome.unsure} left open, {outcome.refused} refused), {outcome.operations} "
        f"operations, {outcome.batches} batches of {outcome.replicas} replicas compared",
        f"leader and epoch known of {outcome.dated} acknowledgements; {outcome.gone} records stood in a log for a time",
        f"valid: {outcome.valid}, anomalies: {outcome.anomalies or 'none'}",
    ]
    for name, gaps in sorted(outcome.gaps.items()):
        lines.append(_line(name, gaps, outcome.heals.get(name, []), outcome.controls.get(name, [])))
    return "\n".join(lines)


def _line(name: str, gaps: list[float], heals: list[float], controls: list[float]) -> str:
    def of(values: list[float]) -> str:
        told = percentiles([value / 1000 for value in values])
        return f"p50 {told['p50']:.0f} p90 {told['p90']:.0f} p99 {told['p99']:.0f} most {told['p100']:.0f} ms"

    parts = [f"{name:18} {len(gaps):5}   no ack: {of(gaps)}"]
    if heals:
        parts.append(f"whole again: {of(heals)}")
    if controls:
        parts.append(f"topic created: {of(controls)}")
    return "   ".join(parts)


def append(path: Path, outcome: Outcome, options: dict[str, Any]) -> None:
    """One line of the results."""
    entry = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": "python -m tests.cluster.chaos " + " ".join(sys.argv[1:]),
        "machine": machine(),
        "options": options,
        "outcome": msgspec.to_builtins(outcome),
    }
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def summary(path: Path) -> str:
    """All runs of the file as one."""
    runs = [json.loads(line) for line in path.read_text().splitlines()]
    outcomes = [msgspec.convert(run["outcome"], Outcome) for run in runs]
    whole = Outcome(
        seed=-1, seconds=sum(one.seconds for one in outcomes), valid=all(one.valid is True for one in outcomes)
    )
    for one in outcomes:
        whole.operations += one.operations
        whole.acked += one.acked
        whole.unsure += one.unsure
        whole.refused += one.refused
        whole.dated += one.dated
        whole.gone += one.gone
        whole.replicas += one.replicas
        whole.batches += one.batches
        for mine, more in ((whole.counts, one.counts), (whole.anomalies, one.anomalies)):
            for name, count in more.items():
                mine[name] = mine.get(name, 0) + count
        for lists, added in ((whole.gaps, one.gaps), (whole.heals, one.heals), (whole.controls, one.controls)):
            for name, values in added.items():
                lists.setdefault(name, []).extend(values)
    commits = sorted({run["commit"] for run in runs})
    return f"{len(runs)} runs of {', '.join(commits)}\n{shown(whole)}"


@contextlib.contextmanager
def _folder(keep: Path | None) -> Any:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    name = Path(tempfile.mkdtemp(prefix="logeion-chaos-"))
    try:
        yield name
    except BaseException:
        print(f"left for a look: {name}", file=sys.stderr)
        raise
    else:
        shutil.rmtree(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--count", type=int, default=0, help="faults instead of minutes")
    parser.add_argument("--faults", default=",".join(FAULTS), help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--seed", type=int, default=None, help="default: the time")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--per-second", type=float, default=600.0, help="records (default 600)")
    parser.add_argument("--members", type=int, default=2, help="of each of the two groups (default 2)")
    parser.add_argument("--flush", choices=["ack", "interval", "os"], default="ack")
    parser.add_argument("--keep", type=Path, default=None, help="folder for data, logs and histories, which then stay")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--summary", action="store_true", help="only add up what the results file has")
    wanted = parser.parse_args()
    if wanted.summary:
        print(summary(wanted.results))
        return 0
    names = wanted.faults.split(",")
    if unknown := set(names) - FAULTS.keys():
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    minutes = wanted.minutes or (0.0 if wanted.count else 10.0)
    seed = int(time.time()) if wanted.seed is None else wanted.seed
    factor = min(3, wanted.nodes)
    options = {"faults": names, "nodes": wanted.nodes, "partitions": wanted.partitions, "flush": wanted.flush}
    options |= {
        "members": wanted.members,
        "per_second": wanted.per_second,
        "request_timeout_ms": REQUEST_MS,
        "minutes": minutes,
    }
    with _folder(wanted.keep) as folder:
        environment = {"LOGEION_STORAGE__FLUSH": wanted.flush}
        chaos: Chaos | None = None
        try:
            with running_cluster(folder / "cluster", wanted.nodes, environment=environment) as cluster:
                in_sync = {"min.insync.replicas": str(min(2, factor))}
                create_topic(cluster.bootstrap, TOPIC, wanted.partitions, factor, in_sync)
                cluster.wait_healthy(HEAL_S)
                run = Run(cluster, folder, TOPIC, wanted.partitions)
                chaos = Chaos(cluster, run, seed)
                try:
                    run.start(per_second=wanted.per_second, members=wanted.members)
                    chaos.inflict(names, count=wanted.count, minutes=minutes)
                    run.finish()
                finally:
                    run.end()
            outcome, judgement = chaos.judge()
        except BaseException as error:
            if chaos is None:
                outcome = Outcome(seed=seed, seconds=0.0, notes=[f"the cluster did not start: {error}"[:2000]])
            else:
                outcome = chaos.failed(error)
            print(shown(outcome))
            append(wanted.results, outcome, options)
            raise
        print(shown(outcome))
        (folder / "verdict.json").write_bytes(
            msgspec.json.format(msgspec.json.encode(report(judgement, run.paths, outcome.seconds)), indent=1)
        )
        append(wanted.results, outcome, options)
        if outcome.valid is not True:
            kept = Path(tempfile.mkdtemp(prefix="logeion-chaos-found-"))
            shutil.copytree(folder, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock"))
            print(f"what was found, and everything around it: {kept}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
