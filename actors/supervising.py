"""The lane between Supervisor and Node: its one end without a loop, its other end an ordinary lane.

Not by Thespian's messages: when both sides happen to send at once, one of them can wait for seconds (seen: a leader
that started ten seconds after it was asked for). The Supervisor has no asyncio, so it reads its end when Thespian says
that there is something, and never waits to write: a Node that takes nothing loses the lane, dials again, and asks who
runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from .handover import bind_path
from .lanes import Lane, LaneError, dial, measure, pack, same_user, socket_path, unpack
from .messages import AnyMessage, Hello, ListActors, Message
from .stream import Frame, FrameError

log: logging.Logger = logging.getLogger(__name__)

NAME = "supervisor"
# Where the command asks the Supervisor whether its loop turns.
LIFE = "life"
# What Node may leave unread before it loses the lane.
UNREAD_MAX = 8 * 1024 * 1024
FRAME_MAX = 1024 * 1024
REDIAL_S = 0.01
# What Node may want to say before it has met the Supervisor.
UNSAID_MAX = 10_000


class NodeEnd:
    """The Supervisor's end. ``descriptors`` are to be watched; ``receive`` whenever one is readable, or might be."""

    def __init__(self, run_dir: Path, hello: Hello) -> None:
        self._hello = hello
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        bind_path(self._listener, socket_path(run_dir, NAME), backlog=8)
        self._lane: socket.socket | None = None
        self._greeted = False
        self._in = b""
        self._out = bytearray()

    @property
    def descriptors(self) -> list[int]:
        """The listener's, and the lane's while there is one."""
        return [one.fileno() for one in (self._listener, self._lane) if one is not None]

    @property
    def unsent(self) -> bool:
        """Whether ``flush`` is to be tried again in a moment."""
        return bool(self._out)

    def receive(self) -> list[AnyMessage]:
        """All that Node has said."""
        messages = self._read()
        while self._accept():
            messages += self._read()
        return messages

    def tell(self, message: Message) -> None:
        """Say this to Node, if it is there; else it is lost: a Node that comes asks who runs."""
        if self._lane is not None:
            self._put(message)
            self.flush()

    def flush(self) -> None:
        """Write what did not fit before."""
        while self._lane is not None and self._out:
            try:
                del self._out[: self._lane.send(self._out)]
            except (BlockingIOError, InterruptedError):
                if len(self._out) > UNREAD_MAX:
                    self._close("it does not read")
                return
            except OSError:
                # It is gone; what it has said last is still to be read, and then its end.
                self._out.clear()

    def _put(self, message: Message) -> None:
        for part in pack(0, message, ())[0]:
            assert isinstance(part, bytes)
            self._out += part

    def _accept(self) -> bool:
        try:
            lane, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        if not same_user(lane):
            log.warning("lane refused: the peer is another user")
            lane.close()
            return True
        # There is one Node; an earlier lane is that of one that is gone.
        self._close("")
        lane.setblocking(False)
        self._lane = lane
        self._put(self._hello)
        self.flush()
        return True

    def _read(self) -> list[AnyMessage]:
        while self._lane is not None:
            try:
                data = self._lane.recv(65536)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._close(error.strerror or str(error))
                break
            if not data:
                last = self._parsed()
                self._close("")
                return last
            self._in += data
        return self._parsed()

    def _parsed(self) -> list[AnyMessage]:
        messages: list[AnyMessage] = []
        while len(self._in) >= 8:
            try:
                size = measure(memoryview(self._in))
                if size > FRAME_MAX:
                    raise FrameError(f"a frame of {size} bytes")
                if len(self._in) < size:
                    break
                _, message, _ = unpack(memoryview(self._in)[:size])
            except (FrameError, msgspec.DecodeError) as error:
                self._close(str(error))
                break
            self._in = self._in[size:]
            if self._greeted:
                messages.append(message)
            elif isinstance(message, Hello):
                self._greeted = True
            else:
                self._close(f"a lane begins with Hello, not with {type(message).__name__}")
        return messages

    def _close(self, reason: str) -> None:
        if self._lane is not None:
            if reason:
                log.warning("the lane to Node is closed: %s", reason)
            self._lane.close()
        self._lane, self._greeted, self._in = None, False, b""
        self._out.clear()


class Life:
    """Where the Supervisor gives the command a sign of life: every byte that comes is sent back.

    Beside the lane of Node, because a Node that hangs must not make its Supervisor look as if it did.
    """

    def __init__(self, run_dir: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        bind_path(self._listener, socket_path(run_dir, LIFE), backlog=8)
        self._asking: socket.socket | None = None

    @property
    def descriptors(self) -> list[int]:
        """The listener's, and the connection's while there is one."""
        return [one.fileno() for one in (self._listener, self._asking) if one is not None]

    def answer(self) -> None:
        """Take what came, and answer it; there is one command, and its newest connection counts."""
        with contextlib.suppress(BlockingIOError, InterruptedError, ConnectionAbortedError):
            asking, _ = self._listener.accept()
            self._leave()
            if same_user(asking):
                asking.setblocking(False)
                self._asking = asking
            else:
                asking.close()
        if self._asking is not None:
            try:
                data = self._asking.recv(64)
                if data:
                    self._asking.send(data)
                else:
                    self._leave()
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self._leave()

    def _leave(self) -> None:
        if self._asking is not None:
            self._asking.close()
        self._asking = None


class SupervisorEnd:
    """Node's end: dials when there is something to say, again each time the lane ends, and then asks who runs."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, run_dir: Path, on_message: Callable[[AnyMessage], None]
    ) -> None:
        self._loop = loop
        self._path = socket_path(run_dir, NAME)
        self._heard = on_message
        self._lane: Lane | None = None
        self._unsaid: deque[Message] = deque(maxlen=UNSAID_MAX)
        self._keeping: asyncio.Task[None] | None = None

    def tell(self, message: Message) -> None:
        """Say this, as soon as the Supervisor is met."""
        if self._lane is not None:
            self._lane.tell(message)
        else:
            self._unsaid.append(message)
            if self._keeping is None:
                self._keeping = self._loop.create_task(self._keep())

    async def _keep(self) -> None:
        met = False
        while True:
            closed: asyncio.Future[str] = self._loop.create_future()

            def on_closed(lane: Lane, reason: str, closed: asyncio.Future[str] = closed) -> None:
                self._lane = None
                closed.set_result(reason)

            try:
                lane = await dial(self._loop, self._path, on_message=self._on_message, on_closed=on_closed)
            except (OSError, LaneError):
                await asyncio.sleep(REDIAL_S)
                continue
            self._lane = lane
            if met:
                lane.tell(ListActors())
            met = True
            while self._unsaid:
                lane.tell(self._unsaid.popleft())
            log.warning("the lane to the supervisor is closed: %s", await closed)

    def _on_message(self, lane: Lane, request: int, message: AnyMessage, frame: Frame) -> None:
        self._heard(message)
