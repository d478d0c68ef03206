"""What asyncio's actors talk by, over simulated ports: lanes that look like the real ones, and clients' connections."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logeion.actors import messages as m
from logeion.actors.buffers import Frame
from logeion.actors.lanes import (
    HELLO_S,
    Lane,
    LaneClosed,
    LaneListener,
    LaneTimeout,
    OnClosed,
    OnLane,
    OnMessage,
    OnReply,
    RefusedError,
)
from logeion.wire.buffers import Buffer, FileRange
from tests.sim.network import Port
from tests.sim.replicas import Actor
from tests.sim.virtual_loop import AsyncProcess, VirtualLoop

if TYPE_CHECKING:
    from tests.sim.hosts import Host
    from tests.sim.process import Process

# What carries the bytes of clients over a port: it stands for nothing.
BYTES = m.Ping()
LOOK_AGAIN_S = 0.01


class SimLane(Lane):
    """A lane over a ``Port``, whose peer has said who it is."""

    def __init__(self, port: Port) -> None:
        self.loop = current().loop
        self.peer = port.other.hello
        self.on_message = _unexpected
        self.on_closed = None
        self.requests_max = 0
        self._port = port
        self._reason = "the peer is gone"
        port.on_message = self._heard
        port.on_closed = self._over

    @property
    def closed(self) -> bool:
        return not self._port.open

    @property
    def congested(self) -> bool:
        return False

    def call(
        self,
        message: m.Message,
        payload: Sequence[Buffer] = (),
        *,
        on_reply: OnReply,
        timeout_s: float,
        on_sent: Callable[[], None] | None = None,
    ) -> None:
        def answered(reply: m.Message | None) -> None:
            if isinstance(reply, m.Refused):
                on_reply(RefusedError(reply.code, reply.reason, reply.leader_epoch))
            elif reply is not None:
                on_reply(reply)  # type: ignore[arg-type]  # one of all messages
            elif self._port.open:
                on_reply(LaneTimeout("no answer in time"))
            else:
                on_reply(LaneClosed(self._reason))

        self._port.call(message, answered, timeout_s, _joined(payload))
        if on_sent is not None:
            on_sent()

    def tell(
        self, message: m.Message, payload: Sequence[Buffer] = (), on_sent: Callable[[], None] | None = None
    ) -> None:
        self._port.tell(message, _joined(payload))
        if on_sent is not None:
            on_sent()

    def reply(
        self,
        request: int,
        message: m.Message,
        payload: Sequence[Buffer] = (),
        on_sent: Callable[[], None] | None = None,
    ) -> None:
        self._port.reply(request, message, _joined(payload))
        if on_sent is not None:
            on_sent()

    def close(self, reason: str = "closed here") -> None:
        if self._port.open:
            self._reason = reason
            self._port.close()

    def _heard(self, port: Port, request: int, message: Any, payload: bytes) -> None:
        self.on_message(self, request, message, Frame(memoryview(payload), None))

    def _over(self, port: Port) -> None:
        if self.on_closed is not None:
            self.on_closed(self, self._reason)


def _unexpected(lane: Lane, request: int, message: m.AnyMessage, frame: Frame) -> None:
    lane.close(f"nobody here expects {type(message).__name__}")


def _joined(payload: Sequence[Buffer]) -> bytes:
    return b"".join(payload)  # type: ignore[arg-type]  # no file ranges leave by these lanes


class SimListener(LaneListener):
    """The socket on which the process that makes it listens."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: Path, on_lane: OnLane) -> None:
        self.loop = loop
        self.path = path
        self.lanes: set[Lane] = set()
        self._on_lane = on_lane
        current().listener = self

    def welcome(self, port: Port) -> None:
        """Somebody has dialled."""
        lane = SimLane(port)
        self.lanes.add(lane)
        lane.on_closed = self._ended
        self._opened(lane)

    def close(self) -> None:
        current().listener = None


async def dial(
    loop: asyncio.AbstractEventLoop,
    path: Path,
    *,
    on_message: OnMessage | None = None,
    on_closed: OnClosed | None = None,
) -> SimLane:
    """In place of ``lanes.dial``: the process of this host that listens at this path."""
    host = current().on
    assert host is not None
    return await _reach(lambda: _listening(host, path.stem), host.number, on_message, on_closed)


async def dial_host(
    loop: asyncio.AbstractEventLoop,
    host: str,
    port: int,
    target: str,
    *,
    secret: bytes,
    on_message: OnMessage | None = None,
    on_closed: OnClosed | None = None,
) -> SimLane:
    """In place of ``hosts.dial_host``: the process of this name on another host."""
    there = current().world.host_at(host)
    return await _reach(lambda: _listening(there, target), there.number, on_message, on_closed)


def current() -> AsyncProcess:
    """Whose step this is."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.process


def _listening(host: Host, name: str) -> Process | None:
    """Who has bound the socket of this name there."""
    if name.startswith("partition-"):
        # A leader binds it when its log is open.
        _, topic_id, partition = name.split("-")
        leader = host.world.leading(host, (topic_id, int(partition)))
        return leader if isinstance(leader, Actor) and leader.log is not None else None
    for process in host.processes.values():
        if isinstance(process, AsyncProcess) and process.listener is not None and process.listener.path.stem == name:
            return process
    return host.processes.get(name) if name in ("controller", "node") else None


async def _reach(
    find: Callable[[], Process | None], host: int, on_message: OnMessage | None, on_closed: OnClosed | None
) -> SimLane:
    process = current()
    opened: asyncio.Future[SimLane] = process.loop.create_future()

    def failed() -> None:
        if not opened.done():
            opened.set_exception(ConnectionRefusedError(f"nobody listens on host {host}"))

    def greeted(port: Port, until: float) -> None:
        """Whoever is stopped lets itself be dialled, but says nothing."""
        if opened.done():
            port.close()
        elif not port.open or process.now > until:
            port.close()
            opened.set_exception(LaneClosed("no Hello"))
        elif port.other.frozen:
            process.later(LOOK_AGAIN_S, greeted, port, until)
        else:
            lane = SimLane(port)
            if on_message is not None:
                lane.on_message = on_message
            lane.on_closed = on_closed
            opened.set_result(lane)

    process.world.network.dial(process, find, lambda port: greeted(port, process.now + HELLO_S), failed, host)
    return await opened


class SimSocket:
    """What a connection wants to know of its socket."""

    def __init__(self, port: Port) -> None:
        self.port = port

    def getsockname(self) -> tuple[str, int]:
        return f"host-{self.port.process.host}", 9092


class SimStream:
    """In place of ``FrameStream`` under a client's connection: whole frames, over a ``Port``.

    What is written leaves at once, or, to a client that reads slowly, later: file ranges are read then.
    """

    congested = False

    def __init__(
        self,
        loop: VirtualLoop,
        sock: SimSocket,
        *,
        header_size: int,
        measure: Callable[[memoryview], int],
        on_frame: Callable[[Frame], None],
        on_closed: Callable[[str], None],
        on_drained: Callable[[], None],
        trusted: bool,
    ) -> None:
        self.frames = 0
        self.closed = False
        self.last_read = loop.time()
        self._loop = loop
        self._process = loop.process
        self._port = sock.port
        self._on_frame, self._on_closed = on_frame, on_closed
        self._paused = False
        self._in: deque[bytes] = deque()
        self._out: deque[tuple[list[Buffer], Callable[[], None] | None]] = deque()
        self._slow = self._process.engine.random.random() < 0.2
        self._port.on_message = self._arrived
        self._port.on_closed = lambda _: self.close("the peer closed the connection")

    def _arrived(self, port: Port, request: int, message: Any, payload: bytes) -> None:
        self._in.append(payload)
        self._hand_over()

    def _hand_over(self) -> None:
        while self._in and not self._paused and not self.closed:
            self.frames += 1
            self.last_read = self._loop.time()
            frame = Frame(memoryview(self._in.popleft()), None)
            self._on_frame(frame)
            frame.handed_over()

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._loop.call_soon(self._hand_over)

    def write(self, buffers: Iterable[Buffer], on_sent: Callable[[], None] | None = None) -> None:
        if self.closed:
            if on_sent is not None:
                on_sent()
            return
        self._out.append((list(buffers), on_sent))
        if not self._slow:
            self._flush()
        elif len(self._out) == 1:
            self._process.later(self._process.engine.random.uniform(0.001, 0.03), self._flush)

    def _flush(self) -> None:
        while self._out and not self.closed:
            buffers, on_sent = self._out[0]
            try:
                data = b"".join(self._bytes(buffer) for buffer in buffers)
            except OSError as error:
                # Not now: whoever writes is not prepared for ``on_closed``.
                self._loop.call_soon(self.close, str(error))
                return
            self._out.popleft()
            if data:
                self._port.tell(BYTES, data)
            if on_sent is not None:
                on_sent()

    def _bytes(self, buffer: Buffer) -> bytes:
        if not isinstance(buffer, FileRange):
            return bytes(buffer)
        files = self._process.files
        assert files is not None
        data = files.pread(buffer.fd, buffer.size, buffer.position)
        if len(data) < buffer.size:
            raise OSError(0, f"the file ended {buffer.size - len(data)} bytes before the range it was asked for")
        return data

    def close(self, reason: str) -> None:
        if self.closed:
            return
        self.closed = True
        waiting, self._out = self._out, deque()
        for _, on_sent in waiting:
            if on_sent is not None:
                on_sent()
        self._port.on_closed = None
        self._port.close()
        self._on_closed(reason)
