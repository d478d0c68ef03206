"""A host's Controller where voters come and go: what the shell does to find the quorum, to join it and to leave it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from logeion.actors import messages as m
from logeion.actors.controller import voters
from logeion.actors.controller.events import Learned
from logeion.actors.controller.member import Acts
from logeion.actors.controller.observing import FIRST_RETRY_S, LAST_RETRY_S, LEADERLESS_S, SUBSCRIBE_S
from logeion.actors.controller.raft.messages import AppendEntries, InstallSnapshot, LeaderGone, Told
from logeion.wire.errors import NotControllerError
from tests.sim.controllers import ControllerProcess
from tests.sim.hosts import DATA
from tests.sim.network import Port

if TYPE_CHECKING:
    from tests.sim.hosts import Host
    from tests.sim.world import World


class MovingController(ControllerProcess):
    """``world.configured`` is each host's ``cluster.voters``, read when the process starts."""

    def __init__(self, world: World, on: Host) -> None:
        self.configured = world.configured[on.number]
        self._known: voters.Addresses = {}
        # Who has dialled this one to tell it something: it can be answered.
        self._callers: set[int] = set()
        self._opening = True
        self._observing: Observing | None = None
        super().__init__(world, on)

    def reaches(self, node: int) -> bool:
        """Configured, read of in the metadata log, or registered."""
        return node in self.configured or node in self._known or self.member.where(node) is not None

    def is_configured(self) -> bool:
        """Whether it was started with the list of today."""
        return self.configured == self.world.configured[self.host]

    def voter_hosts(self) -> list[int]:
        """Whom this one may follow while it has no vote, in this order."""
        nodes = voters.to_follow(self.host, self._known, self.configured, self.member.image.brokers)
        return [node for node in nodes if self.reaches(node)]

    # Joining

    def _open(self) -> None:
        if not self._known:
            assert self.files is not None
            self._known = voters.load(Path(DATA), self.files)
        configured = self.host in self.configured
        if configured or self.storage.exists:
            self.join(self.configured if configured else ())
        else:
            self._opening = False

    def join(self, voters: tuple[int, ...], then: Told | None = None) -> None:
        self._opening = True
        super().join(voters, then)
        self._opening = self.member.raft is None

    def hear(self, message: Told) -> None:
        """The quorum speaks. To one without a disk only if a leader wants it to become a voter."""
        self._callers.add(message.voter)
        if self.member.raft is not None:
            self.take(message)
        elif not self._opening and self.member.closed is None and isinstance(message, AppendEntries | InstallSnapshot):
            self.world.note(f"controller {self.host} becomes a voter")
            self.member.closed = m.Refused(code=NotControllerError.code, reason="this node becomes a voter just now")
            self._opening = True
            self.later(self.world.disk_time(), self._begin_to_vote, message)

    def _begin_to_vote(self, message: Told) -> None:
        self.storage = self._new_storage()
        self.join((), message)

    # Steps

    def synced(self, acts: Acts) -> None:
        self.world.quorum.stepped(self, acts)

    def published(self) -> None:
        """Who votes, for the next start."""
        found = self.member.image.voters
        if found and found != self._known:
            assert self.files is not None
            self._known = dict(found)
            voters.save(Path(DATA), self._known, self.files)

    def stepped(self) -> None:
        wanted = not self._opening and self.member.closed is None and self.member.follows
        if wanted and self._observing is None:
            self._observing = Observing(self)
        elif not wanted and self._observing is not None:
            self._observing.end()
            self._observing = None
        super().stepped()

    # Lanes

    def _send(self, to: int, message: Told) -> None:
        if self.reaches(to) or to in self._callers:
            super()._send(to, message)

    def on_message(self, port: Port, request: int, message: m.AnyMessage, payload: bytes) -> None:
        hello = port.other.hello
        other = hello is not None and hello.kind == "controller"
        if other and isinstance(message, m.Subscribe) and not self.member.votes:
            refusal = f"node {self.host} has no vote itself"
            port.reply(request, m.Refused(code=NotControllerError.code, reason=refusal))
        else:
            super().on_message(port, request, message, payload)

    def on_closed(self, port: Port) -> None:
        super().on_closed(port)
        hello = port.other.hello
        if hello is not None and hello.kind == "controller":
            self.take(LeaderGone(hello.node))


class Observing:
    """The real one is a task: it follows a voter, and the next one if that is no use."""

    def __init__(self, process: MovingController) -> None:
        self._process = process
        self._over = False
        self._lane: Port | None = None
        self._waiting: list[int] = []
        self._retry_s = FIRST_RETRY_S
        self._before = self._heard_to = 0
        # When the voter was last known to have a leader; never, if it has not said so yet.
        self._leaderless_since: float | None = None
        self._next()

    def end(self) -> None:
        """It votes itself by now, or waits for its disk."""
        self._over = True
        if self._lane is not None:
            self._lane.close()

    def _next(self) -> None:
        process = self._process
        if self._over:
            return
        if not self._waiting:
            self._waiting = process.voter_hosts()
            process.later(self._retry_s, self._dial)
            self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)
        else:
            process.soon(self._dial)

    def _dial(self) -> None:
        if self._over:
            return
        if not self._waiting:
            self._next()
            return
        process = self._process
        host = process.world.hosts[self._waiting.pop(0)]
        process.world.network.dial(
            process, lambda: host.processes.get("controller"), self._opened, self._next, host.number
        )

    def _opened(self, lane: Port) -> None:
        if self._over:
            lane.close()
            return
        process = self._process
        self._lane = lane
        self._before = self._heard_to = process.member.applied
        self._leaderless_since = process.engine.time
        lane.on_message = self._told
        lane.on_closed = self._closed

        def subscribed(reply: m.Message | None) -> None:
            if isinstance(reply, m.Committed):
                self._heard(reply)
            elif lane.open:
                lane.close()

        lane.call(m.Subscribe(from_offset=process.member.applied), subscribed, SUBSCRIBE_S)
        process.later(LEADERLESS_S, self._look, lane)

    def _look(self, lane: Port) -> None:
        if not lane.open:
            return
        since, now = self._leaderless_since, self._process.engine.time
        if since is not None and now - since >= LEADERLESS_S:
            lane.close()
        else:
            self._process.later(LEADERLESS_S, self._look, lane)

    def _told(self, lane: Port, request: int, message: m.AnyMessage, payload: bytes) -> None:
        if isinstance(message, m.Committed):
            self._heard(message)

    def _heard(self, committed: m.Committed) -> None:
        process, lane = self._process, self._lane
        if lane is None or not lane.open:
            return
        if committed.leader >= 0:
            self._leaderless_since = None
        elif self._leaderless_since is None:
            self._leaderless_since = process.engine.time
        self._heard_to = max(self._heard_to, process.member.applied)
        if committed.offset > self._heard_to and not committed.snapshot:
            lane.close()
            return
        self._heard_to = max(self._heard_to, committed.next_offset)
        process.take(Learned(committed))

    def _closed(self, lane: Port) -> None:
        if self._process.member.applied > self._before:
            self._retry_s = FIRST_RETRY_S
        self._lane = None
        self._next()
