"""What happens to a quorum whose voters come and go: people who change it, and disks that fail under it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from logeion.actors import messages as m
from logeion.actors.controller.raft.roles import Leader
from logeion.actors.controller.storage import DIRECTORY, doubt_vote
from logeion.log.config import LogConfig
from logeion.log.log import Log
from logeion.wire.errors import (
    DuplicateVoterError,
    PolicyViolationError,
    StorageError,
    VoterNotFoundError,
)
from tests.sim.disk import ProcessFiles
from tests.sim.hosts import DATA
from tests.sim.network import Port
from tests.sim.quorum_judge import DIRECTORY as VOTER

if TYPE_CHECKING:
    from tests.sim.hosts import Host
    from tests.sim.quorums import MovingController
    from tests.sim.world import World

# How long an admin waits for an answer, and for how often it asks again.
PATIENCE_S = 8.0
TRIES = 6
# How often people look, in the calm, for a node that finds no voter.
CONFIGURE_S = 4.0
_KNOWN = (DuplicateVoterError.code, VoterNotFoundError.code, PolicyViolationError.code)
# A name that cannot be made durable is as bad as bytes that cannot.
_SYNCS = ("sync", "sync", "sync", "sync_dir")
_OTHERS = ("write", "read", "rename", "create")


class VoterFaults:
    """``until``: from then on nobody asks for anything any more."""

    def __init__(self, world: World, until: float, counts: dict[str, int]) -> None:
        self.world = world
        self.until = until
        self.engine = world.engine
        self.counts = counts
        self._stranded: tuple[MovingController, list[tuple[int, int]]] | None = None
        # Questions that have no answer yet.
        self.asking = 0

    @property
    def kinds(self) -> list[tuple[float, Callable[[], None]]]:
        """The faults of such a seed, and their weights."""
        return [
            (5, self.change_voters),
            (2, self.two_admins),
            (2, self.replace_voter),
            (1, self.remove_leader),
            (2, self.break_voter),
            (2, self.lose_voter),
            (2, self.kill_quorum_leader),
            (1, self.cut_quorum_leader),
            (1, self.oust_quorum_leader),
            (1.5, self.strand_quorum_leader),
        ]

    # Who is who

    def leader(self) -> MovingController | None:
        """The newest leader of the quorum, or the one that still thinks it is."""
        found = [(one.member.raft, one) for one in self.world.controllers()]
        leading = [(raft.term, one.host, one) for raft, one in found if raft and isinstance(raft.role, Leader)]
        return max(leading)[2] if leading else None

    def a_voter(self) -> Host:
        return self.world.hosts[self.engine.random.choice(self.world.quorum.voters)]

    # What people ask for

    def change_voters(self) -> None:
        """One more or one less, as far as this seed's size allows."""
        world, chance = self.world, self.engine.random
        voters = world.quorum.voters
        others = [number for number in world.hosts if number not in voters]
        adding = len(voters) == 1 or (bool(others) and chance.random() < (0.9 if len(voters) == 2 else 0.5))
        if adding:
            self._ask(m.ChangeVoters(add=chance.choice(others)))
        else:
            self._ask(m.ChangeVoters(remove=chance.choice(voters)))

    def two_admins(self) -> None:
        """At once, and nobody knows of the other."""
        self._count("second_admin")
        self.change_voters()
        self.change_voters()

    def remove_leader(self) -> None:
        leader = self.leader()
        if leader is not None:
            self._ask(m.ChangeVoters(remove=leader.host))

    def replace_voter(self) -> None:
        """A voter's host dies; it is removed, another one takes its place, and later it comes back."""
        world, chance = self.world, self.engine.random
        host = self.a_voter()
        others = [number for number in world.hosts if number not in world.quorum.voters]
        if not host.up or not others:
            return
        number = chance.choice(others)
        world.note(f"host {host.number}: its tree is killed, and node {number} is to vote in its place")
        host.stop_tree()
        self.engine.after(chance.choice((0.5, 3.0)) * chance.random(), host.start)
        if chance.random() < 0.5:
            self._ask(m.ChangeVoters(remove=host.number), lambda: self._ask(m.ChangeVoters(add=number)))
        else:
            self._ask(m.ChangeVoters(add=number), lambda: self._ask(m.ChangeVoters(remove=host.number)))

    def _ask(self, wish: m.ChangeVoters, then: Callable[[], None] | None = None, tries: int = TRIES) -> None:
        """By any host's Controller; whoever is not told that it is done asks again."""
        if self.engine.time >= self.until:
            return
        world, chance = self.world, self.engine.random
        what = f"voter {wish.add} is to be added" if wish.add is not None else f"voter {wish.remove} is to be removed"
        world.note(what)
        host = world.hosts[chance.choice(list(world.hosts))]
        self.asking += 1

        def again() -> None:
            self.asking -= 1
            if tries > 1:
                self.engine.after(chance.uniform(0.05, 0.5), self._ask, wish, then, tries - 1)

        def answered(reply: m.Message | None) -> None:
            if isinstance(reply, m.Recorded):
                self.asking -= 1
                self._count("voters_changed")
                world.note(f"{what}: done at {reply.committed}")
                world.quorum.changed(wish.add, wish.remove, reply.committed)
                if then is not None:
                    then()
                return
            code = reply.code if isinstance(reply, m.Refused) else 0
            world.note(f"{what}: {reply.reason if isinstance(reply, m.Refused) else 'no answer'}")
            if code not in _KNOWN:
                again()
                return
            self.asking -= 1
            if code in (DuplicateVoterError.code, VoterNotFoundError.code):
                world.quorum.known_already(wish.add, wish.remove)
            if then is not None:
                then()

        def opened(lane: Port) -> None:
            lane.call(wish, answered, PATIENCE_S)

        world.network.dial(world.admin, lambda: host.processes.get("controller"), opened, again, host.number)

    # Disks

    def break_voter(self) -> None:
        """Some of what a voter does with its disk fails for a while. After a failed sync nobody starts there before
        people have looked, so it counts as a disk lost."""
        chance, host = self.engine.random, self.a_voter()
        kind = chance.choice((*_SYNCS, *_OTHERS) if self._may_lose(host) else _OTHERS)
        self.world.note(f"host {host.number}: each {kind} of its voter fails")
        host.disk.broken.add((kind, "/__cluster_metadata-0"))
        self.engine.after(chance.uniform(0.05, 0.5), host.disk.broken.clear)
        if kind in _SYNCS:
            self.engine.after(chance.uniform(0.3, 2.0), self._mend, host)

    def _mend(self, host: Host) -> None:
        """A sync has failed: people replace the disk, or accept that what was not synced is gone."""
        quorum, calm = self.world.quorum, self.engine.time >= self.until
        if not quorum.is_fenced(host.number):
            return
        if not calm and host.number not in quorum.lost and not self._may_lose(host):
            self.engine.after(0.3, self._mend, host)
        elif self.engine.random.random() < 0.5 and self.world.may_lose_all(host):
            self._lose(host)
        else:
            self._accept_cut(host)

    def _accept_cut(self, host: Host) -> None:
        """``logeion log accept-cut``; the voter does not run, or it ends at once."""
        self._count("cut_accepted")
        self.world.note(f"host {host.number}: its voter's log is cut to what is known to be synced")
        self.world.quorum.disk_lost(host.number, votes=False)
        directory, files = Path(DATA) / DIRECTORY, ProcessFiles(host.disk)
        try:
            doubt_vote(directory, files)
            Log.open(directory, LogConfig(), files=files, now_ms=host.now_ms(), create=False, accept_cut=True).close()
        except StorageError as error:
            self.world.note(f"host {host.number}: {error}")
            self.engine.after(0.2, self._mend, host)
        finally:
            files.release()

    def lose_voter(self) -> None:
        host = self.a_voter()
        if self._may_lose(host) and self.world.may_lose_all(host):
            self._lose(host)

    def _may_lose(self, host: Host) -> bool:
        """One disk at a time, of three voters or more."""
        quorum, leader = self.world.quorum, self.leader()
        sets = [quorum.voters, *([leader.member.raft.log.voters] if leader and leader.member.raft else [])]
        if min(map(len, sets)) < 3 or host.number in quorum.lost:
            return False
        voters = {voter for each in sets for voter in each}
        spoilt = [voter for voter in voters if voter in quorum.lost or quorum.state(voter).get("blank", True)]
        others = voters - {host.number}
        # One whose syncs fail from now on is as good as lost: what they cost is accepted at the end at the latest.
        failing = [voter for voter in others if any(kind in _SYNCS for kind, _ in self.world.hosts[voter].disk.broken)]
        return not spoilt and not failing and not any(map(quorum.is_fenced, others))

    def _lose(self, host: Host) -> None:
        """The whole data directory, the voter's log with it; who gives it a new one has told it who votes."""
        world = self.world
        self._count("voter_lost")
        world.note(f"host {host.number}: its directory is lost, and its voter's")
        world.quorum.disk_lost(host.number)
        world.configured[host.number] = tuple(sorted(world.quorum.voters))
        host.stop_tree(power=self.engine.random.random() < 0.5)
        host.lose_directory()
        host.disk.remove(VOTER)
        world.directory_lost(host)
        self.engine.after(self.engine.random.choice((0.02, 0.5, 1.5)) * self.engine.random.random(), host.start)

    # Who leads

    def kill_quorum_leader(self) -> None:
        leader = self.leader()
        if leader is not None:
            self.world.note(f"{leader.name}, who leads the quorum, is killed")
            leader.kill()

    def cut_quorum_leader(self) -> None:
        """From all other hosts, in both directions or one."""
        leader = self.leader()
        if leader is None:
            return
        number, chance = leader.host, self.engine.random
        others = [other for other in self.world.hosts if other != number]
        pairs = [(number, other) for other in others] if chance.random() < 0.7 else []
        pairs += [(other, number) for other in others] if not pairs or chance.random() < 0.7 else []
        self.world.note(f"{leader.name}, who leads the quorum, is cut off: {pairs}")
        self.world.network.block(pairs)
        self.engine.after(chance.uniform(0.5, 3.0), self.world.network.heal, pairs)

    def oust_quorum_leader(self) -> None:
        """It is stopped until others have elected another one, and goes on."""
        leader = self.leader()
        if leader is not None:
            self.world.note(f"{leader.name}, who leads the quorum, is stopped")
            leader.freeze()
            self.engine.after(self.engine.random.uniform(1.2, 3.0), leader.thaw)

    def strand_quorum_leader(self) -> None:
        """It is cut off; as soon as there is another one, and it does not know that yet, a third voter loses its disk
        and hears of the old one again."""
        leader = self.leader()
        if leader is None or len(self.world.quorum.voters) < 3:
            return
        number = leader.host
        pairs = [pair for other in self.world.hosts if other != number for pair in ((number, other), (other, number))]
        self.world.note(f"{leader.name}, who leads the quorum, is cut off until there is another one")
        self.world.network.block(pairs)
        self._stranded = (leader, pairs)
        self.engine.after(3.0, self.world.network.heal, pairs)

    def leads(self, number: int) -> None:
        """Another one leads the quorum."""
        stranded, self._stranded = self._stranded, None
        if stranded is None or self.engine.time >= self.until:
            return
        leader, pairs = stranded
        raft = leader.member.raft
        if leader.alive and raft is not None and isinstance(raft.role, Leader) and leader.host != number:
            self._count("stranded_leader")
            self.engine.after(self.engine.random.uniform(0.0, 0.1), self._betray, leader.host, number, pairs)

    def _betray(self, old: int, new: int, pairs: list[tuple[int, int]]) -> None:
        chance, world = self.engine.random, self.world
        others = [voter for voter in world.quorum.voters if voter not in (old, new)]
        host = world.hosts[chance.choice(others)] if others else None
        if host is not None and host.up and self._may_lose(host) and world.may_lose_all(host):
            self._count("betrayed_leader")
            self._lose(host)
            host.start()
            world.network.heal([pair for pair in pairs if host.number in pair])

    # The end

    def heal(self) -> None:
        """The calm begins: whoever cannot start for its disk is helped."""
        for host in self.world.hosts.values():
            self._mend(host)
        self._configure()

    def _configure(self) -> None:
        """``cluster.voters`` of all hosts, as operating.md asks for: who was away during the whole change, and knows it
        from nowhere else, is started anew with the list of today."""
        world = self.world
        world.configured = dict.fromkeys(world.hosts, tuple(sorted(world.quorum.voters)))
        for process in world.controllers():
            away = not process.member.applied and process.host not in world.quorum.voters
            if away and not process.is_configured():
                world.note(f"{process.name} knows no voter: it is started anew")
                process.kill()
        self.engine.after(CONFIGURE_S, self._configure)

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1
