"""What a log needs from time to time, whether it is led or follows: retention, compaction, syncs nobody waits for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from logeion.log.log import Log
from logeion.wire.errors import StorageError

from .compacting import Compaction
from .syncing import LogSyncer

log: logging.Logger = logging.getLogger(__name__)

# Kafka's log.retention.check.interval.ms, in seconds.
RETENTION_CHECK_S = 300.0


class Upkeep:
    """Keeps one log. ``moved`` is told the log's start when it may have moved; ``fatal`` the error that ends us."""

    def __init__(
        self,
        of: Log,
        loop: asyncio.AbstractEventLoop,
        *,
        name: str,
        syncer: LogSyncer,
        moved: Callable[[int], None],
        fatal: Callable[[StorageError], None],
    ) -> None:
        self.compaction: Compaction = Compaction(of, loop, name=name, now_ms=now_ms, fatal=fatal)
        self._log = of
        self._loop = loop
        self._name = name
        self._syncer = syncer
        self._moved = moved
        self._timer = loop.call_later(RETENTION_CHECK_S, self._retention)
        self._late: asyncio.TimerHandle | None = None
        self.compaction.arm()

    def configured(self) -> None:
        """The topic's configuration has changed."""
        self.compaction.arm()
        self._retain()

    def written(self) -> None:
        """The log has grown: sync what flush=interval asks for, with flush=os closed segments, for a quick start."""
        if self._late is None and self._log.config.flush != "ack":
            self._sync_late()

    def close(self) -> None:
        """No timer goes off any more; a compaction under way is given up."""
        self._timer.cancel()
        if self._late is not None:
            self._late.cancel()
        self.compaction.close()

    def _retention(self) -> None:
        self._timer = self._loop.call_later(RETENTION_CHECK_S, self._retention)
        self._retain()

    def _retain(self) -> None:
        try:
            self._log.apply_retention(now_ms())
        except StorageError as error:
            log.warning("retention of %s: %s", self._name, error)
        self._moved(self._log.start_offset)

    def _sync_late(self) -> None:
        self._late = None
        config = self._log.config
        if self._log.sync_due(now_ms()):
            self._syncer.background()
        if config.flush == "interval" and self._log.synced_end < self._log.end_offset:
            self._late = self._loop.call_later(config.flush_ms / 1000, self._sync_late)


class Alarm:
    """A machine's deadline as a timer of the loop. An earlier one replaces what is set; one that is too early is not
    worth setting anew: the machine says then when it is really due."""

    def __init__(self, loop: asyncio.AbstractEventLoop, due: Callable[[], None]) -> None:
        self._loop = loop
        self._due = due
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def set(self, at: float | None) -> None:
        """Call ``due`` at this time of the loop's clock at the latest; None: nothing is awaited."""
        if at is not None and (self._timer is None or at < self._at):
            self.cancel()
            self._timer, self._at = self._loop.call_at(at, self._ring), at

    def cancel(self) -> None:
        """Do not call."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self._due()


def now_ms() -> int:
    """The time of day in milliseconds, as records carry it."""
    return time.time_ns() // 1_000_000
