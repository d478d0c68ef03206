"""When a partition's actor may be started, and what must be asked of the controller before. Pure.

A leader needs an epoch that no start has used; one that cannot be started at once is told to the controller first, so
that another replica is elected if there is one. Followers need nothing, and come after the leaders.
"""

from __future__ import annotations

from typing import Protocol

from ..metadata import MetadataImage
from .adoption import Processes
from .downs import Downs
from .events import AnyEffect, Ask, DownFailed, GrantFailed, Start
from .grants import Grants
from .local import FOLLOWER, LEADER, Local, Process
from .removal import REFUSED_AGAIN_S, Directories
from .telling import Telling

Key = tuple[str, int]

# A grant that changed nothing is asked for again after this.
GRANT_AGAIN_S = 0.2


class Host(Protocol):
    """What a node's machine is to its starts."""

    node: int
    image: MetadataImage
    broker_epoch: int | None
    locals: dict[Key, Local]
    actors: Processes
    directories: Directories
    telling: Telling

    @property
    def settled(self) -> bool:
        """Whether it is known what should run here and what does."""

    @property
    def draining(self) -> bool:
        """Whether the host is about to be stopped: nobody counts on its followers any more."""

    def due(self, local: Local) -> bool:
        """Whether something should run for it now."""

    def new_incarnation(self) -> int:
        """One that no actor of this host has ever had."""

    def emit(self, effect: AnyEffect) -> None:
        """Have this done."""


class Starts:
    """The starts that wait, and the requests that go before them."""

    def __init__(self, host: Host, starts_max: int) -> None:
        self.host = host
        self.starts_max = starts_max
        self._grants = Grants()
        self._downs = Downs()
        # Leaders before followers.
        self._queues: dict[str, dict[Key, None]] = {LEADER: {}, FOLLOWER: {}}

    @property
    def deadline(self) -> float | None:
        """When something is due."""
        return self._downs.retry_at

    def forget(self, key: Key) -> None:
        """Nothing of this partition is left here."""
        for queue in self._queues.values():
            queue.pop(key, None)
        self._grants.forget(key)
        self._downs.forget(key)

    def want(self, key: Key) -> None:
        """A start, or an epoch to start with, is wanted, unless something else must come first."""
        local, state = self.host.locals[key], self.host.image.partition(*key)
        if state is None or local.role is None or local.retry_at is not None or not self._may_start(local):
            return
        if local.role == LEADER and local.unused_epoch != state.leader_epoch:
            self._grants.wish(key)
        else:
            self._queues[local.role][key] = None

    def _may_start(self, local: Local) -> bool:
        host = self.host
        if not host.settled or not host.due(local) or local.removing or self._downs.waits(local.key):
            return False
        if local.role == FOLLOWER and (local.lost or host.draining):
            return False
        return not host.actors.at(local.directory) and host.directories.owned_by(local)

    # The controller

    def report_down(self, local: Local) -> None:
        """If somebody else can take over, the controller decides, and a start here waits for that."""
        image = self.host.image
        state = image.partition(*local.key)
        if state is None or len(state.replicas) < 2:
            return
        others = any(node != self.host.node and image.eligible(node) for node in (*state.isr, *state.elr))
        if local.lost or (local.role == LEADER and others):
            self._downs.wish(local.key, lost=local.lost)

    def recorded(self, committed: int) -> None:
        """What the controller made of the replicas that are down is in the log below ``committed``."""
        self._downs.answered(committed)

    def granted(self, committed: int) -> None:
        """The epochs, if any, are in the log below ``committed``."""
        self._grants.answered(committed)

    def settle(self, applied: int, now: float) -> list[Key]:
        """The log is applied so far. Returns the partitions of which the controller has said what becomes of them."""
        for key in self._grants.settled(applied):
            self._grant_again(key, now, GRANT_AGAIN_S)
        return self._downs.settled(applied)

    def refused(self, event: GrantFailed | DownFailed, now: float) -> list[Key]:
        """What was asked may have been committed all the same: then the log says so. Returns whom to look at again."""
        if isinstance(event, DownFailed):
            return self._downs.failed(now + REFUSED_AGAIN_S)
        for key in self._grants.failed():
            self._grant_again(key, now, REFUSED_AGAIN_S if event.code else GRANT_AGAIN_S)
        return []

    def _grant_again(self, key: Key, now: float, pause_s: float) -> None:
        """Its request is over; if that brought no epoch, the next one follows after a pause."""
        local, state = self.host.locals.get(key), self.host.image.partition(*key)
        if local is None or local.role != LEADER or state is None or self.host.actors.at(local.directory):
            return
        if local.unused_epoch == state.leader_epoch:
            self.want(key)
        else:
            local.retry_at = max(local.retry_at or 0.0, now + pause_s)

    def elapsed(self, now: float) -> None:
        """What was refused may be asked again."""
        self._downs.elapsed(now)

    # Starting

    def ask(self) -> None:
        """Ask for what is wished, all at once."""
        host = self.host
        if host.broker_epoch is not None:
            down = self._downs.request(host.node, host.broker_epoch, self._epoch)
            if down is not None:
                host.emit(Ask(message=down))
            request = self._grants.request(host.node, host.broker_epoch, self._seen_epoch)
            if request is not None:
                host.emit(Ask(message=request))

    @property
    def waiting(self) -> bool:
        """Whether anything is to be started."""
        return any(self._queues.values())

    def pump(self, now: float) -> int:
        """Start what may start, so many at a time. Returns how many more may."""
        host = self.host
        room = self.starts_max - host.actors.starting
        for queue in self._queues.values():
            # Without a registration there is no slice to start with.
            while queue and room > 0 and host.broker_epoch is not None:
                key = next(iter(queue))
                del queue[key]
                room -= self._start(key, now)
        return room

    def _epoch(self, key: Key) -> int | None:
        local, state = self.host.locals.get(key), self.host.image.partition(*key)
        return None if local is None or local.role is None or state is None else state.leader_epoch

    def _seen_epoch(self, key: Key) -> int | None:
        local = self.host.locals.get(key)
        if local is None or local.role != LEADER or not self._may_start(local):
            return None
        return self._epoch(key)

    def _start(self, key: Key, now: float) -> bool:
        host = self.host
        local, state = host.locals.get(key), host.image.partition(*key)
        if local is None or state is None or not self._may_start(local):
            return False
        if local.role == LEADER and local.unused_epoch != state.leader_epoch:
            return False
        local.unused_epoch = -1
        process = Process(
            actor=local.actor,
            incarnation=host.new_incarnation(),
            state="asked",
            topic_id=local.topic_id,
            partition=local.partition,
            epoch=state.leader_epoch if local.role == LEADER else None,
            restarts=local.restarts,
            configs=host.image.topic_configs(local.topic),
            slice=host.telling.slice_of(key),
        )
        host.actors.asked(process, now)
        host.emit(
            Start(
                actor=process.actor,
                kind=process.kind,
                incarnation=process.incarnation,
                topic=local.topic,
                topic_id=local.topic_id,
                partition=local.partition,
                epoch=process.epoch,
                configs=process.configs or {},
                slice=process.slice,
            )
        )
        return True
