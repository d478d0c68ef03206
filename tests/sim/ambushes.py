"""What goes wrong at the worst moment: rare windows that chance alone hardly ever meets.

A fault that is drawn by the clock meets a window of a few milliseconds once in thousands of seeds. These wait for the
moment: a follower is told where its log parts from the leader's, or a partition has just got another leader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.cluster_judge import Key, Truth
    from tests.sim.leaders import PartitionProcess
    from tests.sim.network import Port
    from tests.sim.world import World


class Ambushes:
    """``until``: from then on nothing more is sprung."""

    def __init__(self, world: World, until: float, counts: dict[str, int]) -> None:
        self.world = world
        self.until = until
        self.engine = world.engine
        self.counts = counts
        self._armed: set[Key] = set()
        self._awaited: set[Key] = set()

    def diverged(self, leader: PartitionProcess, lane: Port) -> None:
        """A leader tells a follower where their logs part: it dies of it, and its answer comes when others lead."""
        chance = self.engine.random
        if not self.world.settings.late_s or self.engine.time >= self.until or chance.random() < 0.5:
            return
        self._count("late_divergence")
        self.world.note(f"{leader.name} is killed, and its last answer is late")
        lane.delay(chance.uniform(0.1, 0.6))
        self.engine.after(0.0, leader.kill)

    def wait_for_watermark(self, truth: Truth) -> None:
        """The leader's host will go as soon as the watermark has moved and nobody else knows; and whoever is left to
        follow the next leader loses all it has."""
        self._armed.add(truth.key)

    def committed(self, truth: Truth, number: int) -> None:
        """A leader's watermark has just moved."""
        if truth.key in self._armed and number not in self.world.voters and self.engine.time < self.until:
            self._armed.discard(truth.key)
            self._awaited.add(truth.key)
            self.engine.after(0.0, self._strike, number)

    def _strike(self, number: int) -> None:
        host = self.world.hosts[number]
        self.world.note(f"host {number}: its tree is killed with a watermark that nobody knows")
        host.stop_tree()
        self.engine.after(self.engine.random.uniform(1.5, 3.0), host.start)

    def elected(self, truth: Truth) -> None:
        """Another leader epoch has begun."""
        newest = truth.newest
        if truth.key not in self._awaited or newest is None or newest.leader < 0 or self.engine.time >= self.until:
            return
        others = [node for node in newest.isr if node != newest.leader]
        host = self.world.hosts[others[0]] if len(others) == 1 else None
        if host is not None and host.up and self.world.may_lose(host, truth):
            self._awaited.discard(truth.key)
            # Before the new leader has heard of it, or when that knows what it holds.
            self.engine.after(self.engine.random.choice((0.0, 0.2)), self._empty, host.number)

    def _empty(self, number: int) -> None:
        host = self.world.hosts[number]
        if not host.up or not self.world.may_lose_all(host):
            return
        self._count("emptied_member")
        self.world.note(f"host {number}: its directory is lost at an election")
        host.stop_tree()
        host.lose_directory()
        self.world.directory_lost(host)
        self.engine.after(self.engine.random.uniform(0.05, 0.3), host.start)

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1
