"""What runs beside the leaders of ``__consumer_offsets``: one group index each, and a Coordinator for every group that
somebody wants. Pure.

All of them live for one leader epoch of their partition. A Coordinator that ends without having said that it is idle is
started again at once; an idle one goes, and comes back when it is wanted. Nothing of this is in the metadata log: a
fresh Node adopts who runs, and who is missing is wanted again by the first request for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from .. import messages as m
from ..groups import OFFSETS_TOPIC
from ..metadata import MetadataImage
from .events import AnyEffect, Greeted, Reported, Start, Stop, ToGateways
from .local import Backoff, Process

Key = tuple[str, int]

KIND = "coordinator"
INDEX, COORDINATOR = "index/", "coordinator/"
IDLE = "idle"
UPKEEP = "upkeep"

STOP_GRACE_S = 0.2
KILL_AGAIN_S = 5.0
FORK_S = 1.0
HELLO_S = 3.0


def is_companion(actor: str) -> bool:
    """Whether an actor's id is that of a Coordinator or group index."""
    return actor.startswith((COORDINATOR, INDEX))


class Companion(Backoff, kw_only=True):
    """One group's Coordinator, or (``group`` None) the group index of a partition."""

    actor: str
    group: str | None
    key: Key | None
    wanted: bool = True
    upkeep: bool = False
    process: Process | None = None


class Host(Protocol):
    """What a node's machine is to its companions."""

    node: int
    image: MetadataImage

    @property
    def settled(self) -> bool:
        """Whether it is known what should run and what does."""

    def serving_epoch(self, key: Key) -> int | None:
        """The epoch in which this host's leader of the partition serves now."""

    def new_incarnation(self) -> int:
        """One that no actor of this host has ever had."""

    listing: int

    def emit(self, effect: AnyEffect) -> None:
        """Have this done."""

    def ask_list(self) -> None:
        """Ask the Supervisor whom it has, under the next number (``listing``)."""


class Companions:
    """The part of a node's machine that deals with them."""

    def __init__(self, host: Host, coordinators_max: int) -> None:
        self.host = host
        self.coordinators_max = coordinators_max
        self.all: dict[str, Companion] = {}
        self._queue: dict[str, None] = {}

    @property
    def deadlines(self) -> Iterable[float]:
        """When something is due."""
        for one in self.all.values():
            if one.retry_at is not None:
                yield one.retry_at
            if one.process is not None and one.process.deadline is not None:
                yield one.process.deadline

    @property
    def starting(self) -> int:
        """How many are on their way up."""
        return sum(1 for one in self.all.values() if one.process and one.process.state in ("asked", "starting"))

    def pingable(self) -> Iterable[tuple[str, int]]:
        """Who runs, and can be asked for a sign of life."""
        for one in self.all.values():
            if one.process is not None and one.process.state == "running" and one.process.connected:
                yield one.actor, one.process.incarnation

    # Who is wanted

    def want(self, asker: str, wish: m.EnsureCoordinator, now: float) -> None:
        """``asker`` is told at once if it runs already, else with everybody else when it does."""
        actor = COORDINATOR + wish.group
        one = self.all.get(actor)
        if one is None:
            if len(self.all) >= self.coordinators_max:
                # Somebody may think of any number of groups; those that are idle make room before long.
                cause = f"{len(self.all)} coordinators run on this node (groups.coordinators_max)"
                stopped = m.CoordinatorStopped(group=wish.group, incarnation=0, cause=cause)
                self.host.emit(ToGateways(message=stopped, actor=asker))
                return
            one = self.all[actor] = Companion(actor=actor, group=wish.group, key=None, upkeep=wish.upkeep)
        one.key = (wish.topic_id, wish.partition)
        one.wanted = True
        one.upkeep = one.upkeep and wish.upkeep
        if one.process is not None and one.process.state == "running":
            self._tell(one, asker)
        elif one.offline:
            self.host.emit(ToGateways(message=self._stopped(one, 0), actor=asker))
        self._try(one)

    def follow(self, key: Key, now: float) -> None:
        """The leader of this partition has come, gone or changed its epoch."""
        topic = self.host.image.topic_by_id(key[0])
        if topic is not None and topic.name != OFFSETS_TOPIC:
            return
        state, epoch = self.host.image.partition(*key), self.host.serving_epoch(key)
        here = state is not None and state.leader == self.host.node
        if here and topic is not None:
            actor = f"{INDEX}{topic.name}-{key[1]}"
            self.all.setdefault(actor, Companion(actor=actor, group=None, key=key)).key = key
        for one in [one for one in self.all.values() if one.key == key]:
            if not here:
                one.wanted = False
            process = one.process
            if process is None:
                if one.wanted:
                    self._try(one)
                else:
                    self._drop(one)
            elif process.epoch is not None and process.state != "stopping" and (not here or self._outlived(one)):
                self._stop(one, process, now)
        if epoch is not None:
            for actor in [actor for actor, one in self.all.items() if one.key == key and one.wanted]:
                self._try(self.all[actor])

    def _outlived(self, one: Companion) -> bool:
        epoch = self.host.serving_epoch(one.key) if one.key is not None else None
        return epoch is not None and one.process is not None and one.process.epoch != epoch

    def _try(self, one: Companion) -> None:
        """Queue its start, if nothing stands against it."""
        if one.wanted and one.process is None and one.retry_at is None and self._can_start(one):
            self._queue[one.actor] = None

    def _can_start(self, one: Companion) -> bool:
        return self.host.settled and one.key is not None and self.host.serving_epoch(one.key) is not None

    @property
    def waiting(self) -> bool:
        """Whether anything is to be started."""
        return bool(self._queue)

    def pump(self, room: int, now: float) -> None:
        """Start what waits, at most ``room``."""
        while self._queue and room > 0:
            actor = next(iter(self._queue))
            del self._queue[actor]
            one = self.all.get(actor)
            if one is not None and one.wanted and one.process is None and self._can_start(one):
                self._start(one, now)
                room -= 1

    def _start(self, one: Companion, now: float) -> None:
        assert one.key is not None
        topic_id, partition = one.key
        epoch = self.host.serving_epoch(one.key)
        assert epoch is not None
        incarnation = self.host.new_incarnation()
        one.process = Process(
            actor=one.actor,
            incarnation=incarnation,
            state="asked",
            topic_id=topic_id,
            partition=partition,
            epoch=epoch,
            restarts=one.restarts,
            since=self.host.listing,
            deadline=now + FORK_S,
        )
        self.host.emit(
            Start(
                actor=one.actor,
                incarnation=incarnation,
                topic=OFFSETS_TOPIC,
                topic_id=topic_id,
                partition=partition,
                epoch=epoch,
                configs={UPKEEP: "true"} if one.upkeep else {},
                kind=KIND,
                group=one.group,
            )
        )
        one.upkeep = False

    def _stop(self, one: Companion, process: Process, now: float) -> None:
        """Whatever it still does can be of no use: kill it."""
        process.state, process.deadline = "stopping", now + KILL_AGAIN_S
        self.host.emit(Stop(actor=one.actor, incarnation=process.incarnation, force=True))
        self.host.emit(ToGateways(message=self._stopped(one, process.incarnation)))

    def _drop(self, one: Companion) -> None:
        self.all.pop(one.actor, None)
        self._queue.pop(one.actor, None)

    # The supervisor

    def found(self, entries: Iterable[m.ActorEntry], number: int, now: float) -> None:
        """Who really runs, in the list of this number (0: nobody asked for it, and it may be of any age)."""
        alive = {entry.actor: entry for entry in entries}
        for entry in alive.values():
            process = self._process(entry.actor)
            if process is None:
                self._stranger(entry.actor, entry.incarnation, entry.pid, entry.restarts, now)
            elif process.incarnation != entry.incarnation:
                self.host.emit(Stop(actor=entry.actor, incarnation=entry.incarnation, force=True))
            else:
                process.pid, process.restarts = entry.pid, entry.restarts
                if process.state == "asked":
                    process.state, process.deadline = "starting", None
        for one in list(self.all.values()):
            process = one.process
            if process is None or number <= process.since:
                continue
            entry_of = alive.get(one.actor)
            if entry_of is None or entry_of.incarnation != process.incarnation:
                self.exited(m.ActorExited(actor=one.actor, incarnation=process.incarnation), now)
        for one in list(self.all.values()):
            self._try(one)

    def _process(self, actor: str) -> Process | None:
        one = self.all.get(actor)
        return None if one is None else one.process

    def _stranger(self, actor: str, incarnation: int, pid: int, restarts: int, now: float) -> Process:
        """Somebody a predecessor had started; what it is beside, its Hello will tell."""
        group = actor.removeprefix(COORDINATOR) if actor.startswith(COORDINATOR) else None
        one = self.all.setdefault(actor, Companion(actor=actor, group=group, key=None))
        self._queue.pop(actor, None)
        one.process = Process(
            actor=actor,
            incarnation=incarnation,
            state="starting",
            pid=pid,
            restarts=restarts,
            since=self.host.listing,
            deadline=now + HELLO_S,
        )
        return one.process

    def started(self, event: m.ActorStarted, now: float) -> None:
        """The process exists."""
        process = self._process(event.actor)
        if process is None:
            self._stranger(event.actor, event.incarnation, event.pid, event.restarts, now)
        elif process.incarnation != event.incarnation:
            self.host.emit(Stop(actor=event.actor, incarnation=event.incarnation, force=True))
        else:
            process.pid, process.restarts = event.pid, event.restarts
            if process.state == "asked":
                process.state, process.deadline = "starting", now + FORK_S

    def exited(self, event: m.ActorExited, now: float) -> None:
        """The process is gone."""
        one = self.all.get(event.actor)
        process = one.process if one is not None else None
        if one is None or process is None or process.incarnation != event.incarnation:
            return
        one.process = None
        if process.state != "stopping":
            process.restarts = max(process.restarts, event.restarts)
            one.note_exit(process, now)
        self.host.emit(ToGateways(message=self._stopped(one, process.incarnation)))
        if one.wanted and one.key is not None:
            self._try(one)
        else:
            self._drop(one)

    # The actors

    def greeted_gateway(self, gateway: str) -> None:
        """A gateway that is new is told who runs."""
        for one in self.all.values():
            if one.process is not None and one.process.state == "running":
                self._tell(one, gateway)

    def greeted(self, event: Greeted, now: float) -> None:
        """One of them has connected (again)."""
        hello = event.hello
        process = self._process(hello.actor)
        if process is None:
            process = self._stranger(hello.actor, hello.incarnation, hello.pid, 0, now)
        if not process.greeted(hello):
            return
        if hello.topic_id is not None and hello.partition is not None:
            self.all[hello.actor].key = (hello.topic_id, hello.partition)
            self.follow((hello.topic_id, hello.partition), now)

    def parted(self, actor: str, incarnation: int, now: float) -> None:
        """The lane of one has closed."""
        process = self._process(actor)
        if process is not None:
            process.part(incarnation, now)

    def reported(self, event: Reported, now: float) -> None:
        """It says what it does."""
        one, change = self.all.get(event.actor), event.change
        process = one.process if one is not None else None
        if one is None or process is None or process.incarnation != event.incarnation:
            return
        if change.state == "failed":
            one.cause = change.cause
        elif process.state == "stopping":
            return
        elif change.state == "stopping" and change.cause == IDLE:
            # Whoever wants it from now on gets the next one.
            one.wanted = False
            process.state, process.deadline = "stopping", now + KILL_AGAIN_S
            self.host.emit(ToGateways(message=self._stopped(one, process.incarnation)))
        elif change.state == "running":
            process.state, process.ran = "running", True
            one.note_running()
            self._tell(one, None)

    def _tell(self, one: Companion, gateway: str | None) -> None:
        """That it runs, to this gateway or to all."""
        process = one.process
        assert process is not None
        if process.topic_id is None or process.partition is None or process.epoch is None:
            return
        message: m.CoordinatorRunning | m.IndexRunning
        if one.group is not None:
            message = m.CoordinatorRunning(
                group=one.group,
                topic_id=process.topic_id,
                partition=process.partition,
                epoch=process.epoch,
                incarnation=process.incarnation,
            )
        else:
            message = m.IndexRunning(
                topic_id=process.topic_id,
                partition=process.partition,
                epoch=process.epoch,
                incarnation=process.incarnation,
            )
        self.host.emit(ToGateways(message=message, actor=gateway))

    @staticmethod
    def _stopped(one: Companion, incarnation: int) -> m.CoordinatorStopped | m.IndexStopped:
        if one.group is not None:
            cause = one.cause if one.offline else ""
            return m.CoordinatorStopped(group=one.group, incarnation=incarnation, cause=cause)
        topic_id, partition = one.key or ("", -1)
        return m.IndexStopped(topic_id=topic_id, partition=partition, incarnation=incarnation)

    # Time

    def elapsed(self, now: float) -> None:
        """Somebody may start again, or has taken too long for something."""
        asked = False
        for one in list(self.all.values()):
            if one.retry_at is not None and one.retry_at <= now:
                one.retry_at = None
                self._try(one)
            process = one.process
            if process is None or process.deadline is None or process.deadline > now:
                continue
            if process.state == "asked" or process.parted:
                # A request or its answer, or what was told of an exit, is lost: who runs?
                process.deadline = now + FORK_S
                asked = True
            else:
                asked = asked or process.state == "stopping"
                process.state, process.deadline = "stopping", now + KILL_AGAIN_S
                self.host.emit(Stop(actor=one.actor, incarnation=process.incarnation, force=True))
        if asked:
            self.host.ask_list()
