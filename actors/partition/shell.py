"""What the processes around a log have in common: how they wait for its lock, and how they end when its disk fails."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from logeion.wire.errors import KafkaStorageError, StorageError

from ..messages import AnyMessage, Configure, Slice, StateChanged
from ..runtime import EXIT_CRASH, Shell

log: logging.Logger = logging.getLogger(__name__)

# The exit code of a replica whose log cannot be used any more (EX_IOERR): Node takes it offline with its cause, or has
# it replaced.
EXIT_STORAGE = 74

# How long a replica that cannot start waits for the lane on which it can say why.
MEET_NODE_S = 2.0

# How long the process before us has to give up the lock. It is dead by now, or dies.
LOCK_S = 2.0
LOCK_AGAIN_S = 0.01

# What passes by itself or is the host's trouble: the log is as good as it was.
TRANSIENT = frozenset((errno.EAGAIN, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM))


class Served(Protocol):
    """A log in use."""

    @property
    def lost(self) -> bool:
        """Whether the log is fenced for good."""

    def configure(self, configs: Mapping[str, str]) -> None:
        """The topic's effective configuration from now on."""

    def slice_changed(self, slice: Slice) -> None:
        """What the metadata log says of the partition now."""

    def close(self) -> None:
        """Mark the log as cleanly closed. Raises ``StorageError``."""


S = TypeVar("S", bound=Served)


class LogShell(Shell, Generic[S]):
    """A process around one log; ``serving`` is None until it is open."""

    serving: S | None = None
    # What Node said before that.
    _configs: Configure | None = None
    _slice: Slice | None = None

    async def open(self, make: Callable[[], S]) -> None:
        """Open the log, as soon as nobody else has it."""
        deadline = self.loop.time() + LOCK_S
        while True:
            try:
                self.serving = make()
                if self._configs is not None:
                    self.serving.configure(self._configs.configs)
                if self._slice is not None:
                    self.serving.slice_changed(self._slice)
                return
            except StorageError as error:
                locked = isinstance(error.__cause__, BlockingIOError)
                if not locked or self.loop.time() >= deadline:
                    await self._cannot_start(error)
            await asyncio.sleep(LOCK_AGAIN_S)

    def on_node(self, request: int, message: AnyMessage) -> None:
        """Node says what the topic's configuration or the partition is from now on."""
        if isinstance(message, Configure):
            self._configs = message
            if self.serving is not None:
                self.serving.configure(message.configs)
        elif isinstance(message, Slice):
            self._slice = message
            if self.serving is not None:
                self.serving.slice_changed(message)

    async def stop(self) -> None:
        """Mark the log as cleanly closed, if it could be opened."""
        if self.serving is not None:
            self.serving.close()

    async def _cannot_start(self, error: StorageError) -> None:
        log.error("%s cannot start: %s", self.spec.actor, error)
        deadline = self.loop.time() + MEET_NODE_S
        while self.node_lane is None and self.loop.time() < deadline:
            await asyncio.sleep(LOCK_AGAIN_S)
        self.fatal(error)

    def fatal(self, error: StorageError) -> None:
        """Tell Node why, and end: as lost if the log cannot be trusted, else as after any crash.

        Nothing of an unfinished group is acknowledged.
        """
        log.error("%s ends: %s", self.spec.actor, error)
        cause = error.__cause__
        passing = isinstance(cause, OSError) and cause.errno in TRANSIENT
        lost = not passing if self.serving is None else self.serving.lost or not passing
        if self.node_lane is not None:
            code = KafkaStorageError.code if lost else 0
            self.node_lane.tell(StateChanged(state="failed", cause=str(error), epoch=self.spec.epoch, code=code))
        os._exit(EXIT_STORAGE if lost else EXIT_CRASH)
