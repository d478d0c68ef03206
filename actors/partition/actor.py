"""Partition: the one writer of a topic-partition in one leader epoch, as a process."""

from __future__ import annotations

import os
from pathlib import Path

from ..lanes import LaneError, RefusedError, socket_path
from ..messages import AlterPartition, AnyMessage, Hello, PartitionAltered
from ..runtime import ActorBase, Shell
from .leading import Leadership, OnAltered
from .shell import LogShell

# How long the controller has for an AlterPartition before it is asked again.
ALTER_S = 3.0


class PartitionShell(LogShell[Leadership]):
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
        path = socket_path(spec.run_dir, f"partition-{spec.topic_id}-{spec.partition}")
        directory = Path(spec.data_dir) / f"{spec.topic}-{spec.partition}"
        await self.open(
            lambda: Leadership(
                self.loop,
                hello=hello,
                path=path,
                directory=directory,
                configs=spec.configs,
                fatal=self.fatal,
                slice=spec.slice,
                lag_time_max_s=self.config.replica.lag_time_max_ms / 1000,
                propose=self._propose,
            )
        )

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


class Partition(ActorBase):
    """The Thespian actor around it."""

    shell: type[Shell] = PartitionShell
