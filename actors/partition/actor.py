"""Partition: the one writer of a topic-partition in one leader epoch, as a process."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from logeion.wire.errors import KafkaStorageError, StorageError

from ..lanes import LaneError, RefusedError, socket_path
from ..messages import AlterPartition, AnyMessage, Configure, Hello, PartitionAltered, Slice, StateChanged
from ..runtime import ActorBase, Shell
from .leading import Leadership, OnAltered

log = logging.getLogger(__name__)

# The exit code of a replica whose disk failed (EX_IOERR): Node takes it offline with its cause.
EXIT_STORAGE = 74

# How long a replica that cannot start waits for the lane on which it can say why.
MEET_NODE_S = 2.0

# How long the controller has for an AlterPartition before it is asked again.
ALTER_S = 3.0


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
                slice=spec.slice,
                lag_time_max_s=self.config.replica.lag_time_max_ms / 1000,
                propose=self._propose,
            )
        except StorageError as error:
            log.error("%s cannot start: %s", spec.actor, error)
            deadline = self.loop.time() + MEET_NODE_S
            while self.node_lane is None and self.loop.time() < deadline:
                await asyncio.sleep(0.01)
            self._fatal(error)

    def on_node(self, request: int, message: AnyMessage) -> None:
        """Node says what the topic's configuration or the partition is from now on; without a log it is no matter."""
        if not hasattr(self, "leadership"):
            return
        if isinstance(message, Configure):
            self.leadership.configure(message.configs)
        elif isinstance(message, Slice):
            self.leadership.slice_changed(message)

    def _propose(self, message: AlterPartition, on_altered: OnAltered) -> None:
        """Ask the controller, by Node."""

        def on_reply(reply: AnyMessage | LaneError) -> None:
            if isinstance(reply, PartitionAltered):
                on_altered(reply)
            else:
                on_altered(reply.code if isinstance(reply, RefusedError) else 0)

        if self.node_lane is None:
            self.loop.call_soon(on_altered, 0)
        else:
            self.node_lane.call(message, on_reply=on_reply, timeout_s=ALTER_S)

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
