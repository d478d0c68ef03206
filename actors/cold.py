"""Reads from the disk itself, kept out of the loop.

``sendfile`` of a range that is not in the page cache stops the caller for as long as the disk takes. So a range is
probed first (``preadv2`` with RWF_NOWAIT, one byte in each readahead window: a hit costs a microsecond and touches no
disk); what is missing is read by a few threads, a bounded piece at a time, which leaves it in the cache for the
``sendfile`` that follows.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from logeion.log.view import Slice
from logeion.wire.buffers import FileRange

# Linux reads ahead in windows of this size: if the first byte of one is cached, nearly always all of it is.
WINDOW = 131_072

# What one thread reads at a time before others get their turn. All that is asked of the disk at once is one piece a
# thread, for the sync of an append queues behind it: 50 ms of the p99 at the tail were the kernel reading 8 MB ahead.
PIECE = 524_288

THREADS = 2


def cached(fd: int, position: int, size: int, probe: bytearray) -> bool:
    """Whether these bytes are in the page cache; True where the file system cannot tell."""
    end = position + size
    at = position
    while at < end:
        try:
            os.preadv(fd, (probe,), at, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        at += WINDOW
    try:
        os.preadv(fd, (probe,), end - 1, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def read(fd: int, position: int, size: int) -> None:
    """Bring one piece into the page cache. A file that cannot be read says so again when it is sent."""
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        os.posix_fadvise(fd, position, size, os.POSIX_FADV_WILLNEED)
        buffer = bytearray(WINDOW)
        for at in range(position, position + size, WINDOW):
            os.preadv(fd, (buffer,), at)
    except OSError:
        pass


class ColdReads:
    """The threads, shared by all readers of a process; each call has one piece under way, so they take turns."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._threads: ThreadPoolExecutor | None = None
        self._probe = bytearray(1)

    def warm(self, slices: Sequence[Slice | FileRange], done: Callable[[], None]) -> bool:
        """True if all of these can be sent now; else ``done`` is called in the loop once they can."""
        probe = self._probe
        missing = [one for one in slices if not cached(one.fd, one.position, one.size, probe)]
        if not missing:
            return True
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="cold")
        pieces = [
            (one.fd, at, min(PIECE, one.position + one.size - at))
            for one in missing
            for at in range(one.position, one.position + one.size, PIECE)
        ]
        pieces.reverse()
        self._next(pieces, done)
        return False

    def _next(self, pieces: list[tuple[int, int, int]], done: Callable[[], None]) -> None:
        threads = self._threads
        if not pieces or threads is None:
            done()
            return
        fd, at, size = pieces.pop()
        if cached(fd, at, size, self._probe):
            self._loop.call_soon(self._next, pieces, done)
            return
        future = threads.submit(read, fd, at, size)
        future.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._next, pieces, done))

    def close(self) -> None:
        """Let what is under way end; nothing more is read."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)
