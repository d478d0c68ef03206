"""A host's Controller: the real member of the quorum on its real storage, and what its shell does."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, cast

from logeion.actors import messages as m
from logeion.actors.controller import machine as decisions
from logeion.actors.controller.entries import Commit, pack_records, pack_snapshot
from logeion.actors.controller.machine import REQUESTS, ControllerMachine, Decision, Request
from logeion.actors.controller.member import (
    Acts,
    Ask,
    Asks,
    Compacted,
    Event,
    Learned,
    Member,
    NotRelayed,
    Relay,
    Relayed,
    Surroundings,
)
from logeion.actors.controller.raft.messages import Elapsed, LeaderGone, Restarted, Told
from logeion.actors.controller.raft.state import Settings
from logeion.actors.controller.storage import VoterStorage, is_full
from logeion.actors.controller.subscribers import Subscribers
from logeion.actors.controller.topics import Defaults
from logeion.actors.lanes import Lane
from logeion.actors.metadata import MetadataImage
from logeion.actors.partition.shell import EXIT_STORAGE
from logeion.wire.errors import NotControllerError, StorageError
from tests.sim.engine import Violated
from tests.sim.hosts import DATA
from tests.sim.network import Port
from tests.sim.process import Process

if TYPE_CHECKING:
    from tests.sim.cluster_judge import Judge
    from tests.sim.hosts import Host
    from tests.sim.world import World

REDIAL_S = 0.05
RELAY_S = 5.0
FULL_AGAIN_S = 0.5
QUESTIONS = (*REQUESTS, m.ChangeVoters, m.DescribeQuorum)


class JudgedMachine(ControllerMachine):
    """The real one; what it makes of a leader's proposal is looked at, and what of an admin's wish is noted."""

    judge: Judge

    def handle(self, request: Request, now: float) -> Decision:
        before = None
        if isinstance(request, m.AlterPartition):
            before = self.image.partition(request.topic_id, request.partition)
        decision = super().handle(request, now)
        if isinstance(request, m.AlterPartition) and decision.records and before is not None:
            asked, was = (request.leader_epoch, request.partition_epoch), (before.leader_epoch, before.partition_epoch)
            if asked != was:
                raise Violated(f"I3: a proposal of epochs {asked} is taken, the partition is in {was}: {request}")
            self.judge.proposed(decision.records, request.isr)
        if isinstance(request, m.ElectLeaders) and request.unclean:
            self.judge.asked(decision.records)
        return decision


class Seat:
    """A subscriber's lane, as ``Subscribers`` sees it."""

    congested = False

    def __init__(self, port: Port) -> None:
        self.peer = port.other.hello
        self.tell = port.tell
        self.reply = port.reply
        self._port = port

    def close(self, reason: str) -> None:
        self._port.close()


class ControllerProcess(Process):
    """The shell of ``Member``."""

    def __init__(self, world: World, on: Host) -> None:
        hello = m.Hello(actor="controller", kind="controller", node=on.number, pid=on.number)
        super().__init__(world, f"{on.number}:controller", on=on, hello=hello)
        self._busy = False
        self._events: deque[Event | tuple[Port, int, int]] = deque()
        self._asks: list[Ask] = []
        self._asking = False
        self._tickets: dict[int, tuple[Port, int]] = {}
        self._ticket = 0
        self._seats: dict[Port, Seat] = {}
        self._lanes: dict[int, Port] = {}
        self._told_leader = -1
        self._upstream: Port | None = None
        self.storage = self._new_storage()
        self.member = self._new_member()
        self.subscribers = Subscribers(
            lambda: self.member.image.records(), lambda: self.member.applied, lambda: self.member.decides
        )
        self.soon(self._open)

    def _new_storage(self) -> VoterStorage:
        assert self.on is not None
        return VoterStorage(Path(DATA), now_ms=self.on.now_ms, files=self.files)

    def _new_member(self, closed: m.Refused | None = None) -> Member:
        settings = self.world.settings
        around = Surroundings(
            machine=self._machine,
            reachable=self.reaches,
            cluster_id=lambda: "cluster",
            pack=lambda records: pack_records(records, 0),
            pack_image=lambda records: pack_snapshot(records, 0),
            snapshot_bytes=settings.snapshot_bytes,
        )
        return Member(self.host, MetadataImage(settings.topic_defaults), around, closed)

    def reaches(self, node: int) -> bool:
        """Whether it is known where this node's Controller is."""
        return True

    def _machine(self, image: MetadataImage) -> ControllerMachine:
        settings = self.world.settings
        machine = JudgedMachine(
            Defaults(partitions=1, replication_factor=1),
            self.world.new_topic_id,
            image,
            decisions.Settings(session_s=settings.session_s, rebalance_s=settings.rebalance_s),
        )
        machine.judge = self.world.judge
        return machine

    def _open(self) -> None:
        world, on = self.world, self.on
        assert on is not None
        if on.number not in world.voters:
            self._find_voter()
            return
        self.join(world.voters)

    def join(self, voters: tuple[int, ...], then: Told | None = None) -> None:
        """Open the disk and take part; ``voters`` are those of a log that begins now. ``then`` comes after."""
        world, on = self.world, self.on
        assert on is not None
        settings = world.settings
        election = settings.election_s
        raft = Settings(
            heartbeat_s=election / 5,
            election_min_s=election,
            election_max_s=election * settings.patience,
            lease_s=election * 0.9,
            answer_s=election * 0.4,
            append_bytes_max=settings.raft_bytes,
        )
        try:
            stored = self.storage.open(on.number, voters)
        except StorageError as error:
            if not is_full(error):
                self._lost(error)
                return
            self.storage.close(clean=False)
            self.storage = self._new_storage()
            self.later(FULL_AGAIN_S, self.join, voters, then)
            return
        world.raft_seeds += 1
        for commit in self.member.join(stored, raft, world.seed * 1000 + world.raft_seeds, self.now):
            self._publish(commit)
        if then is not None:
            self.take(then)

    # Steps

    def deadline(self) -> float | None:
        if self._busy:
            return None
        due, now = self.member.deadline, self.now
        return due if due > now else max(due, now - 1.0)

    def elapsed(self) -> None:
        if not self._busy:
            self._step(Elapsed())

    def take(self, event: Event) -> None:
        """One event, in its turn."""
        if self._busy:
            self._events.append(event)
        else:
            self._step(event)

    def _step(self, event: Event) -> None:
        acts = self.member.step(event, self.now)
        for send in acts.raft.before:
            self._send(send.to, send.message)
        if acts.raft.writes:
            self._busy = True
            self.later(self.world.disk_time(), self._write, acts)
        else:
            self._finish(acts)

    def _write(self, acts: Acts) -> None:
        self._busy = False
        try:
            self.storage.carry_out(acts.raft.writes)
        except StorageError as error:
            if not is_full(error) or self.storage.log.failed is not None:
                self._lost(error)
                return
            self._full()
            return
        self._finish(acts)

    def _lost(self, error: StorageError) -> None:
        """The disk fails: the process ends, as the real one does, and its Supervisor starts another."""
        self.world.note(f"{self.name} ends: {error}")
        self.die(EXIT_STORAGE)

    def _full(self) -> None:
        """Nothing of the last step was done: go on from what the disk holds, once there is room."""
        self.storage.close(clean=False)
        self.storage = self._new_storage()
        refusal = m.Refused(code=56, reason="the disk is full")
        self.member = self._new_member(refusal)
        # Who wants to follow is no business of the member's.
        self._events = deque(event for event in self._events if isinstance(event, tuple))
        # Those that the member has not heard of are answered with the others.
        self._asks.clear()
        for ticket in list(self._tickets):
            self._answer(ticket, refusal)
        self.later(FULL_AGAIN_S, self._open)

    def synced(self, acts: Acts) -> None:
        """What this step has written is durable, and nothing that rests on it has left."""

    def published(self) -> None:
        """More of the metadata log is known to be committed."""

    def _finish(self, acts: Acts) -> None:
        self.synced(acts)
        for send in acts.raft.after:
            self._send(send.to, send.message)
        leader = self.member.leader
        self.subscribers.leads(leader)
        for commit in acts.publish:
            self._publish(commit)
        if acts.publish:
            self.published()
        for answer in acts.answers:
            self._answer(answer.ticket, answer.message)
        for relay in acts.relays:
            self._relay(relay)
        if leader != self._told_leader:
            self._told_leader = leader
            self.world.note(f"controller {self.host}: node {leader} leads the quorum")
        snapshot = self.member.snapshot()
        if snapshot is not None:
            try:
                self.storage.store_snapshot(snapshot)
            except StorageError as error:
                if not is_full(error):
                    self._lost(error)
                    return
            else:
                self._events.append(Compacted(snapshot))
        while self._events and not self._busy and self.alive:
            event = self._events.popleft()
            if isinstance(event, tuple):
                self._subscribe(*event)
            else:
                self._step(event)

    # Raft

    def _send(self, to: int, message: Told) -> None:
        self.world.network.datagram(self.host, to, self._deliver, to, message)

    def _deliver(self, to: int, message: Told) -> None:
        process = self.world.hosts[to].processes.get("controller")
        if isinstance(process, ControllerProcess):
            process.run(process.hear, message)

    def hear(self, message: Told) -> None:
        """Another voter speaks."""
        self.take(message)

    # Who follows

    def _publish(self, commit: Commit) -> None:
        judge, on = self.world.judge, self.on
        assert on is not None
        if commit.snapshot:
            judge.restored(on.number, self.member.image, commit.next_offset)
        else:
            judge.published(on.number, commit.offset, commit.records, commit.next_offset)
        self.subscribers.committed(commit)

    def _subscribe(self, lane: Port, request: int, offset: int) -> None:
        if lane.open:
            seat = self._seats[lane] = Seat(lane)
            self.subscribers.subscribe(cast(Lane, seat), request, offset)

    def on_closed(self, port: Port) -> None:
        seat = self._seats.pop(port, None)
        if seat is not None:
            self.subscribers.gone(cast(Lane, seat))

    # An observer

    def _find_voter(self) -> None:
        world = self.world
        voter = self.engine.random.choice(world.voters)
        host = world.hosts[voter]
        world.network.dial(
            self, lambda: host.processes.get("controller"), self._found_voter, self._no_voter, host.number
        )

    def _no_voter(self) -> None:
        self.later(REDIAL_S, self._find_voter)

    def _found_voter(self, lane: Port) -> None:
        lane.on_message = self._told
        lane.on_closed = lambda _: self._no_voter()

        def subscribed(reply: m.Message | None) -> None:
            if isinstance(reply, m.Committed):
                self.take(Learned(reply))
            elif lane.open:
                lane.close()

        lane.call(m.Subscribe(from_offset=self.member.applied), subscribed, 30.0)

    def _told(self, lane: Port, request: int, message: m.AnyMessage, payload: bytes) -> None:
        if isinstance(message, m.Committed):
            self.take(Learned(message))

    # Who asks

    def on_message(self, port: Port, request: int, message: m.AnyMessage, payload: bytes) -> None:
        if isinstance(message, m.Subscribe):
            if self._busy:
                # What this step has committed is not on the disk yet.
                self._events.append((port, request, message.from_offset))
            else:
                self._subscribe(port, request, message.from_offset)
        elif isinstance(message, QUESTIONS):
            self._ticket += 1
            self._tickets[self._ticket] = (port, request)
            hello = port.other.hello
            relayed = hello is not None and hello.kind == "controller"
            self._asks.append(Ask(self._ticket, message, relayed))
            if not self._asking:
                self._asking = True
                self.soon(self._ask)

    def _ask(self) -> None:
        self._asking = False
        asks, self._asks = self._asks, []
        self.take(Asks(asks))

    def _answer(self, ticket: int, message: m.Message) -> None:
        port, request = self._tickets.pop(ticket)
        committed = getattr(message, "committed", None)
        if isinstance(committed, int) and not isinstance(message, m.QuorumDescribed):
            self.world.judge.answered(self.host, committed)
        if isinstance(message, m.PartitionAltered):
            self.world.judge.altered(self.host, message)
        port.reply(request, message)

    def _relay(self, relay: Relay) -> None:
        lane = self._lanes.get(relay.to)
        if lane is not None and lane.open:
            self._relay_by(lane, relay)
            return
        host = self.world.hosts[relay.to]

        def opened(lane: Port) -> None:
            self._lanes[relay.to] = lane
            lane.on_message = self._told
            lane.on_closed = lambda _: self._broken(relay.to)
            self._relay_by(lane, relay)

        def failed() -> None:
            self.take(NotRelayed(relay.ticket))

        self.world.network.dial(self, lambda: host.processes.get("controller"), opened, failed, host.number)

    def _broken(self, node: int) -> None:
        """A lane to this node's Controller has closed: its host is asked what has become of it."""
        self.take(LeaderGone(node))
        term = self.member.led_by(node)
        if term is not None:
            self.world.network.datagram(self.host, node, self._asked, node, term)

    def _asked(self, node: int, term: int) -> None:
        """On that host: its Node looks for the Controller's socket."""
        processes = self.world.hosts[node].processes
        answering = processes.get("node")
        if answering is not None and not answering.frozen and "controller" not in processes:
            ended = Restarted(term=term, voter=node)
            self.world.network.datagram(node, self.host, self.run, self.take, ended)

    def _relay_by(self, lane: Port, relay: Relay) -> None:
        def answered(reply: m.Message | None) -> None:
            if isinstance(reply, m.Refused) and reply.code == NotControllerError.code:
                self.take(NotRelayed(relay.ticket))
            else:
                self.take(Relayed(relay.ticket, reply))

        lane.call(relay.question, answered, RELAY_S)
