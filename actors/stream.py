"""One non-blocking stream socket, cut into frames on the way in and gathered on the way out.

The hot path of the product: lanes between actors and the Kafka port both stand on it. No asyncio transport is
involved: the loop only says when the socket is ready.

In: one scratch buffer a process. A frame that arrives whole in it is handed over as a view of scratch, valid during
the callback only. Any other frame gets a buffer of its own, which grows with what really arrived, never with what was
claimed (a peer that is ``trusted`` may have up to TRUSTED_STEP at once); large buffers come from a pool. Out: bytes,
views and file ranges leave in order, by ``sendmsg`` and ``sendfile``.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable

from logeion.wire.buffers import Buffer, FileRange

SCRATCH = 256 * 1024
SOCKET_BUFFER = 2 * 1024 * 1024
IOV_MAX = 64
FIRST_STEP = 16 * 1024
TRUSTED_STEP = 4 * 1024 * 1024
POOLED_FROM = 64 * 1024
POOL_BYTES = 32 * 1024 * 1024
FILE_CHUNK = 1024 * 1024
# How much one socket may move in one turn of the loop before the others have theirs.
TURN_BYTES = 4 * 1024 * 1024

_scratch = bytearray(SCRATCH)
_scratch_view = memoryview(_scratch)


class FrameError(Exception):
    """The peer's bytes cannot be a frame: raised by a ``measure`` function; the stream closes."""


class Pool:
    """Large receive buffers, kept for the next large frame: fresh ones cost a page fault every 4 KiB."""

    def __init__(self, limit: int = POOL_BYTES) -> None:
        self._free: dict[int, list[bytearray]] = {}
        self._kept = 0
        self._limit = limit

    def take(self, size: int) -> bytearray:
        if size < POOLED_FROM:
            return bytearray(size)
        rounded = 1 << (size - 1).bit_length()
        free = self._free.get(rounded)
        if free:
            self._kept -= rounded
            return free.pop()
        return bytearray(rounded)

    def give(self, buffer: bytearray) -> None:
        size = len(buffer)
        if size >= POOLED_FROM and size & (size - 1) == 0 and self._kept + size <= self._limit:
            self._free.setdefault(size, []).append(buffer)
            self._kept += size


_pool = Pool()


class Frame:
    """A frame as it is handed over. ``view`` is the whole frame, its length prefix included.

    A borrowed frame's view is valid during the callback only; ``retain`` turns it into one that lasts (by a copy where
    it lies in scratch) until as many ``release`` calls were made as ``retain`` calls.
    """

    __slots__ = ("_buffer", "_owners", "view")

    def __init__(self, view: memoryview, buffer: bytearray | None) -> None:
        self.view = view
        self._buffer = buffer
        self._owners = 0

    def retain(self) -> None:
        if self._buffer is None and self._owners == 0:
            self._buffer = bytearray(self.view)
            self.view = memoryview(self._buffer)
        self._owners += 1

    def release(self) -> None:
        """The last one gives the buffer back; views into it must not be used any more."""
        self._owners -= 1
        assert self._owners >= 0, "a frame is released more often than it was retained"
        if self._owners == 0:
            self._end()

    def _end(self) -> None:
        if self._buffer is not None:
            _pool.give(self._buffer)
            self._buffer = None

    def keep(self) -> tuple[memoryview, Callable[[], None]]:
        """``retain``, as the view that lasts and the function that releases it."""
        self.retain()
        return self.view, self.release

    def handed_over(self) -> None:
        """The callback is over: a frame nobody retained goes back to the pool."""
        if self._owners == 0:
            self._end()


Measure = Callable[[memoryview], int]
"""Given at least ``header_size`` bytes: the whole frame's size, prefix included; raises ``FrameError`` if insane."""


class FrameStream:
    """The pump. All callbacks come from the loop and may close the stream.

    ``on_frame(frame)`` for each frame; ``on_closed(reason)`` once; ``on_drained()`` when what waits to leave has fallen
    below ``low_water`` after it was above ``high_water`` (see ``congested``).
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
        high_water: int = 8 * 1024 * 1024,
        low_water: int = 1024 * 1024,
        socket_buffer: int = SOCKET_BUFFER,
    ) -> None:
        self.loop = loop
        self.sock = sock
        self.trusted = trusted
        self.frames = 0
        self.closed = False
        self.last_read = loop.time()
        self._fd = sock.fileno()
        self._header_size = header_size
        self._measure = measure
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._on_drained = on_drained
        self._high, self._low = high_water, low_water
        self._part: bytearray | None = None
        self._have = 0
        self._need = 0
        self._out: deque[Buffer | Callable[[], None]] = deque()
        self._waiting = 0
        self._choked = False
        self._reading = False
        self._writing = False
        sock.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            if socket_buffer:
                sock.setsockopt(socket.SOL_SOCKET, option, socket_buffer)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.resume_reading()

    # In

    @property
    def pinned(self) -> int:
        """Bytes of memory an unfinished frame holds."""
        return 0 if self._part is None else len(self._part)

    @property
    def unfinished(self) -> int:
        """Bytes that the unfinished frame still lacks (0: there is none)."""
        return self._need - self._have if self._part is not None else 0

    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self.loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        if not self._reading and not self.closed:
            self._reading = True
            self.loop.add_reader(self._fd, self._on_readable)

    def _on_readable(self) -> None:
        budget = TURN_BYTES
        try:
            while budget > 0 and self._reading:
                part = self._part
                room = _scratch_view if part is None else self._room(part)
                count = self.sock.recv_into(room)
                if count == 0:
                    self.close("the peer closed the connection")
                    return
                budget -= count
                if part is None:
                    self._split(_scratch_view[:count])
                else:
                    self._have += count
                    self._grown()
                if count < len(room):
                    break
        except (BlockingIOError, InterruptedError):
            pass
        except FrameError as error:
            self.close(str(error))
        except OSError as error:
            self.close(f"{error.strerror or error}")
        self.last_read = self.loop.time()

    def _split(self, data: memoryview) -> None:
        """Hand over the whole frames in ``data`` (scratch) and keep what begins another."""
        at, end = 0, len(data)
        while end - at >= self._header_size:
            size = self._measure(data[at:])
            if end - at < size:
                self._begin(data[at:], size)
                return
            self._hand_over(Frame(data[at : at + size], None))
            at += size
            if self.closed:
                return
        if at < end:
            self._begin(data[at:], self._header_size)

    def _begin(self, data: memoryview, need: int) -> None:
        have = len(data)
        self._part = _pool.take(self._step(have, need))
        self._part[:have] = data
        self._have, self._need = have, need

    def _step(self, have: int, need: int) -> int:
        """The size of an unfinished frame's buffer: by what arrived, not by what was claimed."""
        return min(need, max(TRUSTED_STEP if self.trusted else FIRST_STEP, 2 * have))

    def _room(self, part: bytearray) -> memoryview:
        if self._have == len(part):
            self._part = _pool.take(self._step(self._have, self._need))
            self._part[: self._have] = part
            _pool.give(part)
            part = self._part
        return memoryview(part)[self._have : self._need]

    def _grown(self) -> None:
        part = self._part
        assert part is not None
        if self._have < self._need:
            return
        if self._have == self._header_size:
            self._need = self._measure(memoryview(part)[: self._have])
            if self._have < self._need:
                return
        self._part = None
        self._hand_over(Frame(memoryview(part)[: self._need], part))

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
        try:
            while self._out and budget > 0:
                sent = self._send_some()
                if sent < 0:
                    break
                budget -= sent
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self.close(f"{error.strerror or error}")
        if self.closed:
            return
        if self._out and not self._writing:
            self._writing = True
            self.loop.add_writer(self._fd, self._flush)
        elif not self._out and self._writing:
            self._writing = False
            self.loop.remove_writer(self._fd)
        if self._choked and self._waiting <= self._low:
            self._choked = False
            if self._on_drained is not None:
                self._on_drained()

    def _send_some(self) -> int:
        out = self._out
        first = out[0]
        if isinstance(first, FileRange):
            return self._send_file(first)
        if callable(first):
            out.popleft()
            first()
            return 0
        batch: list[bytes | bytearray | memoryview] = []
        for buffer in out:
            if isinstance(buffer, FileRange) or callable(buffer) or len(batch) == IOV_MAX:
                break
            batch.append(buffer)
        sent = self.sock.sendmsg(batch)
        self._waiting -= sent
        left = sent
        for buffer in batch:
            size = len(buffer)
            if left < size:
                if left:
                    out[0] = memoryview(buffer)[left:]
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
        self.pause_reading()
        if self._writing:
            self.loop.remove_writer(self._fd)
        self.sock.close()
        callbacks = [c for c in self._out if not isinstance(c, (bytes, bytearray, memoryview, FileRange))]
        self._out.clear()
        self._waiting = 0
        if self._part is not None:
            _pool.give(self._part)
            self._part = None
        for callback in callbacks:
            callback()
        self._on_closed(reason)
