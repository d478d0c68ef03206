"""Lanes: how actors talk to each other. A socket each, framed, with requests, answers and a bounded flight.

    frame = u32 header length | u32 payload length | header | payload
    header = u64 request number (top bit: this is an answer; 0: neither asked nor answered) | msgpack message

A lane that closes fails its requests at once: that is the fastest failure detector there is. The first frame of each
side is ``Hello``. Unix peers must have our user id; peers on other hosts have proved themselves before (``hosts``).
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from logeion.wire.buffers import Buffer

from .handover import Inbox, bind_path, short_name, unbind_path
from .messages import AnyMessage, Hello, Message, Refused, decode, encode
from .stream import Frame, FrameError, FrameStream

log: logging.Logger = logging.getLogger(__name__)

# Both lengths and the request's number; its top bit says that this is an answer.
PREFIX = struct.Struct(">IIQ")
_LENGTHS = struct.Struct(">II")
ANSWER = 1 << 63

HEADER_MAX = 16 * 1024 * 1024
PAYLOAD_MAX = 128 * 1024 * 1024
REQUESTS_MAX = 1024
BYTES_MAX = 32 * 1024 * 1024
QUEUED_MAX = 100_000
HELLO_S = 5.0


class LaneError(Exception):
    """Why a request over a lane has no answer."""


class LaneClosed(LaneError):
    """The lane closed before the answer came; whether the request was carried out is unknown."""


class LaneTimeout(LaneError):
    """No answer in time; whether the request was carried out is unknown."""


class LaneBusy(LaneError):
    """More requests wait to be sent than a lane may hold back; this one was not sent."""


class RefusedError(LaneError):
    """The peer said no. ``code`` is Kafka's, ``reason`` a sentence, ``leader_epoch`` the peer's if it has one."""

    def __init__(self, code: int, reason: str, leader_epoch: int = -1) -> None:
        super().__init__(f"{reason} (code {code})")
        self.code = code
        self.reason = reason
        self.leader_epoch = leader_epoch


OnReply = Callable[[AnyMessage | LaneError], None]
OnMessage = Callable[["Lane", int, AnyMessage, Frame], None]
"""(lane, request number or 0, message, frame): ``frame.view`` is the payload; ``frame.keep()`` to keep it."""
OnLane = Callable[["Lane"], None]
OnClosed = Callable[["Lane", str], None]

_myself: Hello | None = None


def introduce(hello: Hello) -> None:
    """Who this process is, on every lane from now on (the runtime says it once)."""
    global _myself
    _myself = hello


def introduction() -> Hello:
    """What was last said by ``introduce``."""
    assert _myself is not None, "introduce() comes before the first lane"
    return _myself


def _unexpected(lane: Lane, request: int, message: AnyMessage, frame: Frame) -> None:
    lane.close(f"nobody here expects {type(message).__name__}")


def measure(data: memoryview) -> int:
    """The whole size of the frame that begins with these 8 bytes; raises ``FrameError``."""
    header, payload = _LENGTHS.unpack_from(data)
    if not 8 <= header <= HEADER_MAX or payload > PAYLOAD_MAX:
        raise FrameError(f"a lane's frame cannot have a header of {header} and a payload of {payload} bytes")
    return int(8 + header + payload)


class _Call:
    __slots__ = ("number", "on_reply", "sent", "size")

    def __init__(self, number: int, on_reply: OnReply, size: int) -> None:
        self.number, self.on_reply, self.size, self.sent = number, on_reply, size, False


class Lane:
    """One end. Requests beyond REQUESTS_MAX or BYTES_MAX in flight wait here, in order, at most QUEUED_MAX of them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_lane: OnLane,
        on_closed: OnClosed | None = None,
    ) -> None:
        """``on_lane`` is called once, when the peer has introduced itself: it sets ``on_message`` and ``on_closed``."""
        self.loop = loop
        self.peer: Hello | None = None
        self.on_message: OnMessage = _unexpected
        self.on_closed: OnClosed | None = on_closed
        # Set where requests are parked at the peer, and those behind them must not wait; 0 is REQUESTS_MAX.
        self.requests_max = 0
        self._on_lane = on_lane
        self._calls: dict[int, _Call] = {}
        self._queue: deque[tuple[_Call, list[Buffer], Callable[[], None] | None]] = deque()
        self._flight = self._requests = 0
        self._number = 0
        self._deadlines: list[tuple[float, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._stream = FrameStream(
            loop, sock, header_size=8, measure=measure, on_frame=self._on_frame, on_closed=self._closed
        )
        self._hello_timer = loop.call_later(HELLO_S, self._no_hello)
        self.tell(introduction())

    @property
    def closed(self) -> bool:
        return self._stream.closed

    @property
    def congested(self) -> bool:
        """Whether more waits to be sent than a peer that reads would ever leave waiting."""
        return self._stream.congested

    # Asking

    def call(
        self,
        message: Message,
        payload: Sequence[Buffer] = (),
        *,
        on_reply: OnReply,
        timeout_s: float,
        on_sent: Callable[[], None] | None = None,
    ) -> None:
        """Ask; ``on_reply`` is called exactly once, with the answer or a ``LaneError``, never before this returns.

        ``on_sent`` is called when the payload's buffers are not needed any more.
        """
        if self.closed or len(self._queue) >= QUEUED_MAX:
            error = LaneClosed("the lane is closed") if self.closed else LaneBusy(f"{QUEUED_MAX} requests wait")
            if on_sent is not None:
                on_sent()
            self.loop.call_soon(on_reply, error)
            return
        self._number += 1
        buffers, size = pack(self._number, message, payload)
        call = _Call(self._number, on_reply, size)
        self._calls[call.number] = call
        self._expect(call.number, self.loop.time() + timeout_s)
        if self._queue or not self._fits(call):
            self._queue.append((call, buffers, on_sent))
        else:
            self._send(call, buffers, on_sent)

    async def request(self, message: Message, payload: Sequence[Buffer] = (), *, timeout_s: float) -> AnyMessage:
        """Ask and wait. Raises ``RefusedError``, ``LaneClosed``, ``LaneTimeout``, ``LaneBusy``."""
        future: asyncio.Future[AnyMessage] = self.loop.create_future()

        def on_reply(reply: AnyMessage | LaneError) -> None:
            if future.done():
                return
            if isinstance(reply, LaneError):
                future.set_exception(reply)
            else:
                future.set_result(reply)

        self.call(message, payload, on_reply=on_reply, timeout_s=timeout_s)
        return await future

    def tell(self, message: Message, payload: Sequence[Buffer] = (), on_sent: Callable[[], None] | None = None) -> None:
        """Say something that has no answer; lost if the lane closes."""
        self._stream.write(pack(0, message, payload)[0], on_sent)

    def reply(
        self,
        request: int,
        message: Message,
        payload: Sequence[Buffer] = (),
        on_sent: Callable[[], None] | None = None,
    ) -> None:
        """Answer this request, once. Does nothing for request 0 (nobody asked) or on a closed lane."""
        if request:
            self._stream.write(pack(request | ANSWER, message, payload)[0], on_sent)
        elif on_sent is not None:
            on_sent()

    def close(self, reason: str = "closed here") -> None:
        """End the lane now; its requests fail with ``LaneClosed``."""
        self._stream.close(reason)

    def _fits(self, call: _Call) -> bool:
        if self._requests >= (self.requests_max or REQUESTS_MAX):
            return False
        return self._flight == 0 or self._flight + call.size <= BYTES_MAX

    def _send(self, call: _Call, buffers: list[Buffer], on_sent: Callable[[], None] | None) -> None:
        call.sent = True
        self._flight += call.size
        self._requests += 1
        self._stream.write(buffers, on_sent)

    def _pop(self, number: int) -> _Call | None:
        call = self._calls.pop(number, None)
        if call is None:
            return None
        if call.sent:
            self._flight -= call.size
            self._requests -= 1
        while self._queue:
            waiting, buffers, on_sent = self._queue[0]
            if waiting.number not in self._calls:
                self._queue.popleft()
                if on_sent is not None:
                    on_sent()
            elif self._fits(waiting):
                self._queue.popleft()
                self._send(waiting, buffers, on_sent)
            else:
                break
        return call

    def _expect(self, number: int, deadline: float) -> None:
        deadlines = self._deadlines
        if len(deadlines) > 1024 and len(deadlines) > 4 * len(self._calls):
            # Answered requests leave their deadline behind; do not let a day's worth gather.
            self._deadlines = deadlines = [d for d in deadlines if d[1] in self._calls]
            heapq.heapify(deadlines)
        heapq.heappush(deadlines, (deadline, number))
        if self._timer is None or deadlines[0][1] == number:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._deadlines and self._deadlines[0][1] not in self._calls:
            heapq.heappop(self._deadlines)
        if self._deadlines:
            self._timer = self.loop.call_at(self._deadlines[0][0], self._overdue)

    def _overdue(self) -> None:
        self._timer = None
        now = self.loop.time()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number = heapq.heappop(self._deadlines)
            call = self._pop(number)
            if call is not None:
                call.on_reply(LaneTimeout("no answer in time"))
        self._arm()

    # Hearing

    def _on_frame(self, frame: Frame) -> None:
        try:
            number, message, frame.view = unpack(frame.view)
        except msgspec.DecodeError as error:
            self.close(f"the peer sent a message that is none of ours: {error}")
            return
        if self.peer is None:
            self._greeted(message)
        elif number & ANSWER:
            call = self._pop(number & ~ANSWER)
            if call is not None:
                if isinstance(message, Refused):
                    call.on_reply(RefusedError(message.code, message.reason, message.leader_epoch))
                else:
                    call.on_reply(message)
        else:
            self.on_message(self, number, message, frame)

    def _greeted(self, message: AnyMessage) -> None:
        self._hello_timer.cancel()
        if not isinstance(message, Hello):
            self.close(f"a lane begins with Hello, not with {type(message).__name__}")
            return
        self.peer = message
        self._on_lane(self)

    def _no_hello(self) -> None:
        self.close(f"no Hello within {HELLO_S:.0f} s")

    def _closed(self, reason: str) -> None:
        self._hello_timer.cancel()
        if self._timer is not None:
            self._timer.cancel()
        calls, self._calls = self._calls, {}
        queue, self._queue = self._queue, deque()
        self._deadlines.clear()
        for _, _, on_sent in queue:
            if on_sent is not None:
                on_sent()
        for call in calls.values():
            call.on_reply(LaneClosed(reason))
        if self.on_closed is not None:
            self.on_closed(self, reason)


def pack(number: int, message: Message, payload: Sequence[Buffer]) -> tuple[list[Buffer], int]:
    """A frame, and its size; the payload's buffers are part of it."""
    body = encode(message)
    size = sum(len(part) for part in payload)
    head = PREFIX.pack(8 + len(body), size, number) + body
    return [head, *payload], len(head) + size


def unpack(data: memoryview) -> tuple[int, AnyMessage, memoryview]:
    """Number, message and payload of a whole frame; raises ``msgspec.DecodeError``."""
    header, _, number = PREFIX.unpack_from(data)
    return number, decode(data[16 : 8 + header]), data[8 + header :]


# Meeting ----------------------------------------------------------------------------------------------------------


def socket_path(run_dir: Path, name: str) -> Path:
    """Where the actor of this name listens; ``name`` is made of ids, never of a user's words."""
    return run_dir / f"{name}.sock"


def same_user(sock: socket.socket) -> bool:
    """Whether the process at the other end of a unix socket is one of our user's."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(uid == os.getuid())


class LaneListener:
    """Accepts lanes at a unix path, and those of other hosts that Node hands over beside it.

    A stale socket there is replaced: whoever may bind is decided elsewhere (locks).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, path: Path, on_lane: OnLane) -> None:
        self.loop = loop
        self.path = path
        self.lanes: set[Lane] = set()
        self._on_lane = on_lane
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.setblocking(False)
        self._inode = bind_path(self._sock, path, backlog=1024)
        loop.add_reader(self._sock.fileno(), self._accept)
        self._inbox = Inbox(loop, path.with_suffix(".in"), self._handed_over)

    def _accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        if not same_user(sock):
            log.warning("lane refused path=%s: the peer is another user", self.path)
            sock.close()
            return
        self.lanes.add(Lane(self.loop, sock, self._opened, self._ended))

    def _handed_over(self, sock: socket.socket, welcome: bytes) -> None:
        """A lane of another host, which waits for this word."""
        try:
            sock.send(welcome)
        except OSError as error:
            log.info("lane of another host lost path=%s: %s", self.path, error.strerror)
            sock.close()
            return
        self.lanes.add(Lane(self.loop, sock, self._opened, self._ended))

    def _opened(self, lane: Lane) -> None:
        self._on_lane(lane)
        theirs = lane.on_closed
        if theirs is None or theirs == self._ended:
            return

        def ended(lane: Lane, reason: str) -> None:
            self.lanes.discard(lane)
            theirs(lane, reason)

        lane.on_closed = ended

    def _ended(self, lane: Lane, reason: str) -> None:
        self.lanes.discard(lane)

    def close(self) -> None:
        """Stop listening and end every lane."""
        self.loop.remove_reader(self._sock.fileno())
        self._sock.close()
        unbind_path(self.path, self._inode)
        self._inbox.close()
        for lane in list(self.lanes):
            lane.close()


async def dial(
    loop: asyncio.AbstractEventLoop,
    path: Path,
    *,
    on_message: OnMessage | None = None,
    on_closed: OnClosed | None = None,
) -> Lane:
    """A lane to the listener at ``path``, once the peer has introduced itself (``lane.peer``).

    Raises ``OSError`` when nobody listens there now, ``LaneClosed`` when it ends before its Hello. Without
    ``on_message``, whatever the peer says unasked closes the lane.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # A peer that is stopped fills its backlog; to wait for it would stop this loop too.
    sock.setblocking(False)
    try:
        name, directory = short_name(path)
        try:
            sock.connect(name)
        finally:
            os.close(directory)
        if not same_user(sock):
            raise PermissionError(f"{path} is served by another user")
    except OSError:
        sock.close()
        raise
    return await lane_over(loop, sock, on_message=on_message, on_closed=on_closed)


async def lane_over(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    *,
    on_message: OnMessage | None = None,
    on_closed: OnClosed | None = None,
) -> Lane:
    """A lane over a connection, once the peer has introduced itself; raises ``LaneClosed`` like ``dial``."""
    opened: asyncio.Future[Lane] = loop.create_future()

    def ready(lane: Lane) -> None:
        if on_message is not None:
            lane.on_message = on_message
        lane.on_closed = on_closed
        if not opened.done():
            opened.set_result(lane)

    def failed(lane: Lane, reason: str) -> None:
        if not opened.done():
            opened.set_exception(LaneClosed(reason))

    lane = Lane(loop, sock, ready, failed)
    try:
        return await opened
    except asyncio.CancelledError:
        lane.close("given up")
        raise
