"""Memory for large frames: taken without zeroing, used as it fills, given back, kept a while for the next one."""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import Callable

# Buffers from here on are pages of their own, and pooled; smaller ones come from the ordinary heap.
POOLED_FROM = 64 * 1024
POOL_BYTES = 32 * 1024 * 1024
# What nobody has used for this long goes back to the host: an idle process is a small one.
KEEP_S = 10.0

# Set for a test: whatever is given back is overwritten at once, so that whoever still uses it is found out.
POISON_VARIABLE = "LOGEION_POISON_BUFFERS"
POISON = 0xDB

_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)


class Pool:
    """Buffers by size, in powers of two.

    A fresh one is a mapping: it takes memory page by page as it is written to, so its size may be what a peer claims.
    A used one has its pages already, which saves a fault every 4 KiB.
    """

    def __init__(self, limit: int = POOL_BYTES) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._free: dict[int, list[memoryview]] = {}
        self._limit = limit
        self._taken = False
        self._timer: asyncio.TimerHandle | None = None
        self.kept: int = 0
        self.poisons: bool = bool(os.environ.get(POISON_VARIABLE))

    def take(self, size: int) -> memoryview:
        """A writable view of at least ``size`` bytes, with anything in it."""
        if size < POOLED_FROM:
            return memoryview(bytearray(size))
        self._taken = True
        rounded = 1 << (size - 1).bit_length()
        free = self._free.get(rounded)
        if free:
            self.kept -= rounded
            return free.pop()
        pages = mmap.mmap(-1, rounded, flags=_FLAGS)
        # With huge pages, one byte that arrives would take two megabytes.
        pages.madvise(mmap.MADV_NOHUGEPAGE)
        return memoryview(pages)

    def give(self, buffer: memoryview) -> None:
        """It is not used any more, nor any view into it."""
        size = len(buffer)
        if self.poisons:
            self.poison(buffer)
        if size < POOLED_FROM or size & (size - 1) or self.kept + size > self._limit:
            return
        self._free.setdefault(size, []).append(buffer)
        self.kept += size
        if self._timer is None and self.loop is not None and not self.loop.is_closed():
            self._timer = self.loop.call_later(KEEP_S, self._trim)

    def poison(self, buffer: memoryview) -> None:
        """Nobody may use this any more: make it show."""
        buffer[:] = bytes((POISON,)) * len(buffer)

    def _trim(self) -> None:
        self._timer = None
        if self._taken and self.loop is not None:
            self._taken = False
            self._timer = self.loop.call_later(KEEP_S, self._trim)
            return
        self._free.clear()
        self.kept = 0


pool: Pool = Pool()


class Frame:
    """A frame as it is handed over. ``view`` is the whole frame, its length prefix included.

    A borrowed frame's view is valid during the callback only; ``retain`` turns it into one that lasts (by a copy where
    it lies in scratch) until as many ``release`` calls were made as ``retain`` calls.
    """

    __slots__ = ("_buffer", "_owners", "on_end", "view")

    def __init__(self, view: memoryview, buffer: memoryview | None) -> None:
        """``buffer`` is from the pool, None for scratch."""
        self.view: memoryview = view
        # Called once, when nobody needs it any more.
        self.on_end: Callable[[], None] | None = None
        self._buffer = buffer
        self._owners = 0

    def retain(self) -> None:
        """It is needed beyond the callback; ``view`` is another one afterwards."""
        if self._buffer is None and self._owners == 0:
            self._buffer = self.view = memoryview(bytes(self.view))
        self._owners += 1

    def release(self) -> None:
        """The last one gives the buffer back; views into it must not be used any more."""
        self._owners -= 1
        assert self._owners >= 0, "a frame is released more often than it was retained"
        if self._owners == 0:
            self._end()

    def keep(self) -> tuple[memoryview, Callable[[], None]]:
        """``retain``, as the view that lasts and the function that releases it."""
        self.retain()
        return self.view, self.release

    def handed_over(self) -> None:
        """The callback is over: a frame nobody retained goes back to the pool."""
        if self._owners == 0:
            self._end()

    def _end(self) -> None:
        if self._buffer is not None:
            buffer, self._buffer = self._buffer, None
            if not buffer.readonly:
                pool.give(buffer)
        if self.on_end is not None:
            on_end, self.on_end = self.on_end, None
            on_end()
