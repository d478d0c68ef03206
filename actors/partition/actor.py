"""Partition: the one writer of a topic-partition in one leader epoch, as a process."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from logeion.wire.errors import KafkaStorageError, StorageError

from ..lanes import socket_path
from ..messages import AnyMessage, Configure, Hello, StateChanged
from ..runtime import ActorBase, Shell
from .leading import Leadership

log = logging.getLogger(__name__)

# The exit code of a replica whose disk failed (EX_IOERR): Node takes it offline with its cause.
EXIT_STORAGE = 74

# How long a replica that cannot start waits for the lane on which it can say why.
MEET_NODE_S = 2.0


class PartitionShell(Shell):
    """The process around a ``Leadership``."""

    async def start(self) -> None:
        """Recover, begin the epoch, listen."""
        spec = self.spec
        assert spec.topic is not None and spec.topic_id is not None
        assert spec.partition is not None and spec.epoch is not None
        hello = Hello(
            actor=spec.actor,
            kind="partition",
            node=spec.node,
            pid=os.getpid(),
            incarnation=spec.incarnation,
            topic_id=spec.topic_id,
            partition=spec.partition,
            epoch=spec.epoch,
        )
        try:
            self.leadership = Leadership(
                self.loop,
                hello=hello,
                path=socket_path(spec.run_dir, f"partition-{spec.topic_id}-{spec.partition}"),
                directory=Path(spec.data_dir) / f"{spec.topic}-{spec.partition}",
                configs=spec.configs,
                fatal=self._fatal,
            )
        except StorageError as error:
            log.error("%s cannot start: %s", spec.actor, error)
            deadline = self.loop.time() + MEET_NODE_S
            while self.node_lane is None and self.loop.time() < deadline:
                await asyncio.sleep(0.01)
            self._fatal(error)

    def on_node(self, request: int, message: AnyMessage) -> None:
        """Node says what the topic's configuration is from now on; a log that could not be opened has none."""
        if isinstance(message, Configure) and hasattr(self, "leadership"):
            self.leadership.configure(message.configs)

    async def stop(self) -> None:
        """Mark the log as cleanly closed, if it could be opened."""
        if hasattr(self, "leadership"):
            self.leadership.close()

    def _fatal(self, error: StorageError) -> None:
        """The disk cannot be trusted: tell Node why, and end. Nothing of an unfinished group is acknowledged."""
        log.error("%s ends: %s", self.spec.actor, error)
        if self.node_lane is not None:
            self.node_lane.tell(
                StateChanged(state="failed", cause=str(error), epoch=self.spec.epoch, code=KafkaStorageError.code)
            )
        os._exit(EXIT_STORAGE)


class Partition(ActorBase):
    """The Thespian actor around it."""

    shell = PartitionShell
