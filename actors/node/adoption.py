"""Who really holds the partitions' directories of this host: what the Supervisor lists and reports, and what the actors
say of themselves. Pure.

A fresh Node adopts the processes that its predecessor had started, once they say hello; what that one asked for long
ago may come later, or be missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from .. import messages as m
from .events import AnyEffect, Greeted, Reported, Stop
from .local import FOLLOWER, LEADER, Process

MANAGED = frozenset((LEADER, FOLLOWER))
# How long a process may take to die before SIGKILL, and before SIGKILL is sent again.
STOP_GRACE_S = 0.2
KILLED_S, KILL_AGAIN_S = 1.0, 5.0
# How long the Supervisor may take to fork before it is asked whom it has, and how often it is before others are told;
# how long a process found by a fresh Node may take to say hello.
FORK_S, FORKS_MAX = 1.0, 3
HELLO_S = 3.0
# A leader that has not come to run after this is reported, so that another can be elected: it may recover for long.
START_S = 5.0


class Owner(Protocol):
    """What a node's machine is to the processes it has."""

    listing: int

    def emit(self, effect: AnyEffect) -> None:
        """Have this done."""

    def ask_list(self) -> None:
        """Ask the Supervisor whom it has, under the next number (``listing``)."""

    def on_greeted(self, process: Process, now: float) -> None:
        """It has connected, and is not on its way out."""

    def on_reported(self, process: Process, change: m.StateChanged, now: float) -> None:
        """It says what it does."""

    def on_exited(self, process: Process, event: m.ActorExited, now: float) -> None:
        """It is gone, and not in ``Processes.all`` any more."""

    def on_late(self, process: Process, now: float) -> None:
        """It has taken too long to come to run, or to end."""


class Processes:
    """The processes of Partitions and Replicas, by their actors' ids."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.all: dict[str, Process] = {}
        self.listed: bool = False
        # What actors said before the Supervisor had said who runs.
        self._early: dict[tuple[str, type], Greeted | Reported] = {}

    @property
    def starting(self) -> int:
        """How many are on their way up."""
        return sum(1 for one in self.all.values() if one.state in ("asked", "starting"))

    def at(self, directory: str) -> list[Process]:
        """Who holds this directory, or is about to."""
        found = (self.all.get(f"{LEADER}/{directory}"), self.all.get(f"{FOLLOWER}/{directory}"))
        return [process for process in found if process is not None]

    def asked(self, process: Process, now: float) -> None:
        """The Supervisor is being asked for this one."""
        process.deadline = now + FORK_S
        process.since = self.owner.listing
        self.all[process.actor] = process

    def stop(self, process: Process, now: float, *, force: bool) -> None:
        """End it; what does not end in time is killed, again and again."""
        process.state = "stopping"
        process.deadline = now + (STOP_GRACE_S if not force else KILL_AGAIN_S if process.killed else KILLED_S)
        process.killed = force
        self.owner.emit(Stop(actor=process.actor, incarnation=process.incarnation, force=force))

    # The Supervisor

    def found(self, entries: Iterable[m.ActorEntry], number: int, now: float) -> None:
        """Who really runs, in the list of this number (0: nobody asked for it, and it may be of any age)."""
        alive = {entry.actor: entry for entry in entries}
        self.listed = True
        for entry in alive.values():
            known = self.all.get(entry.actor)
            if known is None:
                self._stranger(entry.actor, entry.incarnation, entry.pid, entry.restarts, now)
            elif known.incarnation == entry.incarnation:
                self._forked(known, entry.pid, entry.restarts, now)
            else:
                # Nobody here asked for that one, and it is in the way.
                self.owner.emit(Stop(actor=entry.actor, incarnation=entry.incarnation, force=True))
        for process in list(self.all.values()):
            entry_of = alive.get(process.actor)
            if number > process.since and (entry_of is None or entry_of.incarnation != process.incarnation):
                self.exited(m.ActorExited(actor=process.actor, incarnation=process.incarnation), now)
        early, self._early = self._early, {}
        for event in early.values():
            if isinstance(event, Greeted):
                self.greeted(event, now)
            else:
                self.reported(event, now)

    def _stranger(self, actor: str, incarnation: int, pid: int, restarts: int, now: float) -> Process:
        process = self.all[actor] = Process(
            actor=actor,
            incarnation=incarnation,
            state="starting",
            pid=pid,
            restarts=restarts,
            since=self.owner.listing,
            deadline=now + HELLO_S,
        )
        return process

    def _forked(self, process: Process, pid: int, restarts: int, now: float) -> None:
        process.pid, process.restarts = pid, restarts
        if process.state == "asked":
            process.state, process.deadline = "starting", now + START_S

    def started(self, event: m.ActorStarted, now: float) -> None:
        """The process exists."""
        process = self.all.get(event.actor)
        if process is None:
            # A predecessor asked for it after it had been listed to us, or it is older than its own exit.
            self._stranger(event.actor, event.incarnation, event.pid, event.restarts, now)
        elif process.incarnation == event.incarnation:
            self._forked(process, event.pid, event.restarts, now)
        else:
            self.owner.emit(Stop(actor=event.actor, incarnation=event.incarnation, force=True))

    def exited(self, event: m.ActorExited, now: float) -> None:
        """The process is gone."""
        self._forget_early(event)
        process = self.all.get(event.actor)
        if process is not None and process.incarnation == event.incarnation:
            del self.all[event.actor]
            self.owner.on_exited(process, event, now)

    def _forget_early(self, event: m.ActorExited) -> None:
        """What a process said before the Supervisor's list must not outlive it: it would be believed to run."""
        greeted = self._early.get((event.actor, Greeted))
        if isinstance(greeted, Greeted) and greeted.hello.incarnation == event.incarnation:
            del self._early[event.actor, Greeted]
        reported = self._early.get((event.actor, Reported))
        if isinstance(reported, Reported) and reported.incarnation == event.incarnation:
            del self._early[event.actor, Reported]

    # What they say

    def greeted(self, event: Greeted, now: float) -> None:
        """One has connected (again)."""
        hello = event.hello
        if not self.listed:
            self._early[hello.actor, Greeted] = event
            return
        process = self.all.get(hello.actor)
        if process is None:
            # A predecessor had it started, and was told so.
            process = self._stranger(hello.actor, hello.incarnation, hello.pid, 0, now)
        if process.greeted(hello):
            if process.state == "starting":
                process.deadline = now + START_S
            self.owner.on_greeted(process, now)

    def parted(self, actor: str, incarnation: int, now: float) -> None:
        """The lane of one has closed."""
        process = self.all.get(actor)
        if process is not None:
            process.part(incarnation, now)

    def reported(self, event: Reported, now: float) -> None:
        """One says what it does."""
        if not self.listed:
            self._early[event.actor, Reported] = event
            return
        process = self.all.get(event.actor)
        if process is None or process.incarnation != event.incarnation:
            return
        if event.change.state == "running" and process.state in ("asked", "starting", "running"):
            process.state, process.ran, process.deadline = "running", True, None
        self.owner.on_reported(process, event.change, now)

    # Time

    def elapsed(self, now: float) -> None:
        """Something has taken too long."""
        for process in list(self.all.values()):
            if process.deadline is None or process.deadline > now:
                continue
            if not process.pid or process.parted:
                # A request or its answer, or what was told of an exit, is lost: who runs?
                process.deadline = now + FORK_S
                self.owner.ask_list()
                process.overdue += 1
                if process.overdue >= FORKS_MAX:
                    self.owner.on_late(process, now)
            elif process.state == "starting" and process.topic_id is not None:
                process.deadline = None
                self.owner.on_late(process, now)
            else:
                if process.killed:
                    # It will not die, or its exit was not told.
                    self.owner.on_late(process, now)
                    self.owner.ask_list()
                self.stop(process, now, force=True)
