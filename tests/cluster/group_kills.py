"""kill -9 of a group's Coordinator under load, again and again, judged by the checker.

python -m tests.cluster.group_kills --kills 100          (a broker of its own; prints what was seen)
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import kafka
from kafka.admin import KafkaAdminClient, NewTopic

from tests.checker.groups import Assignment, Commit, Delivery, Verdict, judge
from tests.cluster.broker import Broker, running_broker, until
from tests.interop.members.driver import MemberProcess, until_owned

PARTITIONS = 12
MEMBERS = 4


class Producing:
    """Numbers, as fast as asked, spread over the partitions; what was acknowledged is remembered."""

    def __init__(self, bootstrap: str, topic: str, per_second: float) -> None:
        self.acked: dict[tuple[str, int], list[int]] = {}
        self.failed: list[str] = []
        self._topic, self._pause = topic, 1 / per_second
        self._producer = kafka.KafkaProducer(bootstrap_servers=bootstrap)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(self._pause):
            future = self._producer.send(self._topic, str(number).encode(), partition=number % PARTITIONS)
            future.add_callback(self._acked)
            future.add_errback(lambda error: self.failed.append(str(error)))
            number += 1

    def _acked(self, metadata: Any) -> None:
        self.acked.setdefault((metadata.topic, metadata.partition), []).append(metadata.offset)

    def stop(self) -> None:
        """All that was sent is acknowledged."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            self._producer.close()


class Outcome(NamedTuple):
    """What a run showed."""

    verdicts: list[Verdict]
    kills: int
    records: int
    delivered: int
    commits: int
    refused: int
    # Distinct generations in which members committed, and assignments after the first kill: 1 and 0 if nobody was
    # expelled.
    generations: int
    rebalances: int
    longest_s: float


def coordinator_pid(broker: Broker, group: str) -> int | None:
    pids = broker.pids(f"coordinator {group} ")
    return pids[0] if len(pids) == 1 else None


def run(broker: Broker, folder: Path, *, kills: int, seed: int, per_second: float = 300.0) -> Outcome:
    """Four members share a topic and commit after every poll while their Coordinator is killed."""
    chance = random.Random(seed)
    topic, group = f"kills-{seed}", f"killed-{seed}"
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    options = {"bootstrap": broker.bootstrap, "group": group, "topics": [topic], "commits": True, "session_ms": 10_000}
    members = [MemberProcess.python("kafka_python", folder / f"member-{n}.err", **options) for n in range(MEMBERS)]
    everything = {(topic, partition) for partition in range(PARTITIONS)}
    longest, first_kill = 0.0, 0.0
    producing = None
    try:
        until_owned(members, everything, 30)
        producing = Producing(broker.bootstrap, topic, per_second)
        for _ in range(kills):
            pid = until(lambda: coordinator_pid(broker, group), 10, f"a coordinator\n{broker.tail()}")
            counts = [len(one.of("commit")) for one in members]
            os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            first_kill = first_kill or killed
            # The next kill finds the group at work, or in the middle of its recovery.
            if chance.random() < 0.8:
                until(
                    lambda counts=counts: all(
                        len(one.of("commit")) > n for one, n in zip(members, counts, strict=True)
                    ),
                    20,
                    "every member commits again\n" + "\n".join(one.story() for one in members) + broker.tail(),
                )
                longest = max(longest, time.monotonic() - killed)
            else:
                until(lambda pid=pid: coordinator_pid(broker, group) not in (None, pid), 10, broker.tail())
        producing.stop()
        assert not producing.failed, producing.failed[:3]
        wanted = sum(len(offsets) for offsets in producing.acked.values())
        until(
            lambda: len({(r["partition"], r["offset"]) for one in members for r in one.records}) >= wanted,
            30,
            f"all {wanted} records\n" + "\n".join(one.story() for one in members),
        )
        until(lambda: lag(admin, group, producing.acked) == 0, 20, "everything is committed")
        closing = time.monotonic()
        for one in members:
            one.close()
    finally:
        if producing is not None:
            producing.stop()
        for one in members:
            one.end()
    final = positions(admin, group)
    admin.close()
    commits = [commit for number, one in enumerate(members) for commit in commits_of(f"m{number}", one)]
    generations = {commit.generation for commit in commits if commit.ok}
    return Outcome(
        verdicts=judge(
            producing.acked,
            [delivery for number, one in enumerate(members) for delivery in deliveries_of(f"m{number}", one)],
            [assignment for number, one in enumerate(members) for assignment in assignments_of(f"m{number}", one)],
            commits,
            final,
        ),
        kills=kills,
        records=wanted,
        delivered=sum(len(one.records) for one in members),
        commits=sum(1 for commit in commits if commit.ok),
        refused=sum(1 for commit in commits if not commit.ok),
        generations=len(generations),
        rebalances=sum(1 for one in members for event in one.of("assigning") if first_kill < event["t"] < closing),
        longest_s=longest,
    )


def positions(admin: Any, group: str) -> dict[tuple[str, int], int]:
    found = admin.list_group_offsets({group: None})[group]
    return {(where.topic, where.partition): one.offset for where, one in found.items()}


def lag(admin: Any, group: str, acked: dict[tuple[str, int], list[int]]) -> int:
    committed = positions(admin, group)
    return sum(max(offsets) + 1 - committed.get(where, 0) for where, offsets in acked.items())


def deliveries_of(name: str, member: MemberProcess) -> list[Delivery]:
    return [Delivery(name, (r["topic"], r["partition"]), r["offset"], r["t"]) for r in member.records]


def assignments_of(name: str, member: MemberProcess) -> list[Assignment]:
    return [
        Assignment(name, (topic, number), event["t"])
        for event in member.of("assigning")
        for topic, number in event["partitions"]
    ]


def commits_of(name: str, member: MemberProcess) -> list[Commit]:
    return [
        Commit(
            name,
            event["generation"],
            {(topic, number): offset for topic, number, offset in event["offsets"]},
            event["ok"],
            event["t"],
            event["until"],
        )
        for event in member.of("commit")
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running_broker(Path(name)) as broker:
        outcome = run(broker, Path(name), kills=wanted.kills, seed=wanted.seed)
    print(outcome._replace(verdicts=outcome.verdicts[:5]))
    return 1 if outcome.verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
