"""The metadata quorum in one thread: its voters' machines, their disks, the network between, and what can go wrong.

A world is a seed. Time is virtual; messages are delayed, lost, doubled and overtaken; links fail both ways or one way;
voters crash with writes under way, of which any beginning survives, the last entry torn or whole; clocks differ. The
judges (``raft_judge.Judge``) look at every step and know nothing of how the machine decides.

    python -m tests.sim.raft_world --seeds 10000 --start 0        (prints the first seed that fails and its cause)
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial

import msgspec

from logeion.actors.controller.raft.effects import AppendLog, Effects, SaveSnapshot, SaveVote, TruncateLog, Write
from logeion.actors.controller.raft.log import continued
from logeion.actors.controller.raft.machine import Raft
from logeion.actors.controller.raft.messages import (
    AddVoter,
    AskVote,
    Compact,
    Elapsed,
    Entry,
    Input,
    LeaderGone,
    Proposal,
    Propose,
    RemoveVoter,
    Resign,
    Snapshot,
    TakeOver,
    Told,
    VoteAnswered,
)
from logeion.actors.controller.raft.roles import Leader
from logeion.actors.controller.raft.state import Settings, Stored
from logeion.wire.errors import KafkaError
from tests.sim.engine import Stuck, Violated
from tests.sim.raft_judge import Judge, chained

SETTINGS = Settings(append_bytes_max=48)  # a few entries, or a piece of a snapshot


class Disk:
    """What a crash leaves: all that was synced, and any beginning of what was written since."""

    def __init__(self, voters: tuple[int, ...]) -> None:
        self.term, self.voted_for = 0, None  # type: tuple[int, int | None]
        self.blank = len(voters) != 1
        self.snapshot = Snapshot(0, 0, voters)
        self.entries: list[Entry] = []
        self.unsynced: list[Write] = []

    def sync(self) -> None:
        for write in self.unsynced:
            self._carry_out(write)
        self.unsynced = []

    def crash(self, chance: random.Random) -> None:
        """Recovery cuts a torn entry off, so tearing one is losing it."""
        survive = chance.randint(0, len(self.unsynced))
        for write in self.unsynced[:survive]:
            self._carry_out(write)
        torn = self.unsynced[survive : survive + 1]
        if torn and isinstance(torn[0], AppendLog):
            self._carry_out(AppendLog(torn[0].entries[: chance.randint(0, len(torn[0].entries) - 1)]))
        elif torn and isinstance(torn[0], SaveSnapshot):
            self.snapshot = torn[0].snapshot  # stored, but the log not yet cut
        self.unsynced = []

    def _carry_out(self, write: Write) -> None:
        match write:
            case SaveVote():
                self.term, self.voted_for, self.blank = write.term, write.voted_for, write.blank
            case SaveSnapshot():
                self.snapshot = write.snapshot
                self.entries = [] if write.reset else [e for e in self.entries if e.end > write.start]
            case TruncateLog():
                self.entries = [e for e in self.entries if e.end <= write.end]
            case AppendLog():
                self.entries += write.entries

    def has(self, end: int, term: int) -> bool:
        """Whether the entry that ends there in that term would survive a crash now."""
        return self.snapshot.end >= end or any(e.end == end and e.term == term for e in reversed(self.entries))


class Host:
    """The shell of one voter: carries out effects in their order, one step at a time, and dies at any moment."""

    def __init__(self, world: World, number: int, voters: tuple[int, ...]) -> None:
        self.world = world
        self.number = number
        self.disk = Disk(voters)
        self.lost: list[Disk] = []
        self.raft: Raft | None = None
        self.life = 0
        self.rate = world.random.uniform(0.99, 1.01)
        self.shift = world.random.uniform(0, 1000)
        self.inbox: deque[Input] = deque()
        self.busy = False
        self.timer = float("inf")
        self.applied = 0
        self.digest = 0

    @property
    def now(self) -> float:
        return self.shift + self.world.time * self.rate

    def start(self) -> None:
        if self.raft is not None:
            return
        self.life += 1
        disk = self.disk
        disk.entries = continued(disk.snapshot, disk.entries)
        stored = Stored(disk.term, disk.voted_for, disk.snapshot, list(disk.entries), disk.blank)
        known = max(disk.snapshot.term, disk.entries[-1].term if disk.entries else 0)
        if known > disk.term:
            # As the real storage does: whoever has an entry of a term was in it.
            stored = Stored(known, None, disk.snapshot, list(disk.entries), disk.blank)
        self.raft = Raft(
            self.number, stored, self.world.settings, self.world.seed * 64 + self.number + self.life * 8, self.now
        )
        self.inbox, self.busy, self.timer = deque(), False, float("inf")
        self.applied, self.digest = disk.snapshot.end, int.from_bytes(disk.snapshot.data[:8], "big")
        self.world.judge.started(self)
        self.set_timer()

    def crash(self) -> None:
        if self.raft is not None:
            self.world.note(f"{self.number} crashes")
            self.raft = None
            self.disk.crash(self.world.random)
            for other in self.world.hosts.values():
                if other is not self and (self.number, other.number) not in self.world.cut:
                    self.world.after(
                        self.world.random.uniform(0.0005, 0.01), partial(other.take, LeaderGone(self.number))
                    )

    def set_timer(self) -> None:
        if self.raft is None:
            return
        due = (self.raft.deadline - self.shift) / self.rate + 1e-9
        if due < self.timer:
            self.timer = due
            self.world.at(due, self.elapsed)

    def elapsed(self) -> None:
        if self.raft is None or self.world.time < self.timer:
            return
        self.timer = float("inf")
        if self.busy:
            return  # ``finish`` sets it again
        if self.now >= self.raft.deadline:
            self.take(Elapsed())
        self.set_timer()

    def take(self, message: Input) -> None:
        if self.raft is None:
            return
        if self.busy:
            self.inbox.append(message)
            return
        try:
            out = self.raft.step(message, self.now)
        except KafkaError:
            return  # no leader, or a change is under way: the client's business
        if isinstance(message, AskVote):
            self.world.judge.voted(self, message, out)
        for send in out.before:
            self.world.send(self.number, send.to, send.message)
        if not out.writes:
            self.finish(out)
            return
        self.disk.unsynced += out.writes
        self.busy = True
        life = self.life
        self.world.after(self.world.disk_time(), lambda: self.synced(life, out))

    def synced(self, life: int, out: Effects) -> None:
        if self.raft is None or life != self.life:
            return
        self.disk.sync()
        self.busy = False
        self.finish(out)
        while self.inbox and not self.busy and self.raft is not None:
            self.take(self.inbox.popleft())

    def finish(self, out: Effects) -> None:
        assert self.raft is not None
        self.world.judge.stepped(self, out)
        for send in out.after:
            self.world.send(self.number, send.to, send.message)
        voted = any(isinstance(send.message, VoteAnswered) and send.message.granted for send in out.after)
        if voted and not self.world.calm and self.world.random.random() < 0.05:
            # The moment at which what was promised must not be forgotten.
            self.world.after(0.0, partial(self.world.crash, self.number, 0.002))
        snapshot = self.raft.log.snapshot
        long = len(self.raft.log.entries) > 14 and self.applied > snapshot.end
        if long and self.world.random.random() < self.world.compacts:
            data = self.digest.to_bytes(8, "big") + bytes(self.world.random.choice([0, 100]))
            tail = self.world.random.choice([snapshot.end, self.applied - 1, self.applied])
            self.take(Compact(self.applied, data, tail))
        self.set_timer()

    def apply(self, what: Entry | Snapshot) -> None:
        if isinstance(what, Snapshot):
            self.digest = int.from_bytes(what.data[:8], "big")
        else:
            self.digest = chained(self.digest, what)
        self.applied = what.end


class World:
    def __init__(self, seed: int, voters: int | None = None) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.time = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.trace: list[str] = []
        drawn = self.random.choice([1, 3, 3, 3, 5])
        self.voters = tuple(range(1, (voters or drawn) + 1))
        self.changes = self.random.random() < 0.5
        self.loss = self.random.choice([0.0, 0.02, 0.1])
        self.doubles = self.random.choice([0.0, 0.05])
        self.slow = self.random.choice([0.0, 0.02, 0.1])
        self.slow_disk = self.random.choice([0.003, 0.003, 0.1])
        self.pace = self.random.choice([0.02, 0.08, 0.3])
        # Voters whose patience is nearly the same stand against each other.
        self.settings = msgspec.structs.replace(SETTINGS, election_max_s=self.random.choice([1.0, 0.55]))
        self.compacts = self.random.choice([0.2, 0.2, 0.0])
        self.faults_until = 5.0
        self.cut: set[tuple[int, int]] = set()
        self.judge = Judge(self)
        spares = (len(self.voters) + 1, len(self.voters) + 2) if self.changes else ()
        self.hosts = {number: Host(self, number, self.voters) for number in self.voters}
        self.hosts.update({number: Host(self, number, ()) for number in spares})
        self.proposals = 0
        self.transfers = self.disks_lost = 0
        self.marked = 0

    # The loop ---------------------------------------------------------------------------------------------------------

    @property
    def calm(self) -> bool:
        return self.time >= self.faults_until

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (max(when, self.time), next(self.order), what))

    def after(self, delay: float, what: Callable[[], None]) -> None:
        self.at(self.time + delay, what)

    def run(self) -> None:
        for host in self.hosts.values():
            self.after(self.random.uniform(0, 0.2), host.start)
        self.after(0.6, self.propose)
        self.after(1.0, self.fault)
        self.at(self.faults_until, self.heal)
        while not self.settled():
            if self.time > self.faults_until + 10.0:
                raise Stuck("10 s without faults, and a proposal is not applied by every voter")
            self.time, _, what = heapq.heappop(self.events)
            what()

    def settled(self) -> bool:
        """After the calm began a proposal was made, committed, and applied by everybody who votes."""
        if not self.marked or self.judge.end < self.marked:
            return False
        newest = self.newest_leader()
        if newest is None or newest.raft is None:
            return False
        return all(self.hosts[number].applied >= self.marked for number in newest.raft.log.voters)

    def note(self, line: str) -> None:
        self.trace.append(f"{self.time:9.4f} {line}")

    # Network, disk ----------------------------------------------------------------------------------------------------

    def send(self, sender: int, to: int, message: Told) -> None:
        if to == sender or to not in self.hosts:
            raise Violated(f"{sender} sends to {to}")
        self.transfers += isinstance(message, TakeOver)
        if (sender, to) in self.cut:
            return
        copies = 1
        if not self.calm:
            if self.random.random() < self.loss:
                return
            copies += self.random.random() < self.doubles
        for _ in range(copies):
            slow = not self.calm and self.random.random() < self.slow
            delay = self.random.uniform(0.05, 1.5) if slow else self.random.uniform(0.0005, 0.01)
            self.after(delay, lambda: self.hosts[to].take(message))

    def disk_time(self) -> float:
        return self.random.uniform(0.0002, 0.003 if self.calm else self.slow_disk)

    # Clients and faults -----------------------------------------------------------------------------------------------

    def leaders(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.raft is not None and isinstance(host.raft.role, Leader)]

    def newest_leader(self) -> Host | None:
        return max(self.leaders(), key=lambda host: host.raft.term if host.raft else 0, default=None)

    def propose(self) -> None:
        leaders = self.leaders()
        if leaders:
            host = self.newest_leader() if self.calm else self.random.choice(leaders)
            assert host is not None and host.raft is not None
            batch = []
            for _ in range(self.random.randint(1, 3)):
                self.proposals += 1
                batch.append(Proposal(self.random.randint(1, 4), b"%d" % self.proposals * self.random.randint(1, 6)))
            if self.calm and not self.marked:
                self.marked = self.judge.end + 1
            host.take(Propose(batch))
        self.after(self.random.expovariate(1 / self.pace), self.propose)

    def fault(self) -> None:
        if self.calm:
            return
        numbers = list(self.hosts)
        one = self.random.choice(numbers)
        what = self.random.random()
        newest = self.newest_leader()
        if what < 0.25:
            self.crash(one)
        elif what < 0.35 and newest is not None:
            self.crash(newest.number)
        elif what < 0.40:
            for number in numbers:
                self.crash(number)
        elif what < 0.55:
            side = set(self.random.sample(numbers, self.random.randint(0, len(numbers))))
            self.cut = {(a, b) for a in numbers for b in numbers if (a in side) != (b in side)}
            self.note(f"cut off {sorted(side)}")
        elif what < 0.65:
            deaf = self.random.random() < 0.5
            self.cut = {(b, one) if deaf else (one, b) for b in numbers if b != one}
            self.note(f"{one} {'hears' if deaf else 'reaches'} nobody")
        elif what < 0.70 and len(numbers) > 1:
            a, b = self.random.sample(numbers, 2)
            self.cut |= {(a, b)}
            self.note(f"{a} does not reach {b}")
        elif what < 0.72 and newest is not None:
            self.replace_disk(one, newest)
        elif what < 0.76 and newest is not None:
            self.note(f"{newest.number} resigns")
            newest.take(Resign())
        elif what < 0.88 and self.changes and newest is not None and newest.raft is not None:
            voting = one in newest.raft.log.voters
            self.note(f"{'remove' if voting else 'add'} {one}")
            newest.take(RemoveVoter(one) if voting else AddVoter(one))
        else:
            self.cut = set()
        self.after(self.random.expovariate(3.0), self.fault)

    def replace_disk(self, number: int, newest: Host) -> None:
        """A disk is lost, with all that its voter ever promised; no second one before the first has caught up."""
        assert newest.raft is not None
        voters = newest.raft.log.voters
        founded = len(self.voters) >= 3  # a node that is configured to be alone founds a cluster of its own
        if not founded or len(voters) < 3 or any(self.hosts[voter].disk.blank for voter in voters):
            return
        self.note(f"{number} loses its disk")
        self.crash(number)
        host = self.hosts[number]
        host.lost.append(host.disk)
        host.disk = Disk(self.voters if number in self.voters else ())
        host.disk.blank = True
        self.judge.forgot(number)
        self.disks_lost += 1

    def crash(self, number: int, down: float | None = None) -> None:
        self.hosts[number].crash()
        down = down or self.random.choice([0.02, 0.3, 1.5])
        self.after(down * self.random.random(), self.hosts[number].start)

    def heal(self) -> None:
        self.cut = set()
        for host in self.hosts.values():
            host.start()
        newest = self.newest_leader()
        if newest is not None and self.random.random() < 0.1:
            self.replace_disk(self.random.choice(self.voters), newest)


def run_seed(seed: int, *, voters: int | None = None) -> World:
    """Run one world to its end; raises ``Violated`` with the seed and the command that repeats it."""
    world = World(seed, voters)
    try:
        world.run()
    except Violated as violation:
        only = f" --voters {voters}" if voters else ""
        raise type(violation)(
            f"seed {seed} ({len(world.voters)} voters) at {world.time:.4f} s: {violation}\n"
            f"repeat: python -m tests.sim.raft_world --seeds 1 --start {seed}{only}"
        ) from violation
    return world


class Report(msgspec.Struct):
    seeds: int
    seconds: float
    seeds_per_s: float
    committed: int
    leaders: int
    snapshots_installed: int
    voter_changes: int
    transfers: int
    disks_lost: int


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--voters", type=int, choices=[1, 3, 5])
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop cleanly after so long")
    parser.add_argument("--trace", action="store_true")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    report = Report(0, 0.0, 0.0, 0, 0, 0, 0, 0, 0)
    for seed in range(options.start, options.start + options.seeds):
        try:
            world = run_seed(seed, voters=options.voters)
        except Violated as violation:
            print(violation)
            return 1
        if options.trace:
            print("\n".join(world.trace))
        report.seeds += 1
        report.committed += len(world.judge.history)
        report.leaders += len(world.judge.leaders)
        report.snapshots_installed += world.judge.installed
        report.voter_changes += sum(entry.voters is not None for entry in world.judge.history)
        report.transfers += world.transfers
        report.disks_lost += world.disks_lost
        report.seconds = round(time.monotonic() - began, 1)
        if report.seconds > options.seconds:
            break
    report.seeds_per_s = round(report.seeds / max(report.seconds, 0.001), 1)
    print(msgspec.json.encode(report).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
