"""What lies between processes: lanes as they really are, and Raft's messages, which may be lost, doubled or overtaken.

A lane is a unix socket or a TCP connection: in order, nothing twice, and cut at any moment, which each end learns in
its own time. On a link that fails a lane's bytes wait; if it stays down for ``USER_TIMEOUT_S`` both ends give up.
Hosts are numbers; a client is a host of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from logeion.actors.messages import Message

if TYPE_CHECKING:
    from tests.sim.engine import Engine
    from tests.sim.process import Process

# TCP_USER_TIMEOUT, and what keepalive and back-off may add to it.
USER_TIMEOUT_S = 2.0
SLACK_S = 1.0

OnReply = Callable[[Message | None], None]


class Port:
    """One end of a lane, with the methods of the real one; ``peer_process`` is who is at the other end."""

    def __init__(self, network: Network, process: Process, other: Process) -> None:
        self.network = network
        self.process = process
        self.other = other
        self.peer: Port = self
        self.open = True
        self.on_message: Callable[[Port, int, Message, bytes], None] = _unexpected
        self.on_closed: Callable[[Port], None] | None = None
        self.way = (process.host, other.host)
        self.local = process.host == other.host
        # The moment at which the last message of this end arrives.
        self._last = 0.0
        # What a failed link holds back.
        self.stuck: deque[tuple[int, Message, bytes]] = deque()
        self._calls: dict[int, OnReply] = {}
        self._number = 0

    def call(self, message: Message, on_reply: OnReply, timeout_s: float, payload: bytes = b"") -> None:
        """Ask; ``on_reply`` gets the answer (a ``Refused`` too), or None when there is none."""
        if not self.open:
            self.process.soon(on_reply, None)
            return
        self._number += 1
        self._calls[self._number] = on_reply
        self.process.later(timeout_s, self._overdue, self._number)
        self._send(self._number, message, payload)

    def tell(self, message: Message, payload: bytes | Sequence[bytes] = b"") -> None:
        """Say something that has no answer."""
        self._send(0, message, payload if isinstance(payload, bytes) else b"".join(payload))

    def reply(self, request: int, message: Message, payload: bytes = b"") -> None:
        """Answer this request."""
        if request:
            self._send(-request, message, payload)

    def close(self) -> None:
        """End the lane now."""
        if self.open:
            self._shut()
            self.network.end(self)

    def delay(self, seconds: float) -> None:
        """What this end says from now on arrives so much later."""
        self._last = max(self._last, self.network.engine.time + seconds)

    def _shut(self) -> None:
        """This end is over; its requests fail."""
        self.open = False
        self.process.ports.pop(self, None)
        calls, self._calls = self._calls, {}
        for on_reply in calls.values():
            on_reply(None)
        if self.on_closed is not None:
            self.on_closed(self)

    def vanish(self) -> None:
        """The process of this end is gone; nobody here learns anything."""
        self.open = False
        self._calls.clear()

    def _overdue(self, number: int) -> None:
        on_reply = self._calls.pop(number, None)
        if on_reply is not None:
            on_reply(None)

    def _send(self, number: int, message: Message, payload: bytes) -> None:
        if not self.open:
            return
        network = self.network
        if self.local:
            delay = network.local_delay()
        elif self.stuck or self.way in network.blocked:
            self.stuck.append((number, message, payload))
            return
        else:
            delay = network.delay()
        arrival = network.engine.time + delay
        if arrival > self._last:
            self._last = arrival
        network.engine.at(self._last, self._arrive, number, message, payload)

    def _arrive(self, number: int, message: Message, payload: bytes) -> None:
        peer = self.peer
        if peer.open:
            peer.process.run(peer.take, number, message, payload)

    def take(self, number: int, message: Message, payload: bytes) -> None:
        """A message has come."""
        if not self.open:
            return
        if number < 0:
            on_reply = self._calls.pop(-number, None)
            if on_reply is not None:
                on_reply(message)
        else:
            self.on_message(self, number, message, payload)

    def peer_ended(self) -> None:
        """The other end is gone, and this one hears of it."""
        if self.open:
            self._shut()

    def flush(self) -> None:
        """The link is up again: send what was held back."""
        stuck, self.stuck = self.stuck, deque()
        if not self.open:
            return
        if not self.peer.open:
            self.process.run(self.peer_ended)
            return
        for number, message, payload in stuck:
            self._send(number, message, payload)


def _unexpected(port: Port, number: int, message: Message, payload: bytes) -> None:
    raise AssertionError(f"{port.process.name} has nobody to take {type(message).__name__}")


class Network:
    """The links: ``blocked`` holds the pairs (from, to) of hosts between which nothing passes."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.blocked: set[tuple[int, int]] = set()
        self.loss = 0.0
        self.doubles = 0.0
        self.slow = 0.0
        # Ports whose lanes cross hosts, in the order of their making.
        self.remote: dict[Port, None] = {}
        self._blocked_since: dict[tuple[int, int], int] = {}
        self._blocks = 0

    # Lanes

    def connect(self, caller: Process, callee: Process) -> tuple[Port, Port]:
        """A lane between two processes that can reach each other now."""
        mine, theirs = Port(self, caller, callee), Port(self, callee, caller)
        mine.peer, theirs.peer = theirs, mine
        caller.ports[mine] = None
        callee.ports[theirs] = None
        if not mine.local:
            self.remote[mine] = None
            self.remote[theirs] = None
        return mine, theirs

    def dial(
        self,
        caller: Process,
        find: Callable[[], Process | None],
        on_open: Callable[[Port], None],
        on_failed: Callable[[], None],
        host: int,
    ) -> None:
        """Dial whoever ``find`` names on ``host`` when the first packet comes there; refused at once if nobody."""
        if caller.host == host:
            self.engine.after(self.local_delay(), self._meet, caller, find, on_open, on_failed)
        elif (caller.host, host) in self.blocked or (host, caller.host) in self.blocked:
            caller.later(self.engine.random.uniform(1.0, 2.0), on_failed)
        else:
            # A handshake takes two round trips.
            self.engine.after(self.delay() * 2, self._meet, caller, find, on_open, on_failed)

    def _meet(
        self,
        caller: Process,
        find: Callable[[], Process | None],
        on_open: Callable[[Port], None],
        on_failed: Callable[[], None],
    ) -> None:
        callee = find()
        if not caller.alive:
            return
        if callee is None or not callee.alive:
            caller.run(on_failed)
            return
        mine, theirs = self.connect(caller, callee)
        callee.run(callee.accepted, theirs)
        caller.run(*((on_open, mine) if mine.open else (on_failed,)))

    def end(self, port: Port) -> None:
        """This end was closed or its process died: what it sent still arrives, or a part of it, then the other end
        hears of it, unless the link is down."""
        self.remote.pop(port, None)
        peer, engine = port.peer, self.engine
        if not peer.open:
            return
        if not port.local and (port.process.host, port.other.host) in self.blocked:
            return  # it hears by itself, or when the link is up again
        delay = self.local_delay() if port.local else self.delay()
        engine.at(max(engine.time + delay, port._last), self._ended, peer)

    def _ended(self, peer: Port) -> None:
        self.remote.pop(peer, None)
        if peer.open:
            peer.process.run(peer.peer_ended)

    def host_died(self, port: Port) -> None:
        """No end of the lane is announced: the other end finds out by itself."""
        self.remote.pop(port, None)
        if port.local:
            return
        self.engine.after(self.engine.random.uniform(USER_TIMEOUT_S, USER_TIMEOUT_S + SLACK_S), self._ended, port.peer)

    # Links

    def block(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Nothing passes on these links from now on."""
        fresh = [pair for pair in pairs if pair not in self.blocked]
        for pair in fresh:
            self.blocked.add(pair)
            self._blocks += 1
            self._blocked_since[pair] = self._blocks
        chance = self.engine.random
        lost = set(fresh)
        for port in list(self.remote):
            there = (port.process.host, port.other.host)
            back = (there[1], there[0])
            for pair in (there, back):
                if pair in lost:
                    patience = chance.uniform(USER_TIMEOUT_S, USER_TIMEOUT_S + SLACK_S)
                    self.engine.after(patience, self._give_up, port, pair, self._blocked_since[pair])

    def _give_up(self, port: Port, pair: tuple[int, int], since: int) -> None:
        if port.open and pair in self.blocked and self._blocked_since[pair] == since:
            self.remote.pop(port, None)
            port.process.run(self._given_up, port)

    def _given_up(self, port: Port) -> None:
        """A process that was stopped hears of it when it goes on: if the link is up by then, the other end hears, too,
        as whoever writes to a connection that is gone does."""
        port.peer_ended()
        self.end(port)

    def heal(self, pairs: Sequence[tuple[int, int]] | None = None) -> None:
        """These links are up again, or all."""
        healed = set(self.blocked if pairs is None else pairs)
        self.blocked -= healed
        for port in list(self.remote):
            there, back = (port.process.host, port.other.host), (port.other.host, port.process.host)
            if (port.stuck and there in healed) or (not port.peer.open and (there in healed or back in healed)):
                self.engine.after(self.engine.random.uniform(0.01, 0.3), port.flush)

    # Raft's messages

    def datagram(self, sender: int, to: int, deliver: Callable[..., None], *arguments: Any) -> None:
        """Deliver, perhaps late, twice or never."""
        if (sender, to) in self.blocked:
            return
        chance = self.engine.random
        copies = 1
        if self.loss and chance.random() < self.loss:
            return
        if self.doubles and chance.random() < self.doubles:
            copies = 2
        for _ in range(copies):
            self.engine.after(self.delay(), deliver, *arguments)

    def delay(self) -> float:
        """From one host to another."""
        chance = self.engine.random
        if self.slow and chance.random() < self.slow:
            return chance.uniform(0.03, 0.8)
        return 0.0002 + 0.004 * chance.random()

    def local_delay(self) -> float:
        """From one process to another on the same host."""
        return 0.00003 + 0.0003 * self.engine.random.random()
