"""When a sync runs in the loop, and when in a thread (docs/decisions/0003)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from logeion.log.log import Log, SyncHandle
from logeion.wire.errors import StorageError

log: logging.Logger = logging.getLogger(__name__)

# A group of one batch of at most this size is synced by the loop itself: its producer waits for nothing else, and the
# way to a thread and back costs as much as the device takes. Anything more means that others are on their way, and
# the loop is better off receiving them meanwhile.
INLINE_BATCHES = 1
INLINE_BYTES = 262_144


class LogSyncer:
    """Syncs one log. ``done`` gets the synced end, ``fatal`` the error that ends the replica."""

    def __init__(
        self,
        log: Log,
        loop: asyncio.AbstractEventLoop,
        *,
        done: Callable[[int], None],
        fatal: Callable[[StorageError], None],
        inline_bytes: int = INLINE_BYTES,
    ) -> None:
        self._log = log
        self._loop = loop
        self._done = done
        self._fatal = fatal
        self._inline_bytes = inline_bytes
        self._thread: ThreadPoolExecutor | None = None
        self._busy = False
        self._again = False

    def sync(self, batches: int, size: int) -> None:
        """Sync all that is written, of which so many batches and bytes are new."""
        self._start(inline=batches <= INLINE_BATCHES and size <= self._inline_bytes)

    def background(self) -> None:
        """Sync what the topic's flush asks for without anybody waiting (flush=interval, closed segments)."""
        self._start(inline=False, quiet=True)

    def _start(self, *, inline: bool, quiet: bool = False) -> None:
        if self._busy:
            # One at a time; the one that is asked for covers what was written meanwhile.
            self._again = self._again or not quiet
            return
        try:
            handle = self._log.sync_handle()
            if handle is None:
                if not quiet:
                    self._done(self._log.synced_end)
                return
        except StorageError as error:
            # Nothing was asked of the device, so nothing is known to be lost: the next start may go on in this place.
            self._fatal(error)
            return
        if inline:
            try:
                handle.run()
            except StorageError as error:
                self._failed(error)
                return
            self._done(self._note(handle))
            return
        self._busy = True
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="sync")
        future = self._thread.submit(handle.run)
        future.add_done_callback(lambda future: self._loop.call_soon_threadsafe(self._came_back, handle, future, quiet))

    def _came_back(self, handle: SyncHandle, future: Future[None], quiet: bool) -> None:
        self._busy = False
        error = future.exception()
        if isinstance(error, StorageError):
            self._failed(error)
            return
        if error is not None:
            raise error
        end = self._note(handle)
        again, self._again = self._again, False
        if again:
            self._start(inline=False)
        if not quiet:
            self._done(end)

    def _note(self, handle: SyncHandle) -> int:
        try:
            return self._log.note_synced(handle)
        except StorageError as error:
            # The data is on the device; only the recovery point could not be written, and a later one will do.
            log.warning("%s", error)
            return self._log.synced_end

    def _failed(self, error: StorageError) -> None:
        self._log.note_sync_failed(error)
        self._fatal(error)

    def close(self) -> None:
        """Wait for the sync that is under way: its descriptors and the lock must not outlive the log."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)
