"""One consumer group in one thread: its coordinator's machine, its log, its members, and what can go wrong.

A world is a seed. Time is virtual; requests and answers are delayed, lost and overtaken; coordinators die with appends
under way, members crash, pause and leave. The judges are in ``check``: they know nothing of how the machine works.

    python -m tests.sim.group_world --seeds 10000 --start 0       (prints the first seed that fails and its cause)
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import sys
import time
from collections.abc import Callable, Iterator

import msgspec

from logeion.actors.coordinator.machine import GroupMachine
from logeion.actors.coordinator.records import GroupRecord, OffsetKey, OffsetValue, decode, encode
from logeion.actors.coordinator.step import Now, Settings
from logeion.actors.messages import GroupAnswered, Message
from tests.sim.engine import Stuck, Violated
from tests.sim.members import NOT_COORDINATOR, ClassicMember, ConsumerMember, MemberBase, Pace

TOPIC, TOPIC_ID, PARTITIONS = "t", "0" * 31 + "1", 6


class OffsetsLog:
    """The offsets partition: batches in order, and the one writer session that may append."""

    def __init__(self) -> None:
        self.records: list[GroupRecord] = []
        self.session = 0
        self.fences = True

    def open(self) -> int:
        self.session += 1
        return self.session

    def append(self, session: int, records: list[GroupRecord]) -> bool:
        if self.fences and session != self.session:
            return False
        self.records += [decode(*encode(record)) for record in records]
        return True


class Host:
    """The shell of one coordinator: commits in order, answers after the commit, dies at any moment."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.session = world.log.open()
        self.machine = GroupMachine("g", world.settings)
        self.alive = True
        self.commit_at = 0.0
        for record in world.log.records:
            self.machine.replay(record)
        self.machine.topics = {TOPIC: (TOPIC_ID, PARTITIONS)}
        self.machine.loaded(world.now())

    def handle(self, token: int, request: Message) -> None:
        fresh = f"member-{next(self.world.ids)}"
        self._follow(self.machine.handle(token, request, self.world.now(), fresh))  # type: ignore[arg-type]

    def tick(self) -> None:
        if self.alive and self.world.time >= self.machine.deadline:
            self._follow(self.machine.elapsed(self.world.now()))

    def _follow(self, step: object) -> None:
        records, replies = step.records, step.replies  # type: ignore[attr-defined]
        delay = self.world.random.uniform(0.0, 0.02) if records else 0.0
        self.commit_at = max(self.commit_at, self.world.time + delay)

        def commit(late: bool = False) -> None:
            # A dead coordinator's append may still arrive, long after: refused once another one has opened.
            if records and not self.alive and not late and self.world.random.random() < 0.5:
                self.world.after(self.world.random.uniform(0.0, 3.0), lambda: commit(late=True))
                return
            if records:
                accepted = self.world.log.append(self.session, records)
                if accepted:
                    self.world.note_commit(self, records)
                elif self.alive:
                    self.alive = False
                    return
            if self.alive:
                for token, reply in replies:
                    self.world.answer(token, reply)

        self.world.at(self.commit_at, commit)


class World:
    group, topic, topic_id, partitions = "g", TOPIC, TOPIC_ID, PARTITIONS
    pace = Pace()

    def __init__(self, seed: int, *, protocol: str | None = None) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.time = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.ids: Iterator[int] = itertools.count(1)
        self.tokens = itertools.count(1)
        self.waiting: dict[int, Callable[[Message], None]] = {}
        self.log = OffsetsLog()
        self.settings = Settings(
            initial_rebalance_delay_ms=self.random.choice([0, 300]),
            consumer_session_timeout_ms=6_000,
            consumer_heartbeat_interval_ms=500,
        )
        self.host: Host | None = Host(self)
        drawn = self.random.choice(["classic", "consumer"])
        self.protocol = protocol or drawn
        self.loss = self.random.choice([0.0, 0.02, 0.1])
        self.faults_until = 40.0
        self.members: list[ClassicMember | ConsumerMember] = []
        self.generations: dict[int, frozenset[str]] = {}
        self.committers: dict[tuple[int, int], str] = {}
        self.acked: dict[int, int] = {}
        self.trace: list[str] = []
        self.arrivals: dict[str, float] = {}
        self.acks = 0

    # The loop ---------------------------------------------------------------------------------------------------------

    def now(self) -> Now:
        return Now(self.time, 1_700_000_000_000 + int(self.time * 1000))

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (max(when, self.time), next(self.order), what))

    def after(self, delay: float, what: Callable[[], None]) -> None:
        self.at(self.time + delay, what)

    def run(self) -> None:
        for _ in range(self.random.randint(1, 4)):
            self.after(self.random.uniform(0, 2), self.add_member)
        self.after(1.0, self.fault)
        self.after(0.05, self.tick)
        end = self.faults_until + 60.0
        while self.events and self.time < end:
            self.time, _, what = heapq.heappop(self.events)
            what()
        self.check_settled()

    def tick(self) -> None:
        if self.host is not None:
            self.host.tick()
        self.after(0.05, self.tick)

    def note(self, line: str) -> None:
        self.trace.append(f"{self.time:9.3f} {line}")

    # Network ----------------------------------------------------------------------------------------------------------

    @property
    def calm(self) -> bool:
        return self.time >= self.faults_until

    def ask(
        self, sender: str, request: Message, on_answer: Callable[[Message | None], None], timeout: float = 4.0
    ) -> None:
        """Send to whoever coordinates; ``None`` is a lost question or answer, or no coordinator in time.

        One sender's requests arrive in order, as on its connection.
        """
        token = next(self.tokens)
        done = False

        def once(message: Message | None) -> None:
            nonlocal done
            if not done:
                done = True
                self.waiting.pop(token, None)
                on_answer(message)

        self.waiting[token] = once
        self.after(timeout, lambda: once(None))
        if not self.calm and self.random.random() < self.loss:
            return

        def arrive() -> None:
            if self.host is None:
                once(GroupAnswered(code=NOT_COORDINATOR))
            else:
                self.host.handle(token, request)

        arrival = max(self.time + self.random.uniform(0.001, 0.03), self.arrivals.get(sender, 0.0))
        self.arrivals[sender] = arrival
        self.at(arrival, arrive)

    def answer(self, token: int, reply: Message) -> None:
        if not self.calm and self.random.random() < self.loss:
            return
        waiting = self.waiting.get(token)
        if waiting is not None:
            self.after(self.random.uniform(0.001, 0.03), lambda: waiting(reply))

    # Faults -----------------------------------------------------------------------------------------------------------

    def add_member(self) -> None:
        kind = ClassicMember if self.protocol == "classic" else ConsumerMember
        static = f"i{self.random.randint(1, 3)}" if self.random.random() < 0.2 else None
        if static is not None and any(m.instance_id == static and m.alive for m in self.members):
            static = None
        member = kind(self, len(self.members), static)
        self.members.append(member)
        member.start()

    def fault(self) -> None:
        if self.calm:
            if self.host is None:
                self.restart()
            for member in self.members:
                member.paused_until = 0.0
            return
        alive = [m for m in self.members if m.alive]
        what = self.random.random()
        if what < 0.25:
            self.kill()
        elif what < 0.45 and len(alive) < 6:
            self.add_member()
        elif what < 0.6 and len(alive) > 1:
            self.random.choice(alive).leave()
        elif what < 0.75 and len(alive) > 1:
            self.random.choice(alive).crash()
        elif alive:
            self.random.choice(alive).paused_until = self.time + self.random.uniform(1, 12)
        self.after(self.random.expovariate(0.4), self.fault)

    def kill(self) -> None:
        if self.host is not None:
            self.note("coordinator killed")
            self.host.alive = False
            self.host = None
            for waiting in list(self.waiting.values()):
                self.after(0.002, lambda waiting=waiting: waiting(GroupAnswered(code=NOT_COORDINATOR)))  # type: ignore[misc]
            self.after(self.random.uniform(0.01, 1.0), self.restart)

    def restart(self) -> None:
        if self.host is None:
            self.host = Host(self)
            self.note("coordinator started")
            self.check_recovered()

    # Judges -----------------------------------------------------------------------------------------------------------

    def saw_generation(self, generation: int, members: frozenset[str]) -> None:
        known = self.generations.setdefault(generation, members)
        if known != members:
            raise Violated(f"generation {generation} began twice: {sorted(known)} and {sorted(members)}")

    def note_commit(self, host: Host, records: list[GroupRecord]) -> None:
        if host.session != self.log.session:
            for record in records:
                if isinstance(record.key, OffsetKey):
                    raise Violated("a dead coordinator's late append was accepted after another one opened")

    def may_commit(self) -> bool:
        return True

    def label(self, member: MemberBase) -> str:
        return ""

    def committed(self, member: str, generation: int, positions: dict[int, int]) -> None:
        """An acknowledged commit of a member (its instance, if static: that outlives member ids)."""
        self.acks += 1
        for partition, offset in positions.items():
            owner = self.committers.setdefault((generation, partition), member)
            if owner != member and self.protocol == "classic":
                raise Violated(f"{owner} and {member} both committed {partition} in generation {generation}")
            self.acked[partition] = max(self.acked.get(partition, -1), offset)

    def check_recovered(self) -> None:
        """Every acknowledged position is in the log, and positions never went back."""
        highest: dict[int, int] = {}
        for record in self.log.records:
            if isinstance(record.key, OffsetKey) and isinstance(record.value, OffsetValue):
                before = highest.get(record.key.partition, -1)
                if record.value.offset < before:
                    raise Violated(f"the commit of {record.key.partition} went from {before} to {record.value.offset}")
                highest[record.key.partition] = record.value.offset
        for partition, offset in self.acked.items():
            if highest.get(partition, -1) < offset:
                raise Violated(f"the acknowledged commit {offset} of partition {partition} is not in the log")

    def check_exclusive(self, member: MemberBase, given: set[int]) -> None:
        """A partition is given only when no other member of the group still consumes it.

        A member that was expelled while it slept may still believe, be it the old owner or the new one that reads
        its answer late; its commits are refused (``committed``).
        """
        group = self.host.machine.membership if self.host is not None else None
        if group is None or member.member_id not in group.members:
            return
        for other in self.members:
            if other is member or not other.alive or not other.owned & given:
                continue
            if other.member_id in group.members:
                raise Violated(f"{member.name} was given {sorted(given)} while {other.name} owns {sorted(other.owned)}")

    def check_settled(self) -> None:
        """After the calm: everybody alive is a member, and each partition has exactly one owner."""
        self.check_recovered()
        alive = [m for m in self.members if m.alive]
        owned = sorted(p for m in alive for p in m.owned)
        if alive and owned != list(range(PARTITIONS)):
            raise Stuck(f"after {self.time:.0f} s of which the last 60 calm, members own {owned}")


def run_seed(seed: int, *, protocol: str | None = None, patch: Callable[[World], None] | None = None) -> World:
    """Run one world to its end; raises ``Violated`` with the seed and the command that repeats it."""
    world = World(seed, protocol=protocol)
    if patch is not None:
        patch(world)
    try:
        world.run()
    except Violated as violation:
        raise type(violation)(
            f"seed {seed} ({world.protocol}) at {world.time:.3f} s: {violation}\n"
            f"repeat: python -m tests.sim.group_world --seeds 1 --start {seed} --protocol {world.protocol}"
        ) from violation
    return world


class Report(msgspec.Struct):
    seeds: int
    seconds: float
    acks: int


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--protocol", choices=["classic", "consumer"])
    options = parser.parse_args(arguments)
    began = time.monotonic()
    acks = 0
    for seed in range(options.start, options.start + options.seeds):
        try:
            acks += run_seed(seed, protocol=options.protocol).acks
        except Violated as violation:
            print(violation)
            return 1
    report = Report(seeds=options.seeds, seconds=round(time.monotonic() - began, 1), acks=acks)
    print(msgspec.json.encode(report).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
