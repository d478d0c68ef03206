"""One non-blocking stream socket, cut into frames on the way in and gathered on the way out.

The hot path of the product: lanes between actors and the Kafka port both stand on it. No asyncio transport is
involved: the loop only says when the socket is ready.

In: one scratch buffer a process. A frame that arrives whole in it is handed over as a view of scratch, valid during
the callback only. A larger one is received straight into a buffer of its own, of which only what has really arrived
takes memory, never what was claimed (``buffers``). A peer that is not ``trusted`` is held to what ``intake`` allows.
Out: bytes, views and file ranges leave in order, by ``sendmsg`` and ``sendfile``.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable

from logeion.wire.buffers import Buffer, FileRange

from .buffers import Frame, pool
from .intake import FIRST_BYTES, intake

__all__ = ["Frame", "FrameError", "FrameStream", "Measure"]

SCRATCH = 256 * 1024
# Frames from here on are received into a buffer of their own; smaller unfinished ones are copied out of scratch.
LARGE = 64 * 1024
# After a large frame another one is likely: so much of it comes through scratch, the rest goes straight to its place.
HEAD = 2048
SOCKET_BUFFER = 2 * 1024 * 1024
IOV_MAX = 64
FILE_CHUNK = 1024 * 1024
# How much one socket may move in one turn of the loop before the others have theirs.
TURN_BYTES = 4 * 1024 * 1024

_scratch_view = memoryview(bytearray(SCRATCH))


class FrameError(Exception):
    """The peer's bytes cannot be a frame: raised by a ``measure`` function; the stream closes."""


Measure = Callable[[memoryview], int]
"""Given at least ``header_size`` bytes: the whole frame's size, prefix included; raises ``FrameError`` if insane."""


class FrameStream:
    """The pump. All callbacks come from the loop and may close the stream; what they raise is not caught here.

    ``on_frame(frame)`` for each frame; ``on_closed(reason)`` once, never from within ``write``; ``on_drained()`` when
    what waits to leave has fallen below ``low_water`` after it was above ``high_water`` (see ``congested``).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        *,
        header_size: int,
        measure: Measure,
        on_frame: Callable[[Frame], None],
        on_closed: Callable[[str], None],
        on_drained: Callable[[], None] | None = None,
        trusted: bool = True,
        first_bytes: int = FIRST_BYTES,
        high_water: int = 8 * 1024 * 1024,
        low_water: int = 1024 * 1024,
        socket_buffer: int = SOCKET_BUFFER,
    ) -> None:
        self.loop = loop
        self.sock = sock
        self.trusted = trusted
        self.frames: int = 0
        self.closed: bool = False
        self.last_read: float = loop.time()
        self._fd = sock.fileno()
        self._header_size = header_size
        self._measure = measure
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._on_drained = on_drained
        self._high, self._low = high_water, low_water
        self._first_bytes = max(first_bytes, header_size)
        # The unfinished frame: its buffer, what of it has arrived, its size (or the prefix's, while that is unknown).
        self._part: memoryview | None = None
        self._have = 0
        self._need = 0
        self._head = SCRATCH
        self._out: deque[Buffer | Callable[[], None]] = deque()
        self._waiting = 0
        self._choked = False
        self._broken = False
        # Reading is wanted by the user, and not held up by the intake.
        self._wanted = False
        self._held = False
        self._registered = False
        self._writing = False
        sock.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            if socket_buffer:
                sock.setsockopt(socket.SOL_SOCKET, option, socket_buffer)
        self._tcp = sock.family in (socket.AF_INET, socket.AF_INET6)
        if self._tcp:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pool.loop = loop
        self.resume_reading()

    # In

    @property
    def pinned(self) -> int:
        """Bytes of memory an unfinished frame holds."""
        return 0 if self._part is None else self._have

    @property
    def unfinished(self) -> int:
        """Bytes that the unfinished frame still lacks (0: there is none)."""
        return self._need - self._have if self._part is not None else 0

    def pause_reading(self) -> None:
        """Hand over no more frames after those that have arrived with the current one."""
        self._wanted = False
        self._register()

    def resume_reading(self) -> None:
        """Read on."""
        self._wanted = True
        self._register()

    def hold(self) -> None:
        """The intake has no room for this frame yet."""
        self._held = True
        self._register()

    def admit(self) -> None:
        """The intake has room now."""
        self._held = False
        self._register()

    def _register(self) -> None:
        reads = self._wanted and not self._held and not self.closed
        if reads and not self._registered:
            self._registered = True
            self.loop.add_reader(self._fd, self._on_readable)
        elif not reads and self._registered:
            self._registered = False
            self.loop.remove_reader(self._fd)

    def _on_readable(self) -> None:
        budget = TURN_BYTES
        while budget > 0 and self._registered:
            part = self._part
            room = _scratch_view[: self._scratch_room()] if part is None else part[self._have : self._need]
            try:
                count = self.sock.recv_into(room)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self.close(f"{error.strerror or error}")
                return
            if count == 0:
                self.close("the peer closed the connection")
                return
            budget -= count
            try:
                if part is None:
                    self._split(_scratch_view[:count])
                    if pool.poisons:
                        pool.poison(_scratch_view[:count])
                else:
                    self._have += count
                    self._grown(part)
            except FrameError as error:
                self.close(str(error))
                return
            if count < len(room):
                break
        self.last_read = self.loop.time()

    def _scratch_room(self) -> int:
        if self.trusted or self.frames:
            return self._head
        return min(self._first_bytes, SCRATCH)

    def _split(self, data: memoryview) -> None:
        """Hand over the whole frames in ``data`` (scratch) and keep what begins another."""
        at, end = 0, len(data)
        header_size, measure = self._header_size, self._measure
        while end - at >= header_size:
            size = measure(data[at:])
            if end - at < size:
                self._begin(data[at:], size)
                return
            self._head = SCRATCH
            self._hand_over(Frame(data[at : at + size], None))
            at += size
            if self.closed:
                return
        if at < end:
            self._begin(data[at:], header_size)

    def _begin(self, data: memoryview, need: int) -> None:
        have = len(data)
        self._have, self._need = have, need
        if need >= LARGE:
            self._head = HEAD
        if not self.trusted and need > self._first_bytes and not intake.begin(self, need):
            # Until there is room, it stays what it is: no more than ``first_bytes``.
            self._part = memoryview(bytearray(data))
            self.hold()
            return
        self._part = pool.take(need)
        self._part[:have] = data

    def proceed(self) -> None:
        """The intake has let this frame in: give it a buffer, and read on."""
        old = self._part
        if old is not None and not self.closed:
            self._part = pool.take(self._need)
            self._part[: self._have] = old[: self._have]
            self.admit()

    def _grown(self, part: memoryview) -> None:
        if self._have < self._need:
            if not self.trusted:
                intake.grown(self, self._have)
            return
        if self._have == self._header_size:
            need = self._measure(part[: self._have])
            if self._have < need:
                head = bytes(part[: self._have])
                pool.give(part)
                self._begin(memoryview(head), need)
                return
        self._part = None
        if not self.trusted:
            intake.end(self)
        self._hand_over(Frame(part[: self._need], part))

    def _hand_over(self, frame: Frame) -> None:
        self.frames += 1
        self._on_frame(frame)
        frame.handed_over()

    # Out

    @property
    def waiting(self) -> int:
        """Bytes that wait to leave."""
        return self._waiting

    @property
    def congested(self) -> bool:
        """Whether more waits than the high water mark; ``on_drained`` tells when that is over."""
        return self._choked

    def write(self, buffers: Iterable[Buffer], on_sent: Callable[[], None] | None = None) -> None:
        """Send these after all before them; ``on_sent`` when the kernel has the last byte, or the stream closes."""
        if self.closed:
            if on_sent is not None:
                on_sent()
            return
        for buffer in buffers:
            size = len(buffer)
            if size:
                self._out.append(buffer)
                self._waiting += size
        if on_sent is not None:
            self._out.append(on_sent)
        if not self._writing:
            self._flush()
        if self._waiting > self._high:
            self._choked = True

    def _flush(self) -> None:
        budget = TURN_BYTES
        while self._out and budget > 0 and not self._broken:
            first = self._out[0]
            if callable(first):
                self._out.popleft()
                first()
                continue
            try:
                budget -= self._send_file(first) if isinstance(first, FileRange) else self._send_memory()
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                # Not now: whoever writes is not prepared for ``on_closed``.
                self._broken = True
                self.loop.call_soon(self.close, f"{error.strerror or error}")
        if self.closed:
            return
        if self._out and not self._broken:
            if not self._writing:
                self._writing = True
                self.loop.add_writer(self._fd, self._flush)
        elif self._writing:
            self._writing = False
            self.loop.remove_writer(self._fd)
        if self._choked and self._waiting <= self._low:
            self._choked = False
            if self._on_drained is not None:
                self._on_drained()

    def _send_memory(self) -> int:
        out = self._out
        batch: list[bytes | bytearray | memoryview] = []
        more = 0
        for buffer in out:
            if isinstance(buffer, FileRange):
                # The head of a response leaves in one segment with the file behind it.
                more = socket.MSG_MORE if self._tcp else 0
                break
            if len(batch) == IOV_MAX:
                break
            if not callable(buffer):
                batch.append(buffer)
        sent = self.sock.sendmsg(batch, (), more)
        self._waiting -= sent
        left = sent
        while left:
            first = out[0]
            if callable(first):
                out.popleft()
                first()
                continue
            size = len(first)
            if left < size:
                assert not isinstance(first, FileRange)
                out[0] = memoryview(first)[left:]
                break
            left -= size
            out.popleft()
        return sent

    def _send_file(self, part: FileRange) -> int:
        sent = os.sendfile(self._fd, part.fd, part.position, min(part.size, FILE_CHUNK))
        if sent == 0:
            raise OSError(0, f"the file ended {part.size} bytes before the range it was asked for")
        self._waiting -= sent
        if sent == part.size:
            self._out.popleft()
        else:
            self._out[0] = FileRange(part.fd, part.position + sent, part.size - sent)
        return sent

    def close(self, reason: str) -> None:
        """End now; what waits is dropped, its ``on_sent`` callbacks run. Does nothing the second time."""
        if self.closed:
            return
        self.closed = True
        self._register()
        if self._writing:
            self._writing = False
            self.loop.remove_writer(self._fd)
        self.sock.close()
        callbacks = [waiting for waiting in self._out if callable(waiting)]
        self._out.clear()
        self._waiting = 0
        if not self.trusted:
            intake.end(self)
        if self._part is not None:
            pool.give(self._part)
            self._part = None
        for callback in callbacks:
            callback()
        self._on_closed(reason)
