"""kill -9 of a group's Coordinator under load, again and again, judged by the checker.

`python -m tests.cluster.group_kills --kills 100` starts a broker of its own and prints what was seen;
`--protocol consumer` has members of the new protocol, and with `--churn` members come, leave and die meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import kafka
from kafka.admin import KafkaAdminClient, NewTopic

from tests.checker.groups import Assignment, Commit, Delivery, Verdict, judge
from tests.cluster.broker import Broker, running_broker, until
from tests.interop.members.driver import MemberProcess, until_owned, until_told

# The new protocol's members beat and lapse as the broker says: as often as the others do here.
SETTINGS = "[groups]\nconsumer_heartbeat_interval_ms = 300\nconsumer_session_timeout_ms = 6000\n"
PARTITIONS = 12
MEMBERS = 4
PER_SECOND = 300.0


@contextlib.contextmanager
def group_broker(folder: Path) -> Iterator[Broker]:
    """A broker with these settings."""
    settings = folder / "settings.toml"
    settings.write_text(SETTINGS)
    with running_broker(folder / "broker", "--config", str(settings)) as broker:
        yield broker


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

    def wait(self, seconds: float) -> None:
        """Let it go on for a while."""
        self._stop.wait(seconds)

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


class Population:
    """The members: who is there now, and everybody who ever was."""

    def __init__(self, folder: Path, protocol: str, options: dict[str, Any]) -> None:
        self.all: list[MemberProcess] = []
        self.there: list[MemberProcess] = []
        self._folder = folder
        # Of the classic protocol a client that tells its generation; the other protocol only librdkafka speaks here.
        self._module = "kafka_python" if protocol == "classic" else "confluent"
        self._options = {**options, "protocol": protocol}

    def come(self) -> None:
        errors = self._folder / f"member-{len(self.all)}.err"
        member = MemberProcess.python(self._module, errors, **self._options)
        self.all.append(member)
        self.there.append(member)

    def churn(self, chance: random.Random) -> None:
        """Somebody comes, leaves, or dies."""
        if len(self.there) < MEMBERS:
            self.come()
        else:
            goes = self.there.pop(chance.randrange(len(self.there)))
            if chance.random() < 0.5:
                goes.tell("close")
            else:
                goes.process.kill()

    def end(self) -> None:
        for one in self.all:
            one.end()


def run(
    broker: Broker, folder: Path, *, kills: int, seed: int, protocol: str = "classic", churn: bool = False
) -> Outcome:
    """Four members share a topic and commit after every poll while their Coordinator is killed."""
    chance = random.Random(seed)
    topic, group = f"kills-{seed}", f"killed-{seed}"
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    options = {"bootstrap": broker.bootstrap, "group": group, "topics": [topic], "commits": True, "session_ms": 6_000}
    population = Population(folder, protocol, options)
    for _ in range(MEMBERS):
        population.come()
    everything = {(topic, partition) for partition in range(PARTITIONS)}
    longest, first_kill = 0.0, 0.0
    producing = None
    try:
        until_owned(population.there, everything, 30)
        # A partition each is not yet the last word of the joins: with the even split they are over.
        until_told(
            lambda: all(len(one.owned) == PARTITIONS // MEMBERS for one in population.there), 30, population.there
        )
        producing = Producing(broker.bootstrap, topic, PER_SECOND)
        for _ in range(kills):
            pid = until(lambda: coordinator_pid(broker, group), 10, f"a coordinator\n{broker.tail()}")
            counts = [len(one.of("commit")) for one in population.there]
            os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            first_kill = first_kill or killed
            if churn or chance.random() < 0.2:
                # The next kill finds the group in the middle of something.
                until(lambda pid=pid: coordinator_pid(broker, group) not in (None, pid), 20, broker.tail())
                if churn:
                    if chance.random() < 0.4:
                        population.churn(chance)
                    producing.wait(chance.uniform(0.0, 0.6))
            else:
                until_told(
                    lambda counts=counts: all(
                        len(one.of("commit")) > n for one, n in zip(population.there, counts, strict=True)
                    ),
                    20,
                    population.there,
                )
                longest = max(longest, time.monotonic() - killed)
        until_owned(population.there, everything, 60)
        producing.stop()
        assert not producing.failed, producing.failed[:3]
        wanted = sum(len(offsets) for offsets in producing.acked.values())
        until_told(
            lambda: len({(r["partition"], r["offset"]) for one in population.all for r in one.records}) >= wanted,
            30,
            population.there,
        )
        until_told(lambda: lag(admin, group, producing.acked) == 0, 20, population.there)
        closing = time.monotonic()
        for one in population.there:
            one.close()
    finally:
        if producing is not None:
            producing.stop()
        population.end()
    final = positions(admin, group)
    admin.close()
    everybody = [(f"m{number}", one) for number, one in enumerate(population.all)]
    commits = [commit for name, one in everybody for commit in commits_of(name, one)]
    return Outcome(
        verdicts=judge(
            producing.acked,
            [delivery for name, one in everybody for delivery in deliveries_of(name, one)],
            [assignment for name, one in everybody for assignment in assignments_of(name, one)],
            commits,
            final,
        ),
        kills=kills,
        records=wanted,
        delivered=sum(len(one.records) for one in population.all),
        commits=sum(1 for commit in commits if commit.ok),
        refused=sum(1 for commit in commits if not commit.ok),
        generations=len({commit.generation for commit in commits if commit.ok}),
        rebalances=sum(
            1 for one in population.all for event in one.of("assigning") if first_kill < event["t"] < closing
        ),
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
    parser.add_argument("--protocol", choices=["classic", "consumer"], default="classic")
    parser.add_argument("--churn", action="store_true")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, group_broker(Path(name)) as broker:
        outcome = run(
            broker,
            Path(name),
            kills=wanted.kills,
            seed=wanted.seed,
            protocol=wanted.protocol,
            churn=wanted.churn,
        )
    print(outcome._replace(verdicts=outcome.verdicts[:5]))
    return 1 if outcome.verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
