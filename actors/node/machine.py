"""What a node decides: which actors should run on this host, and what is done about the difference. Pure.

Desired state comes from the metadata log, actual state from the Supervisor and the actors' own lanes. The rule that
everything turns on: a leader epoch is used by one start. Records that a dead process wrote and those of its successor
must never share an epoch, or two contents could have one (epoch, offset) and no epoch check would see it. So an epoch
is used only if it was committed while this Node lives (its predecessor could not have used it) and no start of ours
has used it; any other start first asks the controller for a new one, all that wait together in one request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import assert_never

from .. import messages as m
from ..metadata import ConfigChanged, MetadataImage, MetadataRecord, PartitionChanged, TopicDeleted
from .companions import KIND as COMPANION
from .companions import Companions, is_companion
from .events import (
    AnyEffect,
    AnyEvent,
    Ask,
    Bound,
    Configure,
    DirectoryRemoved,
    Elapsed,
    GatewayGone,
    GrantFailed,
    Greeted,
    List,
    Register,
    RemoveDirectory,
    Reported,
    Start,
    Stop,
    ToGateways,
    Wanted,
)
from .grants import Grants
from .local import Local, Process

Key = tuple[str, int]

MANAGED = frozenset(("partition",))
# How long a process may take to die before SIGKILL, and before SIGKILL is sent again.
STOP_GRACE_S = 0.2
KILL_AGAIN_S = 5.0
# How long the Supervisor may take to fork, and a process found by a fresh Node to say hello.
FORK_S = 10.0
HELLO_S = 3.0
# A grant that changed nothing or failed is asked for again after this.
GRANT_AGAIN_S = 0.2
REFUSED_AGAIN_S = 1.0
STALE_BROKER_EPOCH = 77


class NodeMachine:
    """``first_incarnation`` is above that of every actor a Node of this host has ever started (a clock's value)."""

    def __init__(
        self,
        node: int,
        *,
        starts_max: int,
        first_incarnation: int,
        image: MetadataImage,
        coordinators_max: int = 1_000,
    ) -> None:
        self.node = node
        self.starts_max = starts_max
        self.image = image
        self.applied = 0
        self.broker_epoch: int | None = None
        self.locals: dict[Key, Local] = {}
        self.processes: dict[str, Process] = {}
        self.fixed: dict[str, m.ActorEntry] = {}
        self.gateways: dict[str, list[str]] = {}
        self.listed = False
        self._next_incarnation = first_incarnation
        # Records from this offset on were committed while this Node lives.
        self._fresh_from: int | None = None
        self.caught_up = False
        self._grants = Grants()
        self._queue: dict[Key, None] = {}
        # Whose a directory's name is, until it is removed.
        self._directories: dict[str, Key] = {}
        self._by_actor: dict[str, list[Key]] = {}
        # Gateways that were told to end: the host is being stopped, and nothing more is started.
        self._leaving: set[str] = set()
        # What actors said before the Supervisor had said who runs.
        self._early: dict[tuple[str, type], Greeted | Reported] = {}
        self.companions = Companions(self, coordinators_max)
        self._effects: list[AnyEffect] = []

    def step(self, event: AnyEvent, now: float) -> list[AnyEffect]:
        """What to do about this event; ``now`` is a monotonic clock in seconds."""
        self._effects = []
        match event:
            case m.Committed():
                self._follow(event, now)
            case m.NodeRegistered():
                self.broker_epoch = event.broker_epoch
                if self._fresh_from is None:
                    self._fresh_from = event.committed
                self._catch_up(now)
            case m.EpochsGranted():
                self._grants.answered(event.committed)
            case GrantFailed():
                self._grant_failed(event, now)
            case m.ActorsListed():
                self._found(event.actors, now)
            case m.ActorStarted():
                if is_companion(event.actor):
                    self.companions.started(event, now)
                else:
                    self._started(event, now)
            case m.ActorExited():
                if is_companion(event.actor):
                    self.companions.exited(event, now)
                else:
                    self._exited(event, now)
            case Greeted():
                if event.hello.kind == "gateway":
                    self._greeted_gateway(event.hello.actor)
                    self.companions.greeted_gateway(event.hello.actor)
                elif event.hello.kind == COMPANION:
                    self.companions.greeted(event, now)
                elif event.hello.kind in MANAGED:
                    self._greeted(event, now)
            case Reported():
                if is_companion(event.actor):
                    self.companions.reported(event, now)
                elif event.actor not in self.gateways:
                    self._reported(event, now)
                elif event.change.state == "stopping":
                    self._leaving.add(event.actor)
            case Bound():
                self.gateways[event.actor] = event.addresses
                self._effects.append(Register())
            case GatewayGone():
                self.gateways.pop(event.actor, None)
            case DirectoryRemoved():
                self._drop((event.topic_id, event.partition))
            case Wanted():
                self.companions.want(event.actor, event.wish, now)
            case Elapsed():
                self._elapsed(now)
                self.companions.elapsed(now)
            case _:
                assert_never(event)
        for key in self._grants.settled(self.applied):
            self._grant_again(key, now)
        self._pump(now)
        return self._effects

    @property
    def deadline(self) -> float | None:
        """When ``Elapsed`` should come; None for never."""
        moments = [one.retry_at for one in self.locals.values() if one.retry_at is not None]
        moments += [one.deadline for one in self.processes.values() if one.deadline is not None]
        return min(moments + list(self.companions.deadlines), default=None)

    # What its companions see of it

    @property
    def settled(self) -> bool:
        """Whether it is known what should run here and what does."""
        return self.caught_up and self.listed

    def serving_epoch(self, key: Key) -> int | None:
        """The epoch in which this host's leader of the partition serves now."""
        local = self.locals.get(key)
        process = self.processes.get(local.actor) if local is not None else None
        return process.epoch if local is not None and process is not None and self._serving(local) else None

    def new_incarnation(self) -> int:
        """One that no actor of this host has ever had."""
        incarnation = self._next_incarnation
        self._next_incarnation += 1
        return incarnation

    def emit(self, effect: AnyEffect) -> None:
        """Have this done."""
        self._effects.append(effect)

    @property
    def ready(self) -> bool:
        """Whether clients can be served."""
        return next(self._reasons(), None) is None

    def unready(self) -> list[str]:
        """Why clients cannot be served yet; empty when they can. A partition that is offline keeps nobody waiting."""
        return list(self._reasons())

    def _reasons(self) -> Iterator[str]:
        if self.broker_epoch is None:
            yield "not registered with the controller"
        elif not self.caught_up:
            yield "the metadata log is not read to its end"
        if not self.listed:
            yield "the supervisor has not said who runs"
        if not any(self.gateways.values()):
            yield "no gateway listens"
        for local in self.locals.values():
            if local.wanted and not local.offline and not self._serving(local):
                yield f"{local.directory} is not running"

    def _serving(self, local: Local) -> bool:
        process = self.processes.get(local.actor)
        state = self.image.partition(*local.key)
        return (
            process is not None
            and state is not None
            and process.state == "running"
            and process.topic_id == local.topic_id
            and process.epoch == state.leader_epoch
        )

    # The metadata log

    def _follow(self, event: m.Committed, now: float) -> None:
        if event.snapshot:
            self._restore(event, now)
        else:
            assert event.offset <= self.applied, f"records {self.applied} to {event.offset} are missing"
            for at, record in enumerate(event.records, event.offset):
                if at >= self.applied:
                    self._apply(at, record, now)
        self.applied = max(self.applied, event.next_offset)
        self._catch_up(now)

    def _catch_up(self, now: float) -> None:
        """From the moment on when all that a predecessor can have known is applied, this Node acts."""
        if self.caught_up or self._fresh_from is None or self.applied < self._fresh_from:
            return
        self.caught_up = True
        for key in list(self.locals):
            self._reconcile(key, now)
        for process in list(self.processes.values()):
            self._stop_orphan(process, now)

    def _restore(self, event: m.Committed, now: float) -> None:
        """A snapshot: none of its epochs is known to be fresh."""
        self.image = self.image.restored(event.records)
        for topic in self.image.topics.values():
            for partition, state in topic.partitions.items():
                if state.leader == self.node:
                    self._want((topic.topic_id, partition))
        for key in list(self.locals):
            self._reconcile(key, now)

    def _apply(self, offset: int, record: MetadataRecord, now: float) -> None:
        match record:
            case PartitionChanged():
                key = (record.topic_id, record.partition)
                before = self.image.partition(*key)
                self.image.apply(record)
                if self.image.partition(*key) is None:
                    return
                if record.leader == self.node:
                    local = self._want(key)
                    newer = before is None or record.leader_epoch > before.leader_epoch
                    if newer and self._fresh_from is not None and offset >= self._fresh_from:
                        local.unused_epoch = record.leader_epoch
                self._reconcile(key, now)
            case TopicDeleted():
                self.image.apply(record)
                for key in [key for key in self.locals if key[0] == record.topic_id]:
                    self._reconcile(key, now)
            case ConfigChanged():
                self.image.apply(record)
                topic = self.image.topic(record.name) if record.resource == "topic" else None
                if topic is not None:
                    for partition in topic.partitions:
                        self._configure(self.locals.get((topic.topic_id, partition)))
            case _:
                self.image.apply(record)

    def _want(self, key: Key) -> Local:
        local = self.locals.get(key)
        if local is None:
            topic = self.image.topic_by_id(key[0])
            assert topic is not None, "a partition's topic is created before it"
            local = self.locals[key] = Local(topic=topic.name, topic_id=key[0], partition=key[1])
            self._by_actor.setdefault(local.actor, []).append(key)
        return local

    def _drop(self, key: Key) -> None:
        """Nothing of this partition is left here; whoever waits for its directory's name may go on."""
        local = self.locals.pop(key, None)
        if local is None:
            return
        same = self._by_actor[local.actor]
        same.remove(key)
        if not same:
            del self._by_actor[local.actor]
        self._queue.pop(key, None)
        self._grants.forget(key)
        if self._directories.get(local.directory) == key:
            del self._directories[local.directory]
        for other in same:
            self._queue_or_wish(other)

    # The controller

    def _grant_failed(self, event: GrantFailed, now: float) -> None:
        """It may have been committed all the same: then the log brings the epochs, and they are ours to use."""
        if event.code == STALE_BROKER_EPOCH:
            self.broker_epoch = None
            self._effects.append(Register())
        for key in self._grants.failed():
            self._grant_again(key, now, REFUSED_AGAIN_S if event.code else GRANT_AGAIN_S)

    def _grant_again(self, key: Key, now: float, pause_s: float = GRANT_AGAIN_S) -> None:
        """Its request is over; if that brought no epoch, the next one follows after a pause."""
        local, state = self.locals.get(key), self.image.partition(*key)
        if local is None or not local.wanted or state is None or local.actor in self.processes:
            return
        if local.unused_epoch == state.leader_epoch:
            self._queue_or_wish(key)
        else:
            local.retry_at = max(local.retry_at or 0.0, now + pause_s)

    # The supervisor

    def _found(self, entries: Iterable[m.ActorEntry], now: float) -> None:
        """Who really runs. A fresh Node adopts them once they say hello; what it asked for long ago may be missing."""
        alive: dict[str, m.ActorEntry] = {}
        self.fixed = {}
        companions: list[m.ActorEntry] = []
        for entry in entries:
            if entry.kind in MANAGED:
                alive[entry.actor] = entry
            elif entry.kind == COMPANION:
                companions.append(entry)
            else:
                self.fixed[entry.actor] = entry
        self.listed = True
        for entry in alive.values():
            known = self.processes.get(entry.actor)
            if known is None:
                self._stranger(entry.actor, entry.incarnation, entry.pid, entry.restarts, now)
            elif known.incarnation == entry.incarnation:
                known.pid, known.restarts = entry.pid, entry.restarts
                if known.state == "asked":
                    known.state, known.deadline = "starting", None
        for process in list(self.processes.values()):
            entry_of = alive.get(process.actor)
            # A list may be older than the Supervisor's reading of our last requests.
            expected = process.pid != 0 or process.overdue
            if expected and (entry_of is None or entry_of.incarnation != process.incarnation):
                self._exited(m.ActorExited(actor=process.actor, incarnation=process.incarnation), now)
        early, self._early = self._early, {}
        self.companions.found(companions, now)
        for event in early.values():
            if isinstance(event, Greeted):
                self._greeted(event, now)
            else:
                self._reported(event, now)
        for key in list(self.locals):
            self._reconcile(key, now)

    def _stranger(self, actor: str, incarnation: int, pid: int, restarts: int, now: float) -> None:
        self.processes[actor] = Process(
            actor=actor,
            incarnation=incarnation,
            state="starting",
            pid=pid,
            restarts=restarts,
            deadline=now + HELLO_S,
        )

    def _started(self, event: m.ActorStarted, now: float) -> None:
        process = self.processes.get(event.actor)
        if process is None:
            # A predecessor asked for it after it had been listed to us, or it is older than its own exit.
            self._stranger(event.actor, event.incarnation, event.pid, event.restarts, now)
        elif process.incarnation == event.incarnation:
            process.pid, process.restarts = event.pid, event.restarts
            if process.state == "asked":
                process.state, process.deadline = "starting", None
        else:
            self._effects.append(Stop(actor=event.actor, incarnation=event.incarnation, force=True))

    def _exited(self, event: m.ActorExited, now: float) -> None:
        self._forget_early(event)
        process = self.processes.get(event.actor)
        if process is None or process.incarnation != event.incarnation:
            return
        del self.processes[event.actor]
        self._remove_unknown(process)
        for key in list(self._by_actor.get(event.actor, ())):
            local = self.locals[key]
            if process.topic_id == local.topic_id and process.epoch is not None:
                if process.state != "stopping":
                    process.restarts = max(process.restarts, event.restarts)
                    local.note_exit(process, now)
                self._effects.append(ToGateways(message=local.stopped(process.epoch)))
            self._reconcile(key, now)

    def _forget_early(self, event: m.ActorExited) -> None:
        """What a process said before the Supervisor's list must not outlive it: it would be believed to run."""
        greeted = self._early.get((event.actor, Greeted))
        if isinstance(greeted, Greeted) and greeted.hello.incarnation == event.incarnation:
            del self._early[event.actor, Greeted]
        reported = self._early.get((event.actor, Reported))
        if isinstance(reported, Reported) and reported.incarnation == event.incarnation:
            del self._early[event.actor, Reported]

    def _remove_unknown(self, process: Process) -> None:
        """A process that a predecessor had started late may have made a deleted topic's directory again.

        Until that is gone, the name is not free for a new topic, even if that one had it in mind already.
        """
        if not self.caught_up or process.topic_id is None or process.partition is None:
            return
        key = (process.topic_id, process.partition)
        if key in self.locals or self.image.topic_by_id(process.topic_id) is not None:
            return
        local = Local(
            topic=process.actor.partition("/")[2].rpartition("-")[0],
            topic_id=process.topic_id,
            partition=process.partition,
            wanted=False,
            removing=True,
        )
        self.locals[key] = local
        self._by_actor.setdefault(local.actor, []).append(key)
        self._directories[local.directory] = key
        self._effects.append(RemoveDirectory(topic=local.topic, topic_id=local.topic_id, partition=local.partition))

    # The actors

    def _greeted_gateway(self, gateway: str) -> None:
        """A gateway that is new is told who runs, and who is offline."""
        self.gateways.setdefault(gateway, [])
        self._leaving.discard(gateway)
        for local in self.locals.values():
            process, state = self.processes.get(local.actor), self.image.partition(*local.key)
            if state is None:
                continue
            if process is not None and self._serving(local):
                running = m.PartitionRunning(
                    topic_id=local.topic_id, partition=local.partition, epoch=state.leader_epoch
                )
                self._effects.append(ToGateways(message=running, actor=gateway))
            elif local.offline:
                self._effects.append(ToGateways(message=local.stopped(state.leader_epoch), actor=gateway))

    def _greeted(self, event: Greeted, now: float) -> None:
        hello = event.hello
        if not self.listed:
            self._early[hello.actor, Greeted] = event
            return
        process = self.processes.get(hello.actor)
        if process is None:
            # A predecessor had it started, and was told so.
            self._stranger(hello.actor, hello.incarnation, hello.pid, 0, now)
            process = self.processes[hello.actor]
        if not process.greeted(hello):
            return
        local = self._local_of(process)
        if local is not None:
            self._directories.setdefault(local.directory, local.key)
            self._reconcile(local.key, now)
            self._configure(local)
        else:
            self._stop_orphan(process, now)

    def _local_of(self, process: Process) -> Local | None:
        if process.topic_id is None or process.partition is None:
            return None
        return self.locals.get((process.topic_id, process.partition))

    def _stop_orphan(self, process: Process, now: float) -> None:
        """It leads something that does not exist any more, or not here."""
        if self.caught_up and process.connected and process.state != "stopping" and self._local_of(process) is None:
            self._stop(process, now, force=True)

    def _reported(self, event: Reported, now: float) -> None:
        if not self.listed:
            self._early[event.actor, Reported] = event
            return
        process = self.processes.get(event.actor)
        if process is None or process.incarnation != event.incarnation:
            return
        local, change = self._local_of(process), event.change
        if change.state == "failed":
            if local is not None:
                local.cause = change.cause
                if change.code:
                    local.code = change.code
                    local.go_offline(now, change.code)
        elif change.state == "running" and process.state in ("asked", "starting", "running"):
            process.state, process.ran = "running", True
            if local is not None and local.wanted and process.epoch is not None:
                local.note_running()
                running = m.PartitionRunning(topic_id=local.topic_id, partition=local.partition, epoch=process.epoch)
                self._effects.append(ToGateways(message=running))
                self.companions.follow(local.key, now)

    def _configure(self, local: Local | None) -> None:
        """Tell the actor its topic's configuration, if it may have another and can be told."""
        process = self.processes.get(local.actor) if local is not None and local.wanted else None
        if local is None or process is None or not process.connected or process.topic_id != local.topic_id:
            return
        configs = self.image.topic_configs(local.topic)
        if process.configs != configs:
            process.configs = configs
            self._effects.append(Configure(actor=process.actor, incarnation=process.incarnation, configs=configs))

    # Reconciling

    def _reconcile(self, key: Key, now: float) -> None:
        """Compare one partition's desired state with what runs, and take the next step towards it."""
        self._take_step(key, now)
        self.companions.follow(key, now)

    def _take_step(self, key: Key, now: float) -> None:
        local = self.locals.get(key)
        if local is None:
            return
        state = self.image.partition(*key)
        local.wanted = state is not None and state.leader == self.node
        process = self.processes.get(local.actor)
        if process is not None:
            right = (
                local.wanted
                and state is not None
                and process.topic_id == local.topic_id
                and process.epoch == state.leader_epoch
            )
            mine = process.topic_id == local.topic_id
            # One that has not said hello may be the right one; its deadline bounds the doubt.
            if mine and not right and process.state != "stopping" and process.epoch is not None:
                self._stop(process, now, force=state is None)
                self._effects.append(ToGateways(message=local.stopped(process.epoch)))
            return
        if local.wanted:
            self._queue_or_wish(key)
        elif not local.removing:
            if state is None and self._directories.setdefault(local.directory, key) == key:
                local.removing = True
                self._effects.append(
                    RemoveDirectory(topic=local.topic, topic_id=local.topic_id, partition=local.partition)
                )
            else:
                self._drop(key)

    def _queue_or_wish(self, key: Key) -> None:
        """A start, or an epoch to start with, is wanted, unless something else must come first."""
        local, state = self.locals[key], self.image.partition(*key)
        if (
            not local.wanted
            or state is None
            or not self.caught_up
            or not self.listed
            or local.actor in self.processes
            or local.retry_at is not None
            or self._directories.setdefault(local.directory, key) != key
        ):
            return
        if local.unused_epoch == state.leader_epoch:
            self._queue[key] = None
        else:
            self._grants.wish(key)

    def _pump(self, now: float) -> None:
        """Unless the host stops: ask for epochs, all that wait at once; start what has one, so many at a time."""
        if self._leaving:
            return
        if self.broker_epoch is not None:
            request = self._grants.request(self.node, self.broker_epoch, self._seen_epoch)
            if request is not None:
                self._effects.append(Ask(message=request))
        starting = sum(1 for one in self.processes.values() if one.state in ("asked", "starting"))
        while self._queue and starting < self.starts_max:
            key = next(iter(self._queue))
            del self._queue[key]
            starting += self._start(key, now)
        self.companions.pump(self.starts_max - starting - self.companions.starting, now)

    def _seen_epoch(self, key: Key) -> int | None:
        local, state = self.locals.get(key), self.image.partition(*key)
        if local is None or state is None or not local.wanted or local.actor in self.processes:
            return None
        return state.leader_epoch

    def _start(self, key: Key, now: float) -> bool:
        local, state = self.locals.get(key), self.image.partition(*key)
        if (
            local is None
            or state is None
            or not local.wanted
            or local.actor in self.processes
            or local.unused_epoch != state.leader_epoch
            or self._directories.get(local.directory) != key
        ):
            return False
        local.unused_epoch = -1
        incarnation = self.new_incarnation()
        configs = self.image.topic_configs(local.topic)
        self.processes[local.actor] = Process(
            actor=local.actor,
            incarnation=incarnation,
            state="asked",
            topic_id=local.topic_id,
            partition=local.partition,
            epoch=state.leader_epoch,
            restarts=local.restarts,
            deadline=now + FORK_S,
            configs=configs,
        )
        self._effects.append(
            Start(
                actor=local.actor,
                incarnation=incarnation,
                topic=local.topic,
                topic_id=local.topic_id,
                partition=local.partition,
                epoch=state.leader_epoch,
                configs=configs,
            )
        )
        return True

    def _stop(self, process: Process, now: float, *, force: bool) -> None:
        process.state = "stopping"
        process.deadline = now + (KILL_AGAIN_S if force else STOP_GRACE_S)
        self._effects.append(Stop(actor=process.actor, incarnation=process.incarnation, force=force))

    # Time

    def _elapsed(self, now: float) -> None:
        for local in list(self.locals.values()):
            if local.retry_at is not None and local.retry_at <= now:
                local.retry_at = None
                self._reconcile(local.key, now)
        for process in list(self.processes.values()):
            if process.deadline is None or process.deadline > now:
                continue
            if not process.pid:
                # The request or its answer is lost: who runs?
                process.overdue, process.deadline = True, now + FORK_S
                self._effects.append(List())
            else:
                self._stop(process, now, force=True)
