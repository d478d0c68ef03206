"""Seeds in which partitions lose all that may lead them: an unclean election follows, or people decide.

Some topics allow it from the beginning; for some it is allowed (and forbidden again) while all goes on; for some an
admin asks for it once a partition has had no leader for a while. Who is in sync loses its storage as often as not, far
beyond what the promise takes (I2): what may be lost then is ``permitted_loss``'s business.

    python -m tests.sim.unclean --seeds 3000 [--start 0] [--jobs 2]       (so many seeds of this class, and no others)
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from logeion.actors import messages as m

if TYPE_CHECKING:
    from tests.sim.cluster_judge import Truth
    from tests.sim.faults import Faults
    from tests.sim.hosts import Host
    from tests.sim.world import World

# One of so many seeds is of this class.
UNCLEAN, CLASS = 16, 7
SETTING = "unclean.leader.election.enable"
WATCH_S = 0.1


def drawn(seed: int) -> dict[str, object]:
    """What this seed's cluster is like: settings by name."""
    chance = random.Random(seed * 7919 + 3)
    # Mostly the quorum stays, and can name other leaders; else it goes with those it would have to take note of.
    stays = chance.random() < 0.6
    found: dict[str, object] = {
        "nodes": 4 if stays else chance.choice((3, 3, 4)),
        "voters": 1 if stays else chance.choice((1, 3)),
        "assigned": chance.sample((2, 3, 4), 3) if stays else [],
        "min_isr": chance.choice((1, 1, 2)),
        "flush": chance.choice(("ack", "ack", "ack", "os")),
        "segment_bytes": chance.choice((1_048_576, 1_048_576, 1024)),
        "fetch_bytes": chance.choice((16_384, 256)),
        "slow_disk": chance.choice((0.002, 0.004, 0.05)),
        "wait_ms": chance.choice((30_000, 500)),
        "rebalance_s": chance.choice((0.0, 0.0, 1.0)),
        "late_s": chance.choice((0.0, 0.0, 1.0)),
        "heartbeat_s": 0.2,
        "session_s": 0.6,
        "lag_time_max_s": 0.5,
        "moves_min_isr": chance.random() < 0.2,
        "unclean": chance.choice(("on", "switched", "asked")),
    }
    if not stays:
        found["partitions"] = chance.choice((1, 1, 2))
    return found


class Losses:
    """The faults of these seeds, and the people who decide."""

    def __init__(self, world: World, faults: Faults) -> None:
        self.world = world
        self.engine = world.engine
        self.faults = faults
        self.mode = world.settings.unclean
        # Since when nobody leads, by directory; and for how long people wait.
        self._leaderless: dict[str, float] = {}
        self.patience_s = self.engine.random.uniform(0.2, 1.2)

    def kinds(self) -> list[tuple[float, Callable[[], None]]]:
        """What goes wrong, and how often."""
        faults = self.faults
        found: list[tuple[float, Callable[[], None]]] = [
            (6, self.leave_behind),
            (2, self.strike),
            (1, self.break_members),
            (1, self.wish),
            (1, faults.kill_leader),
            (1, faults.kill_actor),
            (1, faults.kill_in_change),
            (1, faults.freeze_host),
            (1, faults.kill_tree),
            (1, faults.power_cut),
            (1, faults.cut_leader),
            (1, faults.isolate),
            (1, faults.heal_links),
            (1, faults.lose_storage),
            (1, faults.break_disk),
            (1, faults.trim),
            (1, faults.elect),
            (0.5, faults.drain),
            (0.5, faults.fill_disk),
        ]
        if self.mode == "switched":
            found.append((6, self.switch))
        return found

    # People

    def begin(self) -> None:
        """They look from now on, also in the calm."""
        self.engine.after(WATCH_S, self._watch)

    def _watch(self) -> None:
        now = self.engine.time
        for truth in self.world.judge.truths.values():
            if truth.newest is None or truth.newest.leader >= 0:
                self._leaderless.pop(truth.directory, None)
            elif now - self._leaderless.setdefault(truth.directory, now) > self.patience_s:
                self._leaderless[truth.directory] = now
                self._decide(truth)
        self.engine.after(WATCH_S, self._watch)

    def _decide(self, truth: Truth) -> None:
        """For want of any leader."""
        if self.mode == "asked":
            self._wish(truth)
        elif self.mode == "switched":
            self._set("true")

    def wish(self) -> None:
        """An admin who does not look whether it is needed."""
        truth = self.faults.a_truth()
        if truth is not None:
            self._wish(truth)

    def _wish(self, truth: Truth) -> None:
        self.world.note(f"an admin wants {truth.directory} to be led, uncleanly if need be")
        topic, _, partition = truth.directory.rpartition("-")
        one = [m.PartitionToElect(topic=topic, partition=int(partition))]
        every = self.engine.random.random() < 0.5
        self.faults.ask_controller(m.ElectLeaders(partitions=None if every else one, unclean=True))

    def switch(self) -> None:
        """On or off, whatever it is."""
        self._set(self.engine.random.choice(("true", "false")))

    def _set(self, value: str) -> None:
        self.world.note(f"{SETTING} is to be {value}")
        truth = self.faults.a_truth()
        if truth is not None:
            change = m.ConfigChange(key=SETTING, operation="set", value=value)
            name = truth.directory.rpartition("-")[0]
            self.faults.ask_controller(m.AlterConfigs(resource="topic", name=name, changes=[change]))

    # What goes wrong

    def leave_behind(self) -> None:
        """A follower is away until it is not in sync any more; then all who are go, as it comes back or soon after."""
        truth = self.faults.a_truth()
        newest = truth.newest if truth is not None else None
        if truth is None or newest is None or newest.leader < 0:
            return
        others = [node for node in newest.replicas if node != newest.leader and self.world.hosts[node].up]
        if not others:
            return
        away = self.world.hosts[self.engine.random.choice(others)]
        self.world.note(f"host {away.number} is left behind")
        away.stop_tree()
        self.engine.after(0.2, self._left_behind, truth.key, away, 15)

    def _left_behind(self, key: tuple[str, int], away: Host, looks: int) -> None:
        truth = self.world.judge.truths.get(key)
        newest = truth.newest if truth is not None else None
        if self.engine.time >= self.faults.until or truth is None or newest is None:
            return
        if away.number in (*newest.isr, *newest.elr):
            if looks:
                self.engine.after(0.1, self._left_behind, key, away, looks - 1)
            else:
                away.start()
            return
        chance = self.engine.random
        # Before it is there, or when it has had a little time to fetch.
        self.engine.after(chance.uniform(0.0, 0.4), away.start)
        self.engine.after(chance.uniform(0.0, 0.6), self._strike_all, key)

    def strike(self) -> None:
        """All who may lead go, be there others or not."""
        truth = self.faults.a_truth()
        if truth is not None:
            self._strike_all(truth.key)

    def _members(self, key: tuple[str, int]) -> list[Host]:
        truth = self.world.judge.truths.get(key)
        newest = truth.newest if truth is not None else None
        if newest is None or self.engine.time >= self.faults.until:
            return []
        return [self.world.hosts[node] for node in (*newest.isr, *newest.elr)]

    def _strike_all(self, key: tuple[str, int]) -> None:
        chance = self.engine.random
        loses = chance.choice((0.0, 0.5, 1.0))
        # Cut off from the others they lead on for a while.
        cut = chance.random() < 0.3
        members = self._members(key)
        for host in members:
            if cut:
                self.world.note(f"host {host.number} is cut off from the other hosts")
                others = [number for number in self.world.hosts if number != host.number]
                self.world.network.block([pair for o in others for pair in ((host.number, o), (o, host.number))])
            else:
                self.engine.after(chance.choice((0.0, 0.1)) * chance.random(), self._strike, host, loses)
        if cut and members:
            self.engine.after(chance.uniform(0.8, 2.5), self.faults.heal_links)

    def _strike(self, host: Host, loses: float) -> None:
        chance = self.engine.random
        power = chance.random() < 0.4 and host.up
        host.stop_tree(power=power)
        lost = chance.random() < loses and not host.up
        self.world.note(f"host {host.number} goes{', power' if power else ''}{', and all it held' if lost else ''}")
        if lost:
            host.lose_directory()
            self.world.directory_lost(host)
        elif power:
            self.world.power_lost(host)
        self.engine.after(chance.uniform(0.1, 2.5), host.start)

    def break_members(self) -> None:
        """The disks of all who may lead fail for this partition."""
        truth = self.faults.a_truth()
        if truth is None:
            return
        kind = self.engine.random.choice(("sync", "write", "read"))
        for host in self._members(truth.key):
            self.world.note(f"host {host.number}: each {kind} in {truth.directory} fails")
            host.disk.broken.add((kind, f"/{truth.directory}/"))
            self.engine.after(self.engine.random.uniform(0.1, 1.0), host.disk.broken.clear)


# Many seeds -----------------------------------------------------------------------------------------------------------


class Tally:
    """What the class has come to."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.failed: list[str] = []

    def add(self, name: str, count: int) -> None:
        self.counts[name] = self.counts.get(name, 0) + count


def run_some(numbers: tuple[int, int]) -> Tally:
    """The seeds of these numbers in the class, one after the other."""
    from tests.sim.cluster_world import ClusterWorld, Crashed, tell
    from tests.sim.engine import Violated
    from tests.sim.permitted_loss import UncleanJudge

    tally = Tally()
    gc.disable()
    for number in range(*numbers):
        if number % 5 == 0:
            gc.collect()
        world = ClusterWorld(number * UNCLEAN + CLASS)
        try:
            tell(world)
        except (Violated, Crashed) as failure:
            tally.failed.append(str(failure))
        judge = world.judge
        assert isinstance(judge, UncleanJudge)
        tally.add("seeds", 1)
        tally.add("steps", world.engine.steps)
        tally.add("acks", judge.acks)
        tally.add("elections", judge.elections)
        for name in ("unclean", "wishes_granted", "last_known", "lost_batches", "lost_acks", "late_acks", "resets"):
            tally.add(name, getattr(judge, name))
        tally.add(f"mode {world.settings.unclean}", 1)
        tally.add(f"unclean in {world.settings.unclean}", judge.unclean)
        tally.add("seeds with an unclean election", bool(judge.unclean))
        for name, count in world.faults.counts.items() if world.faults is not None else ():
            tally.add(f"fault {name}", count)
        world.close()
    return tally


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    from tests.sim.cluster_world import workers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0, help="the number of the first in the class")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args(arguments)
    end = options.start + options.seeds
    total, began = Tally(), time.monotonic()
    with workers(options.jobs) as spread:
        pieces = [(at, min(at + 25, end)) for at in range(options.start, end, 25)]
        for part in spread(run_some, pieces):  # type: ignore[operator]
            for failure in part.failed:
                print(failure, flush=True)
            total.failed += part.failed
            for name, count in part.counts.items():
                total.add(name, count)
    print({**total.counts, "failed": len(total.failed), "seconds": round(time.monotonic() - began, 1)})
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
