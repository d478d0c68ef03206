"""When a compacted topic's log is compacted, and how the loop goes on serving meanwhile."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator

from logeion.log.log import Log
from logeion.wire.errors import StorageError

log: logging.Logger = logging.getLogger(__name__)

# Kafka's log.cleaner.backoff.ms, in seconds.
CHECK_S = 15.0

# How long a turn may take, and how long whoever waits for an answer has the loop before the next one. A step is a
# batch, so a turn can take as long as the largest one more.
TURN_S = 0.003
PAUSE_S = 0.003


class Compaction:
    """Compacts one log again and again, a few steps a turn of the loop.

    ``fatal`` is told the error of a compaction that was decided but could not be finished: memory and files do not
    agree any more, and the next start puts that right.
    """

    def __init__(
        self,
        of: Log,
        loop: asyncio.AbstractEventLoop,
        *,
        name: str,
        now_ms: Callable[[], int],
        fatal: Callable[[StorageError], None],
    ) -> None:
        self.turn_s = TURN_S
        self._log = of
        self._loop = loop
        self._name = name
        self._now_ms = now_ms
        self._fatal = fatal
        self._steps: Iterator[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether one is under way."""
        return self._steps is not None

    def arm(self) -> None:
        """The next one, if the topic is compacted and none is under way or due."""
        if self._log.config.compact and self._steps is None and self._timer is None:
            self._timer = self._loop.call_later(CHECK_S, self.begin)

    def begin(self) -> None:
        """Start one now."""
        if self._timer is not None:
            self._timer.cancel()
        self._steps = iter(self._log.compact_in_steps(self._now_ms()))
        self._turn()

    def _turn(self) -> None:
        self._timer = None
        steps = self._steps
        assert steps is not None
        until = time.monotonic() + self.turn_s
        try:
            for _ in steps:
                if time.monotonic() >= until:
                    self._timer = self._loop.call_later(PAUSE_S, self._turn)
                    return
        except StorageError as error:
            log.warning("compaction of %s: %s", self._name, error)
            if self._log.failed is not None:
                self._fatal(error)
        self._steps = None
        self.arm()

    def close(self) -> None:
        """Give up the one that is under way; what it had written is removed."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._steps = None, None
