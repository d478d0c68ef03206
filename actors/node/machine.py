"""What a node decides: which actors should run on this host, and what is done about the difference. Pure.

Desired state comes from the metadata log, actual state from the Supervisor and the actors' own lanes. The rule that
everything turns on: a leader epoch is used by one start. Records that a dead process wrote and those of its successor
must never share an epoch, or two contents could have one (epoch, offset) and no epoch check would see it. So an epoch
is used only if it was committed while this Node lives (its predecessor could not have used it) and no start of ours
has used it; any other start first asks the controller for a new one, all that wait together in one request.

A partition's directory is held by one process: its Partition where this node leads, its Replica where it follows. From
one to the other goes the way over the first one's exit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import assert_never

from .. import messages as m
from ..figures import Figures
from ..metadata import ConfigChanged, MetadataImage, MetadataRecord, PartitionChanged, TopicDeleted
from .adoption import MANAGED, Processes
from .beats import Beats
from .companions import KIND as COMPANION
from .companions import Companions, is_companion
from .events import (
    AnyEffect,
    AnyEvent,
    BeatAnswered,
    BeatFailed,
    Bound,
    DirectoryRemoved,
    DownFailed,
    DrainAsked,
    Elapsed,
    GrantFailed,
    Greeted,
    List,
    Parted,
    Ponged,
    Register,
    Reported,
    Stale,
    Stray,
    Suspected,
    ToGateways,
    Wanted,
)
from .gateways import Gateways
from .local import FOLLOWER, LEADER, Local, Process
from .pings import Pings
from .removal import Directories
from .starting import Starts
from .telling import Telling

Key = tuple[str, int]

# Kafka's error codes, and the exit code by which an actor says the first of them.
STORAGE_ERROR, EXIT_STORAGE = 56, 74
STALE_BROKER_EPOCH = 77


class NodeMachine:
    """``first_incarnation`` is a clock's value: most likely above that of every actor a Node of this host has started,
    and if the clock was set back, the Supervisor knows."""

    def __init__(
        self,
        node: int,
        *,
        starts_max: int,
        first_incarnation: int,
        image: MetadataImage,
        coordinators_max: int = 1_000,
        heartbeat_s: float = 0.1,
        voters: Sequence[int] = (),
    ) -> None:
        self.node = node
        self.image: MetadataImage = image
        # Who leads the metadata quorum as the Controller here knows, -1 for nobody.
        self.quorum_leader: int = -1
        self.figures: Figures = Figures(node)
        self.applied: int = 0
        self.broker_epoch: int | None = None
        self.locals: dict[Key, Local] = {}
        self.fixed: dict[str, m.ActorEntry] = {}
        self._next_incarnation = first_incarnation
        # The number of the list that the Supervisor was asked for last; a predecessor's, told to us, has a lower one.
        self.listing: int = first_incarnation
        # Records from this offset on were committed while this Node lives.
        self._fresh_from: int | None = None
        self.caught_up: bool = False
        # The fixed actors that run, by their incarnations.
        self._running: dict[str, int] = {}
        self._effects: list[AnyEffect] = []
        self.actors: Processes = Processes(self)
        self.directories: Directories = Directories(self)
        self.telling: Telling = Telling(self)
        self.starts: Starts = Starts(self, starts_max)
        self.companions: Companions = Companions(self, coordinators_max)
        self.to_gateways: Gateways = Gateways(self)
        self.beats: Beats = Beats(node, heartbeat_s, voters, self.emit)
        self.pings: Pings = Pings(self._pingable, self.emit)

    def step(self, event: AnyEvent, now: float) -> list[AnyEffect]:
        """What to do about this event; ``now`` is a monotonic clock in seconds."""
        self._effects = []
        match event:
            case Ponged():
                self.pings.ponged(event.actor, event.incarnation)
                return self._effects
            case BeatAnswered():
                self.beats.answered(event.attempt, event.may_stop, now)
                return self._effects
            case m.Committed():
                self._follow(event, now)
            case m.NodeRegistered():
                self._registered(event, now)
            case m.EpochsGranted():
                self.starts.granted(event.committed)
            case m.Recorded():
                self.starts.recorded(event.committed)
            case GrantFailed() | DownFailed() | BeatFailed() | Stale():
                self._refused(event, now)
            case m.ActorsListed() | m.ActorStarted() | m.ActorExited():
                self._supervisor(event, now)
            case Greeted():
                self._greeted(event, now)
            case Reported():
                self._reported(event, now)
            case Bound():
                self.to_gateways.bound(event)
            case Parted():
                self._parted(event, now)
            case DirectoryRemoved():
                self._removed(event, now)
            case Stray():
                self._found_stray((event.topic_id, event.partition), now)
            case Wanted():
                self.companions.want(event.actor, event.wish, now)
            case Suspected():
                if (event.actor, event.incarnation) in self._pingable():
                    self.pings.suspect(event.actor, event.incarnation, now)
            case DrainAsked():
                self.beats.drain(event.request, event.timeout_s, now)
            case Elapsed():
                self._elapsed(now)
            case _:
                assert_never(event)
        self._finish(now)
        return self._effects

    def _finish(self, now: float) -> None:
        """What several events may have made due."""
        for key in self.starts.settle(self.applied, now):
            self._reconcile(key, now)
        if self.draining and not self._others():
            self.beats.drained()
        if not self.leaving:
            self.starts.ask()
            if self.starts.waiting or self.companions.waiting:
                room = self.starts.pump(now)
                self.companions.pump(room - self.companions.starting, now)

    @property
    def deadline(self) -> float | None:
        """When ``Elapsed`` should come; None for never."""
        moments = self.beats.deadlines
        for local in self.locals.values():
            if local.retry_at is not None:
                moments.append(local.retry_at)
        for process in self.processes.values():
            if process.deadline is not None:
                moments.append(process.deadline)
        if self.companions.all:
            moments += self.companions.deadlines
        moments += self.pings.deadlines
        if self.starts.deadline is not None:
            moments.append(self.starts.deadline)
        return min(moments, default=None)

    # What its parts see of it

    @property
    def processes(self) -> dict[str, Process]:
        """The Partitions and Replicas of this host."""
        return self.actors.all

    @property
    def listed(self) -> bool:
        """Whether the Supervisor has said who runs."""
        return self.actors.listed

    @property
    def settled(self) -> bool:
        """Whether it is known what should run here and what does."""
        return self.caught_up and self.listed

    @property
    def leaving(self) -> bool:
        """Whether the host stops: nothing is started any more."""
        return bool(self.to_gateways.leaving)

    @property
    def draining(self) -> bool:
        """Whether the host is about to be stopped."""
        return self.beats.stopping

    @property
    def fenced(self) -> bool:
        """Whether this registration is not let in, as far as the metadata log is applied."""
        broker = self.image.brokers.get(self.node)
        return broker is None or broker.broker_epoch != self.broker_epoch or self.node in self.image.fenced

    def serving_epoch(self, key: Key) -> int | None:
        """The epoch in which this host's leader of the partition serves now."""
        local = self.locals.get(key)
        if local is None or local.role != LEADER or not self.serving(local):
            return None
        return self.processes[local.actor].epoch

    def new_incarnation(self) -> int:
        """One that no actor of this host has ever had."""
        incarnation = self._next_incarnation
        self._next_incarnation += 1
        return incarnation

    def _incarnation_seen(self, incarnation: int) -> None:
        """A predecessor, by another clock, has used this one."""
        self._next_incarnation = max(self._next_incarnation, incarnation + 1)

    def ask_list(self) -> None:
        """Ask the Supervisor whom it has."""
        self.listing += 1
        self.emit(List(number=self.listing))

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
        elif self.fenced:
            yield "the controller has not let this node in yet"
        if not self.listed:
            yield "the supervisor has not said who runs"
        if not any(self.gateways.values()):
            yield "no gateway listens"
        for local in self.locals.values():
            if self.due(local) and not local.offline and not local.lost and not self.serving(local):
                yield f"{local.actor} is not running"

    @property
    def gateways(self) -> dict[str, list[str]]:
        """The gateways of this host, and where they listen."""
        return self.to_gateways.all

    def due(self, local: Local) -> bool:
        """Whether something should run for it now; what nobody leads has nothing to follow."""
        state = self.image.partition(*local.key)
        return local.role is not None and state is not None and (local.role == LEADER or state.leader >= 0)

    def serving(self, local: Local) -> bool:
        """Whether what should run for it does."""
        process = self.processes.get(local.actor)
        return process is not None and process.state == "running" and self.right(process, local)

    def right(self, process: Process, local: Local) -> bool:
        """Whether this is what the metadata log wants for the partition."""
        state = self.image.partition(*local.key)
        if state is None or process.topic_id != local.topic_id or process.kind != local.role:
            return False
        return process.kind == FOLLOWER or process.epoch == state.leader_epoch

    def _role(self, state: PartitionChanged | None) -> str | None:
        if state is None:
            return None
        if state.leader == self.node:
            return LEADER
        return FOLLOWER if self.node in state.replicas else None

    def _others(self) -> bool:
        """Whether there is another node that could lead."""
        return any(self.image.eligible(node) for node in self.image.brokers if node != self.node)

    # The metadata log

    def goes_back(self, event: m.Committed) -> bool:
        """Whether this is a snapshot that must not be taken: what it lacks would be removed from this host."""
        return event.snapshot and self.image.goes_back(self.applied, event.next_offset, event.records)

    def _follow(self, event: m.Committed, now: float) -> None:
        touched: dict[Key, None] = {}
        self.quorum_leader = event.leader
        if self.goes_back(event):
            return
        if event.snapshot:
            touched = self._restore(event)
        else:
            assert event.offset <= self.applied, f"records {self.applied} to {event.offset} are missing"
            for at, record in enumerate(event.records, event.offset):
                if at >= self.applied:
                    self._apply(at, record, touched)
        self.applied = max(self.applied, event.next_offset)
        self.beats.know(self.image.voters)
        for key in touched:
            local = self.locals.get(key)
            if local is not None:
                local.role = self._role(self.image.partition(*key))
                self._reconcile(key, now)
        if event.snapshot:
            self._configure_all()
        self._catch_up(now)
        self.telling.slices()

    def _catch_up(self, now: float) -> None:
        """From the moment on when all that a predecessor can have known is applied, this Node acts."""
        if self.caught_up or self._fresh_from is None or self.applied < self._fresh_from:
            return
        self.caught_up = True
        self.beats.hurry(now)
        self.pings.begin(now)
        self._reconcile_all(now)
        self._configure_all()

    def _configure_all(self) -> None:
        for local in self.locals.values():
            self.telling.configure(local)

    def _reconcile_all(self, now: float) -> None:
        for key in list(self.locals):
            self._reconcile(key, now)
        for process in list(self.processes.values()):
            self._stop_orphan(process, now)

    def _restore(self, event: m.Committed) -> dict[Key, None]:
        """A snapshot: none of its epochs is known to be fresh."""
        self.image = self.image.restored(event.records)
        self.telling.note_everything()
        for topic in self.image.topics.values():
            for partition, state in topic.partitions.items():
                if self._role(state) is not None:
                    self._want((topic.topic_id, partition))
        return dict.fromkeys(self.locals)

    def _apply(self, offset: int, record: MetadataRecord, touched: dict[Key, None]) -> None:
        key = (record.topic_id, record.partition) if isinstance(record, PartitionChanged) else None
        before = self.image.partition(*key) if key is not None else None
        self.figures.note(self.image, record)
        self.image.apply(record)
        self.telling.note(record)
        match record:
            case PartitionChanged():
                assert key is not None
                state = self.image.partition(*key)
                role = self._role(state)
                if role is not None:
                    local = self._want(key)
                    newer = before is None or record.leader_epoch > before.leader_epoch
                    if role == LEADER and newer and self._fresh_from is not None and offset >= self._fresh_from:
                        local.unused_epoch = record.leader_epoch
                touched[key] = None
            case TopicDeleted():
                touched.update((key, None) for key in self.locals if key[0] == record.topic_id)
            case ConfigChanged():
                topic = self.image.topic(record.name) if record.resource == "topic" else None
                for partition in topic.partitions if topic is not None else ():
                    self.telling.configure(self.locals.get((topic.topic_id, partition)) if topic is not None else None)
            case _:
                pass

    def _want(self, key: Key) -> Local:
        local = self.locals.get(key)
        if local is None:
            topic = self.image.topic_by_id(key[0])
            assert topic is not None, "a partition's topic is created before it"
            local = self.directories.add(Local(topic=topic.name, topic_id=key[0], partition=key[1]))
        return local

    # The controller

    def _registered(self, event: m.NodeRegistered, now: float) -> None:
        changed = event.broker_epoch != self.broker_epoch
        if changed:
            self.telling.note_everything()
        self.broker_epoch = event.broker_epoch
        if self._fresh_from is None:
            self._fresh_from = event.committed
        # A node is let in, and then leads, only once clients can reach it.
        if any(self.gateways.values()) and (changed or self.beats.due is None):
            self.beats.start(now)
        self._catch_up(now)
        self.telling.slices()

    def _refused(self, event: GrantFailed | DownFailed | BeatFailed | Stale, now: float) -> None:
        """What was asked may have been committed all the same: then the log says so."""
        if (isinstance(event, Stale) or event.code == STALE_BROKER_EPOCH) and self.broker_epoch is not None:
            self.broker_epoch = None
            self.beats.pause()
            self.emit(Register())
        match event:
            case GrantFailed() | DownFailed():
                for key in self.starts.refused(event, now):
                    self._reconcile(key, now)
            case BeatFailed():
                self.beats.failed(event.attempt, now)
            case _:
                pass

    # The supervisor

    def _supervisor(self, event: m.ActorsListed | m.ActorStarted | m.ActorExited, now: float) -> None:
        match event:
            case m.ActorsListed():
                kinds: dict[str, list[m.ActorEntry]] = {"": [], COMPANION: []}
                self.fixed = {}
                self._incarnation_seen(event.highest)
                for entry in event.actors:
                    if entry.kind in MANAGED:
                        kinds[""].append(entry)
                    elif entry.kind == COMPANION:
                        kinds[COMPANION].append(entry)
                    else:
                        self.fixed[entry.actor] = entry
                self.actors.found(kinds[""], event.number, now)
                self.companions.found(kinds[COMPANION], event.number, now)
                self._reconcile_all(now)
            case m.ActorStarted():
                self._incarnation_seen(event.incarnation)
                (self.companions if is_companion(event.actor) else self.actors).started(event, now)
            case m.ActorExited():
                self.pings.gone(event.actor, event.incarnation)
                if self._running.get(event.actor) == event.incarnation:
                    del self._running[event.actor]
                (self.companions if is_companion(event.actor) else self.actors).exited(event, now)

    def on_exited(self, process: Process, event: m.ActorExited, now: float) -> None:
        """A Partition or Replica is gone: it was asked to, or by itself."""
        self.directories.remove_unknown(process)
        for key in self.directories.of_name(process.directory):
            local = self.locals.get(key)
            if local is None:
                continue  # dropped with the one before it
            if process.topic_id == local.topic_id:
                if process.state != "stopping":
                    self._failed(local, process, event, now)
                if process.kind == LEADER and process.epoch is not None:
                    self.emit(ToGateways(message=local.stopped(process.epoch)))
            self._reconcile(key, now)

    def _failed(self, local: Local, process: Process, event: m.ActorExited, now: float) -> None:
        """It has ended by itself: who leads now, when it may start again, and with which directory."""
        process.restarts = max(process.restarts, event.restarts)
        local.note_exit(process, now)
        if event.status == EXIT_STORAGE:
            self._lose(local, STORAGE_ERROR, now)
        if local.lost or local.retry_at is not None or not process.ran:
            self.starts.report_down(local)

    def _lose(self, local: Local, code: int, now: float) -> None:
        """Starting it again is of no use. Where others have the data, its log is not trusted any more either."""
        local.code = local.code or code
        local.go_offline(now, code)
        state = self.image.partition(*local.key)
        local.lost = code == STORAGE_ERROR and state is not None and len(state.replicas) > 1

    def on_late(self, process: Process, now: float) -> None:
        """A leader that recovers for long, or a follower that will not make way for one: others have the data too."""
        local = self._local_of(process)
        if local is not None and local.role == LEADER:
            self.starts.report_down(local)

    # The actors

    def _pingable(self) -> list[tuple[str, int]]:
        """Who runs, and can be asked for a sign of life."""
        found = list(self._running.items())
        found += (
            (one.actor, one.incarnation) for one in self.processes.values() if one.state == "running" and one.connected
        )
        found += self.companions.pingable()
        return found

    def _greeted(self, event: Greeted, now: float) -> None:
        hello = event.hello
        if hello.kind == "gateway":
            self.to_gateways.greeted(hello.actor)
            self.companions.greeted_gateway(hello.actor)
        elif hello.kind == COMPANION:
            self.companions.greeted(event, now)
        elif hello.kind in MANAGED:
            self.actors.greeted(event, now)

    def _parted(self, event: Parted, now: float) -> None:
        self.pings.gone(event.actor, event.incarnation)
        if self._running.get(event.actor) == event.incarnation:
            del self._running[event.actor]
        self.to_gateways.gone(event.actor)
        (self.companions if is_companion(event.actor) else self.actors).parted(event.actor, event.incarnation, now)

    def on_greeted(self, process: Process, now: float) -> None:
        """A Partition or Replica has connected, and is not on its way out."""
        local = self._local_of(process)
        if local is not None:
            self.directories.owned_by(local)
            self._reconcile(local.key, now)
            self.telling.configure(local)
            self.telling.slice(local)
        else:
            self._stop_orphan(process, now)

    def _local_of(self, process: Process) -> Local | None:
        if process.topic_id is None or process.partition is None:
            return None
        return self.locals.get((process.topic_id, process.partition))

    def _stop_orphan(self, process: Process, now: float) -> None:
        """It holds something that does not exist any more, or not here."""
        if self.caught_up and process.connected and process.state != "stopping" and self._local_of(process) is None:
            self.actors.stop(process, now, force=True)

    def _reported(self, event: Reported, now: float) -> None:
        if is_companion(event.actor):
            self.companions.reported(event, now)
        elif event.actor.partition("/")[0] in MANAGED:
            self.actors.reported(event, now)
        elif event.change.state == "running":
            self._running[event.actor] = event.incarnation
        else:
            self._running.pop(event.actor, None)
            if event.change.state == "stopping":
                self.to_gateways.leaves(event.actor)

    def on_reported(self, process: Process, change: m.StateChanged, now: float) -> None:
        """A Partition or Replica says what it does."""
        local = self._local_of(process)
        if local is None:
            return
        if change.state == "failed":
            local.cause = change.cause
            if change.code:
                self._lose(local, change.code, now)
        elif process.state == "running" and process.kind == local.role:
            local.note_running()
            local.lost = False
            if process.epoch is not None:
                running = m.PartitionRunning(topic_id=local.topic_id, partition=local.partition, epoch=process.epoch)
                self.emit(ToGateways(message=running))
                self.companions.follow(local.key, now)

    # Reconciling

    def _reconcile(self, key: Key, now: float) -> None:
        """Compare one partition's desired state with what runs, and take the next step towards it."""
        self._take_step(key, now)
        self.companions.follow(key, now)

    def _take_step(self, key: Key, now: float) -> None:
        local = self.locals.get(key)
        if local is None or not self.settled:
            return
        state = self.image.partition(*key)
        holders = self.actors.at(local.directory)
        for process in holders:
            # One that has not said hello may be the right one; its deadline bounds the doubt.
            mine = process.topic_id == local.topic_id
            if mine and process.state != "stopping" and not self.right(process, local):
                self.actors.stop(process, now, force=state is None or process.kind == FOLLOWER)
                if process.epoch is not None:
                    self.emit(ToGateways(message=local.stopped(process.epoch)))
        if holders or local.removing:
            return
        if local.role is None:
            if self.directories.owned_by(local):
                self.directories.remove(local)
            elif not self.directories.is_being_freed(local):
                self._drop(key, now)
        elif local.role == FOLLOWER and local.lost:
            if self.directories.set_aside(local, now):
                self.starts.report_down(local)
        else:
            self.starts.want(key)

    def _removed(self, event: DirectoryRemoved, now: float) -> None:
        key = (event.topic_id, event.partition)
        local = self.locals.get(key)
        if local is not None and local.role is None:
            self._drop(key, now)
        elif local is not None:
            self.directories.put_aside(local, failed=event.failed, now=now)
            self._reconcile(key, now)

    def _found_stray(self, key: Key, now: float) -> None:
        """It is removed like any that is assigned elsewhere; should it be ours again before, its start waits."""
        if self.image.topic_by_id(key[0]) is not None and self.caught_up:
            self._want(key)
            self._reconcile(key, now)

    def _drop(self, key: Key, now: float) -> None:
        """Nothing of this partition is left here; whoever waits for its directory's name may go on."""
        self.starts.forget(key)
        # Those that are to go, too, first: what lies there may be theirs.
        for other in sorted(self.directories.drop(key), key=lambda other: self.locals[other].role is not None):
            self._reconcile(other, now)

    # Time

    def _elapsed(self, now: float) -> None:
        self.beats.elapsed(now, self.broker_epoch, self.applied)
        self.starts.elapsed(now)
        for local in list(self.locals.values()):
            if local.retry_at is not None and local.retry_at <= now:
                local.retry_at = None
                self._reconcile(local.key, now)
        self.actors.elapsed(now)
        self.companions.elapsed(now)
        for actor in self.pings.elapsed(now):
            process = self.processes.get(actor)
            if process is not None:
                self.on_late(process, now)
