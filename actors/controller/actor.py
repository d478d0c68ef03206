"""Controller: one member of the metadata quorum, or an observer of it, as a process."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections import deque
from pathlib import Path
from typing import cast, get_args

from logeion.wire.errors import InvalidRequestError, KafkaStorageError, NotControllerError, StorageError

from ..hosts import dial_host, has_ended, load_secret
from ..lanes import Lane, LaneError, LaneListener, OnClosed, OnMessage, RefusedError, socket_path
from ..messages import (
    AnyMessage,
    ChangeVoters,
    DescribeQuorum,
    Message,
    Refused,
    Subscribe,
)
from ..metadata import MetadataImage
from ..runtime import ActorBase, Shell
from ..stream import Frame
from . import machine, voters
from .entries import pack_records, pack_snapshot
from .events import Acts, Ask, Asks, Compacted, Event, HostSeen, Learned, NotRelayed, Question, Relay, Relayed
from .machine import ControllerMachine
from .member import Member, Surroundings
from .observing import Observing
from .peers import NotReached, Peers
from .probing import Probing
from .raft.messages import AppendEntries, Elapsed, InstallSnapshot, LeaderGone, Resign, Restarted, Told
from .raft.state import Settings
from .storage import VoterStorage, is_full
from .subscribers import Subscribers
from .topics import Defaults

log: logging.Logger = logging.getLogger(__name__)

_TOLD: tuple[type[Message], ...] = get_args(Told)
_QUESTIONS: tuple[type[Message], ...] = (*machine.REQUESTS, ChangeVoters, DescribeQuorum)

FULL_AGAIN_S = 1.0
# How long a question may be with the leader, and after how long it is said that a subscriber waits for us to know more.
RELAYED_S, BEHIND_S = 10.0, 10.0
# A cluster that starts as a whole: its nodes come one after the other.
STARTING_S = 5.0
# Steps in one turn of the loop, so that the lanes have theirs.
STEPS = 64


class ControllerShell(Shell):
    """The member's acts, in their order; lanes to whoever asks or follows, and to the other voters.

    A disk that fails ends the process: a start reads what really is there. One that is full only refuses.
    """

    listener: LaneListener | None = None
    stopping: bool = False

    async def start(self) -> None:
        """Recover what this voter stored, take part in the quorum, listen."""
        spec, config = self.spec, self.config
        self.voters: dict[int, tuple[str, int]] = config.voters() or {spec.node: ("", 0)}
        # Who voted when this node read the metadata log last.
        self._known: voters.Addresses = voters.load(Path(spec.data_dir)) if config.cluster.voters else {}
        self.storage: VoterStorage | None = None
        self._events: deque[Event] = deque()
        self._asks: list[Ask] = []
        self._tickets: dict[int, tuple[Lane, int]] = {}
        self._ticket = 0
        self._turning = self._due = self._decided = False
        self._leader = -1
        self._missing_from = self.loop.time() + STARTING_S
        self._timer: asyncio.TimerHandle | None = None
        self.member: Member = self._new_member()
        self.subscribers: Subscribers = Subscribers(
            lambda: self.member.image.records(), lambda: self.member.applied, lambda: self.member.decides
        )
        self._secret: bytes = load_secret(config) if config.cluster.voters else b""
        # The lanes by which the Controllers of other nodes speak as voters; those that only follow do not listen.
        self._callers: dict[int, Lane] = {}
        self.peers: Peers = Peers(
            self.loop, self._dial, self._addresses, self._callers.get, self._on_told, self._broken
        )
        self.probing: Probing = Probing(
            self.loop,
            self._has_ended,
            self._addresses,
            led_by=lambda node: self.member.led_by(node),
            on_ended=lambda node, term: self._post(Restarted(term=term, voter=node)),
            on_gone=lambda node: self._post(HostSeen(node, running=False)),
        )
        self.observing: Observing = Observing(
            self.loop,
            self._dial,
            self._voter_addresses,
            lambda: self.member.applied,
            lambda committed: self._post(Learned(committed)),
        )
        storage = self._new_storage()
        if spec.node in self.voters or storage.exists:
            await self._join(storage)
        # A voter that is alone knows all there is before anybody asks.
        self._turn()
        log.info(
            "controller serves cluster=%s offset=%d topics=%d voters=%s",
            self.member.image.cluster_id,
            self.member.applied,
            len(self.member.image.topics),
            list(self.voters),
        )
        self.listener = LaneListener(self.loop, socket_path(spec.run_dir, "controller"), self._on_lane)

    async def stop(self) -> None:
        """Another one leads, nobody is served any more, the log is closed cleanly."""
        self._post(Resign())
        self.stopping = True
        if self.listener is not None:
            self.listener.close()
        if self._timer is not None:
            self._timer.cancel()
        self.observing.want(False)
        self.probing.close()
        self.peers.close()
        if self.storage is not None:
            self.storage.close()

    # What stands around the member -----------------------------------------------------------------------------------

    def _new_member(self, closed: Refused | None = None) -> Member:
        config = self.config
        defaults = Defaults(
            partitions=config.topics.partitions,
            replication_factor=config.topics.replication_factor,
            partitions_max=config.limits.partitions,
            voters=len(self.voters),
        )
        settings = machine.Settings(session_s=config.rhythm()[1], rebalance_s=config.controller.rebalance_ms / 1000)
        around = Surroundings(
            machine=lambda image: ControllerMachine(defaults, lambda: uuid.uuid4().hex, image, settings),
            reachable=lambda node: bool(self._addresses(node)),
            cluster_id=lambda: config.cluster.id or uuid.uuid4().hex[:22],
            pack=lambda records: pack_records(records, _now_ms()),
            pack_image=lambda records: pack_snapshot(records, _now_ms()),
            snapshot_bytes=config.storage.metadata_snapshot_bytes,
        )
        return Member(self.spec.node, MetadataImage(config.topic_defaults()), around, closed)

    def _new_storage(self) -> VoterStorage:
        return VoterStorage(Path(self.spec.data_dir), now_ms=_now_ms)

    async def _dial(
        self, host: str, port: int, *, on_message: OnMessage | None = None, on_closed: OnClosed | None = None
    ) -> Lane:
        return await dial_host(
            self.loop, host, port, "controller", secret=self._secret, on_message=on_message, on_closed=on_closed
        )

    async def _has_ended(self, host: str, port: int) -> bool:
        return await has_ended(self.loop, host, port, "controller", secret=self._secret)

    def _addresses(self, node: int) -> list[tuple[str, int]]:
        """Where this node's cluster port may be: configured for the first voters, registered by the others."""
        found = [known[node] for known in (self.voters, self._known) if node in known and known[node][1]]
        registered = self.member.where(node)
        if registered is not None:
            found.append(registered)
        return list(dict.fromkeys(found))

    def _voter_addresses(self) -> list[tuple[str, int]]:
        """Whom a node without a vote may follow, in this order."""
        nodes = voters.to_follow(self.spec.node, self._known, self.voters, self.member.image.brokers)
        return [address for node in nodes for address in self._addresses(node)]

    def _keep_voters(self) -> None:
        """The metadata log says who votes: for the next start, which may find none of ``cluster.voters``."""
        found = self.member.image.voters
        if found and found != self._known:
            self._known = dict(found)
            voters.save(Path(self.spec.data_dir), self._known)
            log.info("the voters of the metadata quorum are %s", list(self._known))

    # The disk --------------------------------------------------------------------------------------------------------

    async def _join(self, storage: VoterStorage) -> None:
        """Open the disk. One that is full is waited for: dying of it again and again would take the whole tree down."""
        node = self.spec.node
        while True:
            try:
                stored = storage.open(node, tuple(sorted(self.voters)) if node in self.voters else ())
                break
            except StorageError as error:
                if not is_full(error):
                    raise
                log.error("the controller waits for room on the disk: %s", error)
                storage.close(clean=False)
            await asyncio.sleep(FULL_AGAIN_S)
            storage = self._new_storage()
        self.storage = storage
        election_s = self.config.controller.election_ms / 1000
        settings = Settings(
            heartbeat_s=election_s / 5,
            election_min_s=election_s,
            election_max_s=2 * election_s,
            lease_s=0.9 * election_s,
            answer_s=0.4 * election_s,
        )
        seed = int.from_bytes(os.urandom(8), "big")
        for commit in self.member.join(stored, settings, seed, self.loop.time()):
            self.subscribers.committed(commit)
        raft = self.member.raft
        if raft is not None and set(raft.log.voters) != set(self.voters):
            log.warning(
                "the metadata log knows other voters than cluster.voters, and counts: %s, not %s",
                list(raft.log.voters),
                list(self.voters),
            )

    def _full(self, error: StorageError) -> None:
        """Nothing of the last step was done: the process goes on from what the disk holds, once there is room."""
        assert self.storage is not None
        log.error("the controller decides nothing until there is room on the disk: %s", error)
        self.storage.close(clean=False)
        self.storage = None
        refusal = Refused(code=KafkaStorageError.code, reason=str(error))
        self.member = self._new_member(refusal)
        self._events.clear()
        # Those that the member has not heard of are answered with the others.
        self._asks.clear()
        for ticket in list(self._tickets):
            self._answer(ticket, refusal)
        self._rejoining = self.loop.create_task(self._rejoin())

    async def _rejoin(self) -> None:
        await asyncio.sleep(FULL_AGAIN_S)
        await self._join(self._new_storage())
        self._turn()

    # Steps -----------------------------------------------------------------------------------------------------------

    def _post(self, event: Event) -> None:
        """Let the member know, now or when the step under way is done."""
        self._events.append(event)
        if not self._turning:
            self._turn()

    def _turn(self) -> None:
        self._turning, self._due = True, False
        try:
            for _ in range(STEPS):
                event = self._next()
                if event is None:
                    break
                self._carry_out(self.member.step(event, self.loop.time()))
        finally:
            self._turning = False
        self.observing.want(self.member.closed is None and self.member.follows)
        self._look_around()
        self._arm()

    def _look_around(self) -> None:
        """Whoever begins to lead may never have had a lane to a node that has died meanwhile.

        Where a whole cluster starts nobody is missed yet.
        """
        if self.member.decides and not self._decided and self.loop.time() >= self._missing_from:
            image = self.member.image
            for node in image.brokers.keys() - image.fenced - {self.spec.node}:
                self.probing.broken(node)
        self._decided = self.member.decides

    def _next(self) -> Event | None:
        """What was asked comes before what is due: after a pause many things are, and some of it has been said."""
        if self._events:
            return self._events.popleft()
        if self._asks:
            asks, self._asks = self._asks, []
            return Asks(asks)
        return Elapsed() if self.member.deadline <= self.loop.time() else None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.member.deadline
        if self._events or self._asks or deadline <= self.loop.time():
            self._turn_soon()
        elif deadline != float("inf"):
            self._timer = self.loop.call_at(deadline, self._turn)

    def _turn_soon(self) -> None:
        """Once all that has arrived is read: what waits together becomes one write and one sync."""
        if not self._due:
            self._due = True
            self.loop.call_soon(self._turn)

    def _carry_out(self, acts: Acts) -> None:
        for send in acts.raft.before:
            self.peers.tell(send.to, send.message)
        if acts.raft.writes:
            assert self.storage is not None
            try:
                self.storage.carry_out(acts.raft.writes)
            except StorageError as error:
                if not is_full(error) or self.storage.log.failed is not None:
                    raise
                self._full(error)
                return
        for send in acts.raft.after:
            self.peers.tell(send.to, send.message)
        self._tell_leader()
        for commit in acts.publish:
            self.subscribers.committed(commit)
        if acts.publish:
            self._keep_voters()
        for answer in acts.answers:
            self._answer(answer.ticket, answer.message)
        for relay in acts.relays:
            self._relay(relay)
        self._take_snapshot()

    def _tell_leader(self) -> None:
        leader, raft = self.member.leader, self.member.raft
        if leader != self._leader:
            self._leader = leader
            who = "nobody" if leader < 0 else f"node {leader}"
            log.info("%s leads the metadata quorum term=%s", who, "?" if raft is None else raft.term)
        self.subscribers.leads(leader)

    def _take_snapshot(self) -> None:
        snapshot = self.member.snapshot()
        if snapshot is None:
            return
        assert self.storage is not None
        try:
            self.storage.store_snapshot(snapshot)
        except StorageError as error:
            if not is_full(error):
                raise
            log.warning("no snapshot of the metadata log: %s", error)
        else:
            self._events.appendleft(Compacted(snapshot))

    def _answer(self, ticket: int, message: Message) -> None:
        lane, request = self._tickets.pop(ticket)
        lane.reply(request, message)

    def _relay(self, relay: Relay) -> None:
        ticket = relay.ticket

        def on_reply(reply: AnyMessage | LaneError) -> None:
            if isinstance(reply, NotReached):
                self._post(NotRelayed(ticket))
            elif isinstance(reply, RefusedError):
                if reply.code == NotControllerError.code:
                    self._post(NotRelayed(ticket))
                else:
                    self._post(Relayed(ticket, Refused(code=reply.code, reason=reply.reason)))
            else:
                self._post(Relayed(ticket, None if isinstance(reply, LaneError) else reply))

        self.peers.call(relay.to, relay.question, on_reply, RELAYED_S)

    # Lanes -----------------------------------------------------------------------------------------------------------

    def _on_lane(self, lane: Lane) -> None:
        lane.on_message = self._on_message
        lane.on_closed = self._on_closed
        if lane.peer is not None and lane.peer.kind == "controller":
            self._post(HostSeen(lane.peer.node, running=True))

    def _on_closed(self, lane: Lane, reason: str) -> None:
        self.subscribers.gone(lane)
        if lane.peer is not None and lane.peer.kind == "controller":
            if self._callers.get(lane.peer.node) is lane:
                del self._callers[lane.peer.node]
            self._broken(lane.peer.node)

    def _broken(self, node: int) -> None:
        """A lane to or from this node's Controller has closed."""
        if self.stopping:
            return
        self._post(LeaderGone(node))
        self.probing.broken(node)

    def _on_message(self, lane: Lane, request: int, message: AnyMessage, frame: Frame) -> None:
        assert lane.peer is not None
        voter = lane.peer.kind == "controller"
        if isinstance(message, _TOLD):
            self._callers[lane.peer.node] = lane
            self._hear(cast(Told, message))
        elif isinstance(message, Subscribe):
            if voter and not self.member.votes:
                refusal = f"node {self.spec.node} has no vote itself"
                lane.reply(request, Refused(code=NotControllerError.code, reason=refusal))
            elif not self.subscribers.subscribe(lane, request, message.from_offset):
                self.loop.call_later(BEHIND_S, self.subscribers.explain, lane)
        elif isinstance(message, _QUESTIONS):
            self._ticket += 1
            self._tickets[self._ticket] = (lane, request)
            self._asks.append(Ask(self._ticket, cast(Question, message), relayed=voter))
            self._turn_soon()
        else:
            refusal = f"the controller does not answer {type(message).__name__}"
            lane.reply(request, Refused(code=InvalidRequestError.code, reason=refusal))

    def _on_told(self, lane: Lane, request: int, message: AnyMessage, frame: Frame) -> None:
        """One that does not know our address speaks by the lane that we have dialled."""
        if isinstance(message, _TOLD):
            self._hear(cast(Told, message))

    def _hear(self, message: Told) -> None:
        """The quorum speaks. To a node without a disk only if a leader wants it to become a voter."""
        if self.member.raft is not None:
            self._post(message)
        elif (
            self.storage is None and self.member.closed is None and isinstance(message, AppendEntries | InstallSnapshot)
        ):
            # From now on, not from when the task runs: a second message read with this one would open the disk again.
            self.member.closed = Refused(code=NotControllerError.code, reason="this node becomes a voter just now")
            self._joining = self.loop.create_task(self._begin_to_vote(message))

    async def _begin_to_vote(self, message: Told) -> None:
        await self._join(self._new_storage())
        self._post(message)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Controller(ActorBase):
    """The Thespian actor around it."""

    shell: type[Shell] = ControllerShell
