"""Replica: a copy of a topic-partition that follows its leader, as a process. It lives through leader epochs."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from ..hosts import dial_host, load_secret
from ..lanes import socket_path
from ..messages import Hello
from ..node import identity
from ..partition.shell import LogShell
from ..runtime import ActorBase, Shell
from .following import Following


class ReplicaShell(LogShell[Following]):
    """The process around a ``Following``."""

    async def start(self) -> None:
        """Recover, follow."""
        spec = self.spec
        assert spec.topic is not None and spec.topic_id is not None
        assert spec.partition is not None and spec.slice is not None
        first = spec.slice
        hello = Hello(
            actor=spec.actor,
            kind="replica",
            node=spec.node,
            pid=os.getpid(),
            incarnation=spec.incarnation,
            topic_id=spec.topic_id,
            partition=spec.partition,
        )
        name = f"{spec.topic_id}-{spec.partition}"
        data_dir = Path(spec.data_dir)
        dial = partial(dial_host, self.loop, target=f"partition-{name}", secret=load_secret(self.config))
        mine = identity.load(data_dir, spec.node, "")
        await self.open(
            lambda: Following(
                self.loop,
                hello=hello,
                path=socket_path(spec.run_dir, f"replica-{name}"),
                directory=data_dir / f"{spec.topic}-{spec.partition}",
                directory_id=mine.directory_id,
                configs=spec.configs,
                slice=first,
                settings=self.config.replica,
                dial=dial,
                fatal=self.fatal,
            )
        )


class Replica(ActorBase):
    """The Thespian actor around it."""

    shell: type[Shell] = ReplicaShell
